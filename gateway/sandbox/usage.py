"""Reads what a sandbox uses from its control groups, and tells from the launcher's report how it ended."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from gateway.core.json_types import JsonObject

from .contract import Exit, SandboxStats

__all__ = ["exit_of", "read_stats"]

SIGNALLED = range(129, 193)
"""How bwrap (and every shell) reports a program that a signal ended."""


def read_stats(folders: Mapping[str, str], own: int) -> SandboxStats:
    """Return current use from controller -> folder; `None` where a number is not to be had.

    `own` processes belong to the driver and are not counted.
    """
    processes = _number(folders.get("pids"), ("pids.current",))
    return SandboxStats(
        memory=_number(folders.get("memory"), ("memory.current", "memory.usage_in_bytes")),
        processes=None if processes is None else max(0, processes - own),
        oom_kills=_number(folders.get("memory"), ("memory.events", "memory.oom_control"), "oom_kill"),
        cpu_seconds=_cpu_seconds(folders.get("cpuacct")),
    )


def _cpu_seconds(folder: str | None) -> float | None:
    nanoseconds = _number(folder, ("cpuacct.usage",))
    if nanoseconds is not None:
        return nanoseconds / 1e9
    microseconds = _number(folder, ("cpu.stat",), "usage_usec")
    return None if microseconds is None else microseconds / 1e6


def _number(folder: str | None, names: tuple[str, ...], field: str = "") -> int | None:
    """Return the number in the first of the files that exists, or its line `field`."""
    if folder is None:
        return None
    for name in names:
        try:
            words = (Path(folder) / name).read_text().split()
        except OSError:  # another version's file, or the sandbox has ended and its folder is gone
            continue
        return int(words[words.index(field) + 1] if field else words[0])
    return None


def exit_of(message: JsonObject) -> Exit:
    """Return how a sandbox ended from `{"code", "status", "killed", "oom_kills"}`."""
    code, status = message["code"], cast(int, message["status"])
    if message["killed"]:
        return Exit(-signal.SIGKILL, "killed by the gateway")
    if message["oom_kills"] and code != 0:
        return Exit(-signal.SIGKILL, "killed for using more memory than its limit")
    if not isinstance(code, int):
        return Exit(status or 1, "the sandbox itself failed; its stderr says why")
    if code in SIGNALLED:
        return Exit(128 - code, f"ended by signal {_signal_name(code - 128)}")
    return Exit(code, f"exited with code {code}")


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else str(number)
