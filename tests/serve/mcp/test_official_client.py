"""The official MCP client, from an environment of its own, over HTTP and stdio, in each of its modes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from gateway.serve.app import build_app
from gateway.serve.identity import LOCAL_IDENTITY
from gateway.serve.security import HttpSecurity
from tests.support.gateways import copy_pack
from tests.support.http_serving import open_echo_packs, rule_line, running
from tests.support.venvs import client_venv, run_client

CLIENT = """
import asyncio, json, sys
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError

async def attempt(client, tool, **arguments):
    try:
        return (await client.call_tool(tool, arguments)).model_dump(mode="json", by_alias=True)
    except MCPError as error:
        return {"code": error.code, "message": error.message}

async def main(target, mode):
    if target.startswith("["):
        command, *args = json.loads(target)
        target = StdioServerParameters(command=command, args=args)
    async with Client(target, mode=mode) as client:
        print(json.dumps({
            "version": client.protocol_version,
            "tools": [tool.name for tool in (await client.list_tools()).tools],
            "allowed": await attempt(client, "structured", value=123456789012345678901),
            "denied": await attempt(client, "write", path="/workspace/../etc/passwd", content="x"),
            "secret": await attempt(client, "read", path=".env"),
            "unknown": await attempt(client, "nope"),
            "pair": [r["content"][0]["text"] for r in await asyncio.gather(
                *(attempt(client, "echo", text=str(n)) for n in range(8)))],
        }))

asyncio.run(main(*sys.argv[1:]))
"""
VERSIONS = {"legacy": "2025-11-25", "auto": "2026-07-28", "2026-07-28": "2026-07-28"}


async def ask(target: str, mode: str) -> dict[str, Any]:
    def run() -> str:
        return run_client(client_venv("mcp", ["mcp==2.3.0"]), CLIENT, target, mode)

    return json.loads(await anyio.to_thread.run_sync(run))


def check_answers(said: dict[str, Any], mode: str) -> None:
    """Assert what every transport and mode has to show."""
    assert said["version"] == VERSIONS[mode]
    assert (said["tools"][:2], "hidden" in said["tools"]) == (["echo", "structured"], False)
    assert said["allowed"]["structuredContent"] == {"value": 123456789012345678901}
    assert said["allowed"]["_meta"]["sandgate/decision"]["effect"] == "allow"
    assert said["denied"]["isError"] is True
    assert said["denied"]["_meta"]["sandgate/decision"]["effect"] == "deny"
    assert "'no-secret-files': secret files are never in scope" in said["secret"]["content"][0]["text"]
    assert said["secret"]["_meta"]["sandgate/decision"]["line"] == rule_line("no-secret-files")
    assert said["unknown"] == {"code": -32602, "message": "Unknown tool: nope"}
    assert said["pair"] == [str(n) for n in range(8)]


@pytest.mark.parametrize("mode", VERSIONS)
async def test_it_lists_calls_and_is_denied_over_http(tmp_path: Path, mode: str) -> None:
    async with open_echo_packs(tmp_path, "echo") as gateway:
        security = HttpSecurity.bound_to("127.0.0.1")
        app = build_app(gateway, identity=LOCAL_IDENTITY, security=security)
        async with running(app, gateway) as url:
            said = await ask(url + "/mcp", mode)
            check_answers(said, mode)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_it_lists_calls_and_is_denied_over_stdio(tmp_path: Path, mode: str) -> None:
    pack = copy_pack("echo", tmp_path).folder
    command = [sys.executable, "-m", "gateway.cli", "stdio", str(pack), "--state", str(tmp_path / "state")]
    check_answers(await ask(json.dumps(command), mode), mode)
