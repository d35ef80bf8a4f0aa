"""Runs inside a sandbox: answers file checks over a workspace. The gateway mounts it and never imports it.

Standard library only, and one file, because it runs by itself: `python -I check_runner.py ROOT`. It
reads one line of JSON from stdin, `{"checks": [...]}`, and writes one line of JSON to stdout,
`{"results": [{"holds": bool, "detail": str}]}`, in the same order. It reads what an agent left behind
and believes none of it: no file of the workspace is executed, imported or followed out of ROOT.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import stat
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

MAX_FILE = 64 * 2**20
"""Most bytes of one file that are read; a larger file fails its check."""
MAX_SQL_INSTRUCTIONS = 100_000_000
"""Most SQLite instructions one query may take."""
MAX_ROWS = 10_000

_Check = Mapping[str, Any]


class _Fails(Exception):
    """The check does not hold; the text says why."""


def _inside(root: Path, relative: str) -> Path:
    """Return the real path of a workspace path; links are followed, but never out of `root`."""
    real_root = root.resolve()
    try:
        path = (real_root / relative).resolve()
    except (OSError, RuntimeError):  # a loop of links
        raise _Fails("a link that leads nowhere") from None
    if not path.is_relative_to(real_root):
        raise _Fails("a link leads out of the workspace")
    return path


def _read_bytes(root: Path, relative: str) -> bytes:
    """Return a regular file's bytes; a pipe is never waited for."""
    try:
        descriptor = os.open(_inside(root, relative), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _Fails(os.strerror(error.errno or 0)) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _Fails("not a regular file")
        if status.st_size > MAX_FILE:
            raise _Fails(f"larger than {MAX_FILE} bytes")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_FILE)
    finally:
        os.close(descriptor)


def _read_text(root: Path, relative: str) -> str:
    return _read_bytes(root, relative).decode("utf-8", "replace")


def _file_exists(root: Path, check: _Check) -> None:
    if not _inside(root, check["path"]).exists():
        raise _Fails("no such file")


def _file_equals(root: Path, check: _Check) -> None:
    if _read_bytes(root, check["path"]) != check["text"].encode():
        raise _Fails("other content")


def _file_contains(root: Path, check: _Check) -> None:
    if check["text"] not in _read_text(root, check["path"]):
        raise _Fails("the text is not in it")


def _file_not_contains(root: Path, check: _Check) -> None:
    if check["text"] in _read_text(root, check["path"]):
        raise _Fails("the text is in it")


# -- JSON -----------------------------------------------------------------------------------------


def _json_path(root: Path, check: _Check) -> None:
    try:
        document = json.loads(_read_bytes(root, check["path"]))
    except (ValueError, RecursionError):
        raise _Fails("not JSON") from None
    if not _same(_look_up(document, check["query"]), check["equals"]):
        raise _Fails("another value")


_STEP = re.compile(r"""\.?([A-Za-z_][A-Za-z0-9_-]*)|\[(-?[0-9]+)\]|\[(?:"([^"]*)"|'([^']*)')\]""")


def _look_up(value: Any, query: str) -> Any:
    """Return the value at `a.b[0]["c d"]`; `$` alone, or in front, is the whole document."""
    at = 1 if query.startswith("$") else 0
    while at < len(query):
        step = _STEP.match(query, at)
        if step is None:
            raise ValueError(f"the query {query!r} cannot be read at {at}")
        value = _take(value, step)
        at = step.end()
    return value


def _take(value: Any, step: re.Match[str]) -> Any:
    name, index, *quoted = step.groups()
    key = int(index) if index is not None else next(k for k in (name, *quoted) if k is not None)
    if isinstance(value, list if index is not None else dict):
        try:
            return cast("Mapping[Any, Any]", value)[key]
        except LookupError:
            pass
    raise _Fails(f"nothing at {step[0]!r}")


def _same(one: object, other: object) -> bool:
    """Whether two values are equal as JSON: booleans are not numbers, `1` equals `1.0`."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        left, right = cast("dict[str, object]", one), cast("dict[str, object]", other)
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(one, list) and isinstance(other, list):
        pairs = cast("list[object]", one), cast("list[object]", other)
        return len(pairs[0]) == len(pairs[1]) and all(map(_same, *pairs))
    return one == other


# -- SQLite ---------------------------------------------------------------------------------------


def _sqlite_query(root: Path, check: _Check) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        database = _copy_database(root, check["path"], Path(scratch))
        with closing(sqlite3.connect(database)) as connection:
            rows = _rows(connection, check["sql"])
    if not _same(rows, check["equals"]):
        raise _Fails("other rows")


def _copy_database(root: Path, relative: str, scratch: Path) -> Path:
    """Copy a database with its journals: opening one may write, and the workspace is read-only."""
    target = scratch / "database"
    target.write_bytes(_read_bytes(root, relative))
    for suffix in ("-wal", "-journal"):
        if _inside(root, relative + suffix).exists():
            (scratch / f"database{suffix}").write_bytes(_read_bytes(root, relative + suffix))
    return target


def _rows(connection: sqlite3.Connection, sql: str) -> list[list[Any]]:
    spent = 0

    def over_budget() -> bool:
        nonlocal spent
        spent += 10_000
        return spent > MAX_SQL_INSTRUCTIONS

    connection.set_progress_handler(over_budget, 10_000)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        found: Sequence[Sequence[Any]] = connection.execute(sql).fetchmany(MAX_ROWS)
    except sqlite3.Error as error:
        raise _Fails(f"SQLite: {error}") from None
    return [list(row) for row in found]


# -- the program ----------------------------------------------------------------------------------

_CHECKS: dict[str, Callable[[Path, _Check], None]] = {
    "file_exists": _file_exists,
    "file_equals": _file_equals,
    "file_contains": _file_contains,
    "file_not_contains": _file_not_contains,
    "json_path": _json_path,
    "sqlite_query": _sqlite_query,
}


def answer(root: Path, check: Mapping[str, Any]) -> dict[str, Any]:
    """Run one check. What the agent left can only make it fail; a broken check of the pack raises."""
    try:
        _CHECKS[check["kind"]](root, check)
    except _Fails as reason:
        return {"holds": False, "detail": str(reason)}
    return {"holds": True, "detail": ""}


def main() -> None:
    """Answer the checks on stdin about the folder named by the first argument."""
    checks = json.loads(sys.stdin.readline())["checks"]
    results = [answer(Path(sys.argv[1]), check) for check in checks]
    sys.stdout.write(json.dumps({"results": results}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
