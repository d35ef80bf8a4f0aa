"""One request that is answered on its connection, without what uvicorn puts in between: no scope, no ASGI.

Stands where uvicorn has its `RequestResponseCycle` and shows what is looked at there. It is held from its
head on until its body is whole; who holds it then answers it, or lets it go to the application.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol, TypeAlias

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

__all__ = ["DirectFront", "DirectRequest", "RawHeaders", "Take"]

RawHeaders: TypeAlias = list[tuple[bytes, bytes]]
"""Names in lower case, values as they came."""
_JOINED_BYTES = 16_384
"""Longest body that is copied behind its head: above, two pieces are cheaper."""


class DirectFront(Protocol):
    """Who may answer requests directly."""

    def admit(self, target: bytes, headers: RawHeaders) -> Take | None:
        """Look at the head of a POST; return who is to take it once its body is whole, `None` for nobody.

        Its body is held in memory: a length that is not said, or is too much, is `None` too.
        """
        ...


class DirectRequest:
    """A request, and the way back to who sent it."""

    __slots__ = (
        "_lost",
        "_protocol",
        "disconnected",
        "headers",
        "keep_alive",
        "response_complete",
        "take",
    )

    def __init__(self, protocol: HttpToolsProtocol, take: Take, *, keep_alive: bool) -> None:
        self.headers: RawHeaders = protocol.headers
        self.take = take
        self.keep_alive = keep_alive
        self.disconnected = self.response_complete = False
        self._protocol = protocol
        self._lost: Callable[[], object] | None = None

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Answer in a task that the server waits for when it ends."""
        tasks = self._protocol.tasks
        task = self._protocol.loop.create_task(work)
        task.add_done_callback(tasks.discard)
        tasks.add(task)

    def when_lost(self, callback: Callable[[], object]) -> None:
        """Call back once the connection is lost before this is answered."""
        self._lost = callback

    @property
    def message_event(self) -> DirectRequest:
        """What uvicorn sets on a cycle whose connection is lost: here, itself."""
        return self

    def set(self) -> None:
        """Take note that nobody is there any more."""
        self.disconnected = True
        lost, self._lost = self._lost, None
        if lost is not None and not self.response_complete:
            lost()

    @property
    def write_paused(self) -> bool:
        """Whether what was written waits for who should read it."""
        return self._protocol.flow.write_paused

    async def writable(self) -> None:
        """Return once the connection takes more, or is lost."""
        if self.write_paused and not self.disconnected:
            await self._protocol.flow.drain()

    async def answer(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Write a whole answer, once the connection takes more; to nobody if it is lost."""
        await self.writable()
        if self.disconnected:
            return
        head = self._head(status, headers)
        if len(body) > _JOINED_BYTES:
            self._protocol.transport.writelines((head, body))
        else:
            self._protocol.transport.write(head + body)
        self._complete()

    def begin_stream(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Write the head of an answer that comes in parts; to nobody if the connection is lost."""
        if not self.disconnected:
            self._protocol.transport.write(self._head(200, (*headers, (b"transfer-encoding", b"chunked"))))

    def write_part(self, data: bytes, *, last: bool) -> None:
        """Write a part of it; to nobody if the connection is lost."""
        if self.disconnected:
            return
        chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        self._protocol.transport.write(chunk + b"0\r\n\r\n" if last else chunk)
        if last:
            self._complete()

    def abandon(self) -> None:
        """Close the connection over an answer that will not come."""
        self.response_complete = True
        self._protocol.transport.close()

    def _head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        lines = [STATUS_LINE[status]]
        for name, value in self._protocol.server_state.default_headers:
            lines += (name, b": ", value, b"\r\n")
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        lines.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        return b"".join(lines)

    def _complete(self) -> None:
        self.response_complete = True
        if not self.keep_alive:
            self._protocol.transport.close()
        self._protocol.on_response_complete()


Take: TypeAlias = Callable[[DirectRequest, bytes], bool]
"""Takes a request and its whole body, or leaves it (false) to the application, with nothing done."""
