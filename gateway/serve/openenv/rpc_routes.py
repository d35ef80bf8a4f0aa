"""Where the dialect of `gateway.serve.openenv.rpc` is spoken: `POST /mcp` beside real MCP, and `WS /mcp`.

A POST is of the dialect if its body's shape says so, no header of MCP speaks against it, and it comes
from an orchestrator; it is answered 200 with one JSON-RPC response. Everything else is real MCP's.
"""

from __future__ import annotations

from contextlib import suppress

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.core.calls import Role
from gateway.core.json_types import JsonObject
from gateway.core.strict_json import JsonLimits, StrictJsonError, dumps, loads
from gateway.errors import ClientError
from gateway.runtime.episodes import Episodes, EpisodeSession
from gateway.serve.gate import GateLimits, StrictGate, message_of
from gateway.serve.identity import principal_of
from gateway.serve.openenv.lobby import Inbox, Lobby
from gateway.serve.openenv.rpc import INVALID_REQUEST, PARSE_ERROR, RpcDialect, is_dialect, rpc_failure

__all__ = ["McpOrDialect", "ProbeAnswered", "RpcSocket"]

_SERVER_ERROR = -32000
_POLICY_VIOLATION = 1008
_INTERNAL_ERROR = 1011
_MCP_HEADERS = ("mcp-session-id", "mcp-protocol-version")


class McpOrDialect:
    """ASGI application: answers the dialect for one pack and hands everything else to `mcp`."""

    def __init__(self, mcp: ASGIApp, episodes: Episodes, pack: str, limits: GateLimits) -> None:
        self._mcp = mcp
        self._rpc = RpcDialect(episodes, pack)
        self._gated = StrictGate(self._choose, limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = Headers(scope=scope)
        real = scope["method"] != "POST" or any(name in headers for name in _MCP_HEADERS)
        await (self._mcp if real else self._gated)(scope, receive, send)

    async def _choose(self, scope: Scope, receive: Receive, send: Send) -> None:
        may = Role.ORCHESTRATOR in principal_of(scope).roles
        app = self._answer if may and is_dialect(message_of(scope)) else self._mcp
        await app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._rpc.answer(message_of(scope), principal_of(scope))
        await Response(dumps(answer), media_type="application/json")(scope, receive, send)


class ProbeAnswered:
    """ASGI application: answers `{}` as the contract's validator wants it, everything else is `mcp`'s.

    An empty object is no message of MCP. It is answered 200 with a JSON-RPC error, in any mode.
    """

    def __init__(self, mcp: ASGIApp, limits: GateLimits) -> None:
        self._mcp = mcp
        self._gated = StrictGate(self._choose, limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; only a body of two bytes is looked into."""
        headers = Headers(scope=scope)
        probes = scope["method"] == "POST" and headers.get("content-length") == "2"
        real = not probes or any(name in headers for name in _MCP_HEADERS)
        await (self._mcp if real else self._gated)(scope, receive, send)

    async def _choose(self, scope: Scope, receive: Receive, send: Send) -> None:
        if message_of(scope) != {}:
            await self._mcp(scope, receive, send)
            return
        answer = rpc_failure(None, INVALID_REQUEST, "Invalid request: an empty object is no message")
        await Response(dumps(answer), media_type="application/json")(scope, receive, send)


class RpcSocket:
    """`WS /mcp`: one connection, one session, one JSON-RPC response per message."""

    def __init__(self, episodes: Episodes, pack: str, limits: JsonLimits) -> None:
        self._lobby = Lobby(episodes, pack)
        self._rpc = RpcDialect(episodes, pack)
        self._limits = limits

    async def serve(self, socket: WebSocket) -> None:
        """Talk until the client ends it."""
        await socket.accept()
        try:
            await self._hold(Inbox(socket))
        except WebSocketDisconnect:
            return
        except ClientError as error:
            with suppress(WebSocketDisconnect):
                await _say(socket, rpc_failure(None, _SERVER_ERROR, str(error)))
                await socket.close(_POLICY_VIOLATION)
        except Exception:
            with suppress(WebSocketDisconnect):
                await _say(socket, rpc_failure(None, _SERVER_ERROR, "internal error"))
                await socket.close(_INTERNAL_ERROR)
            raise  # for the server to log

    async def _hold(self, inbox: Inbox) -> None:
        async with self._lobby.session(inbox) as session:
            while True:
                await _say(inbox.socket, await self._answer(await inbox.text(), session))

    async def _answer(self, text: str | None, session: EpisodeSession) -> JsonObject:
        if text is None:
            return rpc_failure(None, INVALID_REQUEST, "messages are JSON text; this one is binary")
        try:
            message = loads(text, self._limits)
        except StrictJsonError as error:
            return rpc_failure(None, PARSE_ERROR, f"Parse error: {error}")
        return await self._rpc.answer(message, session.principal, session)


async def _say(socket: WebSocket, message: JsonObject) -> None:
    await socket.send_text(dumps(message).decode())
