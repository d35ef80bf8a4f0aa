"""What happened, counted as it happens: plain integers that `serve/metrics` reads when it is asked.

Every label comes from a bounded set: fronts, packs, servers and tools of the catalog, outcomes, codes.
No name that a caller made up, no session and no argument is ever one. Decides nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.core.calls import Answered, Denied, Failed, Outcome, ToolCall
from gateway.core.catalog import Catalog

__all__ = [
    "CALL_BUCKETS",
    "CALL_LABELS",
    "COMMIT_BUCKETS",
    "CallTally",
    "CommitTally",
    "EgressTally",
    "Histogram",
]

CALL_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds in seconds: a warm call takes a few milliseconds, the longest its deadline."""
COMMIT_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0)
"""Upper bounds in seconds of one commit to disk."""


class Histogram:
    """How often a duration fell between which bounds (seconds), and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = CALL_BUCKETS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds


CALL_LABELS: Final = ("front", "method", "pack", "server", "tool", "outcome", "code", "failure")
"""What calls are counted by. `tool` is empty for one that no server has, and for what is no tool.

`outcome` is `answered`, `denied` or `failed`; `failure` says how, where it failed.
"""


@dataclass(slots=True)
class CallTally:
    """Calls that ended, by what they were and how; how long they took whole and at their server."""

    calls: dict[tuple[str, ...], int] = field(default_factory=dict[tuple[str, ...], int])
    seconds: dict[tuple[str, str], Histogram] = field(default_factory=dict[tuple[str, str], Histogram])
    upstream: dict[tuple[str, str], Histogram] = field(default_factory=dict[tuple[str, str], Histogram])

    def ended(
        self,
        pack: str,
        catalog: Catalog,
        call: ToolCall,
        outcome: Outcome,
        seconds: float,
        at_server: float | None,
    ) -> None:
        """Count a call that took `seconds`; `at_server` of them at its server, `None` if it was not sent.

        `catalog` is that of the pack. On the path of every call, so written for speed: about 1 us.
        """
        # Only the catalog's names: a resource's URI is the caller's own.
        tool = catalog.tools.get(call.tool) if call.target == "tool" else None
        server, name = (call.server or "", "") if tool is None else (tool.server, tool.upstream)
        how = _HOW[type(outcome)]
        failure = outcome.kind._value_ if isinstance(outcome, Failed) else ""
        # `_value_` is a plain attribute; `value` is a descriptor that takes longer than all the rest here.
        key = (
            call.front._value_,
            call.method._value_,
            pack,
            server,
            name,
            how,
            outcome.decision.code._value_,
            failure,
        )
        self.calls[key] = self.calls.get(key, 0) + 1
        histogram = self.seconds.get((pack, how))
        if histogram is None:
            histogram = self.seconds[pack, how] = Histogram()
        histogram.observe(seconds)
        if at_server is not None:
            histogram = self.upstream.get((pack, server))
            if histogram is None:
                histogram = self.upstream[pack, server] = Histogram()
            histogram.observe(at_server)


@dataclass(slots=True)
class CommitTally:
    """Commits of the ledger: how many records, how long each commit took, how many failed."""

    records: int = 0
    failed: int = 0
    seconds: Histogram = field(default_factory=lambda: Histogram(COMMIT_BUCKETS))

    def done(self, refused: Sequence[object | None], seconds: float) -> None:
        """Count one commit, where each record has `None` or why it was not taken."""
        self.records += sum(reason is None for reason in refused)
        self.seconds.observe(seconds)


@dataclass(slots=True)
class EgressTally:
    """Connections that sandboxes asked for, by pack, server, effect and code; bytes of those that ended."""

    decisions: Counter[tuple[str, str, str, str]] = field(default_factory=Counter[tuple[str, str, str, str]])
    sent: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    received: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])


_HOW: Mapping[type[Outcome], str] = {Answered: "answered", Denied: "denied", Failed: "failed"}
