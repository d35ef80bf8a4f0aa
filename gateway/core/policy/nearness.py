"""Why a rule did not hold: the first thing about the call that it did not accept.

What is said here may reach the caller and the ledger, so `NearMiss.hint` shows the policy's side of
the comparison and never the argument's value; `explain` shows both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.core.decisions import Effect
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.policy.arguments import UNREACHABLE
from gateway.core.policy.matchers import Check
from gateway.core.policy.request import Request
from gateway.core.policy.rules import BoundRule, Condition
from gateway.core.policy.showing import brief, type_phrase
from gateway.core.policy.situation import Situation

__all__ = ["NearMiss", "closest", "doubts", "failed_matcher", "missed", "near_miss", "spent_limit"]

_GLANCE = 100
_PRESENT = Check("present", True, "", lambda value, _: True)
_GUARDED = {
    "if_labels": "holds only where the session's labels are",
    "hours": "holds only in the hours",
    "when": "holds only when",
    "limit": "is spent: its limit is",
}


@dataclass(frozen=True, slots=True)
class NearMiss:
    """A rule that did not hold, and the first of its conditions that failed.

    `argument` is `@principal`, `@session` or `@limit` where it was none of the arguments.
    """

    rule: BoundRule
    argument: str
    check: Check
    actual: JsonValue

    @property
    def hint(self) -> str:
        """Return what the rule wants, without what it got."""
        if self.check.matcher == "to":
            return f"is for {self.check.wanted}"
        if self.check.matcher in _GUARDED:
            return f"{_GUARDED[self.check.matcher]} {self.check.wanted}"
        if self.check is _PRESENT:
            return f"wants {self.argument!r}, which is missing"
        return f"wants {self.argument!r}: {self.check.matcher} {self.check.wanted}"


def near_miss(rule: BoundRule, arguments: JsonObject, request: Request) -> NearMiss | None:
    """Return why the rule does not hold, its limit included, or `None` if it does."""
    at = rule.first_miss(arguments, request)
    return spent_limit(rule, arguments, request) if at < 0 else missed(rule, at, arguments, request)


def failed_matcher(rule: BoundRule, at: int, arguments: JsonObject, request: Request) -> str:
    """Return the name of the matcher that failed in a condition of a grant, or nothing elsewhere."""
    if at >= len(rule.conditions):
        return ""
    condition = rule.conditions[at]
    checks = condition.checks
    for value in condition.find(arguments):
        if value is UNREACHABLE:
            break
        for check in checks:
            if check.judge(value, request.situation) is not True:
                return check.matcher
    return "present"


def missed(rule: BoundRule, at: int, arguments: JsonObject, request: Request) -> NearMiss:
    """Describe the part of a rule, counted as `first_miss` counts, that did not hold."""
    after = at - len(rule.conditions)
    if after < 0:
        condition = rule.conditions[at]
        check, actual = _first_failure(condition, arguments, rule.rule.effect, request.situation)
        return NearMiss(rule, condition.argument, check, actual)
    if after:
        guard = rule.guards[after - 1]
        check = Check(guard.name, guard.expected, brief(guard.expected), _never)
        return NearMiss(rule, "@session", check, guard.actual(request))
    names = rule.rule.to or ()
    check = Check("to", list(names), ", ".join(names), _never)
    return NearMiss(rule, "@principal", check, request.principal.name)


def spent_limit(rule: BoundRule, arguments: JsonObject, request: Request) -> NearMiss | None:
    """Return that the rule's limit is spent, or `None`."""
    charge = rule.counter(arguments, request) if rule.counter else None
    if charge is None or not request.situation.spent(charge):
        return None
    expected = charge.limit.model_dump(mode="json", exclude_none=True)
    return NearMiss(rule, "@limit", Check("limit", expected, _limit_text(rule), _never), "spent")


def closest(
    rules: Sequence[BoundRule], arguments: JsonObject, request: Request
) -> tuple[BoundRule, int] | None:
    """Return the rule with the fewest parts left at its first miss, and that miss; the first of several."""
    near: tuple[BoundRule, int] | None = None
    fewest = 1 << 30
    for rule in rules:
        at = rule.first_miss(arguments, request)
        left = len(rule.conditions) + len(rule.guards) - at
        if left < fewest:
            near, fewest = (rule, at), left
    return near


def doubts(rule: BoundRule, arguments: JsonObject, request: Request) -> str | None:
    """Return what could not be judged and so made a deny rule hold, or `None`."""
    for condition in rule.conditions:
        for value in condition.find(arguments):
            if value is UNREACHABLE:
                return f"{condition.argument!r} cannot be judged: a value on the way to it is not an object"
            if isinstance(value, list) and len(value) > _GLANCE:
                continue  # saying why is not worth judging a long list twice
            verdicts = {check.matcher: check.judge(value, request.situation) for check in condition.checks}
            open_ones = [matcher for matcher, verdict in verdicts.items() if verdict is None]
            if open_ones and False not in verdicts.values():
                return f"{condition.argument!r} cannot be judged by {open_ones[0]!r}: {type_phrase(value)}"
    for guard in rule.guards:
        if guard.judge(arguments, request) is None:
            return f"its {guard.name!r} cannot be judged for this call"
    return None


def _limit_text(rule: BoundRule) -> str:
    limit = rule.rule.limit
    if limit is None:
        return ""
    parts = [f"{limit.rate[0]} calls in {limit.rate[1]:g}s"] if limit.rate else []
    parts += [f"{limit.calls} calls"] if limit.calls is not None else []
    parts += [f"{limit.bytes} bytes"] if limit.bytes is not None else []
    return f"{', '.join(parts)} per {limit.per}"


def _never(value: JsonValue, situation: Situation) -> bool:
    return False


def _first_failure(
    condition: Condition, arguments: JsonObject, effect: Effect, situation: Situation
) -> tuple[Check, JsonValue]:
    wanted = (False,) if effect is Effect.DENY else (False, None)
    for value in condition.find(arguments):
        if value is UNREACHABLE:
            return _PRESENT, None
        for check in condition.checks:
            if check.judge(value, situation) in wanted:
                return check, value
    return _PRESENT, None
