"""The caller of one request as its server may reach it, in both eras: translates, decides nothing.

With sessions (legacy): on the stream of the very request, else on the one the client listens to.
Without (modern): notifications on the request's own stream; questions are the call's result.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

import anyio
from mcp.server.connection import Connection
from mcp.shared.exceptions import MCPError
from mcp_types import LOG_LEVEL_META_KEY

from gateway.core.json_types import JsonObject, JsonValue
from gateway.runtime.peer import PeerError
from gateway.serve.mcp.envelope import is_modern
from gateway.serve.mcp.plain_answers import takes_streams
from gateway.serve.mcp.requests import RequestContext, client_of, meta_of
from gateway.serve.mcp.sessions import Binding, Bindings, connection_of, scope_of

__all__ = ["LEVEL_STATE", "LOG_LEVELS", "Peer", "StandingPeer", "peer_of", "wanted_level"]

logger = logging.getLogger(__name__)

LOG_LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""From the least to the most severe."""
LEVEL_STATE = "sandgate.log_level"
"""Key of a connection's state: the level that its client set."""
_LISTENING_SECONDS = 20.0
_INVALID_REQUEST, _INTERNAL = -32600, -32603


def wanted_level(params: Mapping[str, JsonValue], least: str | None) -> bool:
    """Whether a log message is severe enough for who set the level `least`; an unknown one is not."""
    level = params.get("level")
    if least is None or level not in LOG_LEVELS or least not in LOG_LEVELS:
        return least is None
    return LOG_LEVELS.index(str(level)) >= LOG_LEVELS.index(least)


def peer_of(ctx: RequestContext, bindings: Bindings | None = None) -> Peer:
    """Return the caller of this request."""
    return Peer(ctx, _binding(ctx, bindings))


def _binding(ctx: RequestContext, bindings: Bindings | None) -> Binding | None:
    session_id = connection_of(ctx).session_id
    if bindings is None or session_id is None or scope_of(ctx) is None:
        return None
    return bindings.known(session_id)


class Peer:
    """The caller of one request. See `gateway.runtime.peer.ClientPeer`."""

    def __init__(self, ctx: RequestContext, binding: Binding | None) -> None:
        meta = meta_of(ctx)
        token, level = meta.get("progressToken"), meta.get(LOG_LEVEL_META_KEY)
        self.defers = is_modern(ctx.protocol_version)
        self.capabilities = client_of(ctx).capabilities
        self.progress_token: JsonValue = token if isinstance(token, int | str) else None
        self.log_level = level if self.defers and isinstance(level, str) else None
        # The SDK's own way to a request's stream takes typed messages only, and drops unknown fields.
        self._stream = ctx.session._request_outbound  # pyright: ignore[reportPrivateUsage]
        scope = scope_of(ctx)
        self._hears = scope is None or takes_streams(scope)
        self._connection = connection_of(ctx)
        self._standing = StandingPeer(self._connection, binding)

    async def request(self, method: str, params: JsonObject) -> JsonObject:
        """Ask the client on the stream of its request, or where it listens."""
        if not (self._hears and self._stream.can_send_request):
            return await self._standing.request(method, params)
        try:
            return await self._stream.send_raw_request(method, params)
        except MCPError as error:
            raise PeerError(error.code, error.message, error.data) from None

    async def notify(self, method: str, params: JsonObject) -> None:
        """Tell the client on the stream of its request."""
        if method == "notifications/message" and not self._wants(params):
            return
        try:
            await self._stream.notify(method, params)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            logger.debug("nobody hears %s any more", method)

    def _wants(self, params: JsonObject) -> bool:
        if self.defers:
            return self.log_level is not None and wanted_level(params, self.log_level)
        return wanted_level(params, self._connection.state.get(LEVEL_STATE))


class StandingPeer:
    """The client of a connection with sessions, outside of its requests: where it listens."""

    def __init__(self, connection: Connection, binding: Binding | None = None) -> None:
        self._connection = connection
        self._binding = binding

    async def request(self, method: str, params: JsonObject) -> JsonObject:
        """Ask the client once it listens; raises `PeerError` if it does not."""
        if self._binding is not None:
            with anyio.move_on_after(_LISTENING_SECONDS):
                await self._binding.listening.wait()
            if not self._binding.listening.is_set():
                raise PeerError(_INVALID_REQUEST, "the client opened no stream on which it could be asked")
        try:
            return await self._connection.send_raw_request(method, params)
        except MCPError as error:
            raise PeerError(error.code, error.message, error.data) from None
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise PeerError(_INTERNAL, "the client has gone") from None
