"""What an episode is worth: runs its task's checks over the workspace and puts the rubric together.

Decides nothing: `gateway.core.rubric` combines, `gateway.runtime.checks` runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.core.episode import EpisodeState
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.rubric import Reward, checks_of, label_of, reward_of
from gateway.core.tasks import StepReward, Task
from gateway.runtime.checks import Checks
from gateway.sandbox.contract import Workspace

__all__ = ["Scoring"]


@dataclass(slots=True, eq=False)
class Scoring:
    """Scores one episode of one task; without a task nothing is scored."""

    checks: Checks
    workspace: Workspace
    state: EpisodeState
    task: Task | None
    seed: int
    reward_range: tuple[float, ...]
    _unpaid: list[StepReward] | None = None

    async def of_step(self) -> tuple[float, list[JsonValue]] | None:
        """Return what a step just taken earns and for what; `None` where the task rewards no steps.

        Raises `CheckFault`.
        """
        if self.task is None or not self.task.step_rewards:
            return None
        unpaid = list(self.task.step_rewards) if self._unpaid is None else self._unpaid
        wanted = [entry.check for entry in unpaid]
        scores = await self.checks.run(wanted, self.workspace, self.state, self._told()) if wanted else []
        judged = list(zip(unpaid, scores, strict=True))
        earned = [entry for entry, found in judged if found.score >= 1.0]
        self._unpaid = [entry for entry, found in judged if found.score < 1.0]
        told: list[JsonValue] = [{"check": label_of(entry.check), "reward": entry.reward} for entry in earned]
        return sum((entry.reward for entry in earned), 0.0), told

    async def final(self) -> Reward | None:
        """Return what the rubric says of the workspace, once the servers are dead; raises `CheckFault`."""
        if self.task is None:
            return None
        wanted = list(checks_of(self.task.rubric))
        scores = await self.checks.run(wanted, self.workspace, self.state, self._told())
        return reward_of(self.task.rubric, scores, self.reward_range)

    def _told(self) -> JsonObject:
        """Return what the pack's own check scripts are told of the episode."""
        state = self.state
        answered: JsonObject = {**state.answered}
        return {
            "task": self.task.id if self.task else None,
            "seed": self.seed,
            "answer": state.answer,
            "steps": state.steps,
            "denials": state.denials,
            "answered": answered,
        }
