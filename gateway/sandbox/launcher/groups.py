"""Control groups: memory, processes and CPU of one sandbox, on v1, v2 or mixed hierarchies.

What a machine offers is found by trying, once. Where nothing is writable, `Groups.base` is empty
and the caller falls back to resource limits.
"""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

__all__ = ["Group", "Groups", "owner_tag"]

MOUNTS, OWN = "/proc/self/mountinfo", "/proc/self/cgroup"
PREFIX = "sandgate-"
CONTROLLERS = ("memory", "pids", "cpu")
SEARCH_DEPTH = 8
CPU_PERIOD = 100_000
SWEEP_TRIES, SWEEP_SECONDS = 100, 0.01
ENDED = ("Z", "X")
"""States of a process that has ended and whose parent has not noticed."""


def owner_tag(pid: int) -> str:
    """Return the name a process marks its groups with: pid namespace, pid and start time."""
    return f"{os.stat('/proc/self/ns/pid').st_ino}-{pid}-{_started(pid)}"


def _started(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, *fields = file.read().rpartition(")")[2].split()
    except FileNotFoundError:
        return ""
    return "" if state in ENDED else fields[18]


@dataclass(frozen=True)
class Group:
    """One sandbox's folders: controller -> folder. `kill` in v2's `cgroup.kill` ends all at once."""

    folders: Mapping[str, str]

    def join(self) -> None:
        """Put the calling process in."""
        for folder in set(self.folders.values()):
            _write(f"{folder}/cgroup.procs", "0")

    def take(self, pid: int) -> None:
        """Put a process in."""
        for folder in set(self.folders.values()):
            _write(f"{folder}/cgroup.procs", str(pid))

    def kill(self) -> None:
        """Send SIGKILL to everything in it."""
        for folder in set(self.folders.values()):
            try:
                _write(f"{folder}/cgroup.kill", "1")
            except FileNotFoundError:
                _kill_listed(folder)

    def remove(self) -> bool:
        """Remove the folders; False while a process in them is still ending."""
        left = [folder for folder in set(self.folders.values()) if not _removed(folder)]
        return not left

    def oom_kills(self) -> int:
        """Return how often the memory limit killed something in it."""
        for name in ("memory.events", "memory.oom_control"):
            folder = self.folders.get("memory", "")
            if folder and os.path.exists(f"{folder}/{name}"):
                return _field(f"{folder}/{name}", "oom_kill")
        return 0


class Groups:
    """Where this machine lets sandboxes be limited; makes and sweeps their groups."""

    def __init__(self, tag: str) -> None:
        self._hierarchies = dict(_hierarchies())
        self.base: dict[str, str] = {}
        for controller, (top, own, v2) in self._hierarchies.items():
            found = _v2_base(top, own, tag) if v2 else _v1_base(f"{top}{own}", tag)
            if found:
                self.base[controller] = found
        if "memory" not in self.base or "pids" not in self.base:
            self.close()
            self.base = {}

    def make(self, name: str, *, memory: int, pids: int, cpu: float) -> Group:
        """Return a group with these limits: bytes, processes, cores."""
        folders = {controller: f"{base}/{name}" for controller, base in self.base.items()}
        for folder in set(folders.values()):
            os.mkdir(folder)
        group = Group(folders)
        for controller, files in _limits(memory, pids, cpu).items():
            if controller in folders:
                _set_first(folders[controller], files)
        return group

    def sweep(self) -> int:
        """Kill and remove the groups of launchers that are gone; return how many were found."""
        dead = left = list(self._dead())
        for _ in range(SWEEP_TRIES):
            left = [folder for folder in left if not _cleared(folder)]
            if not left:
                break
            select.select((), (), (), SWEEP_SECONDS)  # what was killed takes a moment to end
        return len(dead)

    def _dead(self) -> Iterator[str]:
        here = f"{os.stat('/proc/self/ns/pid').st_ino}-"
        for top in {top for top, _, _ in self._hierarchies.values()}:
            for folder in _marked(top, SEARCH_DEPTH):
                tag = os.path.basename(folder).removeprefix(PREFIX)
                if tag.startswith(here) and owner_tag(int(tag.split("-")[1])) != tag:
                    yield folder

    def close(self) -> None:
        """Remove the base folders, which must be empty."""
        for folder in set(self.base.values()):
            _removed(folder)


def _hierarchies() -> Iterator[tuple[str, tuple[str, str, bool]]]:
    """Yield controller -> (mount point, own group in it, is it v2)."""
    with open(OWN) as file:
        own = {
            name: line.rstrip("\n").split(":", 2)[2]
            for line in file
            for name in line.split(":", 2)[1].split(",")
        }
    with open(MOUNTS) as file:
        mounts = [line.split() for line in file]
    for fields in mounts:
        kind, options = fields[fields.index("-") + 1], fields[-1].split(",")
        root, top = fields[3], fields[4]
        if kind == "cgroup":
            for name in set(CONTROLLERS) & set(options):
                yield name, (top, _below(own.get(name, "/"), root), False)
        elif kind == "cgroup2":
            for name in ("kill", *_words(f"{top}/cgroup.controllers")):
                if name in ("kill", *CONTROLLERS):
                    yield name, (top, _below(own.get("", "/"), root), True)


def _below(own: str, root: str) -> str:
    """Return the group `own` as seen under a mount whose root is the group `root`."""
    if root != "/" and own.startswith(root):
        own = own[len(root) :]
    return "" if own == "/" else own


def _v1_base(own: str, tag: str) -> str | None:
    return _made(f"{own}/{PREFIX}{tag}")


def _v2_base(top: str, own: str, tag: str) -> str | None:
    """Return a folder whose children have the controllers: at the nearest group above that allows it."""
    wanted = [name for name in _words(f"{top}/cgroup.controllers") if name in CONTROLLERS]
    where = f"{top}{own}"
    while True:
        base = _made(f"{where}/{PREFIX}{tag}")
        if base and _grants(where, wanted) and _grants(base, wanted):
            return base
        if base:
            _removed(base)
        if where == top:
            return None
        where = os.path.dirname(where)


def _grants(folder: str, wanted: list[str]) -> bool:
    """Say whether children of `folder` have the controllers, asking the kernel where they do not yet."""
    path = f"{folder}/cgroup.subtree_control"
    if set(wanted) <= set(_words(path)):
        return True
    try:
        _write(path, " ".join(f"+{name}" for name in wanted))
    except OSError:
        return False
    return True


def _limits(memory: int, pids: int, cpu: float) -> dict[str, list[tuple[str, str, bool]]]:
    """Return controller -> (file, value, is it a must), those of v2 and v1; absent files are passed over."""
    quota = str(max(1000, int(cpu * CPU_PERIOD)))
    return {
        "memory": [
            ("memory.max", str(memory), True),
            ("memory.swap.max", "0", False),
            ("memory.oom.group", "1", False),
            ("memory.limit_in_bytes", str(memory), True),
            ("memory.memsw.limit_in_bytes", str(memory), False),
        ],
        "pids": [("pids.max", str(pids), True)],
        "cpu": [("cpu.max", f"{quota} {CPU_PERIOD}", True), ("cpu.cfs_quota_us", quota, True)],
    }


def _set_first(folder: str, files: list[tuple[str, str, bool]]) -> None:
    done = False
    for name, value, must in files:
        if os.path.exists(f"{folder}/{name}"):
            _write(f"{folder}/{name}", value)
            done = done or must
    if not done:
        raise OSError(errno.ENOENT, f"{folder} has none of {[name for name, _, _ in files]}")


def _made(folder: str) -> str | None:
    try:
        os.mkdir(folder)
    except FileExistsError:
        return folder
    except OSError:
        return None
    return folder


def _removed(folder: str) -> bool:
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise
    return True


def _kill_listed(folder: str) -> None:
    try:
        pids = [int(word) for word in _words(f"{folder}/cgroup.procs")]
    except FileNotFoundError:
        return
    for pid in pids:
        if pid > 0:
            _send_kill(pid)


def _send_kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _cleared(folder: str) -> bool:
    """Kill what runs in and below `folder`, and remove what is empty; say whether all is gone."""
    try:
        below = [entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return True
    for path in below:
        _cleared(path)
    _kill_listed(folder)
    return _removed(folder)


def _marked(folder: str, depth: int) -> Iterator[str]:
    try:
        below = [entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for path in below:
        if os.path.basename(path).startswith(PREFIX):
            yield path
        elif depth:
            yield from _marked(path, depth - 1)


def _words(path: str) -> list[str]:
    with open(path) as file:
        return file.read().split()


def _field(path: str, name: str) -> int:
    with open(path) as file:
        return next((int(line.split()[1]) for line in file if line.split()[0] == name), 0)


def _write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
