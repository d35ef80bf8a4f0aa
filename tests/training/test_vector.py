"""`VectorEnv` against a real gateway: slots side by side, each with its own fate."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import anyio.to_thread
import pytest

from gateway.runtime.clock import SystemClock
from gateway.runtime.episodes import EpisodeSettings
from gateway.runtime.gateway import GatewaySettings
from gateway.training import CapacityReached, EpisodeUnavailable, InvalidRequest, ResetResult, VectorEnv
from gateway.training.codec import call_action, submit_action
from gateway.training.results import StepResult
from tests.support.env_serving import env_server


def play(url: str) -> None:
    with VectorEnv(url, 3) as envs:
        assert len(envs) == 3
        starts = envs.reset([{"task": "be-good", "seed": 1}, {"task": "nope"}, {"index": 1}])
        assert isinstance(starts[0], ResetResult)
        assert isinstance(starts[1], InvalidRequest)
        assert isinstance(starts[2], ResetResult)
        assert (starts[0].task, starts[2].task) == ("be-good", "fix-readme")
        seen = envs.step([call_action("echo", {"text": name}) for name in "abc"])
        assert isinstance(seen[1], EpisodeUnavailable)
        assert [entry.text for entry in seen if isinstance(entry, StepResult)] == ["a", "c"]
        assert envs.step([None, None, call_action("crash", {})])[:2] == (None, None)
        again = envs.reset([None, {}, {"task": "be-good"}])
        assert again[0] is None
        assert [type(entry) for entry in again[1:]] == [ResetResult, ResetResult]
        ends = envs.step([submit_action(None)] * 3)
        assert [end.reward for end in ends if isinstance(end, StepResult)] == [1.0, 0.5, 0.5]


async def test_slots_step_together_and_a_fault_stays_in_its_slot(tmp_path: Path) -> None:
    async with env_server(tmp_path) as server:
        await anyio.to_thread.run_sync(play, server.url)
        assert server.gateway.readiness().detail["sessions"] == 0


def fill(url: str) -> None:
    with VectorEnv(url, 4) as envs:
        starts = envs.reset({"task": "be-good"})
        assert (
            sorted(type(start).__name__ for start in starts) == ["CapacityReached"] * 2 + ["ResetResult"] * 2
        )
        assert all(start.retry_after > 0 for start in starts if isinstance(start, CapacityReached))


async def test_the_slots_a_full_server_has_no_place_for_say_so(tmp_path: Path) -> None:
    two, hurried = GatewaySettings(mode="training", max_sessions=2), EpisodeSettings(queue=0)
    async with env_server(tmp_path, settings=two, playing=hurried) as server:
        await anyio.to_thread.run_sync(fill, server.url)
        assert server.gateway.readiness().detail["sessions"] == 0


def sleep_together(url: str) -> float:
    """Return how many seconds four slots took that each sleep for one."""
    with VectorEnv(url, 4) as envs:
        envs.reset()
        envs.step([call_action("echo", {"text": "its server is up now"})] * 4)
        started = SystemClock().monotonic()
        results = envs.step([call_action("sleep", {"seconds": 1})] * 4)
        assert all(isinstance(result, StepResult) and result.error is None for result in results)
        return SystemClock().monotonic() - started


async def test_slots_wait_at_the_same_time_and_not_one_after_the_other(tmp_path: Path) -> None:
    async with env_server(tmp_path) as server:
        assert await anyio.to_thread.run_sync(sleep_together, server.url) < 3


def mistakes(url: str) -> None:
    with pytest.raises(InvalidRequest, match="at least one"):
        VectorEnv(url, 0)
    with pytest.raises(InvalidRequest, match="http://HOST:PORT"):
        VectorEnv("nowhere", 1)
    with VectorEnv(url, 2) as envs:
        with pytest.raises(InvalidRequest, match="1 entries for 2"):
            envs.step([None])
        refused = envs.reset({"tusk": "x"})
        assert [str(entry) for entry in refused] == [
            "no reset option 'tusk'; there are: episode_id, index, seed, snapshot, split, task"
        ] * 2
        envs.close()
        envs.close()


async def test_mistakes_in_using_it_are_told(tmp_path: Path) -> None:
    async with env_server(tmp_path) as server:
        await anyio.to_thread.run_sync(partial(mistakes, server.url))
        assert server.gateway.readiness().detail["sessions"] == 0


FAILING = """
import sys
from gateway.training import VectorEnv

envs = VectorEnv(sys.argv[1], 2)
envs.reset({"task": "be-good"})
raise LookupError("a bug of the trainer's own")
"""


def fail(url: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", FAILING, url]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


async def test_a_program_that_fails_without_closing_its_slots_ends_and_so_do_their_episodes(
    tmp_path: Path,
) -> None:
    async with env_server(tmp_path) as server:
        done = await anyio.to_thread.run_sync(fail, server.url)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (
            1,
            "LookupError: a bug of the trainer's own",
        )
        assert server.gateway.readiness().detail["sessions"] == 0
