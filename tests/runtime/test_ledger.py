"""The ledger on a real disk: durable before `append` returns, whole after any crash, closed when in doubt."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.core.json_types import JsonObject
from gateway.errors import LedgerError, UsageError
from gateway.runtime.audit import verify
from gateway.runtime.clock import SystemClock
from gateway.runtime.ledger import GROUP_RECORDS, FileLedger, open_ledger
from gateway.testing import ManualClock, MemoryLedger
from tests.support.ledgers import lines_of, record_pair, records_of

CLOCK = SystemClock()


async def write(state: Path, *call_ids: str, finish: bool = True, max_file: int = 10**6) -> None:
    """Write calls to the ledger of `state` and close it."""
    async with open_ledger(state, CLOCK, max_file=max_file) as ledger:
        for call_id in call_ids:
            for body in record_pair(call_id, ledger.key)[: 2 if finish else 1]:
                await ledger.append(body)


def is_unknown(record: Any) -> bool:
    return record["event"] == "outcome" and record["outcome"]["kind"] == "unknown"


def leave_dead(state: Path) -> None:
    """Make the folder look as if its writer had been killed: no clean end in the checkpoint."""
    writer = [sys.executable, "-m", "tests.support.ledger_writer", "load", str(state), "dead"]
    with subprocess.Popen(writer, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(30):
            process.stdout.readline()
        process.kill()


async def test_a_record_is_in_the_file_once_append_returns(tmp_path: Path) -> None:
    async with open_ledger(tmp_path, ManualClock(1234.5)) as ledger:
        decision, _ = record_pair("c-1", ledger.key)
        await ledger.append(decision)
        [record] = records_of(tmp_path)
    assert (record["seq"], record["ts"], record["call_id"]) == (1, 1234.5, "c-1")


async def test_append_returns_only_after_the_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    real = os.fdatasync

    def sync(fd: int) -> None:
        real(fd)
        steps.append("synced")

    monkeypatch.setattr(os, "fdatasync", sync)
    async with open_ledger(tmp_path, CLOCK) as ledger:
        await ledger.append(record_pair("c-1")[0])
        steps.append("returned")
    assert steps == ["synced", "returned"]


async def test_files_and_folders_are_the_owners_alone(tmp_path: Path) -> None:
    state = tmp_path / "new" / "state"
    await write(state, "c-1")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (state, *state.rglob("*"))}
    folders = {name: modes.pop(name) for name in ("state", "audit")}
    assert set(folders.values()) == {0o700}
    assert set(modes.values()) == {0o600}
    assert set(modes) == {"00000001.jsonl", "checkpoint", "audit.key", "ledger.lock"}


async def test_a_caller_alone_waits_for_one_sync_of_its_own(tmp_path: Path, count_syncs: list[int]) -> None:
    async with open_ledger(tmp_path, CLOCK) as ledger:
        for _ in range(5):
            await ledger.append(record_pair("c-1")[0])
    assert len(count_syncs) == 5


async def test_many_callers_share_syncs_and_every_record_is_written_once(
    tmp_path: Path, count_syncs: list[int]
) -> None:
    async with open_ledger(tmp_path, CLOCK) as ledger, anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(ledger.append, record_pair(f"c-{number}")[0])
    assert 2 <= len(count_syncs) <= 100 // 10
    assert sorted(record["call_id"] for record in records_of(tmp_path)) == sorted(
        f"c-{i}" for i in range(100)
    )
    assert verify(tmp_path).ok


async def test_a_group_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_ledger(tmp_path, CLOCK) as ledger:
        sizes: list[int] = []
        real = ledger._files.commit  # pyright: ignore[reportPrivateUsage]

        def commit(batch: Any) -> Any:
            sizes.append(len(batch))
            return real(batch)

        monkeypatch.setattr(ledger._files, "commit", commit)  # pyright: ignore[reportPrivateUsage]
        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(ledger.append, record_pair(f"c-{number}")[0])
    assert max(sizes) == GROUP_RECORDS
    assert sum(sizes) == 200


@pytest.fixture
def count_syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count real fdatasyncs."""
    calls: list[int] = []
    real = os.fdatasync

    def sync(fd: int) -> None:
        calls.append(fd)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", sync)
    return calls


async def test_a_record_that_is_not_json_is_refused_alone(tmp_path: Path) -> None:
    bad: JsonObject = {"event": "decision", "call_id": "bad", "reason": float("nan")}
    outcomes: dict[str, bool] = {}

    async def append(ledger: FileLedger, name: str, body: JsonObject) -> None:
        try:
            await ledger.append(body)
            outcomes[name] = True
        except LedgerError:
            outcomes[name] = False

    async with open_ledger(tmp_path, CLOCK) as ledger, anyio.create_task_group() as tasks:
        for name, body in {"a": record_pair("a")[0], "bad": bad, "b": record_pair("b")[0]}.items():
            tasks.start_soon(append, ledger, name, body)
    assert outcomes == {"a": True, "bad": False, "b": True}
    assert verify(tmp_path).ok


async def test_a_cancelled_caller_does_not_take_the_others_down(tmp_path: Path) -> None:
    written: list[str] = []

    async def append(ledger: FileLedger, name: str) -> None:
        await ledger.append(record_pair(name)[0])
        written.append(name)

    async with open_ledger(tmp_path, CLOCK) as ledger, anyio.create_task_group() as tasks:
        with anyio.CancelScope() as cancelled:
            cancelled.cancel()
            async with anyio.create_task_group() as inner:
                for number in range(3):
                    inner.start_soon(append, ledger, f"cancelled-{number}")
        for number in range(5):
            tasks.start_soon(append, ledger, f"c-{number}")
    assert {f"c-{number}" for number in range(5)} <= set(written)
    assert verify(tmp_path).ok


async def test_a_closed_ledger_refuses(tmp_path: Path) -> None:
    async with open_ledger(tmp_path, CLOCK) as ledger:
        pass
    assert not ledger.healthy
    with pytest.raises(LedgerError, match="closed"):
        await ledger.append(record_pair("late")[0])


async def test_an_error_of_the_body_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        async with open_ledger(tmp_path, CLOCK):
            raise KeyError("the body's own")


# --- one writer ---


async def test_a_second_writer_is_told_who_holds_the_folder_and_what_to_do(tmp_path: Path) -> None:
    async with open_ledger(tmp_path, CLOCK):
        with pytest.raises(UsageError) as caught:
            async with open_ledger(tmp_path, CLOCK):
                pass
        message = str(caught.value)
        assert str(tmp_path) in message
        assert f"process {os.getpid()}" in message
        assert "--state" in message
    await write(tmp_path, "c-1")


async def test_a_folder_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--state"):
        async with open_ledger(tmp_path / "file" / "state", CLOCK):
            pass


@pytest.mark.parametrize("key", ["", "zz", "00" * 16])
async def test_a_damaged_key_is_a_usage_error(tmp_path: Path, key: str) -> None:
    await write(tmp_path, "c-1")
    (tmp_path / "audit.key").write_text(key)
    with pytest.raises(UsageError, match=r"audit\.key"):
        await write(tmp_path, "c-2")


# --- restart ---


async def test_the_chain_goes_on_after_a_restart(tmp_path: Path) -> None:
    for number in range(3):
        await write(tmp_path, f"c-{number}")
    assert [record["seq"] for record in records_of(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert len({record["boot_id"] for record in records_of(tmp_path)}) == 3
    assert verify(tmp_path).ok
    assert len(list((tmp_path / "audit").glob("*.jsonl"))) == 1


async def test_the_chain_goes_on_from_file_to_file(tmp_path: Path) -> None:
    for round_ in range(3):
        await write(tmp_path, *(f"c-{round_}-{number}" for number in range(20)), max_file=5000)
    report = verify(tmp_path)
    assert report.ok
    assert report.files > 5
    assert report.records == 120


async def test_decisions_left_open_are_closed_as_unknown(tmp_path: Path) -> None:
    await write(tmp_path, "open-1", "open-2", finish=False, max_file=100)
    await write(tmp_path, *(f"done-{number}" for number in range(10)), max_file=100)
    closed = [record for record in records_of(tmp_path) if is_unknown(record)]
    assert [record["call_id"] for record in closed] == ["open-1", "open-2"]
    assert all(record["event"] == "outcome" and record["session"] == "s-1" for record in closed)
    report = verify(tmp_path)
    assert (report.ok, report.open_calls) == (True, 0)


async def test_an_open_decision_many_files_back_is_found(tmp_path: Path) -> None:
    async with open_ledger(tmp_path, CLOCK, max_file=2000) as ledger:
        await ledger.append(record_pair("open")[0])
        for number in range(30):
            for body in record_pair(f"c-{number}"):
                await ledger.append(body)
    assert len(list((tmp_path / "audit").glob("*.jsonl"))) > 5
    await write(tmp_path)
    assert records_of(tmp_path)[-1]["call_id"] == "open"
    assert verify(tmp_path).open_calls == 0


@pytest.mark.parametrize("tail", [b'{"seq":', b"\0" * 300, b"garbage\n", b'{"seq":1}\n{"half', b"\xff\n"])
async def test_a_torn_tail_is_cut(tmp_path: Path, tail: bytes) -> None:
    leave_dead(tmp_path)
    last = sorted((tmp_path / "audit").glob("*.jsonl"))[-1]
    with last.open("ab") as stream:
        stream.write(tail)
    before = verify(tmp_path)
    assert before.ok
    assert [note.code for note in before.notes]
    await write(tmp_path, "next")
    report = verify(tmp_path)
    assert report.ok
    assert not report.notes
    assert report.records >= before.records + 2


async def test_an_empty_new_file_of_a_killed_writer_is_used(tmp_path: Path) -> None:
    leave_dead(tmp_path)
    last = sorted((tmp_path / "audit").glob("*.jsonl"))[-1]
    last.with_stem(f"{int(last.stem) + 1:08d}").touch()
    await write(tmp_path, "next")
    assert verify(tmp_path).ok


@pytest.mark.parametrize("damage", ["cut", "changed", "no checkpoint", "old checkpoint hmac", "removed"])
async def test_a_ledger_that_was_tampered_with_is_not_written_on(tmp_path: Path, damage: str) -> None:
    leave_dead(tmp_path)
    await write(tmp_path, "c-1", max_file=100)
    audit = tmp_path / "audit"
    last = sorted(audit.glob("*.jsonl"))[-1]
    match damage:
        case "cut":
            last.write_bytes(b"")
        case "changed":
            last.write_bytes(last.read_bytes().replace(b"git_log", b"git_add") + b" ")
        case "no checkpoint":
            (audit / "checkpoint").unlink()
        case "old checkpoint hmac":
            text = (audit / "checkpoint").read_text()
            (audit / "checkpoint").write_text(text.replace('"clean":true', '"clean":false'))
        case _:
            last.unlink()
    with pytest.raises(UsageError) as caught:
        await write(tmp_path, "c-2")
    assert str(audit) in str(caught.value)
    assert "audit verify" in str(caught.value)
    assert not verify(tmp_path).ok


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: int
) -> None:
    async with open_ledger(tmp_path, CLOCK) as ledger:
        for body in record_pair("before"):
            await ledger.append(body)
        disk = BrokenDisk(monkeypatch, call, error)
        disk.failing = True
        for _ in range(3):
            with pytest.raises(LedgerError, match="cannot be written"):
                await ledger.append(record_pair("refused")[0])
            assert not ledger.healthy
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
    await write(tmp_path, "next")
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
    await write(tmp_path, "next")
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


# --- a killed writer ---


def test_every_acknowledged_record_survives_ten_kills_under_load(tmp_path: Path) -> None:
    acknowledged: list[tuple[str, str]] = []
    for round_ in range(10):
        writer = [sys.executable, "-m", "tests.support.ledger_writer", "load", str(tmp_path), f"r{round_}"]
        with subprocess.Popen(writer, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(37 + 31 * round_)]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        assert len(lines) >= 37
        acknowledged += [(event, call_id) for event, call_id in map(str.split, lines)]
        report = verify(tmp_path)
        assert report.ok, report.problems
    written = [(record["event"], record["call_id"]) for record in records_of(tmp_path)]
    assert set(acknowledged) <= set(written)
    assert len(written) == len(set(written)), "one decision and one outcome per call"
    unknown = sum(is_unknown(record) for record in records_of(tmp_path))
    assert unknown >= 9
    assert verify(tmp_path).files > 1


# --- the fakes ---


async def test_the_memory_ledger_keeps_records_and_refuses_when_told() -> None:
    ledger = MemoryLedger()
    await ledger.append({"event": "decision"})
    ledger.healthy = False
    with pytest.raises(LedgerError):
        await ledger.append({"event": "outcome"})
    assert ledger.records == [{"event": "decision"}]


def test_the_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(100.0)
    clock.advance(5)
    clock.set_wall(50)
    assert (clock.now(), clock.monotonic()) == (50.0, 5.0)
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1)


def test_the_system_clock_tells_the_time() -> None:
    clock = SystemClock()
    first = clock.monotonic()
    assert clock.now() > 1_700_000_000
    assert clock.monotonic() >= first
