"""The ledger on a real disk: durable before `append` returns, whole after any crash, closed when in doubt."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from gateway.core.json_types import JsonObject
from gateway.errors import LedgerError, UsageError
from gateway.runtime.audit import verify
from gateway.runtime.clock import SystemClock
from gateway.runtime.ledger import GROUP_RECORDS, FileLedger, open_ledger
from gateway.testing import ManualClock, MemoryLedger
from tests.support.ledgers import record_pair, records_of, write_ledger

CLOCK = SystemClock()


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


async def test_without_syncs_a_record_is_in_the_file_all_the_same(
    tmp_path: Path, count_syncs: list[int]
) -> None:
    async with open_ledger(tmp_path, CLOCK, synced=False) as ledger:
        await ledger.append(record_pair("c-1")[0])
        assert [record["call_id"] for record in records_of(tmp_path)] == ["c-1"]
    assert count_syncs == []
    assert verify(tmp_path).ok


async def test_without_syncs_a_lone_call_is_written_where_it_stands_and_many_share_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []
    real = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        writes.append(len(data))
        return real(fd, data, offset)

    async with open_ledger(tmp_path, CLOCK, synced=False) as ledger:
        monkeypatch.setattr(os, "pwrite", pwrite)
        decision, outcome = record_pair("alone")
        assert ledger.begin(decision).done
        assert ledger.begin(outcome).done
        assert len(writes) == 2
        await ledger.append(record_pair("first")[0])
        await ledger.append(record_pair("second")[0])
        writes.clear()
        waiting = [ledger.begin(record_pair(f"c-{number}")[0]) for number in range(5)]
        assert not any(promise.done for promise in waiting)
        for promise in waiting:
            await promise
        assert len(writes) == 1
    assert len(records_of(tmp_path)) == 9
    assert verify(tmp_path).ok


async def test_files_and_folders_are_the_owners_alone(tmp_path: Path) -> None:
    state = tmp_path / "new" / "state"
    await write_ledger(state, "c-1")
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


async def test_a_record_that_arrives_during_a_sync_waits_for_the_next(
    tmp_path: Path, slow_sync: SlowSync
) -> None:
    async with open_ledger(tmp_path, CLOCK) as ledger, anyio.create_task_group() as tasks:
        tasks.start_soon(ledger.append, record_pair("first")[0])
        await slow_sync.reached()
        for number in range(3):
            tasks.start_soon(ledger.append, record_pair(f"later-{number}")[0])
        await anyio.wait_all_tasks_blocked()
        slow_sync.release.set()
    assert [record["call_id"] for record in records_of(tmp_path)] == [
        "first",
        "later-0",
        "later-1",
        "later-2",
    ]
    assert slow_sync.count == 2


async def test_a_caller_cancelled_during_its_sync_does_not_take_others_down(
    tmp_path: Path, slow_sync: SlowSync
) -> None:
    written: list[str] = []

    async def append(ledger: FileLedger, name: str, scope: anyio.CancelScope) -> None:
        with scope:
            await ledger.append(record_pair(name)[0])
            written.append(name)

    async with open_ledger(tmp_path, CLOCK) as ledger, anyio.create_task_group() as tasks:
        leader = anyio.CancelScope()
        tasks.start_soon(append, ledger, "leader", leader)
        tasks.start_soon(append, ledger, "follower", anyio.CancelScope())
        await slow_sync.reached()
        leader.cancel()
        await anyio.wait_all_tasks_blocked()
        slow_sync.release.set()
    assert "follower" in written
    assert [record["call_id"] for record in records_of(tmp_path)] == ["leader", "follower"]
    assert verify(tmp_path).ok


async def test_a_caller_cancelled_before_its_turn_does_not_take_others_down(
    tmp_path: Path, slow_sync: SlowSync
) -> None:
    async def append(ledger: FileLedger, name: str, scope: anyio.CancelScope) -> None:
        with scope:
            await ledger.append(record_pair(name)[0])

    async with open_ledger(tmp_path, CLOCK) as ledger, anyio.create_task_group() as tasks:
        tasks.start_soon(ledger.append, record_pair("first")[0])
        await slow_sync.reached()
        leader = anyio.CancelScope()
        tasks.start_soon(append, ledger, "leader", leader)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(ledger.append, record_pair("follower")[0])
        leader.cancel()
        await anyio.wait_all_tasks_blocked()
        slow_sync.release.set()
    assert records_of(tmp_path)[-1]["call_id"] == "follower"


async def test_a_disk_that_does_not_answer_is_given_up(
    tmp_path: Path, slow_sync: SlowSync, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.runtime.ledger.DISK_SECONDS", 0.05)
    async with open_ledger(tmp_path, CLOCK) as ledger:
        for _ in range(2):
            with pytest.raises(LedgerError, match="restart the gateway"):
                await ledger.append(record_pair("hung")[0])
        assert not ledger.healthy
    assert slow_sync.count == 1
    slow_sync.release.set()


async def test_the_loop_waits_for_a_quick_disk_where_a_call_is_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count_syncs: list[int]
) -> None:
    monkeypatch.setattr("gateway.runtime.ledger.BRIEFLY", 5.0)
    async with open_ledger(tmp_path, CLOCK) as ledger:
        for record in record_pair("alone"):
            assert ledger.begin(record).done
        assert len(count_syncs) == 2
        await ledger.append(record_pair("first")[0])
        await ledger.append(record_pair("second")[0])
        third = ledger.begin(record_pair("third")[0])
        assert not third.done  # two calls are in flight: others may join it
        await third
    assert verify(tmp_path).ok


async def test_a_slow_disk_keeps_the_loop_from_nothing(tmp_path: Path, slow_sync: SlowSync) -> None:
    async with open_ledger(tmp_path, CLOCK) as ledger:
        decision, outcome = record_pair("alone")
        first = ledger.begin(decision)
        assert not first.done
        second = ledger.begin(outcome)
        await anyio.wait_all_tasks_blocked()
        assert not first.done
        slow_sync.release.set()
        await first
        await second
        assert slow_sync.count == 2
    assert [record["event"] for record in records_of(tmp_path)] == ["decision", "outcome"]
    assert verify(tmp_path).ok


async def test_a_disk_that_is_just_too_slow_loses_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The loop stops waiting in the very moment when the thread is done, again and again.
    monkeypatch.setattr("gateway.runtime.ledger.BRIEFLY", 0.0002)
    async with open_ledger(tmp_path, CLOCK) as ledger:
        for number in range(300):
            monkeypatch.setattr(ledger, "_quick", 1_000)
            with anyio.fail_after(10):
                await ledger.append(record_pair(f"c-{number}")[number % 2])
    assert len(records_of(tmp_path)) == 300
    assert verify(tmp_path).ok


class SlowSync:
    """Real fdatasyncs that wait to be released."""

    def __init__(self) -> None:
        self.count = 0
        self.begun = threading.Event()
        self.release = threading.Event()

    async def reached(self) -> None:
        """Wait until a sync is under way."""
        await anyio.to_thread.run_sync(self.begun.wait, 5)


@pytest.fixture
def slow_sync(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowSync]:
    slow = SlowSync()
    real = os.fdatasync

    def sync(fd: int) -> None:
        slow.count += 1
        slow.begun.set()
        slow.release.wait(5)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", sync)
    yield slow
    slow.release.set()


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
    await write_ledger(tmp_path, "c-1")


async def test_a_folder_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--state"):
        async with open_ledger(tmp_path / "file" / "state", CLOCK):
            pass


@pytest.mark.parametrize("key", ["", "zz", "00" * 16])
async def test_a_damaged_key_is_a_usage_error(tmp_path: Path, key: str) -> None:
    await write_ledger(tmp_path, "c-1")
    (tmp_path / "audit.key").write_text(key)
    with pytest.raises(UsageError, match=r"audit\.key"):
        await write_ledger(tmp_path, "c-2")


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
