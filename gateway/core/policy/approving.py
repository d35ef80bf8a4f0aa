"""What a policy's rules say of approvals: who gives one, for how long, and how long a call waits. Pure."""

from __future__ import annotations

from gateway.core.approvals import ApprovalTerms
from gateway.core.policy.compile import CompiledPolicy
from gateway.core.policy.model import Approve
from gateway.core.policy.rules import compile_principal

__all__ = ["approval_terms"]


def approval_terms(policy: CompiledPolicy, rule_id: str | None) -> ApprovalTerms:
    """Return the terms of the rule of that id; a rule that says nothing has the defaults."""
    model = policy.model
    rule = next((rule for rule in model.every_rule() if rule.id == rule_id), None)
    approve = (rule and rule.approve) or Approve()
    return ApprovalTerms(
        by=tuple(compile_principal(model.principals[name]) for name in approve.by or ()),
        ttl=approve.ttl,
        wait=approve.wait,
        prompt=model.modes.deployment.ask == "prompt",
    )
