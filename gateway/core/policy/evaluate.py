"""The decision: caps, one spelling, deny before ask before allow, else no match. Pure.

`decide` may raise only if this program is wrong; `CompiledPolicy.judge` turns that into a denial.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from gateway.core.decisions import Decision, DecisionCode, Effect
from gateway.core.json_types import JsonObject
from gateway.core.policy.arguments import Finder, Spelling, canonicalise, excess
from gateway.core.policy.labels import BoundLabels
from gateway.core.policy.model import Defaults, Mode
from gateway.core.policy.nearness import NearMiss, closest, doubts, failed_matcher, missed, spent_limit
from gateway.core.policy.request import Judgement, Request
from gateway.core.policy.rules import BoundRule
from gateway.core.policy.situation import Charge
from gateway.core.policy.unfit import Unfit

__all__ = ["ToolRules", "decide"]

_MOST_HINTS = 1_024
_MOST_LOOKS = 100
"""Paths of one call that are looked at; about those beyond, there is a doubt."""
_Near: TypeAlias = tuple[BoundRule, int]
"""A rule that did not hold, and its first miss."""


@dataclass(frozen=True, slots=True)
class ToolRules:
    """All that one tool's calls are judged by in one mode.

    `kinds` and `workspace` say what it was bound for; `grants` are the asks, then the allows. `limited`:
    some rule counts what it grants. `looks` finds the paths that some rule wants looked at. `refuses`
    says what is wrong with a URI before any rule. `hints` keeps the denials of near misses: they speak of
    rules, not of values, so there are few.
    """

    kinds: Mapping[str, str]
    workspace: str
    mode: Mode
    spellings: tuple[Spelling, ...]
    denies: tuple[BoundRule, ...]
    asks: tuple[BoundRule, ...]
    allows: tuple[BoundRule, ...]
    grants: tuple[BoundRule, ...]
    labels: tuple[BoundLabels, ...] = ()
    limited: bool = False
    looks: tuple[Finder, ...] = ()
    refuses: Callable[[str], str | None] | None = None
    hints: dict[tuple[str, int, str], Decision] = field(default_factory=dict[tuple[str, int, str], Decision])


def decide(rules: ToolRules, request: Request, caps: Defaults, otherwise: Decision) -> Judgement:
    """Return the judgement of one call; `otherwise` is the denial that stands where no rule holds."""
    too_large = excess(request.arguments, caps)
    if too_large:
        return _refused(request, otherwise, DecisionCode.ARGUMENTS_TOO_LARGE, too_large)
    if rules.refuses and (fault := rules.refuses(request.tool)):
        return _refused(request, otherwise, DecisionCode.INVALID_ARGUMENTS, fault)
    arguments = canonicalise(request.arguments, rules.spellings)
    if isinstance(arguments, Unfit):
        code = DecisionCode.ARGUMENTS_TOO_LARGE if arguments.too_large else DecisionCode.INVALID_ARGUMENTS
        return _refused(request, otherwise, code, arguments.reason)
    for rule in rules.denies:
        if rule.holds(arguments, request):
            return Judgement(_denied(rule, arguments, request), arguments)
    if rules.limited:
        return _within_limits(rules, arguments, request, otherwise)
    near, fewest = None, 1 << 30
    for rule in rules.grants:
        at = rule.first_miss(arguments, request)
        if at < 0:
            return Judgement(rule.decisions[request.mode], arguments)
        left = len(rule.conditions) + len(rule.guards) - at
        if left < fewest:
            near, fewest = (rule, at), left
    return Judgement(_no_match(rules, near, arguments, request, otherwise), arguments)


def paths_to_look_at(rules: ToolRules, request: Request, caps: Defaults) -> tuple[str, ...]:
    """Return the paths in the workspace whose links some rule asks about, canonical and each once."""
    if not rules.looks or excess(request.arguments, caps):
        return ()
    arguments = canonicalise(request.arguments, rules.spellings)
    if isinstance(arguments, Unfit):
        return ()
    inside = f"{request.workspace.rstrip('/')}/"
    found = dict.fromkeys(
        path
        for find in rules.looks
        for value in find(arguments)
        for path in (value if isinstance(value, list) else (value,))
        if isinstance(path, str) and f"{path}/".startswith(inside)
    )
    return tuple(found)[:_MOST_LOOKS]


def _within_limits(
    rules: ToolRules, arguments: JsonObject, request: Request, otherwise: Decision
) -> Judgement:
    asked = _granted(rules.asks, arguments, request)
    if asked is not None and asked.spent:  # an ask that is spent must not let a weaker rule through
        return Judgement(_spent(asked.spent, otherwise), arguments)
    granted = asked or _granted(rules.allows, arguments, request)
    if granted is None:
        near = closest(rules.grants, arguments, request)
        return Judgement(_no_match(rules, near, arguments, request, otherwise), arguments)
    if granted.by is None:
        assert granted.spent is not None
        return Judgement(_spent(granted.spent, otherwise), arguments)
    return Judgement(granted.by.decisions[request.mode], arguments, granted.charges)


@dataclass(frozen=True, slots=True)
class _Granted:
    """The rules of one effect that hold: the first with room, the first without, and what it all costs."""

    by: BoundRule | None
    spent: NearMiss | None
    charges: tuple[Charge, ...]


def _granted(group: tuple[BoundRule, ...], arguments: JsonObject, request: Request) -> _Granted | None:
    """Return which rules hold, or `None`. Every one with a limit is charged, so that order never matters."""
    by: BoundRule | None = None
    spent: NearMiss | None = None
    charges: list[Charge] = []
    for rule in group:
        if not rule.holds(arguments, request):
            continue
        miss = spent_limit(rule, arguments, request)
        if miss is not None:
            spent = spent or miss
            continue
        by = by or rule
        if rule.counter:
            charges.append(rule.counter(arguments, request))
    return _Granted(by, spent, tuple(charges)) if by or spent else None


def _denied(rule: BoundRule, arguments: JsonObject, request: Request) -> Decision:
    decision = rule.decisions[request.mode]
    doubt = doubts(rule, arguments, request)
    return replace(decision, reason=f"{decision.reason} ({doubt})") if doubt else decision


def _spent(miss: NearMiss, otherwise: Decision) -> Decision:
    rule = miss.rule
    reason = f"rule {rule.rule.id!r} {miss.hint}"
    return replace(
        otherwise, code=DecisionCode.LIMIT_EXCEEDED, reason=reason, rule=rule.rule.id, line=rule.line
    )


def _no_match(
    rules: ToolRules, near: _Near | None, arguments: JsonObject, request: Request, otherwise: Decision
) -> Decision:
    key = (near[0].rule.id, near[1], failed_matcher(*near, arguments, request)) if near else ("", 0, "")
    known = rules.hints.get(key)
    if known is None:
        what = request.name if request.target == "tool" else f"this {request.target} of {request.server!r}"
        reason = f"{otherwise.reason} {what}"
        if near:
            miss = missed(*near, arguments, request)
            named = f"rule {miss.rule.rule.id!r} in line {miss.rule.line}"
            reason += f" with these arguments; the closest, {named}, {miss.hint}"
        known = _denial(otherwise, DecisionCode.NO_MATCH, reason)
        if len(rules.hints) < _MOST_HINTS:
            rules.hints[key] = known
    return known


def _refused(request: Request, otherwise: Decision, code: DecisionCode, reason: str) -> Judgement:
    return Judgement(_denial(otherwise, code, reason), request.arguments)


def _denial(otherwise: Decision, code: DecisionCode, reason: str) -> Decision:
    return Decision(Effect.DENY, code, reason, policy=otherwise.policy, policy_sha256=otherwise.policy_sha256)
