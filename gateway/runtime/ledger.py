"""The ledger: `append` returns once the record is on disk. Group commit; the files are `ledger_writing`'s.

The first record to arrive begins a group and leads it: it waits for its turn at the disk, and whatever
arrives until then joins. So a caller alone is committed at once, and many share one sync.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import anyio
import anyio.to_thread

from gateway.core.json_types import JsonObject
from gateway.errors import LedgerError
from gateway.runtime.clock import Clock
from gateway.runtime.ledger_writing import MAX_FILE, LedgerFiles, Pending
from gateway.runtime.tally import CommitTally

__all__ = ["DISK_SECONDS", "GROUP_RECORDS", "FileLedger", "Ledger", "open_ledger"]

GROUP_RECORDS = 64
"""Most records of one group."""
DISK_SECONDS = 10.0
"""A disk that does not answer for so long is given up until the gateway is restarted."""


class Ledger(Protocol):
    """Where decisions and outcomes are written."""

    @property
    def key(self) -> bytes:
        """The key of every hmac in the records."""
        ...

    @property
    def healthy(self) -> bool:
        """Whether the last commit succeeded; readiness shows it."""
        ...

    @property
    def commits(self) -> CommitTally:
        """What its commits came to; `/metrics` shows it."""
        ...

    async def append(self, body: JsonObject) -> None:
        """Return once the record is durable; raises `LedgerError` if it is not.

        `body` is one of `gateway.core.records` and is not changed by the caller any more. Cancelled, the
        record may or may not be written.
        """
        ...


class _Group:
    """Records that become durable together; `failed` or `refused[i]` says why one did not."""

    __slots__ = ("batch", "done", "failed", "refused")

    def __init__(self) -> None:
        self.batch: list[Pending] = []
        self.done = anyio.Event()
        self.failed: str | None = "the gateway stopped before the record was known to be written"
        self.refused: Sequence[LedgerError | None] = ()

    def tell(self, place: int) -> None:
        """Raise what the record at `place` has to be told."""
        if self.failed is not None:
            raise LedgerError(self.failed)
        if (refused := self.refused[place]) is not None:
            raise refused


class FileLedger:
    """The `Ledger` of a state folder. Made by `open_ledger`."""

    def __init__(self, files: LedgerFiles, clock: Clock) -> None:
        self.key = files.key
        self.commits = CommitTally()
        self._files = files
        self._clock = clock
        self._gathering: _Group | None = None
        self._turn = anyio.Lock()
        self._one_thread = anyio.CapacityLimiter(1)
        self._mutex = threading.Lock()
        self._refusal: str | None = None

    @property
    def healthy(self) -> bool:
        """Whether the last commit succeeded and more can come."""
        return self._files.healthy and self._refusal is None

    async def append(self, body: JsonObject) -> None:
        """Return once the record is durable; raises `LedgerError` if it is not."""
        if self._refusal is not None:
            raise LedgerError(self._refusal)
        group, leads = self._gathering, False
        if group is None or len(group.batch) >= GROUP_RECORDS:
            group, leads = _Group(), True
            self._gathering = group
        place = len(group.batch)
        group.batch.append((body, self._clock.now()))
        if leads:
            await self._lead(group)
        else:
            await group.done.wait()
        group.tell(place)

    async def _lead(self, group: _Group) -> None:
        """Commit `group` when its turn comes; others wait for it, so a cancellation does not stop this."""
        try:
            with anyio.CancelScope(shield=True):
                async with self._turn:
                    if self._gathering is group:
                        self._gathering = None
                    await self._commit(group)
        finally:
            if self._gathering is group:
                self._gathering = None
            group.done.set()

    async def _commit(self, group: _Group) -> None:
        if self._refusal is not None:
            group.failed = self._refusal
            return
        began = self._clock.monotonic()
        try:
            with anyio.fail_after(DISK_SECONDS):
                group.refused = await anyio.to_thread.run_sync(
                    self._commit_in_thread, group.batch, limiter=self._one_thread, abandon_on_cancel=True
                )
            group.failed = None
            self.commits.done(group.refused, self._clock.monotonic() - began)
        except LedgerError as error:
            group.failed = str(error)
            self.commits.failed += 1
        except TimeoutError:
            self.commits.failed += 1
            message = f"the ledger's disk did not answer for {DISK_SECONDS:g} s: restart the gateway"
            group.failed = self._refusal = message

    def _commit_in_thread(self, batch: Sequence[Pending]) -> list[LedgerError | None]:
        with self._mutex:  # a thread given up on may still be at it
            return self._files.commit(batch)

    async def aclose(self) -> None:
        """Write what waits, then release the folder. Idempotent."""
        with anyio.CancelScope(shield=True):
            async with self._turn:
                stuck, self._refusal = self._refusal, self._refusal or "the ledger is closed"
                if stuck is None:
                    await anyio.to_thread.run_sync(self._files.close, limiter=self._one_thread)


@asynccontextmanager
async def open_ledger(
    state_dir: Path, clock: Clock, *, max_file: int = MAX_FILE
) -> AsyncGenerator[FileLedger, None]:
    """Open the ledger of `state_dir` for writing; only one process can.

    What a killed gateway left is put in order first: a torn tail is cut, decisions without an outcome are
    closed with outcome `unknown`. Raises `UsageError` naming the next step where the folder is in use, cannot
    be written, or holds a chain that was changed from outside.
    """
    files = await anyio.to_thread.run_sync(LedgerFiles, state_dir, clock.now(), max_file)
    ledger = FileLedger(files, clock)
    try:
        yield ledger
    finally:
        await ledger.aclose()
