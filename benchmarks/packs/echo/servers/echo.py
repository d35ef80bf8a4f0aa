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


def answer(method: str, params: Any) -> Any:
    """Return the result of one request."""
    if method == "initialize":
        info = {"name": "echo", "version": "1"}
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": info,
        }
    if method == "tools/list":
        return {"tools": [TOOL]}
    if method == "tools/call":
        return {"content": [{"type": "text", "text": params["arguments"]["text"]}]}
    return {}


for line in sys.stdin.buffer:
    message: Any = json.loads(line)
    if "id" in message and "method" in message:
        result = answer(message["method"], message.get("params"))
        reply: Any = {"jsonrpc": "2.0", "id": message["id"], "result": result}
        sys.stdout.buffer.write(json.dumps(reply, separators=(",", ":")).encode() + b"\n")
        sys.stdout.buffer.flush()
