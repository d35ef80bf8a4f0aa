"""Clients that others wrote, from environments of their own, at a gateway that really serves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateways import copy_pack
from tests.support.http_serving import rule_line
from tests.support.markdown import ROOT
from tests.support.node_packages import node_folder, run_node
from tests.support.processes import serving
from tests.support.venvs import client_venv, run_client

LANGGRAPH = ["langchain==1.5.2", "langchain-mcp-adapters==0.3.2", "langgraph==1.2.24"]
INSPECTOR = ["@modelcontextprotocol/inspector@2.12.0"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the echo pack to every test of this module; yields its MCP endpoint."""
    folder = tmp_path_factory.mktemp("clients")
    with serving(str(copy_pack("echo", folder).folder), "--state", str(folder / "state")) as served:
        yield f"{served.url}/mcp"


# -- MCP Inspector


def inspect(url: str, *args: str) -> tuple[int, Any]:
    """Run the Inspector's command line; returns its exit code and what it printed first."""
    done = run_node(
        node_folder("inspector", INSPECTOR), "mcp-inspector", "--cli", url, "--transport", "http", *args
    )
    assert done.stdout, done.stderr
    return done.returncode, json.JSONDecoder().raw_decode(done.stdout)[0]


def test_the_inspector_lists_what_the_policy_shows(url: str) -> None:
    code, listed = inspect(url, "--method", "tools/list")
    names = [tool["name"] for tool in listed["tools"]]
    assert (code, names[0], "hidden" in names) == (0, "echo", False)


def test_the_inspector_calls_a_tool_and_sees_why_it_may(url: str) -> None:
    call = ("--method", "tools/call", "--tool-name", "echo", "--tool-arg", "text=hi")
    code, result = inspect(url, *call)
    assert (code, result["content"]) == (0, [{"type": "text", "text": "hi"}])
    assert result["_meta"]["sandgate/decision"]["rule"] == "talk"


def test_the_inspector_shows_a_denial_with_rule_file_and_line(url: str) -> None:
    _, result = inspect(
        url, "--method", "tools/call", "--tool-name", "read", "--tool-arg", "path=/workspace/.env"
    )
    assert result["isError"] is True
    assert f"(policy.yaml:{rule_line('no-secret-files')})" in result["content"][0]["text"]


# -- LangGraph


def test_the_langgraph_example_shows_an_allowed_call_a_denied_one_and_what_the_model_is_told(
    tmp_path: Path,
) -> None:
    python = client_venv("langgraph", LANGGRAPH)
    script = (ROOT / "examples" / "langgraph_agent.py").read_text(encoding="utf-8")
    with serving("files", "--state", str(tmp_path / "state")) as served:
        said = run_client(python, script, f"{served.url}/mcp")
    assert "tool list_directory (success): [FILE] .env" in said
    denial = "denied by rule 'secrets-never': secret files are never in scope (files.yaml:"
    assert f"tool read_text_file (error): sandgate: {denial}" in said
    assert f"ai: I could not read the password. I was told: sandgate: {denial}" in said


ADAPTERS = """
import asyncio, json, sys
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools

async def main(url):
    client = MultiServerMCPClient({"echo": {"transport": "http", "url": url}})
    async with client.session("echo") as session:
        tools = {tool.name: tool for tool in await load_mcp_tools(session)}

        async def call(name, **args):
            return await tools[name].ainvoke({"name": name, "args": args, "id": "1", "type": "tool_call"})

        structured = await call("structured", value=12345678901234567890123)
        denied = await call("write", path="/workspace/../etc/passwd", content="x")
        print(json.dumps({
            "names": list(tools),
            "artifact": str(structured.artifact["structured_content"]["value"]),
            "denied": [denied.status, denied.content[0]["text"]],
            "many": [
                message.content[0]["text"]
                for message in await asyncio.gather(*(call("echo", text=str(n)) for n in range(8)))
            ],
        }))

asyncio.run(main(*sys.argv[1:]))
"""


def test_langchains_adapters_bring_results_denials_and_parallel_calls_through(url: str) -> None:
    said = json.loads(run_client(client_venv("langgraph", LANGGRAPH), ADAPTERS, url))
    assert "hidden" not in said["names"]
    assert said["artifact"] == "12345678901234567890123"
    assert said["denied"][0] == "error"
    assert said["denied"][1].startswith("sandgate: denied")
    assert said["many"] == [str(n) for n in range(8)]


# -- older clients of the official SDK

OLDER = """
import asyncio, json, sys
from mcp import ClientSession
try:
    from mcp.client.streamable_http import streamable_http_client as connect
except ImportError:
    from mcp.client.streamable_http import streamablehttp_client as connect

async def main(url):
    async with connect(url) as (read, write, _):
        async with ClientSession(read, write) as session:
            version = (await session.initialize()).protocolVersion
            first = (await session.list_tools()).tools[0].name
            allowed = await session.call_tool("echo", {"text": "hi"})
            denied = await session.call_tool("read", {"path": "/workspace/.env"})
            print(json.dumps({
                "version": version,
                "first": first,
                "allowed": allowed.content[0].text,
                "denied": [denied.isError, denied.content[0].text],
            }))

asyncio.run(main(*sys.argv[1:]))
"""


OLD_SDKS = {
    "2025-11-25": ["mcp==1.30.0"],
    # The first that speaks Streamable HTTP asks for a revision from before it.
    "2024-11-05": ["mcp==1.8.1", "pydantic==2.11.10"],
}


@pytest.mark.parametrize("version", OLD_SDKS)
def test_older_clients_of_the_official_sdk_speak_the_version_they_know(url: str, version: str) -> None:
    said = json.loads(run_client(client_venv(f"mcp-{version}", OLD_SDKS[version]), OLDER, url))
    assert (said["version"], said["first"], said["allowed"]) == (version, "echo", "hi")
    assert said["denied"][0] is True
    assert "'no-secret-files': secret files are never in scope" in said["denied"][1]
