"""The program that answers file checks: run for real, by itself, over hostile workspaces."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

RUNNER = Path(__file__).parents[2] / "gateway" / "runtime" / "check_runner.py"


def run(root: Path, *checks: dict[str, Any]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-I", str(RUNNER), str(root)],
        input=json.dumps({"checks": checks}) + "\n",
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    return json.loads(done.stdout)["results"]


def holds(root: Path, kind: str, **check: Any) -> bool:
    return run(root, {"kind": kind, **check})[0]["holds"]


def detail(root: Path, kind: str, **check: Any) -> str:
    return run(root, {"kind": kind, **check})[0]["detail"]


def test_file_checks(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "a.txt").write_text("teh text\n", encoding="utf-8")
    checks: list[tuple[dict[str, Any], bool]] = [
        ({"kind": "file_exists", "path": "a.txt"}, True),
        ({"kind": "file_exists", "path": "docs"}, True),
        ({"kind": "file_exists", "path": "b.txt"}, False),
        ({"kind": "file_equals", "path": "a.txt", "text": "teh text\n"}, True),
        ({"kind": "file_equals", "path": "a.txt", "text": "teh text"}, False),
        ({"kind": "file_equals", "path": "b.txt", "text": ""}, False),
        ({"kind": "file_contains", "path": "a.txt", "text": "teh"}, True),
        ({"kind": "file_contains", "path": "a.txt", "text": "the"}, False),
        ({"kind": "file_contains", "path": "docs", "text": "the"}, False),
        ({"kind": "file_not_contains", "path": "a.txt", "text": "the"}, True),
        ({"kind": "file_not_contains", "path": "a.txt", "text": "teh"}, False),
        ({"kind": "file_not_contains", "path": "b.txt", "text": "teh"}, False),
    ]
    results = run(tmp_path, *(check for check, _ in checks))
    assert [result["holds"] for result in results] == [expected for _, expected in checks]


@pytest.mark.parametrize(
    ("query", "equals", "expected"),
    [
        ("$", {"a": {"b": [1, {"c d": True}]}, "n": None}, True),
        ("a.b[0]", 1, True),
        ("$.a.b[0]", 1.0, True),
        ("a.b[-1]['c d']", True, True),
        ('a.b[1]["c d"]', 1, False),
        ("n", None, True),
        ("n", False, False),
        ("a.b[7]", None, False),
        ("a.x", None, False),
        ("a[0]", 1, False),
        ("a.b.c", 1, False),
    ],
)
def test_json_path(tmp_path: Path, query: str, equals: Any, expected: bool) -> None:
    (tmp_path / "a.json").write_text('{"a": {"b": [1, {"c d": true}]}, "n": null}', encoding="utf-8")
    assert holds(tmp_path, "json_path", path="a.json", query=query, equals=equals) is expected


@pytest.mark.parametrize("content", ["", "{", "[" * 200_000, "\x00"])
def test_json_that_is_none_only_fails_its_check(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    assert detail(tmp_path, "json_path", path="a.json", query="$", equals=1) == "not JSON"


def make_database(path: Path, *, wal: bool = False) -> sqlite3.Connection:
    database = sqlite3.connect(path)
    if wal:
        database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE t (id INTEGER, name TEXT)")
    database.executemany("INSERT INTO t VALUES (?, ?)", [(1, "a"), (2, None)])
    database.commit()
    return database


def test_sqlite_rows(tmp_path: Path) -> None:
    make_database(tmp_path / "a.db").close()
    query = "SELECT id, name FROM t ORDER BY id"
    assert holds(tmp_path, "sqlite_query", path="a.db", sql=query, equals=[[1, "a"], [2, None]])
    assert not holds(tmp_path, "sqlite_query", path="a.db", sql=query, equals=[[1, "a"]])
    assert "no such table" in detail(tmp_path, "sqlite_query", path="a.db", sql="SELECT 1 FROM x", equals=[])


def test_sqlite_rows_that_still_stand_in_the_write_ahead_log_are_seen(tmp_path: Path) -> None:
    with closing(make_database(tmp_path / "a.db", wal=True)):  # still open: nothing was checkpointed
        assert (tmp_path / "a.db-wal").stat().st_size > 0
        assert holds(tmp_path, "sqlite_query", path="a.db", sql="SELECT count(*) FROM t", equals=[[2]])


def test_a_check_changes_no_byte_of_the_workspace(tmp_path: Path) -> None:
    make_database(tmp_path / "a.db").close()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    holds(tmp_path, "sqlite_query", path="a.db", sql="DELETE FROM t", equals=[])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_endless_query_is_stopped(tmp_path: Path) -> None:
    make_database(tmp_path / "a.db").close()
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
    assert "interrupted" in detail(tmp_path, "sqlite_query", path="a.db", sql=endless, equals=[])


def test_a_file_that_is_no_database_only_fails_its_check(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"not a database at all" * 100)
    said = detail(tmp_path, "sqlite_query", path="a.db", sql="SELECT 1 FROM t", equals=[[1]])
    assert said.startswith("SQLite:")


def test_links_are_followed_inside_the_workspace_and_never_out_of_it(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside.txt"
    root.mkdir()
    outside.write_text("secret", encoding="utf-8")
    (root / "real.txt").write_text("fine", encoding="utf-8")
    (root / "inner").symlink_to("real.txt")
    (root / "outer").symlink_to(outside)
    (root / "up").symlink_to("..")
    (root / "loop").symlink_to("loop")
    assert holds(root, "file_contains", path="inner", text="fine")
    for path in ("outer", "up/outside.txt"):
        assert detail(root, "file_contains", path=path, text="secret") == "a link leads out of the workspace"
    assert not holds(root, "file_exists", path="outer")
    assert not holds(root, "file_contains", path="loop", text="x")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert detail(tmp_path, "file_contains", path="pipe", text="x") == "not a regular file"


def test_a_huge_file_fails_its_check_instead_of_being_read(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)
    assert detail(tmp_path, "file_contains", path="huge", text="x").startswith("larger than")


def test_nothing_the_workspace_holds_is_imported(tmp_path: Path) -> None:
    for name in ("json", "sqlite3", "sitecustomize", "usercustomize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    assert holds(tmp_path, "file_exists", path="json.py")
