"""A program that writes a ledger until it is killed, or until the disk is full.

python -m tests.support.ledger_writer load STATE PREFIX       eight callers; prints each acknowledged record
python -m tests.support.ledger_writer file-limit STATE        under RLIMIT_FSIZE; prints what happened
python -m tests.support.ledger_writer full STATE BALLAST      on a small disk; BALLAST is removed once full
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from itertools import count
from pathlib import Path

import anyio

from gateway.errors import LedgerError
from gateway.runtime.clock import SystemClock
from gateway.runtime.ledger import FileLedger, open_ledger
from tests.support.ledgers import record_pair


async def load(state: Path, prefix: str) -> None:
    async def call(ledger: FileLedger, caller: int) -> None:
        for number in count():
            call_id = f"{prefix}-{caller}-{number}"
            for body in record_pair(call_id, ledger.key):
                await ledger.append(body)
                os.write(1, f"{body['event']} {call_id}\n".encode())

    async with (
        open_ledger(state, SystemClock(), max_file=100_000) as ledger,
        anyio.create_task_group() as tasks,
    ):
        for caller in range(8):
            tasks.start_soon(call, ledger, caller)


async def until_refused(ledger: FileLedger, prefix: str) -> list[str]:
    """Append until the ledger refuses; return the ids of the calls it acknowledged."""
    acknowledged: list[str] = []
    try:
        for number in range(1000):
            await ledger.append(record_pair(f"{prefix}-{number}")[0])
            acknowledged.append(f"{prefix}-{number}")
    except LedgerError:
        return acknowledged
    raise AssertionError("the disk never filled")


async def file_limit(state: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    async with open_ledger(state, SystemClock()) as ledger:
        first = await until_refused(ledger, "before")
        red = not ledger.healthy
        await ledger.append(record_pair("after")[0])
        print(json.dumps({"acknowledged": [*first, "after"], "red": red, "green": ledger.healthy}))


async def full(state: Path, ballast: Path) -> None:
    async with open_ledger(state, SystemClock()) as ledger:
        first = await until_refused(ledger, "before")
        refused = [not await until_refused(ledger, "while") for _ in range(20)]
        red, files = not ledger.healthy, len(list((state / "audit").iterdir()))
        await anyio.Path(ballast).unlink()
        await ledger.append(record_pair("after")[0])
        told = {"refused": all(refused), "red": red, "green": ledger.healthy, "files": files}
        print(json.dumps({"acknowledged": [*first, "after"], **told}))


def main() -> None:
    what, *arguments = sys.argv[1:]
    match what:
        case "load":
            anyio.run(load, Path(arguments[0]), arguments[1])
        case "file-limit":
            anyio.run(file_limit, Path(arguments[0]))
        case "full":
            anyio.run(full, Path(arguments[0]), Path(arguments[1]))
        case _:
            raise SystemExit(f"unknown: {what}")


if __name__ == "__main__":
    main()
