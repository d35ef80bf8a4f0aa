"""Why a rule did not hold: the first thing about the call that it did not accept.

Slow path only. What is said here may reach the caller and the ledger, so `NearMiss.hint` shows the
policy's side of the comparison and never the argument's value; `explain` shows both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.core.calls import Principal
from gateway.core.decisions import Effect
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.policy.arguments import UNREACHABLE
from gateway.core.policy.rules import BoundRule, Condition

__all__ = ["NearMiss", "brief", "closest", "doubts", "near_miss"]

_LONGEST = 120
_GLANCE = 100


@dataclass(frozen=True, slots=True)
class NearMiss:
    """The first condition of a rule that failed; `held` counts those before and after it that did not."""

    rule: BoundRule
    argument: str
    matcher: str
    expected: JsonValue
    actual: JsonValue
    held: int

    @property
    def hint(self) -> str:
        """Return what the rule wants, without what it got."""
        if self.matcher == "to":
            return f"is for {brief(self.expected)}"
        if self.matcher == "present":
            return f"wants {self.argument!r}, which is missing"
        return f"wants {self.argument!r}: {self.matcher} {brief(self.expected)}"


def near_miss(rule: BoundRule, arguments: JsonObject, principal: Principal) -> NearMiss | None:
    """Return why the rule does not hold, or `None` if it does."""
    failed = [condition for condition in rule.conditions if not condition.holds(arguments)]
    held = len(rule.conditions) - len(failed)
    if not rule.covers(principal):
        return NearMiss(rule, "@principal", "to", list(rule.rule.to or ()), principal.name, held)
    if not failed:
        return None
    matcher, expected, actual = _first_failure(failed[0], arguments, rule.rule.effect)
    return NearMiss(rule, failed[0].argument, matcher, expected, actual, held + 1)


def closest(rules: Sequence[BoundRule], arguments: JsonObject, principal: Principal) -> NearMiss | None:
    """Return the near miss of the rule that came closest; the first in the file where several did."""
    misses = [miss for rule in rules if (miss := near_miss(rule, arguments, principal))]
    return max(misses, key=lambda miss: miss.held, default=None)


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
                return f"{condition.argument!r} cannot be judged by {open_ones[0]!r}: {_type_name(value)}"
    return None


def brief(value: JsonValue) -> str:
    """Return a value as one short line."""
    text = (
        json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else repr(value[: _LONGEST + 1])
    )
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _first_failure(
    condition: Condition, arguments: JsonObject, effect: Effect
) -> tuple[str, JsonValue, JsonValue]:
    wanted = (False,) if effect is Effect.DENY else (False, None)
    values = condition.find(arguments)
    for value in values:
        if value is UNREACHABLE:
            return "present", True, None
        for check in condition.checks:
            if check.judge(value) in wanted:
                return check.matcher, check.expected, value
    return "present", True, None


def _type_name(value: JsonValue) -> str:
    match value:
        case None:
            name = "null"
        case str():
            name = "a string"
        case bool():
            name = "a boolean"
        case list():
            name = "a list"
        case dict():
            name = "an object"
        case _:
            name = "a number"
    return f"it is {name}"
