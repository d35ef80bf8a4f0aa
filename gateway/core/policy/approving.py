"""What a policy's rules say of approvals: who gives one, for how long, and how long a call waits. Pure.

In training nobody waits: dice answer, the same ones for the same call of the same episode.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from gateway.core.approvals import ApprovalTerms, Drawn
from gateway.core.policy.compile import CompiledPolicy
from gateway.core.policy.model import Approve, Approver, Mode
from gateway.core.policy.rules import compile_principal

__all__ = ["CallNumber", "approval_terms"]


@dataclass(frozen=True, slots=True)
class CallNumber:
    """Which call of which episode: the seed of the episode, and the call's number in its session."""

    seed: int
    number: int


def approval_terms(
    policy: CompiledPolicy,
    rule_id: str | None,
    mode: Mode,
    call: CallNumber,
    times_added: Callable[[str], int],
) -> ApprovalTerms:
    """Return the terms of the rule of that id; a rule that says nothing has the defaults.

    `times_added` says how often a label came to the session.
    """
    model = policy.model
    rule = next((rule for rule in model.every_rule() if rule.id == rule_id), None)
    approve = (rule and rule.approve) or Approve()
    dice = model.modes.training.ask
    return ApprovalTerms(
        by=tuple(compile_principal(model.principals[name]) for name in approve.by or ()),
        ttl=approve.ttl,
        wait=approve.wait,
        prompt=model.modes.deployment.ask == "prompt",
        clears={label: times_added(label) for label in approve.clears},
        drawn=_draw(dice.approver, call) if dice and mode == "training" else None,
    )


def _draw(approver: Approver, call: CallNumber) -> Drawn:
    digest = hashlib.sha256(f"{approver.seed}:{call.seed}:{call.number}".encode()).digest()
    return Drawn(f"appr_{call.number}", int.from_bytes(digest[:8]) < approver.probability * 2**64)
