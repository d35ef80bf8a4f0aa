"""What a rule asks beyond arguments and principal: labels of the session, the hour, an expression.

In a deny, a guard that cannot be judged counts as holding; in allow and ask it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gateway.core.decisions import Effect
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.policy.conditions import compile_condition
from gateway.core.policy.hours import compile_hours
from gateway.core.policy.model import IfLabels, Rule
from gateway.core.policy.situation import Situation
from gateway.core.policy.verdicts import Verdict

if TYPE_CHECKING:
    from gateway.core.policy.request import Request

__all__ = ["Guard", "bind_guards"]

Judge = Callable[[JsonObject, "Request"], Verdict]


@dataclass(frozen=True, slots=True)
class Guard:
    """One such condition: its name and text in the file, its verdict, and what it looked at."""

    name: str
    expected: JsonValue
    judge: Judge
    doubt: bool
    actual: Callable[[Request], JsonValue]

    def holds(self, arguments: JsonObject, request: Request) -> bool:
        """Whether it counts as holding."""
        verdict = self.judge(arguments, request)
        return self.doubt if verdict is None else verdict


def bind_guards(rule: Rule) -> tuple[Guard, ...]:
    """Return a rule's guards, the cheap ones first."""
    return tuple(_guards(rule, doubt=rule.effect is Effect.DENY))


def _guards(rule: Rule, *, doubt: bool) -> Iterator[Guard]:
    if rule.if_labels:
        expected = rule.if_labels.model_dump(mode="json", exclude_unset=True)
        test = _labels_test(rule.if_labels)
        yield Guard(
            "if_labels",
            expected,
            lambda _, request: test(request.situation.labels),
            doubt,
            lambda request: list[JsonValue](sorted(request.situation.labels)),
        )
    if rule.hours:
        in_hours = compile_hours(rule.hours)
        yield Guard(
            "hours",
            list[JsonValue](rule.hours),
            lambda _, request: in_hours(request.situation.now),
            doubt,
            lambda request: _clock(request.situation),
        )
    if rule.when:
        yield Guard("when", rule.when, compile_condition(rule.when), doubt, lambda _: "it is not true")


def _labels_test(wanted: IfLabels) -> Callable[[frozenset[str]], bool]:
    every, some, none = frozenset(wanted.all), frozenset(wanted.any), frozenset(wanted.none)
    return lambda labels: every <= labels and (not some or bool(some & labels)) and not none & labels


def _clock(situation: Situation) -> str:
    return datetime.fromtimestamp(situation.now, UTC).strftime("%a %Y-%m-%d %H:%M:%S UTC")
