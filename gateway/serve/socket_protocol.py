"""uvicorn's WebSocket protocol with ends that it lacks, and a short way for what nearly all traffic is.

Ends: a peer that is gone without a word leaves a connection that can be written to for a long time, and
one that reads nothing leaves a write that never ends; both would hold their session for good. A peer that
is not read from, because its last message is still being answered, cannot answer a ping: it is not
judged by that. A peer whose message is refused in the middle gets to read why: a connection closed over
unread bytes is reset, and the close frame lost with it.

The short way: a text message that came whole, in one frame and one read, is handed over as it is, and one
to send is framed as it is; reading stops only while messages wait. Everything else, and all that is odd,
goes through `websockets`' state machine, which is between two frames whenever the short way is taken.
"""

from __future__ import annotations

import struct
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode
from websockets.protocol import OPEN

from gateway.serve.stalls import Stalls

__all__ = [
    "DROPPING_SECONDS",
    "PING_SECONDS",
    "PONG_SECONDS",
    "QUIET_SECONDS",
    "BoundedSocketProtocol",
]

PING_SECONDS = 20.0
"""Seconds between pings."""
PONG_SECONDS = 20.0
"""Seconds in which a ping has to be answered."""
QUIET_SECONDS = 0.5
"""Seconds without a byte after which a peer that is not listened to has sent what it had."""
DROPPING_SECONDS = 10.0
"""Seconds for which at most is dropped what such a peer sends."""


_WHOLE_TEXT = 0x81
"""First byte of a frame that is a text message of its own."""
_MASKED, _LENGTH, _LONGER = 0x80, 0x7F, 126
_MASK = 4


class BoundedSocketProtocol(WebSocketsSansIOProtocol):
    """Ends the connections of peers that are gone or take nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._awaited = False
        self._dropped_at: float | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin, and be ready to watch who takes nothing."""
        self._stalls = Stalls(self.loop, transport)
        super().connection_made(transport)

    # -- the short way

    def data_received(self, data: bytes) -> None:
        """Hand over a message that came as one, or let the state machine make sense of the bytes."""
        if self._dropped_at is not None:
            self._dropped_at = self.loop.time()
            return
        text = self._message(data) if self._between_frames() else None
        if text is None:
            super().data_received(data)
            return
        self.queue.put_nowait({"type": "websocket.receive", "text": text})
        if self._awaited:
            self._awaited = False  # it takes this one; the next has to wait
        elif not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    async def receive(self) -> Any:
        """Return what comes next; who waits here already is handed it without a stop of the reading."""
        self._awaited = self.queue.empty()
        try:
            return await super().receive()
        finally:
            self._awaited = False

    async def send(self, message: Any) -> None:
        """Send; a close that the peer does not take ends all the same."""
        text = message.get("text")
        if text is not None and self.writable.is_set() and not self.disconnected and self._open():
            data = text.encode()
            self.transport.write(_head(len(data)) + data)
            return
        await super().send(message)
        if message["type"] == "websocket.close":
            self._stalls.watch()

    def _open(self) -> bool:
        return self.handshake_complete and not self.close_sent and self.conn.state is OPEN

    def _between_frames(self) -> bool:
        """Whether the state machine has seen the end of a message, and waits for whatever comes next.

        Where a later version of it waits elsewhere, the short way is not taken.
        """
        if not self._open() or self.conn.current_size is not None:
            return False
        waits: Any = self.conn.parser
        while waits.gi_yieldfrom is not None:
            waits = waits.gi_yieldfrom
        return waits.__name__ == "at_eof"

    def _message(self, data: bytes) -> str | None:
        """Return the text of a message that is all of `data`, `None` for anything else."""
        size = len(data)
        if size < 2 + _MASK or data[0] != _WHOLE_TEXT or not data[1] & _MASKED:
            return None
        length, start = data[1] & _LENGTH, 2
        if length == _LONGER and size >= 4 + _MASK:
            (length,), start = struct.unpack_from("!H", data, 2), 4
        elif length >= _LONGER:
            return None
        if size != start + _MASK + length or length > (self.config.ws_max_size or 0):
            return None
        try:
            return _unmasked(data[start : start + _MASK], data[start + _MASK :]).decode()
        except UnicodeDecodeError:
            return None  # told by the state machine

    # -- ends

    def send_receive_event_to_app(self) -> None:
        """Hand a message over; a text that is none ends the connection, and is no error of ours to log."""
        if self.curr_msg_data_type == "text" and not self.close_sent and not _is_utf8(self.frames):
            self.frames = []
            self.conn.fail(CloseCode.INVALID_DATA, "a text message is UTF-8")
            self.handle_parser_exception()
            return
        super().send_receive_event_to_app()

    def handle_parser_exception(self) -> None:
        """Say why the peer is not listened to any longer, and drop what it still sends, for a while."""
        told = self.conn.close_sent
        if self.close_sent or told is None:
            super().handle_parser_exception()
            return
        self.close_sent = self.disconnected = True
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": told.code, "reason": told.reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self._dropped_at = self.loop.time()
        self._drop_until(self._dropped_at + DROPPING_SECONDS)
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    def _drop_until(self, end: float) -> None:
        assert self._dropped_at is not None
        now = self.loop.time()
        if now >= end:
            self.transport.abort()
        elif now - self._dropped_at >= QUIET_SECONDS:
            self.transport.close()
            self._stalls.watch()
        else:
            self.close_timer = self.loop.call_later(QUIET_SECONDS, self._drop_until, end)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching; who waits is told."""
        self._stalls.stop()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Let the application wait, and watch that the peer takes something meanwhile."""
        super().pause_writing()
        self._stalls.paused()

    def resume_writing(self) -> None:
        """Let the application go on."""
        self._stalls.resumed()
        super().resume_writing()

    def keepalive_timeout(self) -> None:
        """End the connection, unless it is ours that the answer was not read."""
        if self.read_paused and not self.transport.is_closing():
            self.pong_timer = self.pending_ping_payload = None
            self.schedule_ping()
            return
        super().keepalive_timeout()
        self._stalls.watch()  # a close waits for the writes before it


def _head(length: int) -> bytes:
    """Return the head of a text message of one frame."""
    if length < _LONGER:
        return bytes((_WHOLE_TEXT, length))
    if length < 1 << 16:
        return struct.pack("!BBH", _WHOLE_TEXT, _LONGER, length)
    return struct.pack("!BBQ", _WHOLE_TEXT, _LONGER + 1, length)


def _is_utf8(pieces: list[bytes]) -> bool:
    try:
        b"".join(pieces).decode()
    except UnicodeDecodeError:
        return False
    return True


def _unmasked(mask: bytes, data: bytes) -> bytes:
    """Return `data` xor `mask`, over and over."""
    size = len(data)
    key = (mask * (size // _MASK + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")
