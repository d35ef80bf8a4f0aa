"""uvicorn's HTTP protocol with bounds that it lacks: on the size of a request's head and its time.

The parser underneath collects headers without end and waits for them forever. Nothing else is
changed; bodies are bounded by `gate`.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

__all__ = ["HEAD_BYTES", "HEAD_SECONDS", "BoundedHttpProtocol"]

HEAD_BYTES = 65_536
"""Most bytes of a request line and its headers."""
HEAD_SECONDS = 15.0
"""Seconds within which a head has to be complete, from the connection's or its own first byte on."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """Answers 431 to a head that is too large, closes on one that is too slow."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0
        self._too_large = False
        self._deadline: Any = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEAD_SECONDS, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to an unfinished head: the parser itself keeps it without a bound."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
                self._too_large = True
                self.send_400_response("Request header fields too large")

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._in_head = True
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def on_headers_complete(self) -> None:
        """End a head; one that is too large, or names another server, ends the connection."""
        self._in_head = False
        self._head_bytes = 0
        self._stop_waiting()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        self._too_large = size > HEAD_BYTES
        if self._too_large or not self.url.startswith(b"/"):
            raise ValueError("unacceptable head")  # the parser turns it into `send_400_response`
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer a bad head and close the connection."""
        if not self._too_large:
            super().send_400_response(msg)
            return
        body = b"Request header fields too large\n"
        head = STATUS_LINE[431] + b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
        self.transport.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        self.transport.close()

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
