"""What a result does to its session: the labels it adds. They grow; only an approval takes one away.

A label is a restriction, so a doubt adds it: arguments that are there and cannot be judged count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.core.json_types import JsonObject
from gateway.core.policy.rules import Condition
from gateway.core.policy.situation import Situation

__all__ = ["BoundLabels", "added"]


@dataclass(frozen=True, slots=True)
class BoundLabels:
    """One entry of `labels` as one tool sees it."""

    conditions: tuple[Condition, ...]
    adds: frozenset[str]


def added(rules: Sequence[BoundLabels], arguments: JsonObject, situation: Situation) -> frozenset[str]:
    """Return the labels that the result of a call with these canonical arguments adds."""
    return frozenset(
        label
        for rule in rules
        if all(condition.holds(arguments, situation) for condition in rule.conditions)
        for label in rule.adds
    )
