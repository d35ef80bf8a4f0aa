"""What belongs to one hop of MCP and what travels on: `_meta` in, result envelopes out. Pure.

Version, capabilities, progress token and the like speak of one connection and are written anew on
each; everything else, trace context included, passes through untouched.
"""

from __future__ import annotations

from collections.abc import Mapping

from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    LOG_LEVEL_META_KEY,
    PROTOCOL_VERSION_META_KEY,
    SERVER_INFO_META_KEY,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from gateway.core.json_types import JsonObject, JsonValue

__all__ = [
    "LIST_TTL_MS",
    "asks_for_input",
    "end_to_end_meta",
    "is_modern",
    "may_be_asked",
    "names_modern_era",
    "result_envelope",
]

LIST_TTL_MS = 60_000
"""How long a listing may be kept. A stale one only costs a denial."""

_ASKED_OF_CLIENTS = frozenset({"elicitation", "sampling", "roots"})
_MODERN_ONLY = frozenset({"resultType", "ttlMs", "cacheScope", "_meta"})
_OWN_PREFIX = "sandgate/"
_HOP_BY_HOP = frozenset(
    {
        "progressToken",
        CLIENT_CAPABILITIES_META_KEY,
        CLIENT_INFO_META_KEY,
        LOG_LEVEL_META_KEY,
        PROTOCOL_VERSION_META_KEY,
        SERVER_INFO_META_KEY,
        "io.modelcontextprotocol/subscriptionId",
    }
)


def may_be_asked(capabilities: JsonValue) -> bool:
    """Whether a client with these capabilities can be asked anything while its call runs."""
    return not isinstance(capabilities, dict) or not _ASKED_OF_CLIENTS.isdisjoint(capabilities)


def is_modern(version: str) -> bool:
    """Whether an agreed protocol version is one without sessions (2026-07-28 and later)."""
    return version in MODERN_PROTOCOL_VERSIONS


def names_modern_era(version_header: str | None) -> bool:
    """Whether a request with this `MCP-Protocol-Version` goes to the modern era (the SDK's own rule)."""
    return version_header is not None and version_header not in HANDSHAKE_PROTOCOL_VERSIONS


def end_to_end_meta(meta: Mapping[str, JsonValue]) -> JsonObject:
    """Return what of a caller's `_meta` travels on to the tool server."""
    return {
        key: value
        for key, value in meta.items()
        if key not in _HOP_BY_HOP and not key.startswith(_OWN_PREFIX)
    }


def asks_for_input(result: JsonObject) -> bool:
    """Whether a result is a question in place of one: it says so, and says what."""
    asks = isinstance(result.get("inputRequests"), dict) or isinstance(result.get("requestState"), str)
    return asks and result.get("resultType") == "input_required"


def result_envelope(
    result: JsonObject, *, version: str, server_info: JsonObject, listing: bool = False
) -> JsonObject:
    """Return `result` as a caller of that version is sent it, unknown fields and all.

    Modern results carry `resultType`, who answered, and on listings how long they may be kept.
    """
    meta = result.get("_meta")
    meta = meta if isinstance(meta, dict) else {}
    kept = {key: value for key, value in meta.items() if key != SERVER_INFO_META_KEY}
    if not is_modern(version):
        rest = {key: value for key, value in result.items() if key not in _MODERN_ONLY}
        return {**rest, "_meta": kept} if kept else rest
    if asks_for_input(result):
        return {**result, "_meta": {**kept, SERVER_INFO_META_KEY: server_info}}
    cache: JsonObject = {"ttlMs": LIST_TTL_MS, "cacheScope": "private"} if listing else {}
    return {**result, **cache, "resultType": "complete", "_meta": {**kept, SERVER_INFO_META_KEY: server_info}}
