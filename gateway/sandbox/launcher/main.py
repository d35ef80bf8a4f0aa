"""The launcher's start: learns what the machine offers, goes private, says hello, serves."""

from __future__ import annotations

import json
import os
import resource
import socket
import sys

from . import kernel
from .groups import Groups, owner_tag
from .loop import Launcher

__all__ = ["main"]

UID_BLOCK, UID_BLOCKS = 1000, 30
# Unused by convention (systemd's UIDs-GIDs list); the second is for a root with a small uid map.
UID_BASES = (1_900_000_000, 30_000)


def _own_namespaces(uid: int, gid: int) -> bool:
    """Enter a private mount namespace, and without root a user namespace first; say if this is root."""
    root = uid == 0
    kernel.unshare(kernel.CLONE_NEWNS if root else kernel.CLONE_NEWNS | kernel.CLONE_NEWUSER)
    if not root:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    # Nothing made here is seen outside; what the host unmounts later is let go here as well.
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_SLAVE)
    return root


def _uid_block(root: bool) -> tuple[int, int, socket.socket | None]:
    """Return first uid and number of a block that no other launcher uses, and what holds it."""
    if not root:
        return os.geteuid(), 0, None
    with open("/proc/self/uid_map") as file:
        mapped = max(int(line.split()[0]) + int(line.split()[2]) for line in file)
    base = next((base for base in UID_BASES if base + UID_BLOCK * UID_BLOCKS <= mapped), None)
    if base is None:
        raise OSError(f"root here owns only {mapped} uids; sandboxes need {UID_BASES[1]} and up")
    for block in range(UID_BLOCKS):
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            holder.bind(f"\0sandgate-uids-{base}-{block}")
        except OSError:
            holder.close()
            continue
        return base + block * UID_BLOCK, UID_BLOCK, holder
    raise OSError(f"{UID_BLOCKS} gateways run on this machine already")


def main() -> None:
    """Run `launcher SOCKET PROGRAM STAGE`; descriptors by number."""
    channel = socket.socket(fileno=int(sys.argv[2]))
    os.set_inheritable(channel.fileno(), False)
    with open(int(sys.argv[3]), "rb") as file:
        file.seek(0)
        program = file.read()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        kernel.subreaper()
        groups = Groups(owner_tag(os.getpid()))
        swept = groups.sweep()
        root = _own_namespaces(os.geteuid(), os.getegid())
        first, count, holder = _uid_block(root)
        home = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    except OSError as error:
        channel.send(json.dumps({"id": 0, "error": str(error)}).encode())
        return
    launcher = Launcher(channel, sys.argv[4], program, groups, root, home)
    limited = sorted(groups.base)
    launcher.tell(
        {"id": 0, "ok": True, "root": root, "uid": first, "uids": count, "groups": limited, "swept": swept}
    )
    try:
        launcher.serve()
    finally:
        launcher.end()
        if holder is not None:
            holder.close()
