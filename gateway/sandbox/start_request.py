"""Turns a `SandboxSpec` into the launcher's `start` request, refusing what no sandbox may be asked for."""

from __future__ import annotations

import os
from pathlib import PurePosixPath

from gateway.core.json_types import JsonObject
from gateway.errors import SandboxError

from .contract import Mount, Preload, SandboxSpec
from .egress.inside import EGRESS_SHIM, EGRESS_SOCKET

__all__ = [
    "FORK_PROCESSES",
    "OWN_PROCESSES",
    "SCRATCH",
    "SCRATCH_INODES",
    "SHM",
    "check_spec",
    "check_target",
    "fork_request",
    "start_request",
    "template_request",
]

SCRATCH, SCRATCH_INODES, SHM = 64 * 2**20, 8192, 16 * 2**20
"""Largest /tmp and /dev/shm of a sandbox; its `disk` and `inodes` limits can make them smaller."""
OWN_PROCESSES, FORK_PROCESSES, TEMPLATE_PROCESSES = 2, 1, 3
"""What stands beside the program: bwrap's own processes; a fork's init; a template's, and its next fork."""
RUNTIME = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
RESERVED = (*RUNTIME, "/proc", "/dev", "/etc", "/shm", "/tmp")  # noqa: S108 - inside, not here


def start_request(
    spec: SandboxSpec, *, bwrap: str, uid: int, gid: int, workspace: str, disk: int
) -> JsonObject:
    """Return the request for `spec` over a workspace shown at `workspace` that may hold `disk` bytes.

    Raises `SandboxError` for mounts that cannot be made and words no program can be given.
    """
    check_spec(spec)
    limits, scratch = spec.limits, min(SCRATCH, spec.limits.disk)
    mounts = sorted(spec.mounts, key=lambda mount: mount.target.count("/"))
    return {
        "op": "start",
        "bwrap": bwrap,
        "uid": uid,
        "gid": gid,
        "argv": list(spec.argv),
        "env": dict(spec.env),
        "cwd": spec.cwd,
        "mounts": [[os.path.realpath(mount.source), mount.target] for mount in mounts],
        "workspace": workspace,
        "writable": spec.writable,
        # Files in memory count as memory: what workspace and scratch may hold comes on top of the limit.
        "memory": limits.memory + scratch + SHM + (disk if spec.writable else 0),
        "data": limits.memory,
        "pids": limits.pids + OWN_PROCESSES,
        "cpu": limits.cpu,
        "open_files": limits.open_files,
        "disk": disk,
        "scratch": scratch,
        "scratch_inodes": min(SCRATCH_INODES, limits.inodes),
        "shm": SHM,
    }


def fork_request(start: JsonObject, spec: SandboxSpec, template: int) -> JsonObject:
    """Return a `start` request as the one for a fork of the template of that number.

    `egress` is its way out, if it has one: the socket here and inside, and what serves it inside.
    """
    egress: JsonObject | None = None
    if spec.egress is not None:
        egress = {"source": os.path.realpath(spec.egress), "socket": EGRESS_SOCKET, "shim": EGRESS_SHIM}
    words: JsonObject = {"op": "fork", "template": template, "egress": egress}
    return start | words | {"pids": spec.limits.pids + FORK_PROCESSES}


def template_request(start: JsonObject, spec: SandboxSpec, preload: Preload, filters: bytes) -> JsonObject:
    """Return a `start` request as the one for its template, which loads the program `filters`."""
    words: JsonObject = {"argv": list(preload.argv), "env": dict(preload.env), "filter": filters.hex()}
    return start | words | {"op": "template", "pids": spec.limits.pids + TEMPLATE_PROCESSES}


def check_spec(spec: SandboxSpec) -> None:
    """Raise `SandboxError` for mounts that cannot be made and words no program can be given."""
    for mount in spec.mounts:
        _check_mount(spec.name, mount)
    _check_words(spec)


def check_target(target: str) -> None:
    """Raise `SandboxError` unless `target` is a plain absolute path that the driver does not make itself."""
    parts = PurePosixPath(target).parts
    plain = (
        target.startswith("/")
        and target == str(PurePosixPath(*parts))
        and ".." not in parts
        and len(parts) > 1
    )
    if (
        not plain
        or "\0" in target
        or any(target == taken or target.startswith(taken + "/") for taken in RESERVED)
    ):
        raise SandboxError(f"{target!r} cannot be a mount point: use an absolute path such as /opt/name")


def _check_mount(name: str, mount: Mount) -> None:
    check_target(mount.target)
    if not mount.source.exists():
        raise SandboxError(f"{name}: {mount.source} is to be mounted and does not exist")


def _check_words(spec: SandboxSpec) -> None:
    if not spec.argv or not spec.argv[0]:
        raise SandboxError(f"{spec.name}: there is no program to run")
    if any("\0" in word for word in (*spec.argv, *spec.env, *spec.env.values(), spec.cwd)):
        raise SandboxError(f"{spec.name}: an argument or environment value holds a NUL")
    if any(not name or "=" in name for name in spec.env):
        raise SandboxError(f"{spec.name}: an environment variable has no usable name")
