"""`trl_environment` as TRL's trainer uses it: what it reads off the class, and whole rollouts.

The trainer itself needs torch; what is here is what TRL 1.16 does with an environment, step by step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio.to_thread
import pytest

from gateway.errors import UsageError
from gateway.training import ConnectionLost, EpisodeUnavailable, InvalidRequest, Tool, trl_environment
from gateway.training.env import Env
from tests.support.env_serving import EnvServer, env_server


async def rollouts(tmp_path: Path, play: Callable[[str], None]) -> None:
    """Play against a served pack, and expect that no session is left."""
    async with env_server(tmp_path) as server:
        await anyio.to_thread.run_sync(play, server.url)
        assert sessions(server) == 0


def sessions(server: EnvServer) -> object:
    return server.gateway.readiness().detail["sessions"]


def methods_of(environment: Any) -> dict[str, Any]:
    """Return the tools of an instance, found as TRL finds them."""
    members = inspect.getmembers(cast("object", type(environment)), predicate=inspect.isfunction)
    names = [name for name, _ in members if name not in ("reset", "get_reward") and not name.startswith("_")]
    return {getattr(environment, name).__name__: getattr(environment, name) for name in names}


async def test_trl_finds_the_tools_the_policy_shows_and_nothing_else(tmp_path: Path) -> None:
    def play(url: str) -> None:
        environment = trl_environment(url, name="Echo")
        assert environment.__name__ == "Echo"
        methods = methods_of(environment())
        assert {"echo", "write", "submit"} <= methods.keys()
        assert "hidden" not in methods
        assert not any(inspect.iscoroutinefunction(method) for method in methods.values())
        write = methods["write"]
        assert str(inspect.signature(write)) == "(path: str, content: str) -> str"
        assert "\nArgs:\n    path: " in str(inspect.getdoc(write))

    await rollouts(tmp_path, play)


async def test_a_rollout_is_an_episode_whose_reward_is_all_it_was_worth(tmp_path: Path) -> None:
    def play(url: str) -> None:
        environment: Any = trl_environment(url, task="fix-readme")()
        row = {"prompt": [{"role": "user", "content": "Go."}], "seed": 5, "answer": None}
        assert environment.reset(**row) == "Fix the typo in README.md and say done."
        assert environment.echo(text="hi") == "hi"
        assert "secret files are never in scope" in environment.write(path="/workspace/.env", content="x")
        environment.write(path="README.md", content="The.")
        assert environment.get_reward() == pytest.approx(0.75 - 0.25)
        environment.reset(**row)
        assert environment.submit(answer="done") == "submitted"
        assert environment.echo(text="more") == "the episode is over: nothing more can be done"
        assert environment.get_reward() == pytest.approx(0.25)

    await rollouts(tmp_path, play)


async def test_a_row_chooses_its_own_task(tmp_path: Path) -> None:
    def play(url: str) -> None:
        environment: Any = trl_environment(url, task="fix-readme")()
        assert "Call echo" in environment.reset(task="be-good")
        environment.echo(text="hi")
        assert environment.get_reward() == 1.0
        assert "Fix the typo" in environment.reset(split=None, prompt="x")
        assert environment.get_reward() == 0.0

    await rollouts(tmp_path, play)


async def test_what_a_model_gets_wrong_is_shown_to_it_and_what_the_server_loses_is_not_scored(
    tmp_path: Path,
) -> None:
    def play(url: str) -> None:
        environment: Any = trl_environment(url)()
        environment.reset()
        assert "invalid_arguments" in environment.write(path=1)
        assert "is JSON" in environment.echo(text=float("nan"))
        assert "exited with code 3" in environment.crash()
        assert environment.get_reward() is None
        environment.reset()
        environment.echo(text="hi")
        assert environment.get_reward() == 1.0

    await rollouts(tmp_path, play)


async def test_a_gateway_that_goes_away_raises_and_leaves_no_reward(tmp_path: Path) -> None:
    made: list[Any] = []

    def start(url: str) -> None:
        made.append(trl_environment(url, timeout=5)())
        made[0].reset()

    async with env_server(tmp_path) as server:
        await anyio.to_thread.run_sync(start, server.url)
    with pytest.raises(ConnectionLost):
        await anyio.to_thread.run_sync(partial(made[0].echo, text="hi"))
    assert await anyio.to_thread.run_sync(made[0].get_reward) is None
    with pytest.raises(ConnectionLost):
        await anyio.to_thread.run_sync(made[0].reset)


async def test_an_episode_must_be_started(tmp_path: Path) -> None:
    def play(url: str) -> None:
        environment: Any = trl_environment(url)()
        with pytest.raises(EpisodeUnavailable, match="reset first"):
            environment.echo(text="hi")
        with pytest.raises(InvalidRequest, match="no task 'nope'"):
            trl_environment(url, task="nope")

    await rollouts(tmp_path, play)


def test_a_tool_whose_name_trl_keeps_for_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Env, "reset", lambda *_, **__: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    monkeypatch.setattr(Env, "tools", lambda _: (Tool("get_reward", "", {}),))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    with pytest.raises(UsageError, match="prefix"):
        trl_environment("http://127.0.0.1:1")
