"""A rule as written: an effect on tools, and when it holds."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from gateway.core.decisions import Effect
from gateway.core.policy.fields import (
    Bytes,
    Duration,
    Expression,
    Hours,
    Identifier,
    Names,
    Rate,
    TargetPatterns,
    Wildcards,
)
from gateway.core.policy.model.matching import ArgumentMatchers
from gateway.core.policy.model.parts import MANY, Part

__all__ = [
    "Approve",
    "IfLabels",
    "Limit",
    "Per",
    "PrincipalPattern",
    "Rule",
]


class PrincipalPattern(Part):
    """Who is meant: every key that is written has to match the authenticated identity."""

    client: Wildcards | None = None
    user: Wildcards | None = None
    group: Wildcards | None = None

    @model_validator(mode="after")
    def _says_something(self) -> PrincipalPattern:
        if not self.model_fields_set:
            raise ValueError("one or more of client, user, group")
        return self


class Approve(Part):
    """Who may say yes to what a rule asks for, and how long that takes and lasts at most."""

    by: Names | None = Field(
        default=None, description="Names from `principals`; any of them. Else the caller too."
    )
    ttl: Duration = Field(
        default=600.0, gt=0, le=86_400, description="From asking to running: 10m, 1h or seconds."
    )
    wait: Duration = Field(default=60.0, ge=0, le=600, description="How long a call waits to be approved.")
    clears: Annotated[tuple[Identifier, ...], MANY] = Field(
        default=(), description="Labels that a yes takes from the session, as the call runs."
    )


Per: TypeAlias = Literal["session", "principal", "tool", "server"]


class Limit(Part):
    """How much a rule grants; what is spent is granted again only by a rate."""

    rate: Rate | None = Field(None, description="Calls in a period: 30/min; a bucket holds as many.")
    calls: int | None = Field(None, ge=0, description="Calls in all.")
    bytes: Bytes | None = Field(None, description="Bytes of arguments and results in all.")
    per: Per = Field(
        default="session", description="What is counted apart; all but session across the gateway."
    )

    @model_validator(mode="after")
    def _says_something(self) -> Limit:
        if not self.model_fields_set & {"rate", "calls", "bytes"}:
            raise ValueError("one or more of rate, calls, bytes")
        return self


class IfLabels(Part):
    """Which labels a session has to have; all that is written has to hold."""

    all: Names = Field((), description="Each of these.")
    any: Names = Field((), description="At least one of these.")
    none: Names = Field((), description="None of these.")

    @model_validator(mode="after")
    def _says_something(self) -> IfLabels:
        if not self.model_fields_set:
            raise ValueError("one or more of all, any, none")
        return self


class Rule(Part):
    """One rule: an effect on tools, and when it holds."""

    id: Identifier
    allow: TargetPatterns | None = None
    ask: TargetPatterns | None = None
    deny: TargetPatterns | None = None
    to: Names | None = Field(None, description="Names from `principals`; any of them.")
    args: dict[str, ArgumentMatchers] = Field(default_factory=dict[str, ArgumentMatchers])
    why: str | None = Field(None, max_length=500, description="Shown with every decision of this rule.")
    approve: Approve | None = Field(None, description="Of an ask: who may approve, and for how long.")
    limit: Limit | None = Field(None, description="Of an allow or ask: how much it grants.")
    if_labels: IfLabels | None = None
    hours: Hours | None = Field(None, description="When it holds: Mon-Fri 08:00-19:00 Europe/Paris.")
    when: Expression | None = Field(None, description="A CEL expression that has to be true.")

    @model_validator(mode="after")
    def _one_effect(self) -> Rule:
        if len(self.model_fields_set & {"allow", "ask", "deny"}) != 1 or not self.tools:
            raise ValueError("a rule has exactly one of allow, ask, deny")
        if self.approve and not self.ask:
            raise ValueError("'approve' says who answers an 'ask': this rule does not ask")
        if self.limit and self.deny:
            raise ValueError("'limit' says how much a rule grants: a deny grants nothing")
        return self

    @property
    def effect(self) -> Effect:
        """What the rule does when it holds."""
        return Effect.DENY if self.deny else Effect.ASK if self.ask else Effect.ALLOW

    @property
    def tools(self) -> tuple[str, ...]:
        """The tool patterns it is about."""
        return self.deny or self.ask or self.allow or ()
