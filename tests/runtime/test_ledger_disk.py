"""A disk that fails: calls are refused, the descriptor is never used again, a new file recovers."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.errors import LedgerError
from gateway.runtime.audit import verify
from gateway.runtime.clock import SystemClock
from gateway.runtime.ledger import FileLedger, open_ledger
from tests.support.ledgers import lines_of, record_pair, records_of, write_ledger

CLOCK = SystemClock()


# --- errors of the disk ---


class BrokenDisk:
    """Lets real system calls through until told to fail, and notes the descriptors that failed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: str, error: int) -> None:
        self.failing = False
        self.failed: list[int] = []
        self.used: list[int] = []
        real: Any = getattr(os, call)

        def broken(fd: int, *args: Any) -> Any:
            self.used.append(fd)
            if self.failing:
                self.failed.append(fd)
                raise OSError(error, os.strerror(error))
            return real(fd, *args)

        monkeypatch.setattr(os, call, broken)


@pytest.mark.parametrize(
    ("call", "error"), [("fdatasync", errno.EIO), ("write", errno.ENOSPC), ("pwrite", errno.EIO)]
)
async def test_after_an_error_calls_are_refused_until_a_new_file_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_ledger(tmp_path, CLOCK) as ledger:
        for body in record_pair("before"):
            await ledger.append(body)
        disk = BrokenDisk(monkeypatch, call, error)
        disk.failing = True
        for _ in range(3):
            with pytest.raises(LedgerError, match="cannot be written") as caught:
                await ledger.append(record_pair("refused")[0])
            assert str(tmp_path) not in str(caught.value), "callers are told it"
            assert not ledger.healthy
        [told] = [record.getMessage() for record in caplog.records]
        assert told.startswith(f"{tmp_path}/audit/00000001.jsonl cannot be written")
        disk.failing = False
        for body in record_pair("after"):
            await ledger.append(body)
        assert ledger.healthy
    records = records_of(tmp_path)
    assert [record["event"] for record in records] == [
        "decision",
        "outcome",
        "recovered",
        "decision",
        "outcome",
    ]
    assert "refused" not in {record["call_id"] for record in records}
    assert records[2]["void_after"].keys() == {"00000001.jsonl"}
    report = verify(tmp_path)
    assert (report.ok, report.files) == (True, 2)
    await write_ledger(tmp_path, "next")
    assert verify(tmp_path).ok


async def test_the_descriptor_of_a_failed_sync_is_never_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real_open = os.open

    def noting(path: Any, *args: Any, **named: Any) -> int:
        if str(path).endswith(".jsonl"):
            opened.append(Path(path).name)
        return real_open(path, *args, **named)

    async with open_ledger(tmp_path, CLOCK) as ledger:
        disk = BrokenDisk(monkeypatch, "fdatasync", errno.EIO)
        monkeypatch.setattr(os, "open", noting)
        disk.failing = True
        with pytest.raises(LedgerError):
            await ledger.append(record_pair("refused")[0])
        disk.failing = False
        await ledger.append(record_pair("after")[0])
    assert len(disk.failed) == 1
    assert opened == ["00000002.jsonl"]


async def test_all_who_wait_for_a_failed_sync_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[int] = []

    async def append(ledger: FileLedger, number: int) -> None:
        with pytest.raises(LedgerError):
            await ledger.append(record_pair(f"c-{number}")[0])
        refused.append(number)

    async with open_ledger(tmp_path, CLOCK) as ledger:
        BrokenDisk(monkeypatch, "fdatasync", errno.EIO).failing = True
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(append, ledger, number)
    assert len(refused) == 100
    assert not lines_of(tmp_path)


async def test_what_could_not_be_cut_after_an_error_is_void(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Any, length: int) -> None:
        raise OSError(errno.EIO, "no")

    async with open_ledger(tmp_path, CLOCK) as ledger:
        await ledger.append(record_pair("before")[0])
        disk = BrokenDisk(monkeypatch, "fdatasync", errno.EIO)
        monkeypatch.setattr(os, "truncate", refuse)
        disk.failing = True
        with pytest.raises(LedgerError):
            await ledger.append(record_pair("refused")[0])
        disk.failing = False
        await ledger.append(record_pair("after")[0])
    assert [record["call_id"] for record in records_of(tmp_path)] == ["before", "refused", None, "after"]
    report = verify(tmp_path)
    assert (report.ok, report.records) == (True, 3)
    monkeypatch.undo()
    await write_ledger(tmp_path, "next")
    assert verify(tmp_path).ok


def run_writer(*arguments: str, prefix: tuple[str, ...] = ()) -> Any:
    command = [*prefix, sys.executable, "-m", "tests.support.ledger_writer", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_file_that_cannot_grow_is_left_for_a_new_one(tmp_path: Path) -> None:
    told = run_writer("file-limit", str(tmp_path))
    assert (told["red"], told["green"]) == (True, True)
    decisions = [record["call_id"] for record in records_of(tmp_path) if record["event"] == "decision"]
    assert decisions == told["acknowledged"]
    assert verify(tmp_path).ok


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="mounting a small file system needs root on Linux"
)
def test_a_full_disk_refuses_calls_and_recovers_with_space(tmp_path: Path) -> None:
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    script = (
        'mount -t tmpfs -o size=128k none "$1" && head -c 65536 /dev/zero >"$1/ballast" && shift && '
        '"$@" && cp -r "$STATE" "$KEPT"'
    )
    state = disk / "state"
    told = run_writer(
        "full",
        str(state),
        str(disk / "ballast"),
        prefix=(
            *(
                "unshare",
                "--mount",
                "env",
                f"STATE={state}",
                f"KEPT={kept}",
                "sh",
                "-ec",
                script,
                "sh",
                str(disk),
            ),
        ),
    )
    assert (told["refused"], told["red"], told["green"]) == (True, True, True)
    assert told["files"] <= 3, "failed attempts leave nothing behind"
    decisions = [record["call_id"] for record in records_of(kept) if record["event"] == "decision"]
    assert decisions == told["acknowledged"]
    assert verify(kept).ok
