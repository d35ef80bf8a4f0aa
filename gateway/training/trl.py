"""`trl_environment`: a served pack as TRL's GRPOTrainer takes it in `environment_factory`. Imports no TRL.

One instance is one rollout at a time: `reset` opens an episode, the tools are its steps, `get_reward`
ends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from gateway.core.json_types import JsonObject
from gateway.errors import UsageError
from gateway.training.env import Env
from gateway.training.errors import EnvError, EpisodeUnavailable, InvalidRequest
from gateway.training.methods import tool_method
from gateway.training.results import ResetResult, StepResult, Tool

__all__ = ["TrlEnvironment", "trl_environment"]

_CHOOSING = {"task": str, "split": str, "index": int, "seed": int}
"""Columns of a data set's row that choose the episode."""
_RESERVED = ("reset", "get_reward")


def trl_environment(
    url: str,
    *,
    pack: str | None = None,
    task: str | None = None,
    split: str | None = None,
    token: str | None = None,
    timeout: float = 120.0,
    name: str = "SandgateEnvironment",
) -> type[TrlEnvironment]:
    """Return a class whose instances are environments of the pack served at `url`.

    Each tool that the policy shows is a method with annotations and a docstring, as TRL reads them. `task` or
    `split` hold for rows that name none. `name` is the class's name: TRL logs the rewards under it.
    Connects once to list the tools; raises `EnvError`, or `UsageError` for a tool TRL cannot take.
    """
    rollout = _Rollout(url, pack, token, timeout, {"task": task, "split": split})
    members: dict[str, Any] = {"_rollout": rollout, "__doc__": f"Rollouts at {url}."}
    for tool in rollout.tools():
        _check_name(tool)
        members[tool.name] = tool_method(tool, TrlEnvironment._act)  # pyright: ignore[reportPrivateUsage]
    return type(name, (TrlEnvironment,), members)


@dataclass(frozen=True, slots=True)
class _Rollout:
    """Where the episodes of one class are played, and which."""

    url: str
    pack: str | None
    token: str | None
    timeout: float
    chosen: Mapping[str, str | None]

    def env(self) -> Env:
        return Env(self.url, self.pack, token=self.token, timeout=self.timeout)

    def start(self, env: Env, row: Mapping[str, Any]) -> ResetResult:
        """Reset to what a row asks for; its other columns are the trainer's own."""
        told: dict[str, Any] = {
            column: row[column] for column, kind in _CHOOSING.items() if type(row.get(column)) is kind
        }
        chosen: dict[str, Any] = {} if "task" in told or "split" in told else {**self.chosen}
        return env.reset(**chosen, **told)

    def tools(self) -> tuple[Tool, ...]:
        with self.env() as env:
            self.start(env, {})
            return env.tools()


class TrlEnvironment:
    """What every class of `trl_environment` does beside its tools. Use that function, not this."""

    _rollout: ClassVar[_Rollout]

    def __init__(self) -> None:
        self._env: Env | None = None
        self._return: float | None = None
        self._end: StepResult | None = None
        self._lost = False

    def reset(self, **row: Any) -> str | None:
        """Start an episode; columns `task`, `split`, `index` and `seed` of the row choose it.

        Returns the task's prompt, which TRL adds to the last message of the user.
        """
        if self._env is None:
            self._env = self._rollout.env()
        start = self._rollout.start(self._env, row)
        self._return, self._end, self._lost = None, None, False
        return start.prompt

    def get_reward(self) -> float | None:
        """Submit, close the episode and return all it was worth: the rubric's score and every step's reward.

        `None`, which TRL leaves out, where the infrastructure failed and there is nothing to score.
        """
        env, self._env = self._env, None
        if env is not None:
            with env:
                if self._end is None and not self._lost:
                    self._see(env.submit())
        unscored = self._lost or self._end is None or self._end.truncated
        return None if unscored else self._return

    def _act(self, tool: str, arguments: JsonObject) -> str:
        """Take the step that calls a tool and return what the model is shown of it."""
        if self._env is None:
            raise EpisodeUnavailable("there is no episode: reset first")
        if self._end is not None:
            return "the episode is over: nothing more can be done"
        try:
            return self._see(self._env.call(tool, arguments))
        except InvalidRequest as error:
            return str(error)  # what the model wrote, not what the trainer did
        except EnvError:
            self._lost = True
            raise

    def _see(self, result: StepResult) -> str:
        if result.reward is not None:
            self._return = (self._return or 0.0) + result.reward
        if result.done:
            self._end = result
        return result.text


def _check_name(tool: Tool) -> None:
    if tool.name in _RESERVED or tool.name.startswith("_"):
        raise UsageError(
            f"TRL cannot take a tool named {tool.name!r}: give its server a `prefix` in the toolpack"
        )
