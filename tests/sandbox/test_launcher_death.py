"""The launcher dies and the gateway lives: its sandboxes are told dead, the next one starts all the same."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from gateway.sandbox.bubblewrap import COPY_BELOW, BubblewrapDriver
from gateway.sandbox.contract import Sandbox, SandboxSpec, WorkspaceSpec
from gateway.sandbox.handles import BubblewrapWorkspace
from gateway.sandbox.launcher.groups import PREFIX
from tests.support.launchers import launchers

SLEEPER = SandboxSpec("sleeper", ("/bin/sh", "-c", "echo up; exec sleep 86396.5"))


def groups_of(pid: int) -> list[str]:
    found = (Path(top) / name for top, names, _ in os.walk("/sys/fs/cgroup") for name in names)
    return [str(path) for path in found if path.name.startswith(PREFIX) and f"-{pid}-" in path.name]


async def kill_launcher() -> int:
    """Kill it and return its pid once it is dead, noticed or not."""
    (pid,) = launchers()
    os.kill(pid, signal.SIGKILL)
    await anyio.to_thread.run_sync(os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


async def shell(driver: BubblewrapDriver, script: str, workspace: WorkspaceSpec) -> str:
    sandbox = await driver.acquire(
        SandboxSpec("shell", ("/bin/sh", "-c", script)), await driver.open_workspace(workspace)
    )
    return (await heard(sandbox)).decode()


async def heard(sandbox: Sandbox) -> bytes:
    with anyio.fail_after(10):
        return await sandbox.receive()


async def test_the_sandboxes_of_a_launcher_that_was_killed_are_told_dead_and_the_next_one_starts(
    tmp_path: Path,
) -> None:
    async with BubblewrapDriver(tmp_path) as driver:
        workspace = await driver.open_workspace(WorkspaceSpec())
        old = await driver.acquire(SLEEPER, workspace)
        await heard(old)
        first = await kill_launcher()
        with anyio.fail_after(5):
            assert "launcher ended" in (await old.wait()).reason
        new = await driver.acquire(SLEEPER, await driver.open_workspace(WorkspaceSpec()))
        assert await heard(new) == b"up\n"
        assert launchers() != [first]
        assert groups_of(first) == []
        await old.kill()
        await new.kill()
    assert launchers() == []


async def test_a_start_right_after_the_launchers_death_starts_another(tmp_path: Path) -> None:
    async with BubblewrapDriver(tmp_path) as driver:
        workspace = await driver.open_workspace(WorkspaceSpec())
        await kill_launcher()
        sandbox = await driver.acquire(SLEEPER, workspace)
        assert await heard(sandbox) == b"up\n"
        await sandbox.kill()
        with pytest.raises(anyio.EndOfStream), anyio.fail_after(5):
            await sandbox.receive()
        assert (await sandbox.wait()).reason == "killed by the gateway"


async def test_many_that_ask_at_once_get_one_launcher(tmp_path: Path) -> None:
    async with BubblewrapDriver(tmp_path) as driver:
        await kill_launcher()
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(shell, driver, "echo up", WorkspaceSpec())
        assert len(launchers()) == 1


async def test_workers_of_the_launcher_that_were_killed_are_replaced(tmp_path: Path) -> None:
    async with BubblewrapDriver(tmp_path) as driver:
        (pid,) = launchers()
        children = Path(f"/proc/{pid}/task/{pid}/children")
        assert children.read_text()
        for worker in children.read_text().split():
            os.kill(int(worker), signal.SIGKILL)
        with anyio.fail_after(30):
            while children.read_text():  # noqa: ASYNC110 - nobody tells when it has reaped them
                await anyio.sleep(0.01)
        assert await shell(driver, "echo up", WorkspaceSpec()) == "up\n"
        assert launchers() == [pid]


async def test_more_requests_than_the_channel_holds_wait_for_a_launcher_that_is_slow(tmp_path: Path) -> None:
    many = 2_000
    async with BubblewrapDriver(tmp_path) as driver:
        sandbox = await driver.acquire(SLEEPER, await driver.open_workspace(WorkspaceSpec()))
        await heard(sandbox)
        (pid,) = launchers()
        told = 0

        async def end_another() -> None:
            nonlocal told
            await driver.kill(10**9)  # nobody's: the launcher only has to hear it
            told += 1

        async with anyio.create_task_group() as tasks:
            os.kill(pid, signal.SIGSTOP)
            for _ in range(many):
                tasks.start_soon(end_another)
            await anyio.wait_all_tasks_blocked()
            assert told < many, "the channel is to be full"
            os.kill(pid, signal.SIGCONT)
        assert told == many
        await sandbox.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="without root a workspace ends with its launcher")
async def test_files_and_seeds_outlive_the_launcher_that_made_them(tmp_path: Path) -> None:
    seed = tmp_path / "seed"
    seed.mkdir()
    for number in range(COPY_BELOW + 1):
        (seed / f"file{number}").write_text("old\n")
    async with BubblewrapDriver(tmp_path / "cache") as driver:
        workspace = await driver.open_workspace(WorkspaceSpec(seed=seed))
        pristine = await workspace.digest()
        script = SandboxSpec("writer", ("/bin/sh", "-c", "cat file1; echo new > file0"))
        with anyio.fail_after(10):
            assert (await (await driver.acquire(script, workspace)).wait()).code == 0
        await kill_launcher()
        assert (
            await heard(await driver.acquire(SandboxSpec("cat", ("/bin/cat", "file0")), workspace))
            == b"new\n"
        )
        other = await driver.open_workspace(WorkspaceSpec(seed=seed))
        assert await other.digest() == pristine


async def test_user_ids_stay_the_gateways_own_when_its_launcher_is_replaced(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give each session a uid of its own")
    async with BubblewrapDriver(tmp_path / "one") as one:
        before = await uid_of(one)
        await kill_launcher()
        async with BubblewrapDriver(tmp_path / "two") as two:
            assert await uid_of(two) // 1000 != before // 1000
            assert await uid_of(one) // 1000 == before // 1000


async def uid_of(driver: BubblewrapDriver) -> int:
    """Return the host's uid of a fresh workspace's files."""
    workspace = await driver.open_workspace(WorkspaceSpec())
    assert isinstance(workspace, BubblewrapWorkspace)
    return workspace.uid
