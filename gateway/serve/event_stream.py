"""What is said on the connection of a request before its answer: an event stream from the first word on.

Until then nothing is decided, and the answer may still be plain JSON. Where nothing is said for long, a
comment keeps the connection from looking dead to whatever stands between.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.loop import Timer, current_loop
from gateway.serve.direct import DirectRequest

__all__ = ["PING_SECONDS", "EventStream"]

PING_SECONDS = 15.0
"""Seconds of silence before a comment is sent."""
_HEADERS = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)
_PING = b": ping\r\n\r\n"


class EventStream:
    """The stream of one request whose sender takes streams; `headers` go with those of its kind.

    To be closed once the answer is given, in whatever form.
    """

    def __init__(self, request: DirectRequest, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.begun = False
        self._request = request
        self._headers = (*_HEADERS, *headers)
        self._spoke = False
        self._timer: Timer = current_loop().call_later(PING_SECONDS, self._ping)

    @property
    def open(self) -> bool:
        """Whether anybody is there to hear."""
        return not self._request.disconnected

    async def say(self, message: bytes) -> None:
        """Send one JSON-RPC message, once the connection takes more; to nobody if it is lost."""
        await self._request.writable()
        self._write(_event(message))

    async def end(self, message: bytes) -> None:
        """Send the answer as the last event; empty, the stream ends without one."""
        await self._request.writable()
        self._write(_event(message) if message else b"", last=True)

    def close(self) -> None:
        """Send nothing more."""
        self._timer.cancel()

    def _write(self, data: bytes, *, last: bool = False) -> None:
        if not self.begun:
            self.begun = True
            self._request.begin_stream(self._headers)
        self._spoke = True
        self._request.write_part(data, last=last)

    def _ping(self) -> None:
        if not self._spoke and not self._request.write_paused:
            self._write(_PING)
        self._spoke = False
        self._timer = current_loop().call_later(PING_SECONDS, self._ping)


def _event(message: bytes) -> bytes:
    return b"event: message\r\ndata: " + message + b"\r\n\r\n"
