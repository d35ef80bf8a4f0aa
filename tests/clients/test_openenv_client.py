"""The stock OpenEnv 0.10 clients, unchanged and from their own environment, play real episodes."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.support.env_serving import env_server
from tests.support.venvs import client_venv, run_client

REQUIREMENTS = ("openenv==0.10.0",)

SYNC = """
import json, sys
from openenv.core.generic_client import GenericEnvClient

told = {}
with GenericEnvClient(base_url=sys.argv[1]).sync() as env:
    start = env.reset(task="fix-readme", seed=7, episode_id="from-openenv")
    told["start"] = [start.observation["prompt"], start.reward, start.done, start.observation["metadata"]["seed"]]
    listed = env.step({"type": "list_tools"})
    told["tools"] = [tool["name"] for tool in listed.observation["tools"]]
    call = lambda tool, **arguments: env.step({"type": "call_tool", "tool_name": tool, "arguments": arguments})
    told["echo"] = call("echo", text="hi").observation["result"]["data"]
    denied = call("write", path="/workspace/.env", content="x")
    told["denied"] = [denied.observation["error"]["error_type"], denied.reward, denied.done,
                      denied.observation["metadata"]["policy"]["rule"]]
    call("write", path="README.md", content="The echo pack's workspace.")
    state = env.state()
    told["state"] = [state["episode_id"], state["step_count"]]
    end = env.step({"type": "submit", "answer": "done"})
    told["end"] = [end.reward, end.done, end.observation["metadata"]["done_reason"]]
    told["again"] = env.reset().done
print(json.dumps(told))
"""

ASYNC = """
import asyncio, json, sys
from openenv.core.generic_client import GenericEnvClient

async def main():
    async with GenericEnvClient(base_url=sys.argv[1]) as env:
        start = await env.reset(task="fix-readme", seed=7, episode_id="from-openenv")
        told = {"start": [start.observation["prompt"], start.reward, start.done, start.observation["metadata"]["seed"]]}
        listed = await env.step({"type": "list_tools"})
        told["tools"] = [tool["name"] for tool in listed.observation["tools"]]
        call = lambda tool, **arguments: env.step(
            {"type": "call_tool", "tool_name": tool, "arguments": arguments})
        told["echo"] = (await call("echo", text="hi")).observation["result"]["data"]
        denied = await call("write", path="/workspace/.env", content="x")
        told["denied"] = [denied.observation["error"]["error_type"], denied.reward, denied.done,
                          denied.observation["metadata"]["policy"]["rule"]]
        await call("write", path="README.md", content="The echo pack's workspace.")
        state = await env.state()
        told["state"] = [state["episode_id"], state["step_count"]]
        end = await env.step({"type": "submit", "answer": "done"})
        told["end"] = [end.reward, end.done, end.observation["metadata"]["done_reason"]]
        told["again"] = (await env.reset()).done
        print(json.dumps(told))

asyncio.run(main())
"""

TOOL_CLIENT = """
import json, sys
from openenv.core.mcp_client import MCPToolClient

told = {}
with MCPToolClient(base_url=sys.argv[1]).sync() as env:
    told["listed"] = [tool.name for tool in env.list_tools()]
    env.reset()
    told["echo"] = env.call_tool("echo", text="hi")
    told["structured"] = env.call_tool("structured", value=3)
    try:
        env.call_tool("write", path="/workspace/.env", content="x")
    except RuntimeError as error:
        told["denied"] = str(error)
    told["state"] = env.state().step_count
print(json.dumps(told))
"""

ERRORS = """
import json, sys
from openenv.core.generic_client import GenericEnvClient

told = []
with GenericEnvClient(base_url=sys.argv[1]).sync() as env:
    for attempt in (lambda: env.reset(task="no-such-task"), lambda: env.step({"type": "dance"})):
        try:
            attempt()
        except RuntimeError as error:
            told.append(str(error))
    told.append(env.reset().done)
print(json.dumps(told))
"""


async def play(tmp_path: Path, script: str) -> Any:
    python = await anyio.to_thread.run_sync(client_venv, "openenv", REQUIREMENTS)
    async with env_server(tmp_path) as server:
        run: Callable[[], str] = partial(run_client, python, script, server.url)
        return json.loads(await anyio.to_thread.run_sync(run))


@pytest.mark.parametrize("script", [SYNC, ASYNC], ids=["sync", "async"])
async def test_the_generic_client_plays_an_episode_to_its_reward(tmp_path: Path, script: str) -> None:
    told = await play(tmp_path, script)
    assert told["start"] == ["Fix the typo in README.md and say done.", None, False, 7]
    assert {"echo", "write", "submit"} <= set(told["tools"])
    assert "hidden" not in told["tools"]
    assert told["echo"] == "hi"
    assert told["denied"] == ["execution_error", -0.25, False, "no-secret-files"]
    assert told["state"] == ["from-openenv", 4]
    assert told["end"] == [1.0, True, "submitted"]
    assert told["again"] is False


async def test_the_mcp_tool_client_lists_calls_and_is_told_of_denials(tmp_path: Path) -> None:
    told = await play(tmp_path, TOOL_CLIENT)
    assert "echo" in told["listed"]
    assert told["echo"] == "hi"
    assert told["structured"] == {"value": 3}
    assert "secret files are never in scope" in told["denied"]
    assert told["state"] == 3


async def test_errors_are_raised_in_the_client_and_the_session_goes_on(tmp_path: Path) -> None:
    task, action, done = await play(tmp_path, ERRORS)
    assert "VALIDATION_ERROR" in task
    assert "VALIDATION_ERROR" in action
    assert done is False
