"""The example of parallel rollouts, run as its first lines say."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import anyio.to_thread

from tests.support.env_serving import env_server

SVG = "{http://www.w3.org/2000/svg}"
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "rollouts.py"


def run(url: str, *more: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(EXAMPLE), url, "--episodes", "10", "--parallel", "3", "--max-calls", "3"]
    argv += more
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)


async def test_many_episodes_are_played_and_their_rewards_and_denials_shown(tmp_path: Path) -> None:
    async with env_server(tmp_path) as server:
        tasks, chart = ("--task", "be-good", "--task", "fix-readme"), str(tmp_path / "rollouts.svg")
        done = await anyio.to_thread.run_sync(run, server.url, *tasks, "--plot", chart)
        assert server.gateway.readiness().detail["sessions"] == 0
    assert done.returncode == 0, done.stderr
    assert "10/10 episodes" in done.stderr
    heading, *lines = done.stdout.splitlines()
    assert heading.split() == ["task", "episodes", "reward", "denials", "ended"]
    assert [line.split()[:2] for line in lines] == [["be-good", "5"], ["fix-readme", "5"]]
    shown = [text.text for text in ElementTree.parse(tmp_path / "rollouts.svg").iter(f"{SVG}text")]
    assert {"10 episodes, means of 1", "reward", "denials"} <= set(shown)


async def test_what_is_wrong_with_the_gateway_or_the_task_is_one_sentence(tmp_path: Path) -> None:
    async with env_server(tmp_path) as server:
        lost = await anyio.to_thread.run_sync(run, server.url, "--task", "no-such-task")
    gone = await anyio.to_thread.run_sync(run, server.url)
    assert (lost.returncode, gone.returncode) == (1, 1)
    assert "rollouts.py: no task 'no-such-task'; there are: be-good, fix-readme" in lost.stderr
    assert f"rollouts.py: cannot talk to {server.socket_url}" in gone.stderr
    assert "Traceback" not in lost.stderr + gone.stderr
