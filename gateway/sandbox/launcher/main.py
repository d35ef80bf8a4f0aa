"""The launcher's start: learns what the machine offers, goes private, says hello, serves."""

from __future__ import annotations

import json
import os
import resource
import socket
import sys

from . import kernel, pins
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


def _uid_block(root: bool, given: int | None) -> tuple[int, int, socket.socket | None]:
    """Return first uid and number of a block that no other gateway uses, and what holds it.

    `given` is the first uid of a block that the gateway holds already, for an earlier launcher.
    """
    if not root:
        return os.geteuid(), 0, None
    if given is not None:
        return given, UID_BLOCK, None
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


def _overlays(stage: str, home: int, uid: int) -> bool:
    """Say whether large seeds can be lower layers here, by trying in a child."""
    child = os.fork()
    if child == 0:
        try:
            pins.try_overlay(stage, home, uid)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def main() -> None:
    """Run `launcher SOCKET PROGRAM STAGE [FIRST_UID]`; descriptors by number."""
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
        first, count, holder = _uid_block(root, int(sys.argv[5]) if sys.argv[5:] else None)
        home = os.open("/proc/self/ns/mnt", os.O_RDONLY)
        overlays = root and _overlays(sys.argv[4], home, first)
    except OSError as error:
        channel.send(json.dumps({"id": 0, "error": str(error)}).encode())
        return
    launcher = Launcher(channel, sys.argv[4], program, groups, root, home)
    found = {"root": root, "uid": first, "uids": count, "groups": sorted(groups.base)}
    launcher.tell(
        {"id": 0, "ok": True, **found, "overlays": overlays, "swept": swept},
        (holder.fileno(),) if holder else (),
    )
    if holder is not None:  # the gateway holds it now, for as long as it lives
        holder.close()
    try:
        launcher.serve()
    finally:
        launcher.end()
