"""A program that opens the driver and two sandboxes, or forks, says so, and waits to be killed."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from gateway.sandbox.bubblewrap import BubblewrapDriver
from gateway.sandbox.contract import SandboxSpec, WorkspaceSpec
from gateway.sandbox.probe.forked import ForkedDriver


async def main() -> None:
    forks = f"sleep {sys.argv[2]} & sleep {sys.argv[2]} & setsid sleep {sys.argv[2]} & wait"
    own = BubblewrapDriver(Path(sys.argv[1]))
    async with ForkedDriver(own) if "fork" in sys.argv else own as driver:
        workspace = await driver.open_workspace(WorkspaceSpec())
        for number in range(2):
            sandbox = await driver.acquire(
                SandboxSpec(f"s{number}", ("/bin/sh", "-c", f"echo up; {forks}")), workspace
            )
            await sandbox.receive()
        print("ready", flush=True)
        await anyio.sleep_forever()


anyio.run(main)
