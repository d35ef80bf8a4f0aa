"""Makes a driver start every program as a fork, so that what is asked of sandboxes is asked of forks too.

A Python program of the probes runs in the forked interpreter itself; anything else replaces it.
"""

from __future__ import annotations

from dataclasses import replace

from gateway.data import data_folder
from gateway.sandbox.bubblewrap import BubblewrapDriver
from gateway.sandbox.contract import (
    Mount,
    Preload,
    Sandbox,
    SandboxDriver,
    SandboxSpec,
    Workspace,
    WorkspaceSpec,
)
from gateway.sandbox.egress.inside import SHIM_LENGTH
from gateway.sandbox.runtimes import python_runtime

__all__ = ["ForkedDriver", "forked", "forks_of"]

INSIDE = "/opt/sandgate"
FILES = ("fork_server.py", "run_server.py")
ISOLATED = ("-P", "-s", "-S")


def forked(spec: SandboxSpec) -> SandboxSpec:
    """Return a spec whose program is run by a fork of a template."""
    runtime = python_runtime()
    begin = 0 if spec.egress is None else SHIM_LENGTH
    shim, program = spec.argv[:begin], spec.argv[begin:]
    start = (runtime.argv0, *ISOLATED, f"{INSIDE}/fork_server.py", "-")
    if program[:2] == (runtime.argv0, "-I"):
        script = 3 if program[2] == "-S" else 2
        preload, rest = (*start, "script", program[script]), program[script + 1 :]
    else:
        preload, rest = (*start, "exec", "-"), program
    helpers = tuple(Mount(data_folder("sandboxes") / name, f"{INSIDE}/{name}") for name in FILES)
    mounts = tuple(dict.fromkeys((*runtime.mounts, *spec.mounts, *helpers)))
    return replace(
        spec, argv=(*shim, *preload, *rest), mounts=mounts, preload=Preload(preload, dict(runtime.env))
    )


def forks_of(driver: SandboxDriver) -> ForkedDriver | None:
    """Return an open driver as one that forks every program; `None` where it does not fork here."""
    return ForkedDriver(driver) if isinstance(driver, BubblewrapDriver) and driver.can_fork else None


class ForkedDriver:
    """As `contract.SandboxDriver`, over an unopened bubblewrap driver; nothing starts cold."""

    name = "bubblewrap+fork"

    def __init__(self, driver: BubblewrapDriver) -> None:
        self.driver = driver

    @property
    def limited_by(self) -> str:
        """As `contract.SandboxDriver.limited_by`."""
        return self.driver.limited_by

    async def __aenter__(self) -> ForkedDriver:
        """As `contract.SandboxDriver.__aenter__`."""
        await self.driver.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """As `contract.SandboxDriver.__aexit__`."""
        await self.driver.__aexit__(*exc_info)

    async def open_workspace(self, spec: WorkspaceSpec) -> Workspace:
        """As `contract.SandboxDriver.open_workspace`."""
        return await self.driver.open_workspace(spec)

    async def acquire(self, spec: SandboxSpec, workspace: Workspace) -> Sandbox:
        """As `contract.SandboxDriver.acquire`. Raises `SandboxError` where the program would start cold."""
        return await self.driver.fork(forked(spec), workspace)
