"""What a request says, as plain JSON: its parameters, its `_meta`, and what its caller can do. Pure."""

from __future__ import annotations

from typing import Any, TypeAlias, cast

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import CLIENT_CAPABILITIES_META_KEY, INVALID_PARAMS, ClientCapabilities

from gateway.core.json_types import JsonObject, JsonValue
from gateway.runtime.peer import ClientFacts
from gateway.serve.mcp.envelope import is_modern

__all__ = ["RequestContext", "carried", "client_of", "declared_by", "meta_of", "params_of", "text_param"]

RequestContext: TypeAlias = ServerRequestContext[Any, Any]
"""A request as the SDK hands it on, with its connection."""

_NOT_CARRIED = frozenset({"tasks"})


def params_of(ctx: RequestContext) -> JsonObject:
    """Return a request's parameters as they came through the gate."""
    return cast("JsonObject", dict(ctx.params or {}))


def meta_of(ctx: RequestContext) -> JsonObject:
    """Return a request's `_meta`; empty where it has none, or none of the right shape."""
    meta = params_of(ctx).get("_meta")
    return meta if isinstance(meta, dict) else {}


def text_param(params: JsonObject, name: str) -> str:
    """Return a parameter that has to be a string (`MCPError`)."""
    value = params.get(name)
    if not isinstance(value, str):
        raise MCPError(INVALID_PARAMS, f"{name} is a string")
    return value


def client_of(ctx: RequestContext) -> ClientFacts:
    """Return what a server is told of the caller: its era, and its own capabilities as it declared them.

    Left out is what this gateway does not carry (task-augmented requests).
    """
    if is_modern(ctx.protocol_version):
        return ClientFacts("modern", carried(meta_of(ctx).get(CLIENT_CAPABILITIES_META_KEY)))
    return ClientFacts("legacy", declared_by(ctx.session.client_capabilities))


def declared_by(capabilities: ClientCapabilities | None) -> JsonObject:
    """Return what a server is told of the capabilities that a handshake declared."""
    if capabilities is None:
        return {}
    return carried(capabilities.model_dump(mode="json", by_alias=True, exclude_none=True))


def carried(declared: JsonValue) -> JsonObject:
    """Return of declared capabilities those that this gateway carries."""
    known = declared if isinstance(declared, dict) else {}
    return {key: value for key, value in known.items() if key not in _NOT_CARRIED and value is not None}
