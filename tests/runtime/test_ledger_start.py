"""What a ledger does with the files it finds: goes on, cuts, closes what is open, or refuses."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.errors import UsageError
from gateway.runtime.audit import verify
from gateway.runtime.clock import SystemClock
from gateway.runtime.ledger import open_ledger
from tests.support.ledgers import is_unknown, record_pair, records_of, write_ledger

CLOCK = SystemClock()


def leave_dead(state: Path) -> None:
    """Make the folder look as if its writer had been killed: no clean end in the checkpoint."""
    writer = [sys.executable, "-m", "tests.support.ledger_writer", "load", str(state), "dead"]
    with subprocess.Popen(writer, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(30):
            process.stdout.readline()
        process.kill()


# --- restart ---


async def test_the_chain_goes_on_after_a_restart(tmp_path: Path) -> None:
    for number in range(3):
        await write_ledger(tmp_path, f"c-{number}")
    assert [record["seq"] for record in records_of(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert len({record["boot_id"] for record in records_of(tmp_path)}) == 3
    assert verify(tmp_path).ok
    assert len(list((tmp_path / "audit").glob("*.jsonl"))) == 1


async def test_the_chain_goes_on_from_file_to_file(tmp_path: Path) -> None:
    for round_ in range(3):
        await write_ledger(tmp_path, *(f"c-{round_}-{number}" for number in range(20)), max_file=5000)
    report = verify(tmp_path)
    assert report.ok
    assert report.files > 5
    assert report.records == 120


async def test_decisions_left_open_are_closed_as_unknown(tmp_path: Path) -> None:
    await write_ledger(tmp_path, "open-1", "open-2", finish=False, max_file=100)
    await write_ledger(tmp_path, *(f"done-{number}" for number in range(10)), max_file=100)
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
    await write_ledger(tmp_path)
    assert records_of(tmp_path)[-1]["call_id"] == "open"
    assert verify(tmp_path).open_calls == 0


async def test_a_call_that_was_decided_twice_is_open_since_its_first_decision(tmp_path: Path) -> None:
    async with open_ledger(tmp_path, CLOCK, max_file=2000) as ledger:
        await ledger.append(record_pair("asks")[0])
        await ledger.append(record_pair("open")[0])
        for number in range(30):
            for body in record_pair(f"c-{number}"):
                await ledger.append(body)
        await ledger.append(record_pair("asks")[0])
    await write_ledger(tmp_path)
    closed = [record["call_id"] for record in records_of(tmp_path) if is_unknown(record)]
    assert (closed, verify(tmp_path).open_calls) == (["asks", "open"], 0)


@pytest.mark.parametrize("tail", [b'{"seq":', b"\0" * 300, b"garbage\n", b'{"seq":1}\n{"half', b"\xff\n"])
async def test_a_torn_tail_is_cut(tmp_path: Path, tail: bytes) -> None:
    leave_dead(tmp_path)
    last = sorted((tmp_path / "audit").glob("*.jsonl"))[-1]
    with last.open("ab") as stream:
        stream.write(tail)
    before = verify(tmp_path)
    assert before.ok
    assert [note.code for note in before.notes]
    await write_ledger(tmp_path, "next")
    report = verify(tmp_path)
    assert report.ok
    assert not report.notes
    assert report.records >= before.records + 2


async def test_an_empty_new_file_of_a_killed_writer_is_used(tmp_path: Path) -> None:
    leave_dead(tmp_path)
    last = sorted((tmp_path / "audit").glob("*.jsonl"))[-1]
    last.with_stem(f"{int(last.stem) + 1:08d}").touch()
    await write_ledger(tmp_path, "next")
    assert verify(tmp_path).ok


@pytest.mark.parametrize("damage", ["cut", "changed", "no checkpoint", "old checkpoint hmac", "removed"])
async def test_a_ledger_that_was_tampered_with_is_not_written_on(tmp_path: Path, damage: str) -> None:
    leave_dead(tmp_path)
    await write_ledger(tmp_path, "c-1", max_file=100)
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
    evidence = {file: file.read_bytes() for file in audit.glob("*.jsonl")}
    with pytest.raises(UsageError) as caught:
        await write_ledger(tmp_path, "c-2")
    assert str(audit) in str(caught.value)
    assert "audit verify" in str(caught.value)
    assert not verify(tmp_path).ok
    assert {file: file.read_bytes() for file in audit.glob("*.jsonl")} == evidence


async def test_a_change_before_the_torn_tail_is_not_cut_away(tmp_path: Path) -> None:
    await write_ledger(tmp_path, "open", finish=False, max_file=2000)
    async with open_ledger(tmp_path, CLOCK, max_file=2000) as ledger:
        await ledger.append(record_pair("open")[0])
        for number in range(10):
            for body in record_pair(f"c-{number}"):
                await ledger.append(body)
    files = sorted((tmp_path / "audit").glob("*.jsonl"))
    files[2].write_bytes(files[2].read_bytes().replace(b"alice", b"mally", 1))
    evidence = [file.read_bytes() for file in files]
    with pytest.raises(UsageError, match=f"{files[2]}:1: "):
        await write_ledger(tmp_path)
    assert [file.read_bytes() for file in files] == evidence


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
    decided, ended = (
        {call_id for event, call_id in written if event == what} for what in ("decision", "outcome")
    )
    assert {call_id for call_id in decided - ended if not call_id.startswith("r9-")} == set()
    assert verify(tmp_path).files > 1
