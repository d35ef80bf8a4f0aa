"""Fakes for tests of code that builds on the gateway: typed, in memory, driven by hand."""

from __future__ import annotations

from pathlib import Path

from gateway.core.json_types import JsonObject
from gateway.errors import LedgerError
from gateway.loop import Promise
from gateway.runtime.tally import CommitTally

__all__ = ["ManualClock", "MemoryLedger"]


class ManualClock:
    """A `Clock` that stands still until it is told to move."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._monotonic = 0.0

    def now(self) -> float:
        """Return the wall clock, in seconds since 1970."""
        return self._now

    def monotonic(self) -> float:
        """Return seconds since the clock was made."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        if seconds < 0:
            raise ValueError("time does not go back: use set_wall for a jump of the wall clock")
        self._now += seconds
        self._monotonic += seconds

    def set_wall(self, now: float) -> None:
        """Let the wall clock jump, back or forth; the monotonic one does not notice."""
        self._now = now


class MemoryLedger:
    """A `Ledger` that keeps the record bodies in a list and refuses while `healthy` is false."""

    def __init__(self, key: bytes = b"a key for tests only, 32 bytes..") -> None:
        self.key = key
        self.healthy = True
        self.commits = CommitTally()
        self.folder: Path | None = None
        self.records: list[JsonObject] = []

    def begin(self, body: JsonObject) -> Promise[None]:
        """Keep `body`, at once; broken with a `LedgerError` while not `healthy`."""
        written: Promise[None] = Promise()
        if self.healthy:
            self.records.append(body)
            self.commits.records += 1
            written.keep(None)
        else:
            written.break_with(LedgerError("the memory ledger was told to fail"))
        return written

    async def append(self, body: JsonObject) -> None:
        """Keep `body`; raises `LedgerError` while not `healthy`."""
        await self.begin(body)
