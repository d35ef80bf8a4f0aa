"""Runs the attacks in sandboxes of a driver and judges, from outside, what held."""

from __future__ import annotations

import json
import os
import secrets
import socket
import tempfile
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import anyio

from gateway.core.json_types import JsonObject
from gateway.errors import SandboxError, UsageError
from gateway.sandbox.contract import (
    Limits,
    Mount,
    Sandbox,
    SandboxDriver,
    SandboxSpec,
    Workspace,
    WorkspaceSpec,
)
from gateway.sandbox.runtimes import python_runtime

from . import bombs
from .meanings import ATTACKS, BOMBS, EGRESS
from .way_out import way_out

__all__ = ["PROBES", "ProbeResult", "run_probes"]

CODE = "/opt/probe"
PROBES: Mapping[str, str] = {**ATTACKS, **BOMBS, **EGRESS}
"""Name -> what it means that it held."""
MIB = 2**20
_ORPHAN_SECONDS = 15.0
LIMITS = Limits(memory=96 * MIB, cpu=0.25, pids=24, disk=8 * MIB, inodes=200, open_files=64)
SECONDS = 20.0
CPU_TIME = 1600
FLOOD_SECONDS, START_SECONDS = 0.5, 10.0


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One probe's verdict. `detail` says what the attack managed, or how far a bomb got."""

    name: str
    held: bool
    detail: str
    meaning: str


async def run_probes(driver: SandboxDriver) -> list[ProbeResult]:
    """Attack the open `driver` and return one result per name in `PROBES`, in that order.

    Raises `UsageError` for the driver `process`, which holds nothing and would let the bombs loose.
    """
    if driver.name == "process":
        raise UsageError("the driver `process` isolates nothing, so there is nothing to probe")
    found = {**await _attacks(driver), **await _bombs(driver), **await way_out(driver)}
    return [ProbeResult(name, *found[name], meaning=meaning) for name, meaning in PROBES.items()]


Verdict = tuple[bool, str]


async def _attacks(driver: SandboxDriver) -> dict[str, Verdict]:
    """Run all quiet attacks in one sandbox, beside another session's that runs meanwhile."""
    secret = f"secret-{secrets.token_hex(8)}"
    sleeper = ("/bin/sh", "-c", f"echo secret > /workspace/{secret}; echo ready; exec sleep 60")
    with tempfile.TemporaryDirectory() as hidden, _listeners() as (port, abstract):
        async with _running(driver, SandboxSpec("probe-other", sleeper)) as (other, _):
            await other.receive()
            facts: JsonObject = {
                "port": port,
                "abstract": abstract,
                "hidden": [hidden, str(Path(__file__).parent)],
                "secret": secret,
                "gateway_pid": os.getpid(),
                "gateway_started": _started(),
                "code": [f"{CODE}/inside.py", CODE, "/usr", "/etc/passwd"],
            }
            return await _inside(driver, facts)


def _started() -> str:
    """Return when this process was started, which with its number is its identity on this machine."""
    return Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]


async def _inside(driver: SandboxDriver, facts: JsonObject) -> dict[str, Verdict]:
    runtime = python_runtime()
    given = [*runtime.env, "PATH", "HOME", "USER", "LANG", "PWD"]
    spec = _python("inside.py", json.dumps({**facts, "environment": given}), limits=Limits())
    async with _running(driver, spec) as (sandbox, _):
        output = await _output(sandbox)
        if not output:
            why = (await sandbox.wait()).reason
            raise SandboxError(f"the probes did not run ({why}): {sandbox.stderr_tail()[-500:]}")
    found = cast(list[tuple[str, str]], json.loads(output))
    return {name: (not managed, managed or "refused") for name, managed in found}


async def _bombs(driver: SandboxDriver) -> dict[str, Verdict]:
    scratch = 2 * LIMITS.disk + 16 * MIB
    return {
        "fork_bomb": await _bomb(driver, "fork", 4 * LIMITS.pids, LIMITS.pids, "processes"),
        "memory_bomb": await _memory_bomb(driver),
        "disk_fill": await _bomb(driver, "disk", 8 * LIMITS.disk, LIMITS.disk, "bytes"),
        "scratch_fill": await _bomb(driver, "scratch", 4 * scratch, scratch, "bytes"),
        "inode_fill": await _bomb(driver, "inodes", 4 * LIMITS.inodes, LIMITS.inodes, "files"),
        "open_files": await _bomb(driver, "files", 4 * LIMITS.open_files, LIMITS.open_files, "open files"),
        "cpu_limit": await _cpu_limit(driver),
        "no_orphan": await _orphan(driver),
        "stderr_flood": await _stderr_flood(driver),
        "stdout_flood": await _stdout_flood(driver),
        "pristine_reset": await _reset(driver),
    }


async def _bomb(driver: SandboxDriver, name: str, most: int, limit: int, unit: str) -> Verdict:
    """Set off a bomb that stops at `most`; it held if no more than `limit` were had."""
    async with _running(driver, _python("bombs.py", name, str(most))) as (sandbox, _):
        output = await _output(sandbox)
        if not output:
            ended = await sandbox.wait()
            return False, f"no report: {ended.reason} {sandbox.stderr_tail()[-300:]}"
    got = int(output)
    return got <= limit, f"got {got} {unit}, limit {limit}"


async def _cpu_limit(driver: SandboxDriver) -> Verdict:
    """Burn CPU time. What the host counted counts: a kernel of its own may take waiting for running."""
    began = anyio.current_time()
    async with _running(driver, _python("bombs.py", "cpu", str(CPU_TIME))) as (sandbox, _):
        seen: float | None = None
        output = b""
        while not output.endswith(b"\n"):
            try:
                output += await sandbox.receive()
            except anyio.EndOfStream:
                return False, f"no report: {(await sandbox.wait()).reason}"
            seen = sandbox.stats().cpu_seconds
    got = int(output) if seen is None else round(100 * seen / (anyio.current_time() - began))
    limit = round(200 * LIMITS.cpu)
    return got <= limit, f"got {got} % of a core, limit {limit}"


async def _memory_bomb(driver: SandboxDriver) -> Verdict:
    most = 4 * (LIMITS.memory + 4 * LIMITS.disk + 16 * MIB)
    async with _running(driver, _python("bombs.py", "memory", str(most))) as (sandbox, _):
        output = await _output(sandbox)
        ended = await sandbox.wait()
    if output:
        return int(output) < most // 2, f"got {output.decode().strip()} bytes, limit {LIMITS.memory}"
    return ended.code != 0, ended.reason


async def _orphan(driver: SandboxDriver) -> Verdict:
    async with _running(driver, _python("bombs.py", "orphan", "0")) as (sandbox, _):
        # The program's start is in it, and that of a kernel for it; what was left behind never ends.
        with anyio.move_on_after(_ORPHAN_SECONDS) as waited:
            await _output(sandbox)
    return (
        not waited.cancelled_caught,
        "a process outlived its program" if waited.cancelled_caught else "none left",
    )


async def _stderr_flood(driver: SandboxDriver) -> Verdict:
    async with _running(driver, _python("bombs.py", "flood", "2")) as (sandbox, _):
        for _ in range(round(START_SECONDS / FLOOD_SECONDS)):
            await anyio.sleep(FLOOD_SECONDS)
            if sandbox.stderr_tail():  # it starts slowly, with so little of a core
                break
        kept = len(sandbox.stderr_tail())
    return 0 < kept <= 64 * 1024, f"kept {kept} bytes of an endless stderr"


async def _stdout_flood(driver: SandboxDriver) -> Verdict:
    async with _running(driver, _python("bombs.py", "flood", "1")) as (sandbox, _):
        got = len(await sandbox.receive(1024))
        with anyio.move_on_after(2) as late:
            await sandbox.kill()
    return got <= 1024 and not late.cancelled_caught, f"read {got} bytes of an endless stdout, then killed it"


async def _reset(driver: SandboxDriver) -> Verdict:
    spec = SandboxSpec(
        "probe-reset", ("/bin/sh", "-c", "echo kept > /workspace/kept; echo kept > /tmp/kept; ls -A /tmp")
    )
    digests: list[str] = []
    seen: list[bytes] = []
    for _ in range(2):
        workspace = await driver.open_workspace(WorkspaceSpec())
        digests.append(await workspace.digest())
        sandbox = await driver.acquire(spec, workspace)
        seen.append(await _output(sandbox))
        await workspace.aclose()
    same = digests[0] == digests[1] and seen[0] == seen[1]
    return same, "a new workspace is as the first one was" if same else "something survived"


def _python(program: str, *arguments: str, limits: Limits = LIMITS) -> SandboxSpec:
    runtime = python_runtime()
    mounts = (*runtime.mounts, Mount(Path(bombs.__file__).parent, CODE))
    argv = (runtime.argv0, "-I", f"{CODE}/{program}", *arguments)
    return SandboxSpec("probe", argv, runtime.env, mounts, limits=limits)


@contextmanager
def _listeners() -> Generator[tuple[int, str]]:
    """Listen where no sandbox may get: on the host's loopback and on an abstract unix socket."""
    name = f"sandgate-probe-{secrets.token_hex(8)}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind("\0" + name)
        unix.listen()
        yield tcp.getsockname()[1], name


@asynccontextmanager
async def _running(driver: SandboxDriver, spec: SandboxSpec) -> AsyncGenerator[tuple[Sandbox, Workspace]]:
    """Run a program over a workspace of its own, for at most `SECONDS`."""
    workspace = await driver.open_workspace(WorkspaceSpec(disk=LIMITS.disk, inodes=LIMITS.inodes))
    try:
        sandbox = await driver.acquire(spec, workspace)
        with anyio.fail_after(SECONDS):
            yield sandbox, workspace
    finally:
        await workspace.aclose()


async def _output(sandbox: Sandbox) -> bytes:
    kept = b""
    while True:
        try:
            kept += await sandbox.receive()
        except anyio.EndOfStream:
            return kept
