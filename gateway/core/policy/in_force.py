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
    """

    policy: CompiledPolicy
    refused: str | None = None

    def swap(self, policy: CompiledPolicy) -> None:
        """Let `policy` judge from now on; calls in flight keep the one they were judged by."""
        self.policy, self.refused = policy, None

    def told(self) -> JsonObject:
        """Return what `/ready` shows of it."""
        policy = self.policy
        return {"file": policy.file, "sha256": policy.sha256, "refused": self.refused}
