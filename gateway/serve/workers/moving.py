"""A connection that moves to another worker with the request it just made.

What was read of the request is written down again as it came (its head from what the parser gave, its body
as far as it arrived) and goes along; what is still in the socket the other worker reads itself. Nothing of
an answer may be under way, and no further request behind this one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeAlias

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway.serve.http_protocol import BoundedHttpProtocol
from gateway.serve.socket_protocol import BoundedSocketProtocol

__all__ = ["Movable", "MovableHttpProtocol", "MovableSocketProtocol", "PassOn", "WhereTo", "movable_of"]

PassOn: TypeAlias = Callable[[int, bytes, int], None]
"""Sends what was read of a request, and its connection's descriptor, to a worker."""
WhereTo: TypeAlias = Callable[[Scope], int | None]
"""Returns the worker that a WebSocket belongs to, `None` where that is this one."""

_MOVABLE = "sandgate.movable"
_OF_BODY = (b"transfer-encoding", b"content-length", b"expect")
"""Headers that speak of a body as it was sent; it goes along whole."""


def movable_of(scope: Scope) -> Movable:
    """Return the request as its connection has it."""
    return scope[_MOVABLE]


class Movable:
    """One request on its connection. `fixed`: it came back from a worker that does not take it."""

    __slots__ = ("_cycle", "_protocol", "fixed")

    def __init__(self, protocol: MovableHttpProtocol, cycle: RequestResponseCycle, *, fixed: bool) -> None:
        self.fixed = fixed
        self._protocol = protocol
        self._cycle = cycle

    def unread(self, body: bytes) -> None:
        """Put a whole body back that was received, for whoever receives it now."""
        self._cycle.body = bytearray(body)
        self._cycle.message_event.set()

    def move(self, worker: int, body: bytes | None = None) -> bool:
        """Move to `worker`; false, with nothing done, where that cannot be.

        `body` is the whole body, where it was received; else what arrived of it goes along.
        """
        cycle, protocol = self._cycle, self._protocol
        if self.fixed or cycle.response_started or protocol.cycle is not cycle or protocol.pipeline:
            return False
        scope: Scope = dict(cycle.scope)
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if body is None and not cycle.more_body:
            body = bytes(cycle.body)
        if body is None:
            if any(name == b"transfer-encoding" for name, _ in headers):
                return False  # where a chunk was cut is not known any more
            request = _head(scope, headers) + bytes(cycle.body)
        else:
            kept = [header for header in headers if header[0] not in _OF_BODY]
            if len(kept) < len(headers):
                kept.append((b"content-length", str(len(body)).encode()))
            request = _head(scope, kept) + body
        if not protocol.leave(worker, request):
            return False
        cycle.disconnected = True
        return True


class MovableHttpProtocol(BoundedHttpProtocol):
    """The HTTP protocol of a worker: begins with bytes that another process read, and can move on.

    `ended` is told once the connection is over here, also where it moved; `fixed` is of its first request.
    """

    def __init__(
        self,
        *args: Any,
        begun: bytes,
        fixed: bool,
        pass_on: PassOn,
        where_to: WhereTo,
        ended: Callable[[], object],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._begun = begun
        self._fixed = fixed
        self._pass_on = pass_on
        self._where_to = where_to
        self._ended = ended

    def connection_made(self, transport: Any) -> None:
        """Begin; what was read already comes before anything else."""
        super().connection_made(transport)
        if self._begun:
            begun, self._begun = self._begun, b""
            self.data_received(begun)

    def connection_lost(self, exc: Exception | None) -> None:
        """Say that it is over."""
        super().connection_lost(exc)
        self._ended()

    def begin_cycle(self) -> None:
        """Let the application find the request."""
        super().begin_cycle()
        scope: Any = self.scope
        scope[_MOVABLE] = Movable(self, self.cycle, fixed=self._fixed)

    def on_message_complete(self) -> None:
        """Forget what was said of the request that came along: those after it are no such."""
        super().on_message_complete()
        self._fixed = False

    def handle_websocket_upgrade(self) -> None:
        """Move before the handshake, if the session is elsewhere; else go on as a WebSocket."""
        path, _, query = self.url.partition(b"?")
        scope: Scope = {**self.scope, "path": path.decode("latin-1"), "query_string": query}
        worker = None if movable_of(scope).fixed else self._where_to(scope)
        head = _head({**scope, "raw_path": path}, scope["headers"])
        if worker is None or not self.leave(worker, head):
            super().handle_websocket_upgrade()
            upgraded: Any = self.transport.get_protocol()
            upgraded.ended = self._ended

    def leave(self, worker: int, request: bytes) -> bool:
        """Give the connection to `worker`; false where an answer is still being written."""
        if self.transport.is_closing() or self.transport.get_write_buffer_size() or self._in_head:
            return False
        self.flow.pause_reading()
        connection: Any = self.transport.get_extra_info("socket")
        self._pass_on(worker, request, os.dup(connection.fileno()))
        self.transport.abort()  # closes this process's descriptor only: the connection lives on
        return True


class MovableSocketProtocol(BoundedSocketProtocol):
    """The WebSocket protocol of a worker: tells when its connection is over."""

    ended: Callable[[], object] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Say that it is over."""
        super().connection_lost(exc)
        if self.ended is not None:
            self.ended()


def _head(scope: Scope, headers: list[tuple[bytes, bytes]]) -> bytes:
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    lines = [b"%s %s HTTP/%s\r\n" % (scope["method"].encode(), target, scope["http_version"].encode())]
    lines += [b"%s: %s\r\n" % header for header in headers]
    return b"".join([*lines, b"\r\n"])
