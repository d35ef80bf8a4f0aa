"""Reading a ledger for people: does it verify, and what does it hold. Streams; writes nothing.

Both work beside a running gateway. A folder is a state folder or its `audit`; all chains in it count.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.core.chain import BrokenRecord, Chain, parse_record
from gateway.core.json_types import JsonObject
from gateway.core.records import Event
from gateway.errors import LedgerError, Problem, UsageError
from gateway.runtime.ledger_chains import chains, record_time
from gateway.runtime.ledger_reading import (
    CHECKPOINT,
    Checkpoint,
    CheckpointError,
    Line,
    ledger_files,
    read_checkpoint,
    read_key,
    read_lines,
    scan,
)

__all__ = ["MAX_PROBLEMS", "AuditReport", "ChainReport", "query", "verify"]

MAX_PROBLEMS = 100
"""Problems after which `verify` stops looking for more."""


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What was found of one chain; `folder` is its audit folder."""

    folder: str
    ok: bool
    records: int
    files: int


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What `verify` found, over all `chains` of the folder.

    `open_calls` counts decisions without an outcome: calls in flight, or those a crash left, which the next
    start closes. `notes` are no faults: a torn line that was never acknowledged, a key that is not there.
    """

    ok: bool
    records: int
    files: int
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...] = ()
    decisions: int = 0
    outcomes: int = 0
    open_calls: int = 0
    chains: tuple[ChainReport, ...] = ()


def verify(folder: Path) -> AuditReport:
    """Check every record of a ledger against its chain and the checkpoint of that.

    Problems carry the file's path and the line. Raises `UsageError` if there is no ledger.
    """
    reports = [_verified(audit) for audit in _audit_folders(folder)]
    return AuditReport(
        ok=all(report.ok for report in reports),
        records=sum(report.records for report in reports),
        files=sum(report.files for report in reports),
        problems=tuple(problem for report in reports for problem in report.problems),
        notes=tuple(note for report in reports for note in report.notes),
        decisions=sum(report.decisions for report in reports),
        outcomes=sum(report.outcomes for report in reports),
        open_calls=sum(report.open_calls for report in reports),
        chains=tuple(chain for report in reports for chain in report.chains),
    )


def _verified(audit: Path) -> AuditReport:
    check = _Check(audit)
    # The checkpoint first: a running gateway only ever moves the log ahead of it.
    check.read_checkpoint()
    check.read_records(ledger_files(audit))
    return check.report()


def query(
    folder: Path, *, session: str | None = None, tool: str | None = None, effect: str | None = None
) -> Iterator[JsonObject]:
    """Yield the records that match all that is given, oldest first, without checking the chains.

    `effect` is a decision's, so with it only decision records come. Raises `UsageError` if there is no
    ledger, `LedgerError` at a line that is no record; an unfinished last line is left out.
    """
    wanted = {"session": session, "tool": tool}
    for record in heapq.merge(*map(_records, _audit_folders(folder)), key=record_time):
        if all(value is None or record.get(name) == value for name, value in wanted.items()) and (
            effect is None or _effect(record) == effect
        ):
            yield record


def _records(audit: Path) -> Iterator[JsonObject]:
    """Yield the records of one chain, but for an unfinished last line."""
    for line in read_lines(ledger_files(audit)):
        try:
            yield parse_record(line.data)
        except BrokenRecord as broken:
            if broken.code == "torn":
                return
            raise LedgerError(f"{line.file}:{line.number}: {broken}: see `sandgate audit verify`") from None


def _effect(record: JsonObject) -> object:
    decision = record.get("decision")
    return decision.get("effect") if isinstance(decision, dict) else None


def _audit_folders(folder: Path) -> list[Path]:
    if found := chains(folder):
        return found
    raise UsageError(f"{folder}: no ledger here: name a state folder (`serve --state`) or its audit folder")


class _Check:
    """One verification under way."""

    def __init__(self, audit: Path) -> None:
        self._audit = audit
        self._checkpoint: Checkpoint | None = None
        self._problems: list[Problem] = []
        self._notes: list[Problem] = []
        self._open: set[object] = set()
        self._events: Counter[object] = Counter()
        self._records = self._files = 0
        self._last_good = 0
        self._last_line: Line | None = None

    def report(self) -> AuditReport:
        ok = not self._problems
        return AuditReport(
            ok=ok,
            records=self._records,
            files=self._files,
            problems=tuple(self._problems),
            notes=tuple(self._notes),
            decisions=self._events[Event.DECISION],
            outcomes=self._events[Event.OUTCOME],
            open_calls=len(self._open),
            chains=(ChainReport(str(self._audit), ok, self._records, self._files),),
        )

    def read_checkpoint(self) -> None:
        key = None
        try:
            key = read_key(self._audit.parent)
        except ValueError as error:
            self._problem(None, "key", f"the ledger's key is damaged: {error}")
        if key is None:
            self._note(None, "no_key", "no key beside the log: the checkpoint's hmac was not checked")
        try:
            self._checkpoint = read_checkpoint(self._audit, key)
        except CheckpointError as error:
            self._problem(None, "checkpoint", str(error))

    def read_records(self, files: Sequence[Path]) -> None:
        self._files = len(files)
        chain = Chain()
        for scanned in scan(files, chain):
            self._last_line = scanned.line
            if scanned.broken is None:
                self._good(scanned.line, scanned.record or {}, chain)
            elif scanned.line.file == files[-1] and self._all_acknowledged_seen():
                self._note(
                    scanned.line,
                    "unacknowledged",
                    f"{scanned.broken}; cut at the next start: nobody relied on it",
                )
                break
            else:
                self._problem(scanned.line, scanned.broken.code, str(scanned.broken))
            if len(self._problems) >= MAX_PROBLEMS:
                return
        self._check_end(chain.seq - 1)

    def _good(self, line: Line, record: JsonObject, chain: Chain) -> None:
        self._records += 1
        self._last_good = chain.seq - 1
        event, call = record.get("event"), record.get("call_id")
        self._events[event] += 1
        if event == Event.DECISION:
            self._open.add(call)
        elif event == Event.OUTCOME:
            self._open.discard(call)
        if self._checkpoint and chain.seq - 1 == self._checkpoint.seq and chain.prev != self._checkpoint.hash:
            self._problem(
                line, "rewritten", "the record is not the one the checkpoint knows: the log was rewritten"
            )

    def _all_acknowledged_seen(self) -> bool:
        return self._checkpoint is not None and self._last_good >= self._checkpoint.seq

    def _check_end(self, last: int) -> None:
        if self._checkpoint and last < self._checkpoint.seq:
            missing = f"records {last + 1} to {self._checkpoint.seq} are missing: the end of the log was cut"
            self._problem(self._last_line, "cut", missing)

    def _problem(self, line: Line | None, code: str, message: str) -> None:
        self._problems.append(self._at(line, code, message))

    def _note(self, line: Line | None, code: str, message: str) -> None:
        self._notes.append(self._at(line, code, message))

    def _at(self, line: Line | None, code: str, message: str) -> Problem:
        if line is None:
            return Problem(str(self._audit / CHECKPOINT), 0, 0, code, message)
        return Problem(str(line.file), line.number, 1, code, message)
