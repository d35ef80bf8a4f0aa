"""uvicorn's HTTP protocol with bounds that it lacks: on the size of a request's head and its time.

The parser underneath collects headers without end and waits for them forever. Bodies are bounded by
`gate`. What an application cannot learn by ASGI without waiting stands in the scope: the `Exchange`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

__all__ = ["HEAD_BYTES", "HEAD_SECONDS", "BoundedHttpProtocol", "Exchange", "exchange_of"]

_EXCHANGE = "sandgate.exchange"

HEAD_BYTES = 65_536
"""Most bytes of a request line and its headers."""
HEAD_SECONDS = 15.0
"""Seconds within which a head has to be complete, from the connection's or its own first byte on."""


def exchange_of(scope: Scope) -> Exchange | None:
    """Return what the protocol knows of this request; `None` under another server."""
    return scope.get(_EXCHANGE)


class Exchange:
    """One request as its connection has it: looked at without taking anything from `receive`."""

    __slots__ = ("_cycle", "_protocol")

    def __init__(self, protocol: BoundedHttpProtocol, cycle: RequestResponseCycle) -> None:
        self._protocol = protocol
        self._cycle = cycle

    def body(self) -> bytes | None:
        """Return the whole body, `None` while some of it is still to come."""
        cycle = self._cycle
        return None if cycle.more_body or cycle.disconnected else bytes(cycle.body)

    def when_lost(self, callback: Callable[[], object] | None) -> None:
        """Call back once the connection is lost while this is answered; `None` takes that back."""
        self._protocol.when_lost = callback

    def hold_head(self) -> None:
        """Let the answer's head wait for its body, which has to follow: uvicorn writes them one by one."""
        held: Any = _HeldHead(self._cycle)
        self._cycle.transport = held


class _HeldHead:
    """Stands in for a transport until a head and what follows it were written, as one."""

    __slots__ = ("_cycle", "_head", "_transport")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._transport: Any = cycle.transport
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        """Keep the head; write both once there is more, and step aside."""
        if self._head is None:
            self._head = data
            return
        self._cycle.transport = self._transport
        self._transport.writelines((self._head, data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class BoundedHttpProtocol(HttpToolsProtocol):
    """Answers 431 to a head that is too large, closes on one that is too slow."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0
        self._too_large = False
        self._deadline: Any = None
        self.when_lost: Callable[[], object] | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEAD_SECONDS, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, and tell who answers a request."""
        self._stop_waiting()
        super().connection_lost(exc)
        if self.when_lost is not None:
            self.when_lost()

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
        # Begun by now, but as a task that the loop has not run yet.
        scope: Any = self.scope
        scope[_EXCHANGE] = Exchange(self, self.cycle)

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
