"""A server for tests that answers with what reached it: raw JSON-RPC over stdio, standard library only."""

from __future__ import annotations

import json
import sys
from typing import Any

JsonObject = dict[str, Any]

ARGUMENTS: JsonObject = {
    **{name: {} for name in ("path", "paths", "url", "host", "query", "command", "text", "n", "items")},
    "options": {"type": "object", "properties": {"target": {}, "level": {}}},
    "payload": {},
}
TAKES: JsonObject = {"type": "object", "properties": ARGUMENTS, "additionalProperties": False}
NAMES = ("take", "give", "other")


def called(params: JsonObject) -> JsonObject:
    arguments: JsonObject = params.get("arguments") or {}
    said = arguments.get("text", "") if params["name"] == "give" else json.dumps(arguments)
    return {"content": [{"type": "text", "text": said}], "structuredContent": {"got": arguments}}


def answer(message: JsonObject) -> JsonObject:
    params: JsonObject = message.get("params") or {}
    match message["method"]:
        case "initialize":
            return {
                "protocolVersion": params.get("protocolVersion", "2025-11-25"),
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "box", "version": "1.0.0"},
            }
        case "tools/list":
            return {"tools": [{"name": name, "description": name, "inputSchema": TAKES} for name in NAMES]}
        case "tools/call":
            return called(params)
        case _:
            return {}


for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked:
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": answer(asked)}), flush=True)
