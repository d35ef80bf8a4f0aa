"""Change notices: `subscriptions/listen` without sessions, the client's own stream with them.

Both tell what the servers of the caller's sessions announce, and of resources only what this client
asked for and was granted. Nothing is kept for who does not listen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Coroutine
from contextlib import ExitStack

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream
from mcp.server.connection import Connection
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS

from gateway.core.json_types import JsonObject, JsonValue
from gateway.runtime.announcements import Announcement
from gateway.runtime.sessions import Session
from gateway.serve.mcp.calling import Calling
from gateway.serve.mcp.offers import OfferFront
from gateway.serve.mcp.peers import LEVEL_STATE, wanted_level
from gateway.serve.mcp.requests import RequestContext, params_of

__all__ = ["Listening", "tell_connection"]

logger = logging.getLogger(__name__)

_SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
_UPDATED, _MESSAGE = "notifications/resources/updated", "notifications/message"
_CHANGES = {
    "toolsListChanged": "notifications/tools/list_changed",
    "promptsListChanged": "notifications/prompts/list_changed",
    "resourcesListChanged": "notifications/resources/list_changed",
}
_MOST_FOLLOWED = 256
_Heard = MemoryObjectReceiveStream[Announcement]


class Listening:
    """`subscriptions/listen`: its answer is a stream that ends with the caller or its session."""

    def __init__(self, calling: Calling, offers: OfferFront) -> None:
        self._calling = calling
        self._offers = offers

    async def listen(self, ctx: RequestContext) -> JsonObject:
        """Tell the caller what it asked to be told, until it leaves."""
        wanted = params_of(ctx).get("notifications")
        if not isinstance(wanted, dict):
            raise MCPError(INVALID_PARAMS, "notifications is an object of what to tell")
        meta: JsonObject = {_SUBSCRIPTION: ctx.request_id}
        methods = {method for name, method in _CHANGES.items() if wanted.get(name) is True}
        sessions = [await self._calling.session(ctx, pack) for pack in self._calling.directory.packs]
        with ExitStack() as streams:
            heard = [streams.enter_context(session.announcements.listening()) for session in sessions]
            uris = await self._followed(ctx, wanted.get("resourceSubscriptions"))
            honoured: JsonObject = {name: True for name in _CHANGES if wanted.get(name) is True}
            if uris:
                honoured["resourceSubscriptions"] = list[JsonValue](uris)
            await _notify(ctx, "notifications/subscriptions/acknowledged", {"notifications": honoured}, meta)
            async with anyio.create_task_group() as tasks:
                for stream in heard:
                    tasks.start_soon(self._tell, ctx, stream, methods, uris, meta)
        return self._calling.enveloped(ctx, {"_meta": meta})

    async def _followed(self, ctx: RequestContext, wanted: JsonValue) -> list[str]:
        """Subscribe to the resources asked for; return those that were granted."""
        if wanted is None:
            return []
        if not isinstance(wanted, list) or len(wanted) > _MOST_FOLLOWED:
            raise MCPError(INVALID_PARAMS, f"resourceSubscriptions is a list of up to {_MOST_FOLLOWED} URIs")
        uris = [uri for uri in wanted if isinstance(uri, str)]
        return [uri for uri in uris if await self._offers.follow(ctx, uri) is not None]

    async def _tell(
        self, ctx: RequestContext, heard: _Heard, methods: set[str], uris: Collection[str], meta: JsonObject
    ) -> None:
        async for said in heard:
            follows = said.method == _UPDATED and said.params.get("uri") in uris
            if follows or said.method in methods:
                await _notify(ctx, said.method, said.params, meta)


async def _notify(ctx: RequestContext, method: str, params: JsonObject, meta: JsonObject) -> None:
    own = params.get("_meta")
    stream = ctx.session._request_outbound  # pyright: ignore[reportPrivateUsage]
    await stream.notify(method, {**params, "_meta": {**(own if isinstance(own, dict) else {}), **meta}})


def tell_connection(connection: Connection, session: Session) -> Callable[[], Coroutine[None, None, None]]:
    """Return what tells a connection with a session what its servers announce, until the session ends.

    A server tells only of resources that were subscribed to, which was a call of its own.
    """

    def wanted(said: Announcement) -> bool:
        return said.method != _MESSAGE or wanted_level(said.params, connection.state.get(LEVEL_STATE))

    async def tell() -> None:
        try:
            with session.announcements.listening() as heard:
                async for said in heard:
                    if wanted(said):
                        await connection.notify(said.method, said.params)
        except Exception:
            # One client's connection is nobody else's trouble.
            logger.exception("a connection cannot be told of changes any more")

    return tell
