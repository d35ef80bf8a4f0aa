"""The Gymnasium environments, where `pip install sandgate[gymnasium]` has put gymnasium."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import anyio.to_thread

from tests.support.env_serving import env_server
from tests.support.markdown import file_in
from tests.support.processes import serving
from tests.support.venvs import client_venv, run_client

ROOT = Path(__file__).resolve().parents[2]


def gymnasium_python() -> Path:
    """Return the python of an environment that sees this checkout and what its extra brings.

    The dependencies are spelt out so that the environment is made anew when they change.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    spelt_out = [*project["dependencies"], *project["optional-dependencies"]["gymnasium"]]
    return client_venv("gymnasium", ("-e", f"{ROOT}[gymnasium]", *spelt_out))


PLAYER = r"""
import json, sys, warnings
warnings.simplefilter("error")
import gateway.training
import gymnasium
from gateway.training.gym import register_pack
from gymnasium.utils.env_checker import check_env

URL = sys.argv[1]
told = {"registered": sorted(name for name in gymnasium.registry if name.startswith("sandgate/"))}

def call(tool, **arguments):
    return json.dumps({"type": "call_tool", "tool_name": tool, "arguments": arguments})

env = gymnasium.make(register_pack("echo"), url=URL, task="fix-readme", render_mode="ansi")
check_env(env.unwrapped)
told["prompt"], info = env.reset(seed=3)
told["info"] = info
assert env.reset(seed=3)[1] == info
told["sample"] = [env.action_space.sample() for _ in range(30)]
told["echo"] = env.step(call("echo", text="caf\u00e9 \u2603"))
assert env.render() == told["echo"][0] and told["echo"][0] in env.observation_space
told["denied"] = env.step(call("write", path="/workspace/.env", content="x"))
told["nonsense"] = [env.step(text) for text in ("I think that", "[]", '{"type": "dance"}')]
told["written"] = env.step(call("write", path="README.md", content="The."))
told["end"] = env.step(json.dumps({"type": "submit", "answer": "done"}))
told["wire"] = [env.unwrapped.last.metadata["step"], env.unwrapped.last.done_reason]

many = gymnasium.make_vec("sandgate/echo-v0", num_envs=2, vectorization_mode="sync", url=URL)
many.reset(seed=3)
told["many"] = list(many.step((call("echo", text="a"), call("echo", text="b")))[0])
many.close()

env.reset(options={"task": "be-good"})
told["task"] = env.unwrapped._env.state().task
told["limit"] = [env.step("nonsense")[1:4] for _ in range(8)]
env.reset()
told["crash"] = env.step(call("crash"))
env.close()
env.close()
print(json.dumps(told))
"""


async def test_an_environment_passes_gymnasiums_checks_plays_an_episode_and_truncates_at_limits(
    tmp_path: Path,
) -> None:
    python = await anyio.to_thread.run_sync(gymnasium_python)
    async with env_server(tmp_path) as server:
        told = json.loads(await anyio.to_thread.run_sync(run_client, python, PLAYER, server.url))
        assert server.gateway.readiness().detail["sessions"] == 0
    assert {"sandgate/files-v0", "sandgate/git-v0"} <= set(told["registered"])
    assert told["prompt"] == "Fix the typo in README.md and say done."
    assert told["info"]["task"] == "fix-readme"
    assert {json.loads(text)["type"] for text in told["sample"]} == {"call_tool"}
    assert told["echo"][:4] == ["café ☃", 0.0, False, False]
    assert told["echo"][4]["decision"]["rule"] == "talk"
    assert "call_id" not in told["echo"][4]["decision"]
    text, reward, *_, info = told["denied"]
    assert (reward, info["error"]["error_type"], info["decision"]["line"]) == (-0.25, "execution_error", 10)
    assert "secret files are never in scope" in text
    assert [step[1:4] for step in told["nonsense"]] == [[0.0, False, False]] * 3
    assert all(step[0].startswith("not an action: ") for step in told["nonsense"])
    assert told["end"][1:4] == [1.0, True, False]
    assert told["end"][4]["done_reason"] == "submitted"
    assert told["wire"] == [4, "submitted"]
    assert told["many"] == ["a", "b"]
    check_what_truncates(told)


def check_what_truncates(told: dict[str, Any]) -> None:
    """Limits and infrastructure truncate where the task terminates."""
    assert told["task"] == "be-good"
    assert told["limit"] == [[0.0, False, False]] * 7 + [[0.5, False, True]]
    assert told["crash"][1:4] == [0.0, False, True]
    assert told["crash"][4]["done_reason"] == "server_failed"


async def test_the_documented_episode_is_played(tmp_path: Path) -> None:
    python = await anyio.to_thread.run_sync(gymnasium_python)
    script = file_in("docs/training.md", "gym_episode.py")
    with serving("git", "--mode", "training", "--state", str(tmp_path)) as served:
        told = await anyio.to_thread.run_sync(run_client, python, script, served.url)
    assert told.splitlines() == ["Repository status: allow", "0.0 True False"]


ALONE = r"""
import json, subprocess, sys
import gymnasium, gateway.training

def gateways():
    shown = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True).stdout
    return sum("gateway.cli.owned serve" in line and line.split()[0] == PARENT for line in shown.splitlines())

import os
PARENT = str(os.getpid())
env = gymnasium.make("sandgate/git-v0", task="fix-typo")
told = {"during": gateways()}
env.reset(seed=1)
action = {"tool_name": "git_status", "arguments": {"repo_path": "/workspace"}}
told["status"] = env.step(json.dumps(action))[0]
env.close()
told["after"] = gateways()
gymnasium.make("sandgate/git-v0")  # ended by the interpreter's own end
print(json.dumps(told))
"""


async def test_without_a_url_it_starts_a_gateway_of_its_own_and_ends_it() -> None:
    python = await anyio.to_thread.run_sync(gymnasium_python)
    told = json.loads(await anyio.to_thread.run_sync(run_client, python, ALONE))
    assert (told["during"], told["after"]) == (1, 0)
    assert told["status"].startswith("Repository status:")
