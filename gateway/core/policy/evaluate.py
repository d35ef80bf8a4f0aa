"""The decision: caps, one spelling, deny before ask before allow, else no match. Pure.

`decide` may raise only if this program is wrong; `CompiledPolicy.judge` turns that into a denial.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gateway.core.decisions import Decision, DecisionCode, Effect
from gateway.core.json_types import JsonObject
from gateway.core.policy.arguments import Spelling, canonicalise, excess
from gateway.core.policy.model import Defaults
from gateway.core.policy.nearness import closest, doubts
from gateway.core.policy.request import Judgement, Request
from gateway.core.policy.rules import BoundRule
from gateway.core.policy.unfit import Unfit

__all__ = ["ToolRules", "decide", "holding"]


@dataclass(frozen=True, slots=True)
class ToolRules:
    """All that one tool's calls are judged by. `kinds` and `workspace` say what it was bound for."""

    kinds: Mapping[str, str]
    workspace: str
    spellings: tuple[Spelling, ...]
    denies: tuple[BoundRule, ...]
    asks: tuple[BoundRule, ...]
    allows: tuple[BoundRule, ...]


def decide(rules: ToolRules, request: Request, caps: Defaults, otherwise: Decision) -> Judgement:
    """Return the judgement of one call; `otherwise` is the denial that stands where no rule holds."""
    too_large = excess(request.arguments, caps)
    if too_large:
        return _refused(request, otherwise, DecisionCode.ARGUMENTS_TOO_LARGE, too_large)
    arguments = canonicalise(request.arguments, rules.spellings)
    if isinstance(arguments, Unfit):
        code = DecisionCode.ARGUMENTS_TOO_LARGE if arguments.too_large else DecisionCode.INVALID_ARGUMENTS
        return _refused(request, otherwise, code, arguments.reason)
    rule = holding(rules, arguments, request)
    decision = (
        _no_match(rules, arguments, request, otherwise) if rule is None else _said(rule, arguments, request)
    )
    return Judgement(decision, arguments)


def holding(rules: ToolRules, arguments: JsonObject, request: Request) -> BoundRule | None:
    """Return the rule that decides: the first in the file of the strictest effect that holds."""
    for group in (rules.denies, rules.asks, rules.allows):
        for rule in group:
            if rule.holds(arguments, request.principal):
                return rule
    return None


def _said(rule: BoundRule, arguments: JsonObject, request: Request) -> Decision:
    decision = rule.decisions[request.mode]
    if decision.code is not DecisionCode.RULE_DENY:
        return decision
    doubt = doubts(rule, arguments)
    return replace(decision, reason=f"{decision.reason} ({doubt})") if doubt else decision


def _no_match(rules: ToolRules, arguments: JsonObject, request: Request, otherwise: Decision) -> Decision:
    reason = f"{otherwise.reason} {request.server}.{request.tool}"
    near = closest(rules.asks + rules.allows, arguments, request.principal)
    if near:
        rule = near.rule
        reason += (
            f" with these arguments; the closest, rule {rule.rule.id!r} in line {rule.line}, {near.hint}"
        )
    return _denial(otherwise, DecisionCode.NO_MATCH, reason)


def _refused(request: Request, otherwise: Decision, code: DecisionCode, reason: str) -> Judgement:
    return Judgement(_denial(otherwise, code, reason), request.arguments)


def _denial(otherwise: Decision, code: DecisionCode, reason: str) -> Decision:
    return Decision(Effect.DENY, code, reason, policy=otherwise.policy, policy_sha256=otherwise.policy_sha256)
