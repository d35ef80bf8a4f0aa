"""Real sandboxes for tests: the default driver, and specs for scripts of tests/support."""

from __future__ import annotations

from pathlib import Path

from gateway.sandbox.bubblewrap import BubblewrapDriver
from gateway.sandbox.contract import Mount, SandboxSpec
from gateway.sandbox.runtimes import python_runtime

__all__ = ["bubblewrap", "script_spec"]

SUPPORT = Path(__file__).parent


def bubblewrap(tmp_path: Path) -> BubblewrapDriver:
    """Return a driver whose seeds are prepared below `tmp_path`."""
    return BubblewrapDriver(tmp_path / "cache")


def script_spec(script: str, *args: str) -> SandboxSpec:
    """Return a spec that runs a script of tests/support with the gateway's interpreter."""
    runtime = python_runtime()
    return SandboxSpec(
        name="script",
        argv=(runtime.argv0, "-I", "-S", f"/opt/test/{script}", *args),
        env=dict(runtime.env),
        mounts=(*runtime.mounts, Mount(SUPPORT / script, f"/opt/test/{script}")),
    )
