"""The chains of a state folder: its own, and one for each worker of a gateway that has several.

    STATE/audit              written where one process answers
    STATE/workers/N/audit    written by worker N, in the same layout

A chain has one writer. All of them are the folder's ledger, whatever wrote it last.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from gateway.core.json_types import JsonObject
from gateway.errors import UsageError
from gateway.runtime.ledger_reading import CHECKPOINT, ledger_files
from gateway.runtime.ledger_writing import LedgerFiles, load_or_make_key, lock_state

__all__ = ["chain_of", "chains", "chains_beside", "holding_chains", "record_time", "settle_workers"]

_WORKERS = "workers"


def chain_of(state: Path, worker: int) -> Path:
    """Return the folder that a worker keeps its ledger in."""
    return state / _WORKERS / str(worker)


def chains(folder: Path) -> list[Path]:
    """Return the audit folders of a state folder, or of one of its `audit`; none where there is no ledger."""
    state = folder.parent if folder.name == "audit" and not (folder / "audit").exists() else folder
    workers = sorted((int(path.name), path) for path in (state / _WORKERS).glob("*") if path.name.isdecimal())
    places = [state / "audit", *(path / "audit" for _, path in workers)]
    found = [audit for audit in places if _has_ledger(audit)]
    return found or ([folder] if _has_ledger(folder) else [])


def chains_beside(audit: Path) -> list[Path]:
    """Return the audit folders of the state folder that has `audit`, that one among them."""
    ledger = audit.parent
    return chains(ledger.parent.parent if ledger.parent.name == _WORKERS else ledger)


def record_time(record: JsonObject) -> float:
    """Return when a record was written, in unix seconds: what chains are merged by."""
    ts = record.get("ts")
    return float(ts) if isinstance(ts, int | float) else 0.0


def _has_ledger(audit: Path) -> bool:
    return (audit / CHECKPOINT).is_file() or bool(ledger_files(audit))


def settle_workers(state: Path, now: float, beyond: int = 0) -> None:
    """Close what dead workers left open, of those with a number above `beyond`: they do not start again.

    The folder is held by the caller. Raises `UsageError` as opening a ledger does.
    """
    for folder in (state / _WORKERS).glob("*"):
        if folder.name.isdecimal() and int(folder.name) > beyond and _has_ledger(folder / "audit"):
            LedgerFiles(folder, now).close()


@contextmanager
def holding_chains(state: Path, workers: int, now: float) -> Generator[None]:
    """Hold a state folder for `workers` to write in; their records are sealed with its key.

    What others left open in it is closed. Raises `UsageError` where it is in use or cannot be written.
    """
    if _has_ledger(state / "audit"):
        LedgerFiles(state, now).close()
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = lock_state(state)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"{state}: no ledger can be kept here ({reason}): name a writable folder with --state"
        ) from error
    try:
        settle_workers(state, now, beyond=workers)
        key = load_or_make_key(state)
        for number in range(1, workers + 1):
            folder = chain_of(state, number)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            load_or_make_key(folder, key)
        yield
    finally:
        os.close(held)
