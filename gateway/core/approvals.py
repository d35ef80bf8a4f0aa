"""What an approval is about and who may give one. Frozen values; pure.

An approval is bound to what was shown: pack, server, tool and its definition, canonical arguments,
the whole principal and the rule that asked. Anything else is another approval.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from gateway.core.calls import Principal, ToolCall
from gateway.core.decisions import Decision, DecisionCode, Effect
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.records import CallIds, ToolIds
from gateway.core.secrets import mask_object
from gateway.core.strict_json import canonical

__all__ = ["DICE", "ApprovalRequest", "ApprovalTerms", "Drawn", "approval_request", "approved_decision"]


DICE = "seeded approver"
"""Who answers where nobody is asked."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What the seeded approver of a training policy says of one call; `id` is that of the approval."""

    id: str
    approve: bool


@dataclass(frozen=True, slots=True)
class ApprovalTerms:
    """What a rule says of its approvals. `ttl` and `wait` are in seconds.

    `by` tests who is named (empty: nobody is); `prompt` says whether the calling client may be asked.
    `clears` are the labels that a yes takes from the session, and how often each was added when it was
    asked for: what comes later was not looked at. What dice have `drawn` asks nobody.
    """

    by: tuple[Callable[[Principal], bool], ...] = ()
    ttl: float = 600.0
    wait: float = 60.0
    prompt: bool = True
    clears: Mapping[str, int] = field(default_factory=dict[str, int])
    drawn: Drawn | None = None

    def names(self, principal: Principal) -> bool:
        """Whether the rule names this principal."""
        return any(test(principal) for test in self.by)

    def counts_from_caller(self, caller: Principal) -> bool:
        """Whether the caller's own yes counts: it is named, or nobody is."""
        return not self.by or self.names(caller)


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """One call that waits for a yes.

    `decision` is the rule's `ask`, `arguments` are the canonical ones without the operator's secrets,
    and `binding` is the SHA-256 of all that an approval is bound to.
    """

    call: ToolCall
    ids: CallIds
    tool: ToolIds
    principal: Principal
    arguments: JsonObject
    arguments_sha256: str
    decision: Decision
    terms: ApprovalTerms
    binding: str

    def verdict(self, approval: str, by: str, *, approved: bool) -> Decision:
        """Return what `by` decided about the approval of this id."""
        if approved:
            return approved_decision(self.decision, approval, by)
        reason = f"{by!r} denied approval {approval}"
        return replace(self.decision, effect=Effect.DENY, code=DecisionCode.APPROVAL_DENIED, reason=reason)


def approved_decision(asked: Decision, approval: str, by: str) -> Decision:
    """Return the allowance that takes the place of a rule's `ask`."""
    reason = f"approved by {by!r} as {approval}"
    return replace(asked, effect=Effect.ALLOW, code=DecisionCode.APPROVED, reason=reason)


def approval_request(
    call: ToolCall,
    ids: CallIds,
    tool: ToolIds,
    *,
    principal: Principal,
    arguments: JsonObject,
    decision: Decision,
    terms: ApprovalTerms,
    secrets: tuple[str, ...] = (),
) -> ApprovalRequest:
    """Return the request for a call whose rule asks; `arguments` are those judged, `secrets` are masked."""
    bound: JsonObject = {
        "pack": ids.pack,
        "tool": [tool.server, tool.tool, tool.definition_sha256],
        "arguments": arguments,
        "principal": [principal.name, principal.client, principal.user],
        "rights": [*sorted(principal.groups), None, *sorted(principal.roles)],
        "rule": decision.rule,
        "clears": dict[str, JsonValue](terms.clears),
    }
    return ApprovalRequest(
        call=call,
        ids=ids,
        tool=tool,
        principal=principal,
        arguments=mask_object(arguments, secrets),
        arguments_sha256=_sha256(arguments),
        decision=decision,
        terms=terms,
        binding=_sha256(bound),
    )


def _sha256(value: JsonObject) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()
