"""A program on a machine whose kernel knows no `mount_setattr`, as before Linux 5.12: opens a large seed.

The kernel is made old by a filter that this process and all below it inherit. Prints what the
sandbox said and the files that it left.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from pathlib import Path

import anyio

from gateway.sandbox.bubblewrap import BubblewrapDriver
from gateway.sandbox.contract import SandboxSpec, WorkspaceSpec

SYS_MOUNT_SETATTR, EINVAL = 442, 22
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
LOAD_NUMBER, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ERRNO, ALLOW = 0x00050000, 0x7FFF0000


def forget_mount_setattr() -> None:
    """Answer `mount_setattr` with EINVAL from here on."""
    program = b"".join(
        struct.pack("HBBI", *words)
        for words in (
            (LOAD_NUMBER, 0, 0, 0),
            (JUMP_IF_EQUAL, 0, 1, SYS_MOUNT_SETATTR),
            (RETURN, 0, 0, ERRNO | EINVAL),
            (RETURN, 0, 0, ALLOW),
        )
    )
    kept = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(kept))
    prctl = ctypes.CDLL(None).prctl
    assert prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0) == 0


async def main() -> None:
    seed = Path(sys.argv[2])
    async with BubblewrapDriver(Path(sys.argv[1])) as driver:
        workspace = await driver.open_workspace(WorkspaceSpec(seed=seed))
        sandbox = await driver.acquire(
            SandboxSpec("old", ("/bin/sh", "-c", "cat file0 && echo new > file0 && ls | wc -l")), workspace
        )
        assert (await sandbox.wait()).code == 0, sandbox.stderr_tail()
        print((await sandbox.receive()).decode().split())
        print((await workspace.read("file0", max_bytes=10)).decode())


forget_mount_setattr()
anyio.run(main)
