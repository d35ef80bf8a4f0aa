"""What a session is, as its calls are judged by it: whose, under which policy, over which tools."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from gateway.core.calls import Principal
from gateway.core.catalog import Catalog
from gateway.core.policy import CompiledPolicy
from gateway.core.policy.in_force import PolicyInForce
from gateway.core.policy.limits import Counters

__all__ = ["Mode", "SessionFacts"]

Mode: TypeAlias = Literal["training", "deployment"]


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What does not change while a session lives, but for the policy that is in force.

    `key` seals argument digests in the ledger. `counters` are those of the whole gateway; `prompt` is
    the task that the session is about, where one is known, and `seed` that of its episode.
    """

    id: str
    pack: str
    principal: Principal
    in_force: PolicyInForce
    catalog: Catalog
    mode: Mode
    workspace: str
    key: bytes
    plain_arguments: bool = False
    secrets: tuple[str, ...] = ()
    counters: Counters = field(default_factory=Counters)
    prompt: str = ""
    seed: int = 0

    @property
    def policy(self) -> CompiledPolicy:
        """What judges a call that begins now; a call in flight keeps its own (`Running.policy`)."""
        return self.in_force.policy
