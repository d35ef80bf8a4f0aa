"""What a message has to be before anybody acts on it: JSON-RPC, and of the era that its headers name.

The SDK reads more leniently. A request whose id is null or a fraction is a notification to it, which owes
no answer, and the era it goes by is that of the header alone, whatever the body says. Pure.
"""

from __future__ import annotations

from typing import NamedTuple

from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    HEADER_MISMATCH,
    INVALID_PARAMS,
    PROTOCOL_VERSION_META_KEY,
    UNSUPPORTED_PROTOCOL_VERSION,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from gateway.core.json_types import JsonObject, JsonValue
from gateway.serve.mcp.envelope import names_modern_era

__all__ = ["Fault", "envelope_fault", "message_fault"]


class Fault(NamedTuple):
    """What a message is refused with: a JSON-RPC error."""

    code: int
    message: str
    data: JsonObject | None = None


def message_fault(message: JsonValue) -> str | None:
    """Return why a value is no JSON-RPC message of MCP, or `None`."""
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        return "a message is a JSON-RPC 2.0 object"
    if "method" not in message:
        return _answer_fault(message)
    if not isinstance(message["method"], str):
        return "a method is a string"
    if "id" in message and not _is_id(message["id"]):
        return "the id of a request is a string or an integer"
    return None if isinstance(message.get("params"), dict | None) else "params are an object"


def envelope_fault(version_header: str | None, session_id: str | None, message: JsonValue) -> Fault | None:
    """Return why a message is not what its headers say that it is, or `None`.

    What a modern header says is compared by the SDK.
    """
    meta = _meta_of(message)
    if names_modern_era(version_header):
        if isinstance(meta.get(CLIENT_CAPABILITIES_META_KEY, {}), dict):
            return None
        return Fault(INVALID_PARAMS, f"params._meta: {CLIENT_CAPABILITIES_META_KEY} has to be an object")
    if PROTOCOL_VERSION_META_KEY not in meta:
        return None
    said = meta[PROTOCOL_VERSION_META_KEY]
    if version_header != said:
        how = "is missing" if version_header is None else "does not match the request envelope's version"
        return Fault(HEADER_MISMATCH, f"the MCP-Protocol-Version header {how}")
    if session_id is not None:
        return None
    supported: list[JsonValue] = [*MODERN_PROTOCOL_VERSIONS]
    data: JsonObject = {"supported": supported, "requested": said}
    return Fault(UNSUPPORTED_PROTOCOL_VERSION, "this version begins with initialize", data)


def _answer_fault(message: JsonObject) -> str | None:
    if ("result" in message) is ("error" in message):
        return "a message has a method, or else either a result or an error"
    if "result" in message and not (_is_id(message.get("id")) and isinstance(message["result"], dict)):
        return "an answer has the id of its request and an object as its result"
    return None if isinstance(message.get("error", {}), dict) else "an error is an object"


def _is_id(value: JsonValue) -> bool:
    return type(value) in (int, str)


def _meta_of(message: JsonValue) -> JsonObject:
    params = message.get("params") if isinstance(message, dict) else None
    meta = params.get("_meta") if isinstance(params, dict) else None
    return meta if isinstance(meta, dict) else {}
