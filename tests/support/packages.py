"""Installers for tests: one shared cache for what comes from the network, and programs run for real."""

from __future__ import annotations

import os
from pathlib import Path

import anyio

from gateway.config import installer_environment
from gateway.runtime.packages import Installer, Program
from gateway.sandbox.contract import SandboxDriver, SandboxSpec, WorkspaceSpec

__all__ = ["network_installer", "run_program"]


def network_installer() -> Installer:
    """Return an installer over a cache that outlives the test run, so that a package is fetched once."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"  # noqa: TID251 - test helper
    return Installer(Path(base) / "sandgate" / "test-packages", environ=installer_environment())


async def run_program(
    driver: SandboxDriver, program: Program, *args: str, seed: Path | None = None, stdin: bytes = b""
) -> str:
    """Run a server's program in a real sandbox until it ends and return its stdout.

    A failure raises `AssertionError` that shows stderr.
    """
    workspace = await driver.open_workspace(WorkspaceSpec(seed=seed))
    spec = SandboxSpec("test", (*program.argv, *args), env=program.env, mounts=program.mounts)
    sandbox = await driver.acquire(spec, workspace)
    out = b""
    try:
        if stdin:
            await sandbox.send(stdin)
        with anyio.fail_after(20):
            while True:
                try:
                    out += await sandbox.receive()
                except anyio.EndOfStream:
                    break
            end = await sandbox.wait()
    finally:
        await sandbox.kill()
        await workspace.aclose()
    assert end.code == 0, f"{end}\n{out.decode(errors='replace')}\n{sandbox.stderr_tail()}"
    return out.decode()
