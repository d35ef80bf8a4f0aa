"""Marks containers and volumes with the gateway they belong to, and tells whether that gateway is dead."""

from __future__ import annotations

from pathlib import Path

from .launcher.groups import owner_tag

__all__ = ["DRIVER", "OWNER", "is_dead", "owner"]

OWNER, DRIVER = "sandgate.owner", "sandgate.driver"
"""Labels: the process, and one opening of a driver in it."""
BOOT = Path("/proc/sys/kernel/random/boot_id")


def owner(pid: int) -> str:
    """Return the mark of a process: boot, pid namespace, pid and start time."""
    return f"{_boot()}-{owner_tag(pid)}"


def _boot() -> str:
    return BOOT.read_text().strip().replace("-", "")


def is_dead(mark: str) -> bool:
    """Say whether the process of a mark has ended; of one in another pid namespace, nothing is known."""
    boot, namespace, pid, _ = mark.split("-")
    if boot != _boot():
        return True  # the engine is this machine's, so nothing of an earlier boot runs
    now = owner(int(pid))
    return namespace == now.split("-")[1] and now != mark
