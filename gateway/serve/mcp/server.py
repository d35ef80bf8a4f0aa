"""The MCP server that the gateway is: `tools/list` and `tools/call` as raw objects, the rest the SDK's.

The SDK's typed handlers drop what they do not know, so one middleware answers these two methods
from the raw parameters and sends raw results. Translates, never decides.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias, cast

from mcp.server.context import CallNext, HandlerResult
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    CallToolRequestParams,
    PaginatedRequestParams,
)

from gateway import __version__
from gateway.core.calls import Front, ToolCall
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.results import tool_result
from gateway.errors import ClientError, SandgateError, UnknownSession
from gateway.runtime.gateway import Gateway
from gateway.runtime.sessions import new_call_id
from gateway.serve.identity import principal_of
from gateway.serve.mcp.calls import call_params, raise_protocol_error
from gateway.serve.mcp.directory import Directory
from gateway.serve.mcp.envelope import end_to_end_meta, is_modern, may_be_asked, result_envelope
from gateway.serve.mcp.prompting import DeferredPrompt, prompt_of
from gateway.serve.mcp.sessions import Bindings, RequestContext, Sessions, connection_of, scope_of

__all__ = ["REFUSAL", "build_server", "server_info"]

logger = logging.getLogger(__name__)

REFUSAL = "sandgate.refusal"
"""Scope key of the `ClientError` that an HTTP answer takes its status from."""

_Route: TypeAlias = Callable[[RequestContext], Awaitable[JsonObject]]


def build_server(
    gateway: Gateway, directory: Directory, sessions: Sessions, bindings: Bindings | None = None
) -> Server[Any]:
    """Return the server of one endpoint; `bindings` is told of each minted session id."""
    server: Server[Any] = Server(
        "sandgate", version=__version__, get_tool_input_schema=directory.input_schema
    )
    front = _ToolFront(gateway, directory, sessions, server_info(server), bindings)
    routes: dict[str, _Route] = {"tools/list": front.list_tools, "tools/call": front.call_tool}
    # Registered for the capabilities the SDK announces; the middleware answers before they are reached.
    server.add_request_handler("tools/list", PaginatedRequestParams, lambda ctx, _: front.list_tools(ctx))
    server.add_request_handler("tools/call", CallToolRequestParams, lambda ctx, _: front.call_tool(ctx))
    server.middleware.append(_RawRoutes(routes, bindings))
    return server


def server_info(server: Server[Any]) -> JsonObject:
    """Return what a modern result says of who answered."""
    return cast("JsonObject", server.server_info_stamp)


class _RawRoutes:
    """SDK middleware: sends two methods down raw routes, everything else onwards."""

    def __init__(self, routes: Mapping[str, _Route], bindings: Bindings | None) -> None:
        self._routes = routes
        self._bindings = bindings

    async def __call__(self, ctx: RequestContext, call_next: CallNext) -> HandlerResult:
        route = self._routes.get(ctx.method)
        if route is None or ctx.request_id is None:
            if ctx.method == "initialize":
                self._bind(ctx)
            return await call_next(ctx)
        if not is_modern(ctx.protocol_version) and ctx.session.client_params is None:
            raise MCPError(INVALID_REQUEST, "initialize first")
        return await self._answer(route, ctx)

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
            self._bindings.bind(connection_of(ctx), principal_of(scope), asked=asked)


class _ToolFront:
    """`tools/list` and `tools/call` over raw parameters."""

    def __init__(
        self,
        gateway: Gateway,
        directory: Directory,
        sessions: Sessions,
        server_info: JsonObject,
        bindings: Bindings | None,
    ) -> None:
        self._gateway = gateway
        self._directory = directory
        self._sessions = sessions
        self._server_info = server_info
        self._bindings = bindings

    async def list_tools(self, ctx: RequestContext) -> JsonObject:
        """Return what the caller's policy shows of every pack, in the packs' order and all at once."""
        if _params(ctx).get("cursor") is not None:
            raise MCPError(INVALID_PARAMS, "no such cursor: tools are listed on one page")
        tools: list[JsonValue] = []
        for pack in self._directory.packs:
            session = await self._sessions.of(ctx, pack)
            for definition in session.tools():
                tools.append({**definition, "name": self._directory.shown(pack, str(definition["name"]))})
        return self._enveloped(ctx, {"tools": tools}, listing=True)

    async def call_tool(self, ctx: RequestContext) -> JsonObject:
        """Take a call down the path and return its result object, unknown fields and all."""
        name, arguments, meta = call_params(_params(ctx))
        pack, tool = self._directory.find(name)
        session = await self._sessions.of(ctx, pack)
        call = ToolCall(new_call_id(), tool, arguments, Front.MCP, end_to_end_meta(meta))
        prompt = prompt_of(ctx, self._bindings)
        outcome = await self._gateway.call(session, call, prompt)
        raise_protocol_error(name, outcome)
        result = self._enveloped(ctx, tool_result(outcome))
        return prompt.input_required(result, outcome) if isinstance(prompt, DeferredPrompt) else result

    def _enveloped(self, ctx: RequestContext, result: JsonObject, *, listing: bool = False) -> JsonObject:
        return result_envelope(
            result, version=ctx.protocol_version, server_info=self._server_info, listing=listing
        )


def _params(ctx: RequestContext) -> Mapping[str, JsonValue]:
    return ctx.params or {}
