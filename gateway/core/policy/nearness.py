"""Why a rule did not hold: the first thing about the call that it did not accept.

Slow path only. What is said here may reach the caller and the ledger, so `NearMiss.hint` shows the
policy's side of the comparison and never the argument's value; `explain` shows both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.core.calls import Principal
from gateway.core.decisions import Effect
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.policy.arguments import UNREACHABLE
from gateway.core.policy.matchers import Check
from gateway.core.policy.rules import BoundRule, Condition
from gateway.core.policy.showing import type_phrase

__all__ = ["NearMiss", "closest", "doubts", "near_miss"]

_GLANCE = 100
_PRESENT = Check("present", True, "", lambda value: True)


@dataclass(frozen=True, slots=True)
class NearMiss:
    """A rule that did not hold, and the first of its conditions that failed."""

    rule: BoundRule
    argument: str
    check: Check
    actual: JsonValue

    @property
    def hint(self) -> str:
        """Return what the rule wants, without what it got."""
        if self.check.matcher == "to":
            return f"is for {self.check.wanted}"
        if self.check is _PRESENT:
            return f"wants {self.argument!r}, which is missing"
        return f"wants {self.argument!r}: {self.check.matcher} {self.check.wanted}"


def near_miss(rule: BoundRule, arguments: JsonObject, principal: Principal) -> NearMiss | None:
    """Return why the rule does not hold, or `None` if it does."""
    if not rule.covers(principal):
        return NearMiss(rule, "@principal", _recipients(rule.rule.to or ()), principal.name)
    for condition in rule.conditions:
        if not condition.holds(arguments):
            check, actual = _first_failure(condition, arguments, rule.rule.effect)
            return NearMiss(rule, condition.argument, check, actual)
    return None


def closest(rules: Sequence[BoundRule], arguments: JsonObject, principal: Principal) -> NearMiss | None:
    """Return the near miss of the rule with the fewest failures; the first in the file of several."""
    fewest, near = None, None
    for rule in rules:
        failures = 0 if rule.covers(principal) else 1
        for condition in rule.conditions:
            failures += not condition.holds(arguments)
        if fewest is None or failures < fewest:
            fewest, near = failures, rule
    return near_miss(near, arguments, principal) if near else None


def doubts(rule: BoundRule, arguments: JsonObject) -> str | None:
    """Return which argument could not be judged and so made a deny rule hold, or `None`."""
    for condition in rule.conditions:
        for value in condition.find(arguments):
            if value is UNREACHABLE:
                return f"{condition.argument!r} cannot be judged: a value on the way to it is not an object"
            if isinstance(value, list) and len(value) > _GLANCE:
                continue  # saying why is not worth judging a long list twice
            verdicts = {check.matcher: check.judge(value) for check in condition.checks}
            open_ones = [matcher for matcher, verdict in verdicts.items() if verdict is None]
            if open_ones and False not in verdicts.values():
                return f"{condition.argument!r} cannot be judged by {open_ones[0]!r}: {type_phrase(value)}"
    return None


def _recipients(names: Sequence[str]) -> Check:
    return Check("to", list(names), ", ".join(names), lambda value: False)


def _first_failure(condition: Condition, arguments: JsonObject, effect: Effect) -> tuple[Check, JsonValue]:
    wanted = (False,) if effect is Effect.DENY else (False, None)
    for value in condition.find(arguments):
        if value is UNREACHABLE:
            return _PRESENT, None
        for check in condition.checks:
            if check.judge(value) in wanted:
                return check, value
    return _PRESENT, None
