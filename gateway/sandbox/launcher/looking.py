"""Looks at a template and its forks from outside, in /proc, and says what is wrong with them.

Whatever a server's imports did to the interpreter they share with our own code, a fork gets nothing of
its session before this module has found that it can share nothing with its template or another fork, and
that it holds no right. A finding is a sentence for people; none is an empty string.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO

__all__ = ["NAMESPACES", "alone", "apart", "locked", "members", "namespaces", "parent_of", "unshared"]

NAMESPACES = ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup")
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
SHARED = re.compile(rb"^[0-9a-f-]+ (?P<rights>...)s \S+ \S+ \S+ *(?P<path>.*)$", re.MULTILINE)
PROCMAP_QUERY, QUERY = 0xC0686611, struct.Struct("9Q4I2Q")
NEXT_SHARED, WRITABLE, LONGEST_PATH = 0x18, 0x02, 4096
READ_ONLY = re.compile(rb"/(?:usr|lib\w*|bin|sbin|opt|etc)/.*(?<! \(deleted\))")
"""Files that nobody inside can write, so that nothing is said by a shared mapping of them."""


def alone(pid: int, descriptors: Iterable[int], who: str) -> str:
    """Say what `pid` has that it could hand on, or that could act for it: threads, descriptors but these."""
    threads = len(os.listdir(f"/proc/{pid}/task"))
    if threads != 1:
        return f"{who} runs {threads} threads"
    wanted = {str(number) for number in descriptors}
    for name in os.listdir(f"/proc/{pid}/fd"):
        if name not in wanted:
            return f"{who} has {_link(f'/proc/{pid}/fd/{name}')} open"
    return ""


def unshared(pid: int, who: str) -> str:
    """Say which memory `pid` could share with a process it was forked from or that was forked from it."""
    with open(f"/proc/{pid}/maps", "rb") as file:
        for writable, path in _shared(file):
            if writable or not READ_ONLY.fullmatch(path):
                return f"{who} shares memory: {path.decode(errors='replace') or 'without a name'}"
    return ""


def _shared(maps: BinaryIO) -> Iterator[tuple[bool, bytes]]:
    """Yield if it can be written, and the path, of each shared mapping.

    The kernel is asked for one after another (since 6.11): to read about all the others costs more.
    """
    name = ctypes.create_string_buffer(LONGEST_PATH)
    end = 0
    while True:
        words = (QUERY.size, NEXT_SHARED, end, *(0,) * 8, len(name), 0, ctypes.addressof(name), 0)
        try:
            answer = QUERY.unpack(fcntl.ioctl(maps, PROCMAP_QUERY, QUERY.pack(*words)))
        except OSError as error:
            if error.errno != errno.ENOENT:  # all of them then; those that were told already do no harm
                for found in SHARED.finditer(maps.read()):
                    yield b"w" in found["rights"], found["path"]
            return
        end = answer[4]
        yield bool(answer[5] & WRITABLE), name.raw[: answer[11]].rstrip(b"\0")


def apart(pid: int, template: dict[str, str]) -> str:
    """Say which namespace `pid` still has in common with its template."""
    own = namespaces(pid)
    shared = [name for name in NAMESPACES if own[name] == template[name]]
    return f"a fork is still in its template's namespaces ({', '.join(shared)})" if shared else ""


def namespaces(pid: int) -> dict[str, str]:
    """Return kind -> identity of the namespaces of `pid`."""
    return {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in NAMESPACES}


def locked(pid: int, uid: int, gid: int, filters: int) -> str:
    """Say which right `pid` still holds: it must be this user, under so many filters at least."""
    found = _status(pid)
    if found["Uid"].split() != [str(uid)] * 4 or found["Gid"].split() != [str(gid)] * 4:
        return f"a fork runs as {found['Uid']}, not as the session's user"
    if any(int(found[name], 16) for name in CAPABILITIES):
        return "a fork kept a capability"
    if found["NoNewPrivs"] != "1" or found["Seccomp"] != "2":
        return "a fork has no filter"
    if "Seccomp_filters" in found and int(found["Seccomp_filters"]) < filters:
        return "a fork did not load its session's filter"
    return ""


def parent_of(pid: int) -> int:
    """Return the parent of a process."""
    return int(_status(pid)["PPid"])


def members(folder: str) -> set[int]:
    """Return the processes in a control group."""
    with open(f"{folder}/cgroup.procs") as file:
        return {int(line) for line in file}


def _status(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status") as file:
        lines = (line.partition(":") for line in file)
        return {name: value.strip() for name, _, value in lines}


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return "something"
