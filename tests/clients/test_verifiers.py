"""verifiers plays its stock OpenEnv taskset as documented: its eval command, its chat harness.

Only the model is ours: it says its lines. The harness fetches its few packages by uv on first use.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio.to_thread

from tests.support.env_serving import env_server
from tests.support.markdown import file_in
from tests.support.scripted_model import scripted_model
from tests.support.venvs import client_venv, run_client

REQUIREMENTS = ("verifiers[openenv]==0.4.0", "uv>=0.9")

EVAL = """
import sys
from verifiers.v1.cli.eval.main import main
main(["@", sys.argv[1], "--no-rich"])
"""


def call(tool: str, **arguments: str) -> str:
    return json.dumps({"type": "call_tool", "tool_name": tool, "arguments": arguments})


LINES = [
    call("echo", text="hi"),
    call("write", path="/workspace/.env", content="x"),
    call("write", path="README.md", content="The echo pack's workspace."),
    json.dumps({"type": "submit", "answer": "done"}),
]


async def test_verifiers_openenv_taskset_plays_an_episode_to_its_reward(tmp_path: Path) -> None:
    python = await anyio.to_thread.run_sync(client_venv, "verifiers", REQUIREMENTS)
    config, out = tmp_path / "eval.toml", tmp_path / "out"
    with scripted_model(LINES) as model:
        async with env_server(tmp_path) as server:
            config.write_text(f'output_dir = "{out}"\n' + documented(model.url, server.url))
            await anyio.to_thread.run_sync(run_client, python, EVAL, str(config))
            assert server.gateway.readiness().detail["sessions"] == 0
    [traces] = out.glob("*/traces.jsonl")
    episodes = [json.loads(line) for line in traces.read_text().splitlines()]
    assert len(episodes) == 2
    for episode in episodes:
        [trace] = episode["traces"]
        assert (trace["errors"], trace["rewards"]["openenv_reward"]["score"]) == ([], 1.0 - 0.25)
    check_what_the_model_was_shown(max(model.asked, key=len))


def documented(model: str, url: str) -> str:
    """Return the configuration that the documentation shows, for these addresses and a task of this pack."""
    text = file_in("docs/training.md", "eval.toml").replace("fix-typo", "fix-readme")
    return text.replace("http://127.0.0.1:9000/v1", model).replace("http://127.0.0.1:8000", url)


def check_what_the_model_was_shown(messages: list[dict[str, Any]]) -> None:
    shown = [json.loads(message["content"]) for message in messages if message["role"] == "user"]
    assert shown[0]["observation"]["prompt"] == "Fix the typo in README.md and say done."
    assert shown[0]["action_schema"]["title"] == "CallToolAction"
    assert "write" in {tool["name"] for tool in shown[0]["action_schema"]["available_tools"]}
    assert shown[1]["observation"]["result"]["data"] == "hi"
    denied = shown[2]["observation"]
    assert denied["error"]["error_type"] == "execution_error"
    assert denied["metadata"]["policy"]["rule"] == "no-secret-files"
