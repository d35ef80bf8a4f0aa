"""Three-valued verdicts: `True` holds, `False` does not hold, `None` cannot be judged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

__all__ = ["Verdict", "all_of", "any_of", "opposite"]

Verdict: TypeAlias = bool | None


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the conjunction: one `False` decides, else one `None` leaves it open."""
    result: Verdict = True
    for verdict in verdicts:
        if verdict is False:
            return False
        if verdict is None:
            result = None
    return result


def any_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the disjunction: one `True` decides, else one `None` leaves it open."""
    result: Verdict = False
    for verdict in verdicts:
        if verdict is True:
            return True
        if verdict is None:
            result = None
    return result


def opposite(verdict: Verdict) -> Verdict:
    """Return the negation; what cannot be judged stays so."""
    return None if verdict is None else not verdict
