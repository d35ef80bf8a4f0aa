"""A TCP relay on loopback whose connections can be cut, as a network does: both sides lose each other."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import anyio
from anyio.abc import SocketAttribute, SocketStream

__all__ = ["Relay", "relay"]

_GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)


@dataclass
class Relay:
    """A running relay: `url` leads through it."""

    url: str
    _scopes: list[anyio.CancelScope] = field(default_factory=list[anyio.CancelScope])

    def cut(self) -> None:
        """End every connection there is now; later ones work."""
        for scope in self._scopes:
            scope.cancel()
        self._scopes.clear()

    async def carry(self, here: SocketStream, port: int) -> None:
        """Carry one connection until either side ends it, or it is cut."""
        with anyio.CancelScope() as scope:
            self._scopes.append(scope)
            there = await anyio.connect_tcp("127.0.0.1", port)
            async with here, there, anyio.create_task_group() as tasks:
                tasks.start_soon(_copy, here, there)
                await _copy(there, here)
                tasks.cancel_scope.cancel()


async def _copy(source: SocketStream, target: SocketStream) -> None:
    with suppress(*_GONE):
        async for chunk in source:
            await target.send(chunk)


@asynccontextmanager
async def relay(url: str) -> AsyncGenerator[Relay]:
    """Relay to the server at `url` (http://127.0.0.1:PORT)."""
    port = int(url.rsplit(":", 1)[1])
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        found = Relay(f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, partial(found.carry, port=port))
            yield found
            tasks.cancel_scope.cancel()
