"""One shelf of the pool: what is ready for one (pack, seed, environment, client), and how much should be.

Starts and ends nothing: it counts. Times are given by the caller, in seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.core.json_types import JsonObject
from gateway.runtime.leases import Lease
from gateway.runtime.peer import NOBODY, ClientFacts
from gateway.runtime.served_pack import ServedPack

__all__ = ["PoolSettings", "ReadyLease", "Shelf"]

LONGEST_PAUSE = 60.0


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """How many leases are kept ready: `minimum` for each pack's own seed, `maximum` over all (0: no pool).

    After `idle` seconds without a taker a shelf's depth is halved.
    """

    minimum: int = 0
    maximum: int = 0
    idle: float = 60.0


@dataclass(slots=True, eq=False)
class ReadyLease:
    """A lease nobody has used, and what its servers listed."""

    lease: Lease
    listings: dict[str, list[JsonObject]]


@dataclass(slots=True, eq=False)
class Shelf:
    """The ready leases of one (pack, seed, environment, client); `depth` is how many there should be."""

    served: ServedPack
    seed: Path | None
    env: Mapping[str, str]
    floor: int
    depth: int
    used: float
    ready: deque[ReadyLease] = field(default_factory=deque[ReadyLease])
    filling: int = 0
    asked: bool = False
    checked: bool = False
    unfit: bool = False
    failures: int = 0
    paused_until: float = 0.0
    client: ClientFacts = NOBODY

    @property
    def held(self) -> int:
        """How many are ready or under way."""
        return len(self.ready) + self.filling

    def missing(self, now: float) -> int:
        """Return how many to start now."""
        return 0 if self.unfit or now < self.paused_until else self.depth - self.held

    def found(self, now: float) -> None:
        """One was taken; taking the last means that there were too few."""
        self.used, self.asked, self.failures = now, True, 0
        self.depth += not self.ready

    def missed(self, now: float) -> None:
        """Somebody found none. A shelf is worth filling from the second time on."""
        self.depth = max(1, 2 * self.depth) if self.asked else self.depth
        self.used, self.asked = now, True

    def settle(self, now: float, idle: float, most: int) -> None:
        """Keep the depth within bounds, and halve it once nobody came for a while."""
        if now - self.used > idle:
            self.depth, self.used = self.depth // 2, now
        self.depth = max(self.floor, min(self.depth, most))

    def spoilt(self) -> list[ReadyLease]:
        """Remove and return what can no longer be handed out: a server died or changed its tools."""
        bad = [ready for ready in self.ready if not ready.lease.untouched]
        for ready in bad:
            self.ready.remove(ready)
        return bad

    def failed(self, now: float) -> None:
        """One did not start, or did not last: wait longer each time until one is taken again."""
        self.failures += 1
        self.paused_until = now + min(LONGEST_PAUSE, 2.0**self.failures)
