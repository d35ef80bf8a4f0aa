"""Decisions: what the gateway says of a call, and why. Frozen values, never exceptions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from gateway.core.json_types import JsonObject

__all__ = ["Decision", "DecisionCode", "Effect"]


class Effect(StrEnum):
    """What is to happen with a call."""

    ALLOW = "allow"
    DENY = "deny"
    ASK = "ask"


class DecisionCode(StrEnum):
    """Why a decision came out as it did; part of the public contract."""

    RULE_ALLOW = "rule_allow"
    RULE_DENY = "rule_deny"
    NO_MATCH = "no_match"
    LIMIT_EXCEEDED = "limit_exceeded"
    LABEL_DENY = "label_deny"
    APPROVAL_PENDING = "approval_pending"
    APPROVAL_DENIED = "approval_denied"
    APPROVAL_EXPIRED = "approval_expired"
    APPROVED = "approved"
    INVALID_ARGUMENTS = "invalid_arguments"
    ARGUMENTS_TOO_LARGE = "arguments_too_large"
    UNKNOWN_TOOL = "unknown_tool"
    DEFINITION_CHANGED = "definition_changed"
    POLICY_ERROR = "policy_error"
    AUDIT_UNAVAILABLE = "audit_unavailable"


@dataclass(frozen=True, slots=True)
class Decision:
    """One judgement of one call.

    `policy` is the policy file's name and `line` the 1-based line of the rule that decided
    (both `None` where no rule did); `policy_sha256` is the digest of the file's bytes.
    """

    effect: Effect
    code: DecisionCode
    reason: str
    rule: str | None = None
    policy: str | None = None
    line: int | None = None
    policy_sha256: str | None = None
    call_id: str = ""

    @property
    def allowed(self) -> bool:
        """Whether the call may run now."""
        return self.effect is Effect.ALLOW

    def of_call(self, call_id: str) -> Decision:
        """Return the same decision, bound to one call."""
        # Named one by one: `replace` takes several times as long, and each call comes through here.
        return Decision(
            self.effect,
            self.code,
            self.reason,
            self.rule,
            self.policy,
            self.line,
            self.policy_sha256,
            call_id,
        )

    def as_denial(self, code: DecisionCode, reason: str) -> Decision:
        """Return a denial that replaces this decision and keeps its call and policy."""
        return replace(self, effect=Effect.DENY, code=code, reason=reason, rule=None, line=None)

    def wire(self) -> JsonObject:
        """Return the public JSON form (interfaces: decision object)."""
        # `_value_` is a plain attribute, `value` a descriptor; three of these are made for each call.
        return {
            "effect": self.effect._value_,
            "code": self.code._value_,
            "rule": self.rule,
            "reason": self.reason,
            "policy": self.policy,
            "line": self.line,
            "policy_sha256": self.policy_sha256,
            "call_id": self.call_id,
        }

    def sentence(self) -> str:
        """Return the one line a person or a model is shown: effect, rule, reason, `file:line`."""
        verb = {Effect.ALLOW: "allowed", Effect.DENY: "denied", Effect.ASK: "needs approval"}[self.effect]
        by = f" by rule {self.rule!r}" if self.rule else ""
        where = f" ({self.policy}:{self.line})" if self.policy and self.line else ""
        if self.policy and not self.line:
            where = f" ({self.policy})"
        return f"{verb}{by}: {self.reason}{where} [{self.code.value}]"
