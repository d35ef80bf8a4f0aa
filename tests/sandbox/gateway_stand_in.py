"""A program that opens the driver and two sandboxes, says so, and waits to be killed."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from gateway.sandbox.bubblewrap import BubblewrapDriver
from gateway.sandbox.contract import SandboxSpec, WorkspaceSpec


async def main() -> None:
    forks = f"sleep {sys.argv[2]} & sleep {sys.argv[2]} & setsid sleep {sys.argv[2]} & wait"
    async with BubblewrapDriver(Path(sys.argv[1])) as driver:
        workspace = await driver.open_workspace(WorkspaceSpec())
        for number in range(2):
            sandbox = await driver.acquire(
                SandboxSpec(f"s{number}", ("/bin/sh", "-c", f"echo up; {forks}")), workspace
            )
            await sandbox.receive()
        print("ready", flush=True)
        await anyio.sleep_forever()


anyio.run(main)
