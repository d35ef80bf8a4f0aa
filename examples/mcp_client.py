"""An agent's side over MCP, with the official SDK: list the tools, make calls, print JSON lines.

    python examples/mcp_client.py http://127.0.0.1:8000/mcp
    python examples/mcp_client.py http://127.0.0.1:8000/mcp git_status '{"repo_path": "/workspace"}'

After the URL come tools, each followed by its arguments as JSON. A denied call is an ordinary
result with `is_error`; its decision object says which rule denied it and where that rule stands.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import anyio
from mcp import Client
from mcp.types import TextContent


async def main(url: str, *calls: str) -> None:
    """List the tools of the server at `url`, then make the calls in order."""
    async with Client(url) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        report({"tools": tools, "protocol": client.protocol_version})
        for tool, arguments in zip(calls[::2], calls[1::2], strict=True):
            await make_call(client, tool, json.loads(arguments))


async def make_call(client: Client, tool: str, arguments: dict[str, Any]) -> None:
    """Make one call and print its answer, its decision and how long it took."""
    started = time.perf_counter()
    result = await client.call_tool(tool, arguments)
    milliseconds = (time.perf_counter() - started) * 1000
    text = "\n".join(block.text for block in result.content if isinstance(block, TextContent))
    decision = (result.meta or {}).get("sandgate/decision")
    report(
        {
            "tool": tool,
            "is_error": result.is_error,
            "text": text,
            "decision": decision,
            "ms": round(milliseconds, 1),
        }
    )


def report(line: dict[str, Any]) -> None:
    """Print one line of JSON."""
    print(json.dumps(line, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    address, *rest = sys.argv[1:]
    anyio.run(main, address, *rest)
