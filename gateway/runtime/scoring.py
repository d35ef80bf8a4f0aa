"""What an episode is worth: runs its task's checks over the workspace and puts the rubric together.

Decides nothing: `gateway.core.rubric` combines, `gateway.runtime.checks` runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.core.episode import EpisodeState
from gateway.core.json_types import JsonObject
from gateway.core.rubric import Reward, checks_of, reward_of
from gateway.core.tasks import Task
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
