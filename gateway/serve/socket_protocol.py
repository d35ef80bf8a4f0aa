"""uvicorn's WebSocket protocol with ends that it lacks: of a peer that vanished, or never reads.

A peer that is gone without a word leaves a connection that can be written to for a long time, and one
that reads nothing leaves a write that never ends; both would hold their session for good. A peer that
is not read from, because its last message is still being answered, cannot answer a ping: it is not
judged by that.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

__all__ = ["PING_SECONDS", "PONG_SECONDS", "STALLED_SECONDS", "BoundedSocketProtocol"]

PING_SECONDS = 20.0
"""Seconds between pings."""
PONG_SECONDS = 20.0
"""Seconds in which a ping has to be answered."""
STALLED_SECONDS = 30.0
"""Seconds in which a peer that lets writes wait has to take at least something."""


class BoundedSocketProtocol(WebSocketsSansIOProtocol):
    """Ends the connections of peers that are gone or take nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stalled: Any = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching; who waits is told."""
        self._stop_watching()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Let the application wait, and watch that the peer takes something meanwhile."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Let the application go on."""
        self._stop_watching()
        super().resume_writing()

    def keepalive_timeout(self) -> None:
        """End the connection, unless it is ours that the answer was not read."""
        if self.read_paused and not self.transport.is_closing():
            self.pong_timer = self.pending_ping_payload = None
            self.schedule_ping()
            return
        super().keepalive_timeout()
        self._watch()  # a close waits for the writes before it

    async def send(self, message: Any) -> None:
        """Send; a close that the peer does not take ends all the same."""
        await super().send(message)
        if message["type"] == "websocket.close":
            self._watch()

    def _watch(self) -> None:
        self._stop_watching()
        waiting = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(STALLED_SECONDS, self._look, waiting)

    def _look(self, before: int) -> None:
        self._stalled = None
        if not self.writable.is_set() or self.transport.is_closing():
            waiting = self.transport.get_write_buffer_size()
            if waiting and waiting >= before:
                self.transport.abort()
            elif waiting:
                self._watch()

    def _stop_watching(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
