"""A WebSocket peer that follows a script instead of the contract."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from websockets.asyncio.server import ServerConnection, serve

__all__ = ["peer"]


@asynccontextmanager
async def peer(script: Callable[[ServerConnection], Awaitable[None]]) -> AsyncGenerator[str]:
    """Run `script` on every connection; yields the URL that clients are given."""
    async with serve(script, "127.0.0.1", 0, close_timeout=1) as server:
        host, port = next(iter(server.sockets)).getsockname()[:2]
        yield f"http://{host}:{port}"
