"""A program without root whose launcher is killed: prints what of its workspaces and seeds goes on."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import anyio
import anyio.to_thread

from gateway.errors import SandboxError
from gateway.sandbox.bubblewrap import BubblewrapDriver
from gateway.sandbox.contract import SandboxSpec, Workspace, WorkspaceSpec


async def kill_launcher() -> None:
    lists = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    (pid,) = [int(word) for path in lists for word in path.read_text().split()]
    os.kill(pid, signal.SIGKILL)
    await anyio.to_thread.run_sync(os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT)


async def said(driver: BubblewrapDriver, workspace: Workspace) -> str:
    sandbox = await driver.acquire(SandboxSpec("cat", ("/bin/cat", "file")), workspace)
    return (await sandbox.receive()).decode()


async def main(folder: Path) -> None:
    (folder / "seed").mkdir()
    (folder / "seed" / "file").write_text("of the seed")
    spec = WorkspaceSpec(seed=folder / "seed")
    async with BubblewrapDriver(folder / "cache") as driver:
        old = await driver.open_workspace(spec)
        await kill_launcher()
        print("new:", await said(driver, await driver.open_workspace(spec)))
        try:
            await said(driver, old)
        except SandboxError as error:
            print("old:", error)
        print("read:", (await old.read("file", max_bytes=100)).decode())


with tempfile.TemporaryDirectory() as name:
    anyio.run(main, Path(name))
