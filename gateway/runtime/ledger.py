"""The ledger: a record is acknowledged once it is on disk. Group commit; the files are `ledger_writing`'s.

One thread does the writing, where records wait for the disk. Whatever arrives while it is at it, or
in the same turn of the loop, is the next group: so a caller alone is committed at once, and many
share one sync. Where the system's word is enough, the loop writes itself, as a thread would cost more
than the write.

A lone call is spared the turns of the loop: its record is written where it stands, or the loop waits
for the thread, while the disk is quick and never longer than `BRIEFLY`. Then it goes on as with many.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple, Protocol, TypeAlias

import anyio
import anyio.to_thread

from gateway.core.json_types import JsonObject
from gateway.errors import LedgerError
from gateway.loop import Promise, Timer, current_loop
from gateway.runtime.clock import Clock
from gateway.runtime.ledger_writing import MAX_FILE, LedgerFiles
from gateway.runtime.tally import CommitTally

__all__ = ["DISK_SECONDS", "GROUP_RECORDS", "FileLedger", "Ledger", "open_ledger"]

logger = logging.getLogger(__name__)

GROUP_RECORDS = 64
"""Most records of one group."""
_LONE = 1
"""Calls in flight up to which a record is not kept for others to join it."""
BRIEFLY = 0.001
"""Seconds for which the loop itself waits for a disk, where one call is all that is in flight."""
_TRUSTED = 8
"""Commits in a row that took no longer, after which it does so."""
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
    def folder(self) -> Path | None:
        """Where its files are, `None` if it has none."""
        ...

    @property
    def commits(self) -> CommitTally:
        """What its commits came to; `/metrics` shows it."""
        ...

    def begin(self, body: JsonObject) -> Promise[None]:
        """Have a record written, whoever waits for it: kept once it is durable, else a `LedgerError`.

        `body` is one of `gateway.core.records` and is not changed by the caller any more.
        """
        ...

    async def append(self, body: JsonObject) -> None:
        """Return once the record is durable; raises `LedgerError` if it is not.

        Cancelled, the record may or may not be written.
        """
        ...


class _Entry(NamedTuple):
    """A record on its way: when it came, in unix seconds, and who is told."""

    body: JsonObject
    ts: float
    written: Promise[None]


_Told: TypeAlias = "Sequence[LedgerError | None] | LedgerError"
"""What became of a group: what each record has to be told, or what all have."""


class FileLedger:
    """The `Ledger` of a state folder. Made by `open_ledger`, in the loop that uses it."""

    def __init__(self, files: LedgerFiles, clock: Clock, *, synced: bool = True) -> None:
        self._synced = synced
        self.key = files.key
        self.commits = CommitTally()
        self.folder: Path | None = files.audit
        self._files = files
        self._clock = clock
        self._gathering: list[_Entry] = []
        self._committing: Sequence[_Entry] = ()
        self._busy = False
        self._idle = Promise[None]()
        self._refusal: str | None = None
        self._began = 0.0
        self._patience: Timer | None = None
        self._loop = current_loop()
        self._quick = _TRUSTED
        self._watched = False
        self._groups = SimpleQueue[Sequence[_Entry] | None]()
        self._done = SimpleQueue[_Told]()
        self._thread = threading.Thread(target=self._write, name="sandgate-ledger", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """Whether the last commit succeeded and more can come."""
        return self._files.healthy and self._refusal is None

    def begin(self, body: JsonObject) -> Promise[None]:
        """Have a record written, whoever waits for it."""
        written: Promise[None] = Promise()
        if self._refusal is not None:
            written.break_with(LedgerError(self._refusal))
            return written
        entry = _Entry(body, self._clock.now(), written)
        at_once = not self._synced or self._quick >= _TRUSTED
        if at_once and not self._busy and self._files.open_calls <= _LONE:
            self._commit_alone(entry)
            return written
        self._gathering.append(entry)
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._hand_over)
        return written

    async def append(self, body: JsonObject) -> None:
        """Return once the record is durable; raises `LedgerError` if it is not."""
        await self.begin(body)

    # -- in the loop

    def _hand_over(self) -> None:
        """Give the thread the next group, or note that there is none."""
        if not self._gathering:
            self._rest()
            return
        group, self._gathering = self._gathering[:GROUP_RECORDS], self._gathering[GROUP_RECORDS:]
        self._committing, self._began = group, self._clock.monotonic()
        if not self._synced:
            self._settle(self._commit(group))
            return
        self._groups.put(group)
        self._leave_to_thread()

    def _commit_alone(self, entry: _Entry) -> None:
        """Commit the record of a call that is alone: before this returns, if that takes no time."""
        group = (entry,)
        self._began = self._clock.monotonic()
        if not self._synced:
            self._tell(group, self._commit(group))
            return
        self._watched = True
        self._groups.put(group)
        told = self._taken(BRIEFLY)
        self._watched = False
        if told is None and (told := self._taken(0)) is None:
            self._busy, self._committing = True, group
            self._leave_to_thread()
        else:
            self._tell(group, told)

    def _taken(self, seconds: float) -> _Told | None:
        """Take what the thread has to tell, waiting so long; `None` if it has not come to it."""
        try:
            return self._done.get(timeout=seconds) if seconds else self._done.get_nowait()
        except Empty:
            return None

    def _leave_to_thread(self) -> None:
        """Go on when the thread is done with the group, or has been at it for too long."""
        self._patience = self._loop.call_later(DISK_SECONDS, self._give_up)

    def _rest(self) -> None:
        self._busy = False
        self._idle.keep(None)

    def _committed(self) -> None:
        told = self._taken(0)
        if told is None or self._patience is None:
            return  # taken by the loop as it came, or given up meanwhile: everybody was told
        self._patience.cancel()
        self._patience = None
        self._settle(told)

    def _settle(self, told: _Told) -> None:
        self._tell(self._committing, told)
        if self._gathering:
            self._hand_over()
        else:
            self._rest()

    def _tell(self, group: Sequence[_Entry], told: _Told) -> None:
        if isinstance(told, LedgerError):
            self.commits.failed += 1
        else:
            seconds = self._clock.monotonic() - self._began
            self._quick = self._quick + 1 if seconds < BRIEFLY else 0
            self.commits.done(told, seconds)
        _tell(group, told)

    def _give_up(self) -> None:
        """Stop waiting for a disk that does not answer. Its thread is left to itself."""
        self._patience = None
        self.commits.failed += 1
        self._refusal = f"the ledger's disk did not answer for {DISK_SECONDS:g} s: restart the gateway"
        _tell([*self._committing, *self._gathering], LedgerError(self._refusal))
        self._gathering = []
        self._hand_over()

    # -- in the thread

    def _write(self) -> None:
        while (group := self._groups.get()) is not None:
            self._done.put(self._commit(group))
            if self._watched:  # read after the put: who stops watching looks once more
                continue
            try:
                self._loop.call_soon_threadsafe(self._committed)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

    def _commit(self, group: Sequence[_Entry]) -> _Told:
        try:
            return self._files.commit([(entry.body, entry.ts) for entry in group])
        except LedgerError as error:
            return error
        except Exception:
            # Whoever waits has to be told of a fault of ours too, and later records as well.
            logger.exception("writing the ledger failed")
            return LedgerError("the ledger could not be written: internal error")

    # -- the end

    async def aclose(self) -> None:
        """Write what waits, then release the folder. Idempotent."""
        with anyio.CancelScope(shield=True):
            while self._busy:
                self._idle = Promise[None]()
                await self._idle
            if self._refusal is None:
                self._refusal = "the ledger is closed"
                self._groups.put(None)
                await anyio.to_thread.run_sync(self._finish)

    def _finish(self) -> None:
        self._thread.join()
        self._files.close()


def _tell(group: Sequence[_Entry], told: _Told) -> None:
    if isinstance(told, LedgerError):
        for entry in group:
            entry.written.break_with(told)
        return
    for entry, refused in zip(group, told, strict=True):
        if refused is None:
            entry.written.keep(None)
        else:
            entry.written.break_with(refused)


@asynccontextmanager
async def open_ledger(
    state_dir: Path, clock: Clock, *, max_file: int = MAX_FILE, synced: bool = True
) -> AsyncGenerator[FileLedger, None]:
    """Open the ledger of `state_dir` for writing; only one process can.

    `synced`: a record counts once the disk has it; else once the system has it, so that it outlives the
    gateway but not a power cut.

    What a killed gateway left is put in order first: a torn tail is cut, decisions without an outcome are
    closed with outcome `unknown`. Raises `UsageError` naming the next step where the folder is in use, cannot
    be written, or holds a chain that was changed from outside.
    """
    files = await anyio.to_thread.run_sync(LedgerFiles, state_dir, clock.now(), max_file, synced)
    ledger = FileLedger(files, clock, synced=synced)
    try:
        yield ledger
    finally:
        await ledger.aclose()
