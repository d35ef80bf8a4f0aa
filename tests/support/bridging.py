"""Clients of both eras at the bridge pack, whose servers are raw and of one era each."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from gateway.runtime.gateway import Gateway, GatewaySettings
from gateway.serve.app import build_app
from gateway.serve.identity import LOCAL_IDENTITY
from gateway.serve.security import HttpSecurity
from tests.support.gateways import served
from tests.support.http_serving import running
from tests.support.mcp_http import RawMcp

__all__ = ["ALICE", "CAN", "FORMS", "modern", "serving", "streamed"]

FORMS: dict[str, Any] = {"elicitation": {}}
"""The capabilities of a client that shows its user forms."""
ALICE = {"action": "accept", "content": {"name": "Alice"}}
CAN = "io.modelcontextprotocol/clientCapabilities"


@asynccontextmanager
async def serving(
    tmp_path: Path, settings: GatewaySettings | None = None
) -> AsyncGenerator[tuple[RawMcp, Gateway]]:
    """Serve the bridge pack; yields a client that has no session yet, and the gateway."""
    async with served(tmp_path, pack="bridge", settings=settings) as gateway:
        app = build_app(gateway, identity=LOCAL_IDENTITY, security=HttpSecurity.bound_to("127.0.0.1"))
        async with running(app, gateway) as url, httpx2.AsyncClient(timeout=15) as http:
            yield RawMcp(http, url + "/mcp"), gateway


async def streamed(mcp: RawMcp, tool: str, answer: dict[str, Any] | None = None, **meta: Any) -> list[Any]:
    """Call a tool of a session and return all that came on its stream; questions get `answer`, if any."""
    if mcp.session_id is None:
        await mcp.initialize()
    body = {
        "jsonrpc": "2.0",
        "id": next(mcp.ids),
        "method": "tools/call",
        "params": {"name": tool, "arguments": {}, "_meta": meta},
    }
    headers = {
        **mcp.legacy_headers(),
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
    }
    came: list[Any] = []
    async with mcp.http.stream("POST", mcp.url, json=body, headers=headers) as response:
        if response.headers["content-type"] == "application/json":
            return [json.loads(await response.aread())]
        async for line in response.aiter_lines():
            if line.startswith("data:"):
                message = json.loads(line[5:])
                came.append(message)
                if "id" in message and "method" in message and answer is not None:
                    told = {"jsonrpc": "2.0", "id": message["id"], "result": answer}
                    await mcp.post(json.dumps(told).encode(), mcp.legacy_headers())
    return came


async def modern(mcp: RawMcp, tool: str, can: dict[str, Any] | None = None, **params: Any) -> Any:
    """Call a tool without a session, as a client that can do `can`; return the answer."""
    meta = {CAN: can or {}, **params.pop("_meta", {})}
    answer = await mcp.modern("tools/call", {"name": tool, "arguments": {}, "_meta": meta, **params})
    return answer.json()
