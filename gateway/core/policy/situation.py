"""What the session and the gateway know when a call is judged: read by rules, changed by none of them.

The values come from `state.PolicyState`; a policy judged on its own sees `NOWHERE`, a session that
has just begun.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from gateway.core.policy.finding import Effort, appears_in
from gateway.core.policy.model import Limit
from gateway.core.policy.verdicts import Verdict

__all__ = ["NOWHERE", "VIRTUAL_START", "Charge", "Finder", "LimitKey", "Situation"]

Finder: TypeAlias = Callable[[str, Sequence[str], Sequence[str]], Verdict]
"""Whether a value was seen in the named sources, or stands in one of the texts that are given."""

VIRTUAL_START = 946_684_800.0
"""2000-01-01T00:00:00Z, where a virtual clock starts; in unix seconds."""


@dataclass(frozen=True, slots=True)
class LimitKey:
    """Which counter: the rule's, for one of what the limit counts per (a session has its own counters)."""

    file: str
    rule: str
    whose: str


@dataclass(frozen=True, slots=True)
class Charge:
    """What one call costs one counter if it runs: one call, one token and so many bytes."""

    limit: Limit
    key: LimitKey
    size: int


def _in_texts(value: str, sources: Sequence[str], texts: Sequence[str]) -> Verdict:
    return appears_in(value, texts, Effort())


def _no_link(path: str) -> Verdict:
    return False


def _unspent(charge: Charge) -> bool:
    return False


_NO_CALLS: Mapping[str, int] = MappingProxyType({})


class Situation(NamedTuple):
    """The session as a call finds it.

    `now` is the mode's clock in unix seconds. `calls` counts answered calls by `server.tool`.
    `appeared(value, sources, texts)` says whether a value was seen in the prompt, in trusted results
    (`sources` names them) or in one of the `texts`, and has a doubt once it has searched too much;
    `spent(charge)` whether a counter has no room for one more call. `crosses_link(path)` says whether the
    way to a path leads over a symbolic link, and has a doubt about a path that nobody looked at.
    """

    labels: frozenset[str] = frozenset()
    now: float = VIRTUAL_START
    steps: int = 0
    denials: int = 0
    calls: Mapping[str, int] = _NO_CALLS
    appeared: Finder = _in_texts
    spent: Callable[[Charge], bool] = _unspent
    crosses_link: Callable[[str], Verdict] = _no_link


NOWHERE = Situation()
