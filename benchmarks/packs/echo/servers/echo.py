"""The smallest honest MCP server over stdio: one tool that says what it was told. Standard library only."""

import json
import sys
from typing import Any

TOOL: dict[str, Any] = {
    "name": "echo",
    "description": "Return the text.",
    "inputSchema": {
        "type": "object",
        "properties": {"text": {"type": "string"}, "path": {"type": "string"}},
        "required": ["text"],
        "additionalProperties": False,
    },
}


MODERN = "2026-07-28"
WHOLE = {"resultType": "complete", "ttlMs": 60_000, "cacheScope": "private"}
"""What the stateless era wants in a result; the handshake era does not mind."""


def answer(method: str, params: Any) -> Any:
    """Return the result of one request, `None` for a method that is not known."""
    if method == "initialize":
        info = {"name": "echo", "version": "1"}
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": info,
        }
    if method == "server/discover":
        return {"supportedVersions": [MODERN], "capabilities": {"tools": {}}, **WHOLE}
    if method == "tools/list":
        return {"tools": [TOOL], **WHOLE}
    if method == "tools/call":
        return {"content": [{"type": "text", "text": params["arguments"]["text"]}], "resultType": "complete"}
    return {} if method == "ping" else None


for line in sys.stdin.buffer:
    message: Any = json.loads(line)
    if "id" in message and "method" in message:
        result = answer(message["method"], message.get("params"))
        reply: Any = {"jsonrpc": "2.0", "id": message["id"], "result": result}
        if result is None:
            reply = {
                "jsonrpc": "2.0",
                "id": message["id"],
                "error": {"code": -32601, "message": "unknown method"},
            }
        sys.stdout.buffer.write(json.dumps(reply, separators=(",", ":")).encode() + b"\n")
        sys.stdout.buffer.flush()
