"""No sandbox outlives the gateway, however it dies; what a dead one left is swept at the next start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from gateway.sandbox.bubblewrap import BubblewrapDriver
from gateway.sandbox.contract import SandboxSpec, WorkspaceSpec
from gateway.sandbox.launcher.groups import PREFIX, Groups, owner_tag

STAND_IN = Path(__file__).parent / "gateway_stand_in.py"
SLEEP = "86397.25"
"""An unusual duration, by which the sandboxed processes are found."""
KINDS = ("cold", "fork")
"""How they are started."""


def processes(word: str) -> list[int]:
    return [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if words(path)[:2] == ["sleep", word]
    ]


def words(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def children(pid: int) -> list[int]:
    """Return the children of all its threads."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for path in lists for word in path.read_text().split()]


def groups_of(pid: int) -> list[str]:
    """Return the control groups that the launcher `pid` made, in every hierarchy."""
    marked = f"-{pid}-"
    found = (Path(top) / name for top, names, _ in os.walk("/sys/fs/cgroup") for name in names)
    return sorted(str(path) for path in found if path.name.startswith(PREFIX) and marked in path.name)


@asynccontextmanager
async def stand_in(folder: Path, sleep: str, kind: str = "cold") -> AsyncGenerator[subprocess.Popen[bytes]]:
    """Run a gateway with six processes in its sandboxes; it is dead at the end in any case."""
    command = [sys.executable, str(STAND_IN), str(folder), sleep, kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as gateway:  # noqa: ASYNC220 - returns at once
        try:
            assert gateway.stdout is not None
            assert await anyio.to_thread.run_sync(gateway.stdout.readline) == b"ready\n"
            assert await becomes(lambda: len(processes(sleep)) == 6), processes(sleep)
            yield gateway
        finally:
            gateway.kill()


async def becomes(condition: Callable[[], bool], seconds: float = 2) -> bool:
    """Say whether something the kernel tells nobody about comes true within so many seconds."""
    for _ in range(round(seconds / 0.02)):
        if condition():
            return True
        await anyio.sleep(0.02)
    return condition()


async def gone(word: str) -> bool:
    return await becomes(lambda: not processes(word))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_no_process_is_left_two_seconds_after_the_gateway_died(
    by: signal.Signals, kind: str, tmp_path: Path
) -> None:
    sleep = f"{SLEEP}{by.value}{KINDS.index(kind)}"
    async with stand_in(tmp_path, sleep, kind) as gateway:
        (launcher,) = children(gateway.pid)
        os.kill(gateway.pid, by)
        assert await gone(sleep)
        assert await becomes(lambda: not groups_of(launcher))


@pytest.mark.parametrize("kind", KINDS)
async def test_no_process_is_left_when_the_launcher_is_killed_and_the_sandboxes_are_told_ended(
    tmp_path: Path, kind: str
) -> None:
    sleep = f"{SLEEP}00{KINDS.index(kind)}"
    async with stand_in(tmp_path, sleep, kind) as gateway:
        (launcher,) = children(gateway.pid)
        os.kill(launcher, signal.SIGKILL)
        assert await gone(sleep)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_start_sweeps_the_groups_of_a_gateway_that_died_with_its_launcher(
    tmp_path: Path, kind: str
) -> None:
    sleep = f"{SLEEP}01{KINDS.index(kind)}"
    async with stand_in(tmp_path, sleep, kind) as gateway:
        (launcher,) = children(gateway.pid)
        left = groups_of(launcher)
        os.kill(launcher, signal.SIGKILL)
        os.kill(gateway.pid, signal.SIGKILL)
        assert await gone(sleep)
    async with BubblewrapDriver(tmp_path) as driver:
        assert driver.name == "bubblewrap"
        assert groups_of(launcher) == []
    if not left:
        pytest.skip("no control group is writable here, so there was nothing to sweep")


async def test_a_sweep_leaves_the_groups_of_a_living_gateway_alone(tmp_path: Path) -> None:
    sleep = f"{SLEEP}02"
    async with stand_in(tmp_path, sleep) as gateway:
        (launcher,) = children(gateway.pid)
        before = groups_of(launcher)
        async with BubblewrapDriver(tmp_path):
            assert groups_of(launcher) == before
            assert len(processes(sleep)) == 6


def test_a_tag_names_one_process_for_good() -> None:
    assert owner_tag(os.getpid()) == owner_tag(os.getpid())
    assert owner_tag(os.getpid()) != owner_tag(os.getppid())


async def test_two_drivers_of_one_gateway_do_not_meet(tmp_path: Path) -> None:
    async with BubblewrapDriver(tmp_path) as one, BubblewrapDriver(tmp_path) as two:
        workspaces = [await driver.open_workspace(WorkspaceSpec()) for driver in (one, two)]
        for driver, workspace in zip((one, two), workspaces, strict=True):
            sandbox = await driver.acquire(SandboxSpec("s", ("/bin/true",)), workspace)
            assert (await sandbox.wait()).code == 0


def test_closing_groups_removes_their_base() -> None:
    groups = Groups(owner_tag(os.getpid()))
    bases = list(groups.base.values())
    groups.close()
    assert [base for base in bases if Path(base).exists()] == []
