"""What every driver must do, played against each one this machine has. Isolation itself is in test_probes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from gateway.errors import SandboxError
from gateway.sandbox.bubblewrap import BubblewrapDriver
from gateway.sandbox.contract import (
    Exit,
    FileEntry,
    Sandbox,
    SandboxDriver,
    SandboxSpec,
    Workspace,
    WorkspaceSpec,
)
from gateway.sandbox.drivers import DRIVERS, make_driver
from gateway.sandbox.probe.forked import ForkedDriver
from tests.support.docker_engine import provide_engine

PLAIN = WorkspaceSpec(disk=4 * 2**20, inodes=500)


@pytest.fixture(params=[*DRIVERS, "bubblewrap+fork"])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> SandboxDriver:
    if request.param == "bubblewrap+fork":
        return ForkedDriver(BubblewrapDriver(tmp_path / "cache"))
    provide_engine(request)
    return make_driver(request.param, cache_dir=tmp_path / "cache")


KEEPS_PIPES = ("gvisor",)
"""Drivers under which a named pipe exists only inside the sandbox that made it."""


def shell(script: str, **env: str) -> SandboxSpec:
    return SandboxSpec("shell", ("/bin/sh", "-c", script), env)


async def output(sandbox: Sandbox) -> bytes:
    kept = b""
    with anyio.fail_after(10):
        while True:
            try:
                kept += await sandbox.receive()
            except anyio.EndOfStream:
                return kept


async def run(driver: SandboxDriver, workspace: Workspace, script: str) -> tuple[bytes, Exit]:
    sandbox = await driver.acquire(shell(script), workspace)
    said = await output(sandbox)
    with anyio.fail_after(10):
        return said, await sandbox.wait()


def seed_in(folder: Path) -> Path:
    seed = folder / "seed"
    (seed / "deep").mkdir(parents=True)
    (seed / "hello.txt").write_text("hello\n")
    (seed / "deep" / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (seed / "deep" / "run.sh").chmod(0o755)
    (seed / "link").symlink_to("hello.txt")
    return seed


async def test_bytes_go_in_by_stdin_and_come_out_by_stdout_unchanged(driver: SandboxDriver) -> None:
    data = bytes(range(256)) * 4096
    async with driver:
        sandbox = await driver.acquire(shell(f"head -c {len(data)}"), await driver.open_workspace(PLAIN))
        kept = b""

        async def read_all() -> None:
            nonlocal kept
            kept = await output(sandbox)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read_all)
            await sandbox.send(data)
    assert kept == data


async def test_an_exit_code_is_told(driver: SandboxDriver) -> None:
    async with driver:
        _, ended = await run(driver, await driver.open_workspace(PLAIN), "exit 7")
    assert ended == Exit(7, "exited with code 7")


async def test_a_signal_is_told_as_a_negative_code(driver: SandboxDriver) -> None:
    async with driver:
        _, ended = await run(driver, await driver.open_workspace(PLAIN), "kill -TERM $$")
    assert ended.code == -15


async def test_environment_values_arrive_and_nothing_of_the_gateways_does(
    driver: SandboxDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANDGATE_SECRET_OF_THE_TEST", "leak")
    async with driver:
        workspace = await driver.open_workspace(PLAIN)
        said = await output(await driver.acquire(shell("env", TOKEN="a b=c\nd"), workspace))
    assert b"TOKEN=a b=c\nd\n" in said
    assert b"leak" not in said


async def test_stderr_is_drained_and_only_its_end_is_kept(driver: SandboxDriver) -> None:
    async with driver:
        workspace = await driver.open_workspace(PLAIN)
        sandbox = await driver.acquire(
            shell("head -c 1000000 /dev/zero >&2; echo the end >&2; echo done"), workspace
        )
        assert await output(sandbox) == b"done\n"
        await sandbox.wait()
        with anyio.fail_after(5):
            while "the end" not in sandbox.stderr_tail():
                await anyio.lowlevel.checkpoint()
        assert len(sandbox.stderr_tail()) <= 16_384


async def test_a_seed_is_copied_with_kinds_and_modes_and_the_program_owns_it(
    driver: SandboxDriver, tmp_path: Path
) -> None:
    async with driver:
        workspace = await driver.open_workspace(WorkspaceSpec(seed=seed_in(tmp_path)))
        said, _ = await run(
            driver,
            workspace,
            "cat link; deep/run.sh; echo more >> hello.txt; mv deep moved; test -O moved && ls",
        )
    assert said == b"hello\nran\nhello.txt\nlink\nmoved\n"


async def test_a_change_never_reaches_the_seed_or_the_next_workspace(
    driver: SandboxDriver, tmp_path: Path
) -> None:
    seed = seed_in(tmp_path)
    async with driver:
        first = await driver.open_workspace(WorkspaceSpec(seed=seed))
        pristine = await first.digest()
        await run(driver, first, "echo changed > hello.txt; rm link; touch new")
        assert await first.digest() != pristine
        second = await driver.open_workspace(WorkspaceSpec(seed=seed))
        assert await second.digest() == pristine
    assert (seed / "hello.txt").read_text() == "hello\n"


async def test_a_digest_does_not_depend_on_times_or_order(driver: SandboxDriver) -> None:
    async with driver:
        digests: list[str] = []
        for script in ("touch a; echo x > b", "echo x > b; touch -d 2001-01-01 a b"):
            workspace = await driver.open_workspace(PLAIN)
            await run(driver, workspace, "umask 022; touch a; " + script)
            digests.append(await workspace.digest())
    assert digests[0] == digests[1]


CHANGES = ("echo y > b", "chmod 700 b", "ln -sf b a", "mkdir c", "mkfifo f")


async def test_a_digest_sees_contents_modes_kinds_and_names(driver: SandboxDriver) -> None:
    async with driver:
        workspace = await driver.open_workspace(PLAIN)
        await run(driver, workspace, "touch a; echo x > b")
        seen = [await workspace.digest()]
        for change in CHANGES[: -1 if driver.name in KEEPS_PIPES else None]:
            await run(driver, workspace, change)
            seen.append(await workspace.digest())
    assert len(set(seen)) == len(seen)


async def test_a_file_can_be_read_from_outside(driver: SandboxDriver) -> None:
    async with driver:
        workspace = await driver.open_workspace(PLAIN)
        await run(driver, workspace, "mkdir -p a/b; printf 12345 > a/b/c")
        assert await workspace.read("a/b/c", max_bytes=5) == b"12345"
        with pytest.raises(ValueError, match="larger than 4 bytes"):
            await workspace.read("a/b/c", max_bytes=4)


UNREADABLE: dict[str, type[Exception]] = {
    "missing": FileNotFoundError,
    "folder": IsADirectoryError,
    "to_shadow": PermissionError,
    "to_file": PermissionError,
    "to_root/etc/passwd": PermissionError,
    "file/below": PermissionError,
    "../escape": PermissionError,
    "folder/../../escape": PermissionError,
    "/etc/passwd": PermissionError,
    "": PermissionError,
    "fifo": PermissionError,
}


async def test_nothing_but_a_regular_file_of_the_workspace_can_be_read(driver: SandboxDriver) -> None:
    links = "ln -s /etc/shadow to_shadow; ln -s file to_file; ln -s / to_root"
    script = f"mkdir folder; echo x > file; mkfifo fifo; {links}"
    refused: dict[str, type[Exception]] = {}
    async with driver:
        workspace = await driver.open_workspace(PLAIN)
        await run(driver, workspace, script)
        for path in UNREADABLE:
            with anyio.fail_after(5), pytest.raises(OSError, match=r".") as error:
                await workspace.read(path, max_bytes=100)
            refused[path] = error.type
    pipe = {"fifo": FileNotFoundError} if driver.name in KEEPS_PIPES else {}
    assert refused == UNREADABLE | pipe


async def test_all_of_a_workspace_can_be_listed_from_outside(driver: SandboxDriver) -> None:
    script = "umask 022; mkdir -p a/b; printf 12345 > a/b/c; ln -s / a/up; mkfifo pipe; chmod 600 a/b/c"
    async with driver:
        workspace = await driver.open_workspace(PLAIN)
        await run(driver, workspace, script)
        pipe = () if driver.name in KEEPS_PIPES else (FileEntry("pipe", "special", 0, 0o644),)
        assert await workspace.files() == (
            FileEntry("a", "folder", 0, 0o755),
            FileEntry("a/b", "folder", 0, 0o755),
            FileEntry("a/b/c", "file", 5, 0o600),
            FileEntry("a/up", "link", 0, 0o777),
            *pipe,
        )
        with pytest.raises(ValueError, match="more than 3 entries"):
            await workspace.files(max_entries=3)


CROSSES = {
    "": False,
    "folder/file": False,
    "folder/missing/file": False,
    "folder/file/below": False,
    "link": True,
    "link/file": True,
    "link/missing": True,
    "dangling": True,
    "to_root/etc/passwd": True,
    "../escape": True,
    "/workspace/folder": True,
}


async def test_whether_a_path_leads_over_a_link_can_be_told(driver: SandboxDriver) -> None:
    script = "mkdir folder; echo x > folder/file; ln -s folder link; ln -s no dangling; ln -s / to_root"
    async with driver:
        workspace = await driver.open_workspace(PLAIN)
        await run(driver, workspace, script)
        assert {path: await workspace.crosses_link(path) for path in CROSSES} == CROSSES


async def test_folders_nested_without_end_are_refused_not_walked(driver: SandboxDriver) -> None:
    async with driver:
        workspace = await driver.open_workspace(PLAIN)
        await run(driver, workspace, "n=0; while [ $n -lt 300 ]; do mkdir d; cd d; n=$((n+1)); done")
        for walking in (workspace.digest, workspace.files, workspace.snapshot):
            with pytest.raises(SandboxError, match="nested"):
                await walking()


async def test_a_hole_is_digested_as_the_zeros_it_reads_as(driver: SandboxDriver) -> None:
    async with driver:
        digests: list[str] = []
        for script in ("truncate -s 1M a; printf x >> a", "head -c 1M /dev/zero > a; printf x >> a"):
            workspace = await driver.open_workspace(PLAIN)
            await run(driver, workspace, f"umask 022; {script}")
            digests.append(await workspace.digest())
        assert digests[0] == digests[1]


KINDS = (
    "umask 022; mkdir -p a/b; printf 12345 > a/b/c; ln -s / a/up; mkfifo pipe; chmod 640 a/b/c; "
    "truncate -s 1M hole; printf x >> hole; echo exec > run; chmod 755 run; touch -d 2001-01-01 a/b"
)


async def test_a_snapshot_starts_workspaces_as_the_one_it_was_taken_of(driver: SandboxDriver) -> None:
    async with driver:
        first = await driver.open_workspace(PLAIN)
        await run(driver, first, KINDS)
        snapshot = await first.snapshot()
        assert snapshot.digest == await first.digest()
        await run(driver, first, "echo later > a/b/c; rm run")
        assert await first.digest() != snapshot.digest
        await first.aclose()
        second = await driver.open_workspace(replace(PLAIN, snapshot=snapshot))
        assert await second.digest() == snapshot.digest
        assert await second.read("a/b/c", max_bytes=5) == b"12345"
        said, _ = await run(driver, second, "test -O a/b/c && date -r a/b +%s && echo mine > a/b/c && rm run")
        assert said == b"978307200\n"
        third = await driver.open_workspace(replace(PLAIN, snapshot=snapshot))
        assert await third.digest() == snapshot.digest
        await snapshot.aclose()
        await snapshot.aclose()
        assert await third.digest() == snapshot.digest


async def test_a_snapshot_of_many_files_over_a_seed_holds_all_changes(
    driver: SandboxDriver, tmp_path: Path
) -> None:
    seed = seed_in(tmp_path)
    for number in range(200):
        (seed / f"many{number}").write_text(str(number))
    async with driver:
        first = await driver.open_workspace(replace(PLAIN, seed=seed))
        await run(
            driver, first, "rm many7; echo x > many8; mv deep moved; rm -r moved/run.sh; chmod 600 many9"
        )
        snapshot = await first.snapshot()
        assert snapshot.digest == await first.digest()
        second = await driver.open_workspace(replace(PLAIN, snapshot=snapshot))
        assert await second.digest() == snapshot.digest
        said, _ = await run(
            driver, second, "cat many8 many10; ls many7 2>&1 >/dev/null; mv moved again; ls again"
        )
        assert said.startswith(b"x\n10")
        assert b"many7" in said
        again = await second.snapshot()
        assert again.digest not in (snapshot.digest, await first.digest())


async def test_two_servers_of_one_session_share_its_workspace(driver: SandboxDriver) -> None:
    async with driver:
        workspace = await driver.open_workspace(PLAIN)
        first = await driver.acquire(shell("read go; echo from first > shared; echo ok; read end"), workspace)
        second = await driver.acquire(shell("read go; cat shared"), workspace)
        await first.send(b"go\n")
        assert await first.receive() == b"ok\n"
        await second.send(b"go\n")
        assert await output(second) == b"from first\n"


async def test_two_sessions_have_nothing_in_common(driver: SandboxDriver) -> None:
    async with driver:
        first, second = await driver.open_workspace(PLAIN), await driver.open_workspace(PLAIN)
        await run(driver, first, "echo secret > mine")
        said, _ = await run(driver, second, "ls -A")
    assert said == b""


async def test_kill_ends_a_program_that_ignores_signals_within_a_second(driver: SandboxDriver) -> None:
    async with driver:
        workspace = await driver.open_workspace(PLAIN)
        script = "trap '' TERM INT HUP; echo up; while :; do sleep 60; done"
        sandbox = await driver.acquire(shell(script), workspace)
        assert await sandbox.receive() == b"up\n"
        with anyio.fail_after(1):
            await sandbox.kill()
            ended = await sandbox.wait()
        assert ended.code == -9
        await sandbox.kill()


async def test_after_a_kill_the_pipes_have_ended(driver: SandboxDriver) -> None:
    async with driver:
        sandbox = await driver.acquire(shell("sleep 60"), await driver.open_workspace(PLAIN))
        await sandbox.kill()
        with pytest.raises(anyio.EndOfStream):
            await sandbox.receive()
        with pytest.raises(anyio.BrokenResourceError):
            await sandbox.send(b"x")


async def test_a_reader_is_woken_when_its_sandbox_is_killed(driver: SandboxDriver) -> None:
    async with driver:
        sandbox = await driver.acquire(shell("sleep 60"), await driver.open_workspace(PLAIN))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(output, sandbox)
            await anyio.lowlevel.checkpoint()
            await sandbox.kill()
        assert (await sandbox.wait()).code == -9


async def test_a_send_cut_short_breaks_the_pipe_instead_of_mixing_messages(driver: SandboxDriver) -> None:
    async with driver:
        sandbox = await driver.acquire(shell("sleep 60"), await driver.open_workspace(PLAIN))
        with anyio.move_on_after(0.1) as full:
            await sandbox.send(b"x" * 10_000_000)
        assert full.cancelled_caught
        with pytest.raises(anyio.BrokenResourceError):
            await sandbox.send(b"second")


async def test_closing_a_workspace_ends_what_runs_over_it_and_twice_is_fine(driver: SandboxDriver) -> None:
    async with driver:
        workspace = await driver.open_workspace(PLAIN)
        sandbox = await driver.acquire(shell("sleep 60"), workspace)
        await workspace.aclose()
        await workspace.aclose()
        with anyio.fail_after(1):
            assert (await sandbox.wait()).code == -9


async def test_leaving_the_driver_ends_everything(driver: SandboxDriver) -> None:
    async with driver:
        sandbox = await driver.acquire(shell("sleep 60"), await driver.open_workspace(PLAIN))
    assert (await sandbox.wait()).code == -9


async def test_a_program_that_does_not_exist_is_told_and_hangs_nobody(driver: SandboxDriver) -> None:
    async with driver:
        workspace = await driver.open_workspace(PLAIN)
        with anyio.fail_after(5):
            assert "/no/such/program" in await told(driver, workspace)


async def told(driver: SandboxDriver, workspace: Workspace) -> str:
    """Start a program that is not there; return the error of a driver that sees it, else its stderr."""
    try:
        sandbox = await driver.acquire(SandboxSpec("gone", ("/no/such/program",)), workspace)
    except SandboxError as error:
        return str(error)
    ended = await sandbox.wait()
    return sandbox.stderr_tail() if ended.code else "it ran"


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_descriptors_return_to_the_baseline(driver: SandboxDriver, tmp_path: Path) -> None:
    seed = seed_in(tmp_path)

    async def cycle() -> None:
        workspace = await driver.open_workspace(WorkspaceSpec(seed=seed))
        sandbox = await driver.acquire(shell("read line; echo $line"), workspace)
        await sandbox.send(b"hi\n")
        assert await sandbox.receive() == b"hi\n"
        await workspace.aclose()

    async with driver:
        await cycle()
        before = descriptors()
        for _ in range(5 if driver.name in ("docker", "gvisor") else 20):
            await cycle()
        assert descriptors() <= before
