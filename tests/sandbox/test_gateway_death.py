"""No sandbox outlives the gateway, however it dies; what a dead one left is swept at the next start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from gateway.sandbox.bubblewrap import BubblewrapDriver
from gateway.sandbox.launcher.groups import PREFIX, Groups, owner_tag

STAND_IN = Path(__file__).parent / "gateway_stand_in.py"
SLEEP = "86397.25"
"""An unusual duration, by which the sandboxed processes are found."""


def processes(word: str) -> list[int]:
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if word in words(path)]


def words(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def groups_of(pid: int) -> list[str]:
    found: list[str] = []
    for top in Path("/sys/fs/cgroup").glob("*"):
        found += [str(path) for path in top.rglob(f"{PREFIX}*-{pid}-*") if path.is_dir()]
    return found


def stand_in(folder: Path, sleep: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(STAND_IN), str(folder), sleep], stdout=subprocess.PIPE)


async def gone(word: str, seconds: float) -> bool:
    with anyio.move_on_after(seconds):
        while processes(word):
            await anyio.sleep(0.02)
        return True
    return False


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_no_process_is_left_two_seconds_after_the_gateway_died(
    by: signal.Signals, tmp_path: Path
) -> None:
    sleep = f"{SLEEP}{by.value}"
    with stand_in(tmp_path, sleep) as gateway:
        assert gateway.stdout is not None
        assert await anyio.to_thread.run_sync(gateway.stdout.readline) == b"ready\n"
        assert len(processes(sleep)) == 6
        os.kill(gateway.pid, by)
        assert await gone(sleep, 2)
    with anyio.fail_after(3):
        while groups_of(gateway.pid):
            await anyio.sleep(0.02)


async def test_no_process_is_left_when_the_launcher_is_killed_and_the_sandboxes_are_told_ended(
    tmp_path: Path,
) -> None:
    sleep = f"{SLEEP}00"
    with stand_in(tmp_path, sleep) as gateway:
        assert gateway.stdout is not None
        await anyio.to_thread.run_sync(gateway.stdout.readline)
        (launcher,) = children(gateway.pid)
        os.kill(launcher, signal.SIGKILL)
        assert await gone(sleep, 2)
        gateway.kill()


async def test_a_start_sweeps_the_groups_of_a_gateway_that_died_with_its_launcher(tmp_path: Path) -> None:
    sleep = f"{SLEEP}01"
    with stand_in(tmp_path, sleep) as gateway:
        assert gateway.stdout is not None
        await anyio.to_thread.run_sync(gateway.stdout.readline)
        (launcher,) = children(gateway.pid)
        left = groups_of(gateway.pid)
        os.kill(launcher, signal.SIGKILL)
        os.kill(gateway.pid, signal.SIGKILL)
        assert await gone(sleep, 2)
    async with BubblewrapDriver(tmp_path) as driver:
        assert driver.name == "bubblewrap"
        assert groups_of(gateway.pid) == []
    if not left:
        pytest.skip("no control group is writable here, so there was nothing to sweep")


async def test_a_sweep_leaves_the_groups_of_a_living_gateway_alone(tmp_path: Path) -> None:
    sleep = f"{SLEEP}02"
    with stand_in(tmp_path, sleep) as gateway:
        assert gateway.stdout is not None
        await anyio.to_thread.run_sync(gateway.stdout.readline)
        before = groups_of(gateway.pid)
        async with BubblewrapDriver(tmp_path):
            assert groups_of(gateway.pid) == before
            assert len(processes(sleep)) == 6
        gateway.kill()
        assert await gone(sleep, 2)


def test_a_tag_names_one_process_for_good() -> None:
    assert owner_tag(os.getpid()) == owner_tag(os.getpid())
    assert owner_tag(os.getpid()) != owner_tag(os.getppid())


def test_closing_groups_removes_their_base() -> None:
    groups = Groups(owner_tag(os.getpid()) + "-test")
    bases = list(groups.base.values())
    groups.close()
    assert [base for base in bases if Path(base).exists()] == []
