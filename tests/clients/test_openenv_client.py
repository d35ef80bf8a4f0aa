"""The stock OpenEnv 0.10 client, unchanged and from its own environment, plays real episodes.

Importing it costs many seconds (it brings a web interface along), so one process plays everything.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from gateway.core.session_facts import Mode
from gateway.runtime.gateway import GatewaySettings
from tests.support.env_serving import env_server
from tests.support.markdown import file_in
from tests.support.processes import serving
from tests.support.venvs import client_venv, run_client

REQUIREMENTS = ("openenv==0.10.0",)

PLAYER = r"""
import asyncio, inspect, json, sys
from openenv.core.generic_client import GenericEnvClient

URL = sys.argv[1]


async def result(value):
    return await value if inspect.isawaitable(value) else value


async def play(env):
    # One script for both: `await result(...)` takes the async client's awaitables and the sync one's values.
    def call(tool, **arguments):
        return result(env.step({"type": "call_tool", "tool_name": tool, "arguments": arguments}))

    told = {}
    start = await result(env.reset(task="fix-readme", seed=7, episode_id="from-openenv"))
    told["start"] = [start.observation["prompt"], start.reward, start.done, start.metadata["seed"]]
    listed = await result(env.step({"type": "list_tools"}))
    told["tools"] = [tool["name"] for tool in listed.observation["tools"]]
    told["echo"] = (await call("echo", text="hi")).observation["result"]["data"]
    denied = await call("write", path="/workspace/.env", content="x")
    told["denied"] = [denied.observation["error"]["error_type"], denied.reward, denied.done]
    told["decision"] = denied.metadata["policy"]
    await call("write", path="README.md", content="The echo pack's workspace.")
    state = await result(env.state())
    told["state"] = [state["episode_id"], state["step_count"]]
    end = await result(env.step({"type": "submit", "answer": "done"}))
    told["end"] = [end.reward, end.done, end.metadata["done_reason"], end.metadata["rubric"]]
    told["again"] = (await result(env.reset())).done
    return told


def play_sync():
    with GenericEnvClient(base_url=URL).sync() as env:
        coroutine = play(env)
        try:
            while True:
                coroutine.send(None)
        except StopIteration as stop:
            return stop.value


async def play_async():
    async with GenericEnvClient(base_url=URL) as env:
        return await play(env)


def mistakes():
    told = []
    with GenericEnvClient(base_url=URL).sync() as env:
        for attempt in (lambda: env.reset(task="no-such-task"), lambda: env.step({"type": "dance"})):
            try:
                attempt()
            except RuntimeError as error:
                told.append(str(error))
        told.append(env.reset().done)
    return told


def beyond_the_contract():
    with GenericEnvClient(base_url=URL).sync() as env:
        env.reset(task="fix-readme")
        ran = env.step({"type": "code", "code": "write(path='made.txt', content='x'); echo(text='hi')"})
        snapshot = env.step({"type": "snapshot"}).observation["snapshot_id"]
        env.step({"type": "code", "code": "write(path='made.txt', content='y')"})
        fork = env.reset(snapshot=snapshot)
        read = env.step({"type": "call_tool", "tool_name": "read", "arguments": {"path": "made.txt"}})
        return [ran.observation["result"], fork.metadata["task"], read.observation["result"]["data"]]


def under_the_packs_own_path():
    with GenericEnvClient(base_url=URL + "/packs/echo").sync() as env:
        return env.reset().metadata["task"]


print(json.dumps({
    "sync": play_sync(),
    "async": asyncio.run(play_async()),
    "mistakes": mistakes(),
    "beyond": beyond_the_contract(),
    "under_the_packs_own_path": under_the_packs_own_path(),
}))
"""


async def test_the_generic_client_plays_episodes_to_their_reward_in_sync_and_in_async_code(
    tmp_path: Path,
) -> None:
    python = await anyio.to_thread.run_sync(client_venv, "openenv", REQUIREMENTS)
    async with env_server(tmp_path) as server:
        told = json.loads(await anyio.to_thread.run_sync(run_client, python, PLAYER, server.url))
        assert server.gateway.readiness().detail["sessions"] == 0
    check_episode(told["sync"])
    check_episode(told["async"])
    task, action, done = told["mistakes"]
    assert "VALIDATION_ERROR" in task
    assert "VALIDATION_ERROR" in action
    assert done is False
    assert told["beyond"] == ["hi", "fix-readme", "x"]
    assert told["under_the_packs_own_path"] == "be-good"


def check_episode(told: dict[str, Any]) -> None:
    assert told["start"] == ["Fix the typo in README.md and say done.", None, False, 7]
    assert {"echo", "write", "submit"} <= set(told["tools"])
    assert "hidden" not in told["tools"]
    assert told["echo"] == "hi"
    assert told["denied"] == ["execution_error", -0.25, False]
    assert told["decision"]["rule"] == "no-secret-files"
    assert (told["decision"]["policy"], told["decision"]["line"]) == ("policy.yaml", 10)
    assert told["state"] == ["from-openenv", 4]
    reward, done, reason, components = told["end"]
    assert (reward, done, reason) == (1.0, True, "submitted")
    assert [component["score"] for component in components] == [1.0, 1.0, 1.0]
    assert told["again"] is False


async def test_the_documented_episode_is_played(tmp_path: Path) -> None:
    python = await anyio.to_thread.run_sync(client_venv, "openenv", REQUIREMENTS)
    script = file_in("docs/training.md", "openenv_episode.py")
    with serving("git", "--mode", "training", "--state", str(tmp_path)) as served:
        told = await anyio.to_thread.run_sync(run_client, python, script, served.url)
    assert told.splitlines() == ["Repository status:", "0.0"]


TOOL_CALLER = r"""
import asyncio, json, sys
from openenv.core.mcp_client import MCPToolClient

URL = sys.argv[1]


async def play():
    told = {}
    async with MCPToolClient(base_url=URL) as env:
        told["start"] = (await env.reset(task="fix-readme", seed=7)).observation.prompt
        told["tools"] = [tool.name for tool in await env.list_tools()]
        told["schema"] = (await env.get_tool("echo")).input_schema["type"]
        told["has"] = [await env.has_tool("echo"), await env.has_tool("hidden")]
        told["echo"] = await env.call_tool("echo", text="hi")
        told["denied"] = await env.call_tool("write", path="/workspace/.env", content="x")
        try:
            await env.call_tool("no_such_tool")
        except RuntimeError as error:
            told["unknown"] = str(error)
        await env.call_tool("write", path="README.md", content="The echo pack's workspace.")
        told["steps"] = (await env.state()).step_count
        told["submitted"] = await env.call_tool("submit", answer="done")
        told["again"] = (await env.reset()).done
    return told


def play_sync():
    env = MCPToolClient(base_url=URL + "/packs/echo").sync()
    with env:
        env.reset()
        return [len(env.list_tools()) > 0, env.call_tool("echo", text="hi")]


print(json.dumps({"async": asyncio.run(play()), "sync": play_sync()}))
"""


async def test_the_tool_client_lists_and_calls_tools_in_its_own_session(tmp_path: Path) -> None:
    python = await anyio.to_thread.run_sync(client_venv, "openenv", REQUIREMENTS)
    async with env_server(tmp_path) as server:
        told = json.loads(await anyio.to_thread.run_sync(run_client, python, TOOL_CALLER, server.url))
        assert server.gateway.readiness().detail["sessions"] == 0
    played = told["async"]
    assert played["start"].startswith("Fix the typo")
    assert {"echo", "write", "submit"} <= set(played["tools"])
    assert (played["schema"], played["has"]) == ("object", [True, False])
    assert played["echo"] == "hi"
    assert "no-secret-files" in played["denied"]
    assert "no_such_tool" in played["unknown"]
    assert played["steps"] == 4
    assert played["submitted"] == "submitted"
    assert played["again"] is False
    assert told["sync"] == [True, "hi"]


VALIDATOR = r"""
import json, sys
from openenv.cli._validation import validate_running_environment

print(json.dumps([validate_running_environment(url, timeout_s=20.0) for url in sys.argv[1:]]))
"""


@pytest.mark.parametrize(("mode", "told"), [("training", "simulation"), ("deployment", "production")])
async def test_the_stock_validator_passes_every_criterion_at_the_root_and_under_the_pack(
    tmp_path: Path, mode: Mode, told: str
) -> None:
    python = await anyio.to_thread.run_sync(client_venv, "openenv", REQUIREMENTS)
    async with env_server(tmp_path, settings=GatewaySettings(mode=mode)) as server:
        urls = (server.url, f"{server.url}/packs/echo")
        reports = json.loads(await anyio.to_thread.run_sync(run_client, python, VALIDATOR, *urls))
    for report in reports:
        assert report["summary"]["failed_criteria"] == []
        assert report["summary"]["passed_count"] == report["summary"]["total_count"] == 6
        assert (report["passed"], report["mode"]) == (True, told)
        assert report["standard_profile"] == "openenv-http/1.x"
