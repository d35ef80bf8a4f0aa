"""CPU time of a benchmark and all that it starts: it tells something on a busy machine."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["CpuMeter", "cpu_meter"]

ACCOUNTS = Path("/sys/fs/cgroup/cpuacct")


class CpuMeter:
    """Reads the CPU time of a control group; `None` where the machine keeps none."""

    def __init__(self, usage: Path | None) -> None:
        self._usage = usage

    def seconds(self) -> float | None:
        """Return what this process and all that it started have used since the meter began."""
        return None if self._usage is None else int(self._usage.read_text()) / 1e9


@contextmanager
def cpu_meter() -> Generator[CpuMeter]:
    """Move this process into an account of its own (control groups v1), before it starts anything."""
    group = ACCOUNTS / f"sandgate-benchmark-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:  # v2 counts where the gateway's own groups are, or nothing is writable
        yield CpuMeter(None)
        return
    try:
        _move_to(group)
        yield CpuMeter(group / "cpuacct.usage")
    finally:
        _move_to(ACCOUNTS)
        group.rmdir()


def _move_to(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))
