"""The one reference that a reload swaps, and what keeps a new file out of it. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.core.json_types import JsonObject
from gateway.core.policy.compile import CompiledPolicy

__all__ = ["PolicyInForce"]


@dataclass(slots=True)
class PolicyInForce:
    """What judges the calls of a pack that begin from now on; shared by all its sessions.

    `refused` says what is wrong with the file that was to take its place, `None` where nothing is.
    `reloads` and `refusals` count since the start; `since` is when it was put in force, in unix seconds.
    """

    policy: CompiledPolicy
    refused: str | None = None
    reloads: int = 0
    refusals: int = 0
    since: float = 0.0

    def swap(self, policy: CompiledPolicy, now: float = 0.0) -> None:
        """Let `policy` judge from now on; calls in flight keep the one they were judged by."""
        self.policy, self.refused, self.since = policy, None, now
        self.reloads += 1

    def refuse(self, why: str) -> None:
        """Keep what judges: the file that was to take its place is wrong."""
        self.refused = why
        self.refusals += 1

    def told(self) -> JsonObject:
        """Return what `/ready` shows of it."""
        policy = self.policy
        return {"file": policy.file, "sha256": policy.sha256, "refused": self.refused}
