"""Reading a ledger: what was tampered with is named by file and line, what was not verifies."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.core.json_types import JsonObject
from gateway.errors import LedgerError, UsageError
from gateway.runtime.audit import MAX_PROBLEMS, query, verify
from gateway.runtime.clock import SystemClock
from gateway.runtime.ledger import open_ledger
from tests.support.ledgers import record_pair


async def ledger(state: Path, calls: int = 12, max_file: int = 4000) -> list[Path]:
    """Write a ledger of several files and return them."""
    async with open_ledger(state, SystemClock(), max_file=max_file) as opened:
        for number in range(calls):
            for body in record_pair(f"c-{number}", opened.key):
                await opened.append(body)
    return sorted((state / "audit").glob("*.jsonl"))


def edit(file: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True))))


async def test_an_untouched_ledger_verifies_from_either_folder(tmp_path: Path) -> None:
    files = await ledger(tmp_path)
    for folder in (tmp_path, tmp_path / "audit"):
        report = verify(folder)
        assert (report.ok, report.records, report.files) == (True, 24, len(files))
        assert (report.decisions, report.outcomes, report.open_calls) == (12, 12, 0)
        assert report.problems == report.notes == ()


async def test_a_ledger_verifies_while_it_is_written(tmp_path: Path) -> None:
    async with open_ledger(tmp_path, SystemClock()) as opened:
        await opened.append(record_pair("c-1")[0])
        report = verify(tmp_path)
        assert (report.ok, report.records, report.open_calls) == (True, 1, 1)


async def test_a_copy_without_the_key_verifies_and_says_what_was_not_checked(tmp_path: Path) -> None:
    await ledger(tmp_path)
    shutil.copytree(tmp_path / "audit", tmp_path / "copy" / "audit")
    report = verify(tmp_path / "copy")
    assert report.ok
    assert [note.code for note in report.notes] == ["no_key"]


def changed_byte(files: list[Path]) -> tuple[Path, int, str]:
    edit(files[1], lambda lines: [lines[0], lines[1].replace(b"alice", b"alicf"), *lines[2:]])
    return files[1], 2, "changed"


def changed_space(files: list[Path]) -> tuple[Path, int, str]:
    edit(files[1], lambda lines: [lines[0].replace(b":", b": ", 1), *lines[1:]])
    return files[1], 1, "changed"


def changed_hash(files: list[Path]) -> tuple[Path, int, str]:
    edit(files[0], lambda lines: [lines[0].replace(b'"hash":"', b'"hash":"0')[:-4] + b'"}\n', *lines[1:]])
    return files[0], 1, "changed"


def changed_in_last_line(files: list[Path]) -> tuple[Path, int, str]:
    count = len(files[-1].read_bytes().splitlines())
    edit(files[-1], lambda lines: [*lines[:-1], lines[-1].replace(b"alice", b"mally")])
    return files[-1], count, "changed"


def removed_line(files: list[Path]) -> tuple[Path, int, str]:
    edit(files[1], lambda lines: [lines[0], *lines[2:]])
    return files[1], 2, "order"


def removed_first_line(files: list[Path]) -> tuple[Path, int, str]:
    edit(files[0], lambda lines: lines[1:])
    return files[0], 1, "order"


def repeated_line(files: list[Path]) -> tuple[Path, int, str]:
    edit(files[1], lambda lines: [lines[0], lines[0], *lines[1:]])
    return files[1], 2, "order"


def swapped_lines(files: list[Path]) -> tuple[Path, int, str]:
    edit(files[1], lambda lines: [lines[1], lines[0], *lines[2:]])
    return files[1], 1, "order"


def swapped_files(files: list[Path]) -> tuple[Path, int, str]:
    first, second = files[0].read_bytes(), files[1].read_bytes()
    files[0].write_bytes(second)
    files[1].write_bytes(first)
    return files[0], 1, "order"


def cut_tail(files: list[Path]) -> tuple[Path, int, str]:
    count = len(files[-1].read_bytes().splitlines())
    edit(files[-1], lambda lines: lines[:-1])
    return (files[-1], count - 1, "cut") if count > 1 else (files[-2], _lines(files[-2]), "cut")


def torn_in_the_middle(files: list[Path]) -> tuple[Path, int, str]:
    files[0].write_bytes(files[0].read_bytes()[:-20])
    return files[0], _lines(files[0]), "torn"


def torn_acknowledged_tail(files: list[Path]) -> tuple[Path, int, str]:
    files[-1].write_bytes(files[-1].read_bytes()[:-20])
    return files[-1], _lines(files[-1]), "torn"


def removed_first_file(files: list[Path]) -> tuple[Path, int, str]:
    files[0].unlink()
    return files[1], 1, "order"


def removed_middle_file(files: list[Path]) -> tuple[Path, int, str]:
    files[2].unlink()
    return files[3], 1, "order"


def removed_last_file(files: list[Path]) -> tuple[Path, int, str]:
    files[-1].unlink()
    return files[-2], _lines(files[-2]), "cut"


def not_a_record(files: list[Path]) -> tuple[Path, int, str]:
    edit(files[0], lambda lines: [lines[0], b"what is this\n", *lines[2:]])
    return files[0], 2, "not_json"


def duplicate_key(files: list[Path]) -> tuple[Path, int, str]:
    edit(files[0], lambda lines: [b'{"tool":"other",' + lines[0][1:], *lines[1:]])
    return files[0], 1, "not_json"


def forged_line(files: list[Path]) -> tuple[Path, int, str]:
    """One line changed and its own hash computed anew: the next line no longer follows."""
    edit(files[0], lambda lines: [forged(lines[0], "0" * 64)[0], *lines[1:]])
    return files[0], 2, "chain"


def forged_chain(files: list[Path]) -> tuple[Path, int, str]:
    """All hashes computed anew after a change, by somebody who does not have the key."""
    prev = "0" * 64
    for file in files:
        lines: list[bytes] = []
        for line in file.read_bytes().splitlines():
            written, prev = forged(line, prev)
            lines.append(written)
        file.write_bytes(b"".join(lines))
    return files[-1], _lines(files[-1]), "rewritten"


def forged(line: bytes, prev: str) -> tuple[bytes, str]:
    record = json.loads(line.replace(b"alice", b"mally"))
    del record["hash"], record["prev"]
    rest = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256((prev + rest).encode()).hexdigest()
    written = json.dumps({**record, "prev": prev, "hash": digest}, separators=(",", ":"))
    return written.encode() + b"\n", digest


def _lines(file: Path) -> int:
    return len(file.read_bytes().splitlines())


TAMPERING = [
    changed_byte,
    changed_space,
    changed_hash,
    changed_in_last_line,
    removed_line,
    removed_first_line,
    repeated_line,
    swapped_lines,
    swapped_files,
    cut_tail,
    torn_in_the_middle,
    torn_acknowledged_tail,
    removed_first_file,
    removed_middle_file,
    removed_last_file,
    not_a_record,
    duplicate_key,
    forged_line,
    forged_chain,
]


@pytest.mark.parametrize("tamper", TAMPERING)
async def test_tampering_is_reported_with_file_and_line(
    tmp_path: Path, tamper: Callable[[list[Path]], tuple[Path, int, str]]
) -> None:
    file, line, code = tamper(await ledger(tmp_path))
    report = verify(tmp_path)
    assert not report.ok
    first = report.problems[0]
    assert (first.file, first.line, first.code) == (str(file), line, code), report.problems
    assert str(first).startswith(f"{file}:{line}:")


@pytest.mark.parametrize("name", ["00000001.jsonl", "00000003.jsonl"])
async def test_no_single_byte_can_change_unseen(tmp_path: Path, name: str) -> None:
    await ledger(tmp_path)
    file = tmp_path / "audit" / name
    data = file.read_bytes()
    for offset in range(0, len(data), 61):
        file.write_bytes(data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :])
        assert not verify(tmp_path).ok, f"byte {offset}"


async def test_one_broken_line_is_one_problem(tmp_path: Path) -> None:
    files = await ledger(tmp_path)
    changed_byte(files)
    report = verify(tmp_path)
    assert len(report.problems) == 1
    assert report.records == 23


async def test_a_wholly_foreign_file_does_not_flood_the_report(tmp_path: Path) -> None:
    files = await ledger(tmp_path)
    files[0].write_text("junk\n" * 10_000)
    assert len(verify(tmp_path).problems) == MAX_PROBLEMS


@pytest.mark.parametrize("damage", ["gone", "garbage", "changed", "empty"])
async def test_the_checkpoint_itself_is_checked(tmp_path: Path, damage: str) -> None:
    await ledger(tmp_path)
    checkpoint = tmp_path / "audit" / "checkpoint"
    match damage:
        case "gone":
            checkpoint.unlink()
        case "garbage":
            checkpoint.write_bytes(b"\0" * 512)
        case "changed":
            checkpoint.write_text(checkpoint.read_text().replace('"seq":24', '"seq":20'))
        case _:
            checkpoint.write_bytes(b"")
    report = verify(tmp_path)
    assert [problem.code for problem in report.problems] == ["checkpoint"]
    assert str(report.problems[0]).startswith(str(checkpoint))


def test_a_folder_without_a_ledger_is_a_usage_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(UsageError, match=str(folder)):
            verify(folder)
        with pytest.raises(UsageError, match=str(folder)):
            list(query(folder))


async def test_query_filters_by_session_tool_and_effect(tmp_path: Path) -> None:
    await ledger(tmp_path, calls=3)
    async with open_ledger(tmp_path, SystemClock()) as opened:
        decision, outcome = record_pair("other")
        denied: JsonObject = {"effect": "deny", "code": "no_match"}
        await opened.append({**decision, "session": "s-2", "tool": "git_add", "decision": denied})
        await opened.append({**outcome, "session": "s-2", "tool": "git_add"})
    assert len(list(query(tmp_path))) == 8
    assert len(list(query(tmp_path, session="s-1"))) == 6
    assert len(list(query(tmp_path, tool="git_add"))) == 2
    assert [record["call_id"] for record in query(tmp_path / "audit", effect="deny")] == ["other"]
    assert [record["call_id"] for record in query(tmp_path, session="s-1", effect="deny")] == []


async def test_query_leaves_an_unfinished_line_out_and_names_one_that_is_no_record(tmp_path: Path) -> None:
    files = await ledger(tmp_path, calls=3)
    with files[-1].open("ab") as stream:
        stream.write(b'{"seq":7')
    assert len(list(query(tmp_path))) == 6
    not_a_record(files)
    with pytest.raises(LedgerError, match=rf"{files[0]}:2: "):
        list(query(tmp_path))
