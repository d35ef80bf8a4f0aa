"""A `tools/call` in MCP's words: what its parameters ask for, and what is told by a JSON-RPC error. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from mcp.shared.exceptions import MCPError
from mcp_types import HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, UNSUPPORTED_PROTOCOL_VERSION

from gateway.core.calls import Denied, Failed, Outcome, ServerError
from gateway.core.decisions import DecisionCode
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.results import DECISION_META_KEY

__all__ = ["call_params", "error_of_server", "raise_protocol_error"]

_OF_ONE_HOP = frozenset({HEADER_MISMATCH, UNSUPPORTED_PROTOCOL_VERSION})


def call_params(params: Mapping[str, JsonValue]) -> tuple[str, JsonObject, JsonObject]:
    """Return name, arguments and `_meta` of a call, or refuse parameters of another shape (`MCPError`)."""
    name, arguments, meta = params.get("name"), params.get("arguments"), params.get("_meta")
    arguments = {} if arguments is None else arguments
    meta = {} if meta is None else meta
    if not isinstance(name, str) or not isinstance(arguments, dict) or not isinstance(meta, dict):
        raise MCPError(INVALID_PARAMS, "a call has a name (string), arguments (object) and _meta (object)")
    return name, arguments, meta


def raise_protocol_error(name: str, outcome: Outcome) -> None:
    """Raise what MCP tells by a JSON-RPC error: an unknown tool, and what the server refused."""
    match outcome:
        case Denied(decision) if decision.code is DecisionCode.UNKNOWN_TOOL:
            data = {DECISION_META_KEY: decision.wire()}
            raise MCPError(INVALID_PARAMS, f"Unknown tool: {name[:128]}", data)
        case Failed(error=ServerError() as error):
            raise error_of_server(error)
        case _:
            return


def error_of_server(error: ServerError) -> MCPError:
    """Return a server's own error as its caller is told it: unchanged, unless it speaks of one hop only.

    By those a caller would choose how to go on with the gateway, and the server has no say in that.
    """
    if error.code in _OF_ONE_HOP:
        return MCPError(INTERNAL_ERROR, f"the tool server did not take the request: {error.message}")
    return MCPError(error.code, error.message, error.data)
