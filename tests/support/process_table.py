"""Which processes live, told apart by pid and start time: a pid alone may be somebody else's by now."""

from __future__ import annotations

import time
from pathlib import Path

__all__ = ["descendants", "gone_within"]


def process_table() -> dict[int, tuple[int, str]]:
    """Return pid -> (parent, start time) of every live process; zombies are not alive."""
    table: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] != "Z":
            table[int(folder.name)] = (int(fields[1]), fields[19])
    return table


def descendants(pid: int) -> set[tuple[int, str]]:
    """Return every process below `pid` as (pid, start time)."""
    table = process_table()
    found, layer = set[tuple[int, str]](), {pid}
    while layer:
        below = {child for child, (parent, _) in table.items() if parent in layer}
        found |= {(child, table[child][1]) for child in below}
        layer = below
    return found


def alive(processes: set[tuple[int, str]]) -> set[int]:
    table = process_table()
    return {pid for pid, start in processes if pid in table and table[pid][1] == start}


def gone_within(processes: set[tuple[int, str]], seconds: float) -> set[int]:
    """Wait until none of `processes` lives, at most `seconds`; return those that still do."""
    deadline = time.monotonic() + seconds
    while (left := alive(processes)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left
