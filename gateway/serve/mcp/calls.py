"""A `tools/call` in MCP's words: what its parameters ask for, and what is told by a JSON-RPC error. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS

from gateway.core.calls import Denied, Failed, Outcome, ServerError
from gateway.core.decisions import DecisionCode
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.results import DECISION_META_KEY

__all__ = ["call_params", "raise_protocol_error"]


def call_params(params: Mapping[str, JsonValue]) -> tuple[str, JsonObject, JsonObject]:
    """Return name, arguments and `_meta` of a call, or refuse parameters of another shape (`MCPError`)."""
    name, arguments, meta = params.get("name"), params.get("arguments"), params.get("_meta")
    arguments = {} if arguments is None else arguments
    meta = {} if meta is None else meta
    if not isinstance(name, str) or not isinstance(arguments, dict) or not isinstance(meta, dict):
        raise MCPError(INVALID_PARAMS, "a call has a name (string), arguments (object) and _meta (object)")
    return name, arguments, meta


def raise_protocol_error(name: str, outcome: Outcome) -> None:
    """Raise what MCP tells by a JSON-RPC error: an unknown tool, and the server's own errors unchanged."""
    match outcome:
        case Denied(decision) if decision.code is DecisionCode.UNKNOWN_TOOL:
            data = {DECISION_META_KEY: decision.wire()}
            raise MCPError(INVALID_PARAMS, f"Unknown tool: {name[:128]}", data)
        case Failed(error=ServerError(code, message, data)):
            raise MCPError(code, message, data)
        case _:
            return
