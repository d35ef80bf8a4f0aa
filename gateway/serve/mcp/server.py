"""The MCP server that the gateway is: every method of servers as raw objects, the rest the SDK's.

The SDK's typed handlers drop what they do not know, so one middleware answers these methods from
the raw parameters and sends raw results. Translates, never decides.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias, cast

from mcp.server.context import CallNext, HandlerResult
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, RequestParams

from gateway import __version__
from gateway.core.calls import Front, ToolCall
from gateway.core.json_types import JsonObject, JsonValue
from gateway.errors import ClientError, SandgateError, UnknownSession
from gateway.runtime.gateway import Gateway
from gateway.runtime.sessions import new_call_id
from gateway.serve.mcp.calling import Calling
from gateway.serve.mcp.calls import call_params, raise_protocol_error
from gateway.serve.mcp.capabilities import described, serves
from gateway.serve.mcp.directory import Directory
from gateway.serve.mcp.envelope import end_to_end_meta, is_modern, may_be_asked
from gateway.serve.mcp.listening import Listening
from gateway.serve.mcp.offers import OfferFront
from gateway.serve.mcp.requests import RequestContext, params_of
from gateway.serve.mcp.sessions import (
    Bindings,
    Sessions,
    connection_of,
    scope_of,
    sessions_of,
)

__all__ = ["REFUSAL", "build_server", "server_info"]

logger = logging.getLogger(__name__)

REFUSAL = "sandgate.refusal"
"""Scope key of the `ClientError` that an HTTP answer takes its status from."""

_Route: TypeAlias = Callable[[RequestContext], Awaitable[JsonObject]]
_LEGACY_ONLY = frozenset({"logging/setLevel", "resources/subscribe", "resources/unsubscribe"})
_MODERN_ONLY = frozenset({"subscriptions/listen"})
_OPENINGS = frozenset({"initialize", "server/discover"})
_PASSED_ON = frozenset({"notifications/roots/list_changed", "notifications/progress"})


def build_server(
    gateway: Gateway, directory: Directory, sessions: Sessions, bindings: Bindings | None = None
) -> Server[Any]:
    """Return the server of one endpoint; `bindings` is told of each minted session id."""
    server: Server[Any] = Server(
        "sandgate", version=__version__, get_tool_input_schema=directory.input_schema
    )
    routes = _routes(Calling(gateway, directory, sessions, server_info(server), bindings))
    for method, route in routes.items():
        # The middleware answers before these are reached; the SDK tells by them what there is.
        server.add_request_handler(method, RequestParams, lambda ctx, _, route=route: route(ctx))
    server.middleware.append(_RawRoutes(routes, directory, bindings))
    return server


def server_info(server: Server[Any]) -> JsonObject:
    """Return what a modern result says of who answered."""
    return cast("JsonObject", server.server_info_stamp)


def _routes(calling: Calling) -> dict[str, _Route]:
    tools, offers = _ToolFront(calling), OfferFront(calling)
    return {
        "tools/list": tools.list_tools,
        "tools/call": tools.call_tool,
        "prompts/list": offers.list_prompts,
        "prompts/get": offers.get_prompt,
        "resources/list": offers.list_resources,
        "resources/templates/list": offers.list_templates,
        "resources/read": offers.read_resource,
        "resources/subscribe": offers.subscribe,
        "resources/unsubscribe": offers.unsubscribe,
        "completion/complete": offers.complete,
        "logging/setLevel": offers.set_level,
        "subscriptions/listen": Listening(calling, offers).listen,
    }


class _RawRoutes:
    """SDK middleware: sends the methods of servers down raw routes, everything else onwards."""

    def __init__(self, routes: Mapping[str, _Route], directory: Directory, bindings: Bindings | None) -> None:
        self._routes = routes
        self._directory = directory
        self._bindings = bindings

    async def __call__(self, ctx: RequestContext, call_next: CallNext) -> HandlerResult:
        if ctx.request_id is None:
            await self._noted(ctx)
            return await call_next(ctx)
        route = self._route(ctx)
        if route is None:
            return await self._onwards(ctx, call_next)
        if not is_modern(ctx.protocol_version) and ctx.session.client_params is None:
            raise MCPError(INVALID_REQUEST, "initialize first")
        if not serves(self._directory, ctx.method):
            raise MCPError(METHOD_NOT_FOUND, f"no server here offers {ctx.method}")
        return await self._answer(route, ctx)

    def _route(self, ctx: RequestContext) -> _Route | None:
        """Return the road of a method, `None` where its era does not have it."""
        absent = _LEGACY_ONLY if is_modern(ctx.protocol_version) else _MODERN_ONLY
        return None if ctx.method in absent else self._routes.get(ctx.method)

    async def _onwards(self, ctx: RequestContext, call_next: CallNext) -> HandlerResult:
        if ctx.method == "initialize":
            self._bind(ctx)
        result = await call_next(ctx)
        if ctx.method in _OPENINGS and isinstance(result, dict):
            return described(self._directory, cast("JsonObject", result))
        return result

    async def _noted(self, ctx: RequestContext) -> None:
        """Pass on what a client says to the servers of its sessions."""
        if ctx.method in _PASSED_ON and not is_modern(ctx.protocol_version):
            for session in sessions_of(connection_of(ctx)):
                await session.lease.tell(ctx.method, params_of(ctx))

    async def _answer(self, route: _Route, ctx: RequestContext) -> JsonObject:
        try:
            return await route(ctx)
        except MCPError:
            raise
        except ClientError as error:
            raise self._refused(ctx, error) from None
        except SandgateError as error:
            raise MCPError(INTERNAL_ERROR, str(error)) from None
        except Exception:
            # The border of the protocol: what went wrong inside is for the log, not for the caller.
            logger.exception("answering %s failed", ctx.method)
            raise MCPError(INTERNAL_ERROR, "internal error") from None

    def _refused(self, ctx: RequestContext, error: ClientError) -> MCPError:
        scope = scope_of(ctx)
        if scope is not None:
            scope[REFUSAL] = error
        session_id = connection_of(ctx).session_id
        if isinstance(error, UnknownSession) and self._bindings is not None and session_id is not None:
            self._bindings.end(session_id)
        return MCPError(error.status, str(error))

    def _bind(self, ctx: RequestContext) -> None:
        scope = scope_of(ctx)
        if self._bindings is not None and scope is not None:
            asked = may_be_asked((ctx.params or {}).get("capabilities"))
            self._bindings.bind(connection_of(ctx), scope, asked=asked)


class _ToolFront:
    """`tools/list` and `tools/call` over raw parameters."""

    def __init__(self, calling: Calling) -> None:
        self._calling = calling
        self._directory = calling.directory

    async def list_tools(self, ctx: RequestContext) -> JsonObject:
        """Return what the caller's policy shows of every pack, in the packs' order."""
        if params_of(ctx).get("cursor") is not None:
            raise MCPError(INVALID_PARAMS, "no such cursor: tools are listed on one page")
        tools: list[JsonValue] = []
        for pack in self._directory.packs:
            session = await self._calling.session(ctx, pack)
            for definition in session.tools():
                tools.append({**definition, "name": self._directory.shown(pack, str(definition["name"]))})
        return self._calling.enveloped(ctx, {"tools": tools}, listing=True)

    async def call_tool(self, ctx: RequestContext) -> JsonObject:
        """Take a call down the path and return its result object, unknown fields and all."""
        name, arguments, meta = call_params(params_of(ctx))
        pack, tool = self._directory.find(name)
        session = await self._calling.session(ctx, pack)
        call = ToolCall(new_call_id(), tool, arguments, Front.MCP, end_to_end_meta(meta))
        outcome, shown = await self._calling.outcome(ctx, session, call)
        raise_protocol_error(name, outcome)
        return shown
