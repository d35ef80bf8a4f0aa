"""Whether a text holds a value word for word, within what one call may cost. Knows nothing of policies.

Searching is charged by characters, not by time, so that the same call gets the same answer anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gateway.core.policy.verdicts import Verdict, any_of

__all__ = ["Effort", "appears", "appears_in"]

MOST_EFFORT: Final = 4_000_000
"""What all searching of one call may cost, in characters gone over: some 20 ms at the worst."""
_PER_SEARCH: Final = 500
"""What starting a search costs, in the characters that the same time goes over."""


@dataclass(slots=True)
class Effort:
    """What is left of what one call may spend."""

    left: int = MOST_EFFORT


def appears_in(value: str, texts: Iterable[str], effort: Effort) -> Verdict:
    """Whether `value` stands in one of the texts; `None` once the effort is spent without an answer."""
    if effort.left <= 0:
        return None
    return any_of(appears(value, text, effort) for text in texts)


def appears(value: str, text: str, effort: Effort) -> Verdict:
    """Whether `value` stands in `text` with no letter, digit or `_` of a longer word beside it."""
    if not value:
        return False
    at = -1
    while effort.left > 0:
        before, at = at, text.find(value, at + 1)
        effort.left -= (len(text) if at < 0 else at) - before + len(value) + _PER_SEARCH
        if at < 0:
            return False
        if _stands_alone(value, text, at):
            return True
    return None


def _stands_alone(value: str, text: str, at: int) -> bool:
    end = at + len(value)
    return not (_runs_on(text[at - 1 : at], value[0]) or _runs_on(value[-1], text[end : end + 1]))


def _runs_on(left: str, right: str) -> bool:
    return _in_word(left) and _in_word(right)


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"
