"""How a connection comes to its session and leaves it: by id, or a new one in turn. Decides nothing.

    ?session_id=ID   that session of this principal, held by this connection alone
    none             a new session; at capacity the socket waits in line, and leaves it when it drops

A connection that drops (any close but 1000) leaves a playing session behind for the grace period.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.core.calls import Principal
from gateway.errors import ClientError
from gateway.runtime.episodes import Episodes, EpisodeSession
from gateway.serve.identity import principal_of

__all__ = ["Inbox", "Lobby"]

_ORDERLY = 1000
_EARLY_FRAMES = 8
"""How many frames are kept of a socket that still waits in line."""


class Inbox:
    """The frames of one socket in their order; it can look ahead for the client leaving."""

    def __init__(self, socket: WebSocket) -> None:
        self.socket = socket
        self._early: deque[Message] = deque()

    async def text(self) -> str | None:
        """Return the next text frame, `None` for a binary one; raises `WebSocketDisconnect`."""
        message = self._early.popleft() if self._early else await self.socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        text = message.get("text")
        return text if isinstance(text, str) else None

    async def until_gone(self) -> None:
        """Return once the client left; what it said before is kept."""
        while len(self._early) < _EARLY_FRAMES:
            message = await self.socket.receive()
            self._early.append(message)
            if message["type"] == "websocket.disconnect":
                return
        await anyio.sleep_forever()


class Lobby:
    """Gives the connections to one pack their sessions."""

    def __init__(self, episodes: Episodes, pack: str) -> None:
        self._episodes = episodes
        self._pack = pack

    @asynccontextmanager
    async def session(self, inbox: Inbox) -> AsyncGenerator[EpisodeSession]:
        """Hold the connection's session.

        Raises `UnknownSession`, `TooManySessions`, `ClientError` (somebody else holds it) or
        `WebSocketDisconnect` (the client left the line).
        """
        principal = principal_of(inbox.socket.scope)
        wanted = inbox.socket.query_params.get("session_id")
        if wanted is None:
            session = await self._in_turn(inbox, principal)
        else:
            session = self._episodes.find(self._pack, wanted, principal)
        async with session.hold():
            dropped = False
            try:
                yield session
            except WebSocketDisconnect as left:
                dropped = left.code != _ORDERLY
                raise
            finally:
                with anyio.CancelScope(shield=True):
                    await self._episodes.let_go(session, dropped=dropped)

    async def _in_turn(self, inbox: Inbox, principal: Principal) -> EpisodeSession:
        session: EpisodeSession | None = None
        refused: ClientError | None = None
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                await inbox.until_gone()
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            try:
                session = await self._episodes.open_in_turn(self._pack, principal)
            except ClientError as error:
                refused = error  # told outside: a task group would wrap it
            tasks.cancel_scope.cancel()
        if refused is not None:
            raise refused
        if session is None:
            raise WebSocketDisconnect(1006)
        return session
