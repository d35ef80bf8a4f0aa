"""What the bubblewrap driver does beyond the contract: limits, mounts, uids, seeds, and clear refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.core.json_types import JsonObject
from gateway.errors import SandboxError, UsageError
from gateway.sandbox.bubblewrap import COPY_BELOW, BubblewrapDriver
from gateway.sandbox.contract import Limits, Mount, Sandbox, SandboxSpec, WorkspaceSpec
from gateway.sandbox.drivers import DRIVERS, make_driver
from gateway.sandbox.runtimes import node_runtime, python_runtime
from gateway.sandbox.start_request import start_request

ROOT = Path(__file__).resolve().parents[2]
SOMEBODY = 12_345
NEED_CONTROL_GROUPS = {"cpu_limit"}
PLAIN = WorkspaceSpec(disk=4 * 2**20, inodes=200)


def shell(script: str) -> SandboxSpec:
    return SandboxSpec("shell", ("/bin/sh", "-c", script))


async def said(driver: BubblewrapDriver, spec: SandboxSpec, workspace: WorkspaceSpec = PLAIN) -> str:
    return (await output(await driver.acquire(spec, await driver.open_workspace(workspace)))).decode()


async def output(sandbox: Sandbox) -> bytes:
    kept = b""
    with anyio.fail_after(20):
        while True:
            try:
                kept += await sandbox.receive()
            except anyio.EndOfStream:
                return kept


async def test_a_mount_is_there_and_read_only_even_below_a_folder_only_root_may_enter(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "tool").mkdir(parents=True)
    (closed / "tool" / "code").write_text("code\n")
    (closed / "tool" / "code").chmod(0o644)
    (closed / "tool").chmod(0o755)
    closed.chmod(0o700)
    mounts = (Mount(closed / "tool", "/opt/tool"), Mount(closed / "tool" / "code", "/srv/one/file"))
    spec = replace(
        shell("cat /opt/tool/code /srv/one/file; echo x > /opt/tool/code || echo refused"), mounts=mounts
    )
    async with BubblewrapDriver(tmp_path / "cache") as driver:
        assert await said(driver, spec) == "code\ncode\nrefused\n"


async def test_a_sandbox_that_dies_while_it_is_made_did_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*args: Any, **more: Any) -> JsonObject:
        request = start_request(*args, **more)
        del request["scratch"]  # what makes it falls over this, and cannot say so
        return request

    async with BubblewrapDriver(tmp_path / "cache") as driver:
        workspace = await driver.open_workspace(PLAIN)
        monkeypatch.setattr("gateway.sandbox.bubblewrap.start_request", lacking)
        with anyio.fail_after(20), pytest.raises(SandboxError, match="ended before it could start"):
            await driver.acquire(shell("true"), workspace)


async def test_how_many_sandboxes_run_takes_nothing_from_a_new_ones_open_files(tmp_path: Path) -> None:
    spec = replace(shell("echo ready; cat"), limits=Limits(open_files=24))
    async with BubblewrapDriver(tmp_path / "cache") as driver:
        workspace = await driver.open_workspace(PLAIN)
        for _ in range(30):
            sandbox = await driver.acquire(spec, workspace)
            with anyio.fail_after(20):
                assert await sandbox.receive() == b"ready\n"


@pytest.mark.parametrize(
    "target", ["relative", "/", "/proc/x", "/usr/lib/x", "/a/../etc", "/etc", "/a//b", "/tmp/x"]
)
async def test_a_mount_over_what_the_driver_makes_itself_is_refused(target: str, tmp_path: Path) -> None:
    spec = replace(shell("true"), mounts=(Mount(tmp_path, target),))
    async with BubblewrapDriver(tmp_path / "cache") as driver:
        with pytest.raises(SandboxError, match="mount point"):
            await driver.acquire(spec, await driver.open_workspace(PLAIN))


async def test_a_mount_of_nothing_names_what_is_missing(tmp_path: Path) -> None:
    spec = replace(shell("true"), mounts=(Mount(tmp_path / "missing", "/opt/x"),))
    async with BubblewrapDriver(tmp_path / "cache") as driver:
        with pytest.raises(SandboxError, match="missing is to be mounted and does not exist"):
            await driver.acquire(spec, await driver.open_workspace(PLAIN))


@pytest.mark.parametrize(
    "spec",
    [
        SandboxSpec("x", ()),
        SandboxSpec("x", ("a\0b",)),
        SandboxSpec("x", ("a",), {"A=B": "c"}),
        SandboxSpec("x", ("",)),
    ],
)
async def test_words_no_program_can_be_given_are_refused(spec: SandboxSpec, tmp_path: Path) -> None:
    async with BubblewrapDriver(tmp_path / "cache") as driver:
        with pytest.raises(SandboxError, match="x:"):
            await driver.acquire(spec, await driver.open_workspace(PLAIN))


async def test_a_workspace_of_a_check_is_read_only(tmp_path: Path) -> None:
    spec = replace(shell("touch /workspace/x || echo refused"), writable=False)
    async with BubblewrapDriver(tmp_path / "cache") as driver:
        assert await said(driver, spec) == "refused\n"


async def test_a_seed_is_frozen_at_its_first_use(tmp_path: Path) -> None:
    seed = tmp_path / "seed"
    seed.mkdir()
    (seed / "file").write_text("first\n")
    async with BubblewrapDriver(tmp_path / "cache") as driver:
        assert await said(driver, shell("cat file"), WorkspaceSpec(seed=seed)) == "first\n"
        (seed / "file").write_text("second\n")
        assert await said(driver, shell("cat file"), WorkspaceSpec(seed=seed)) == "first\n"


async def test_a_large_seed_behaves_as_a_small_one(tmp_path: Path) -> None:
    seed = tmp_path / "seed"
    for number in range(COPY_BELOW):
        folder = seed / f"folder{number % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file{number}").write_text("old\n")
    script = (
        "test -O folder0/file0 && echo new > folder0/file0 && mv folder1 moved && rm -r folder2"
        " && ln folder3/file3 hard && git init -q . && git add ."
        " && git -c user.name=a -c user.email=a@b commit -qm x && git mv folder3 other"
        " && cat folder0/file0 && ls"
    )
    async with BubblewrapDriver(tmp_path / "cache") as driver:
        workspace = await driver.open_workspace(WorkspaceSpec(seed=seed))
        before = await workspace.digest()
        sandbox = await driver.acquire(shell(script + " 2>&1"), workspace)
        assert await output(sandbox) == b"new\nfolder0\nhard\nmoved\nother\n"
        again = await driver.open_workspace(WorkspaceSpec(seed=seed))
        assert await again.digest() == before
        assert await workspace.digest() != before
        assert await workspace.read("folder0/file0", max_bytes=10) == b"new\n"


def test_a_large_seed_is_copied_where_the_kernel_is_too_old_to_show_it_as_the_sessions(
    tmp_path: Path,
) -> None:
    seed = tmp_path / "seed"
    seed.mkdir()
    for number in range(COPY_BELOW + 1):
        (seed / f"file{number}").write_text("old\n")
    program = Path(__file__).parent / "old_kernel_stand_in.py"
    command = [sys.executable, str(program), str(tmp_path / "cache"), str(seed)]
    done = subprocess.run(command, capture_output=True, timeout=60, text=True, cwd=ROOT)
    assert done.stdout.split("\n")[:2] == [str(["old", str(COPY_BELOW + 1)]), "new"], done.stderr


async def test_a_seed_with_a_special_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "seed").mkdir()
    os.mkfifo(tmp_path / "seed" / "pipe")
    async with BubblewrapDriver(tmp_path / "cache") as driver:
        with pytest.raises(SandboxError, match="'pipe'"):
            await driver.open_workspace(WorkspaceSpec(seed=tmp_path / "seed"))


async def test_a_seed_larger_than_the_workspace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "seed").mkdir()
    (tmp_path / "seed" / "big").write_bytes(b"x" * 2**20)
    async with BubblewrapDriver(tmp_path / "cache") as driver:
        with pytest.raises(SandboxError, match="No space left"):
            await driver.open_workspace(WorkspaceSpec(seed=tmp_path / "seed", disk=2**18))


async def test_sessions_have_host_uids_of_their_own(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give each session a uid of its own")
    async with BubblewrapDriver(tmp_path / "one") as one, BubblewrapDriver(tmp_path / "two") as two:
        for number, driver in enumerate((one, one, two)):
            workspace = await driver.open_workspace(PLAIN)
            sandbox = await driver.acquire(shell(f"echo up; exec sleep 86398.5{number}"), workspace)
            await sandbox.receive()
        uids = [await anyio.to_thread.run_sync(owner_of, f"86398.5{number}") for number in range(3)]
    assert len(set(uids)) == 3
    assert min(uids) > 0


def owner_of(sleep: str) -> int:
    """Return the host's uid of the one process that sleeps so long."""
    lines = {path: path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()}
    (found,) = [path for path, line in lines.items() if line == f"sleep\0{sleep}\0".encode()]
    return found.stat().st_uid


async def test_secrets_stand_in_no_command_line(tmp_path: Path) -> None:
    spec = replace(shell("echo up; read end"), env={"TOKEN": "s3cr3t-of-the-test"})
    async with BubblewrapDriver(tmp_path) as driver:
        sandbox = await driver.acquire(spec, await driver.open_workspace(PLAIN))
        await sandbox.receive()
        leaks = await anyio.to_thread.run_sync(command_lines_with, b"s3cr3t-of-the-test")
    assert leaks == []


def command_lines_with(secret: bytes) -> Sequence[str]:
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [str(path)] if secret in path.read_bytes() else []
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


async def test_use_can_be_watched_while_it_runs(tmp_path: Path) -> None:
    async with BubblewrapDriver(tmp_path) as driver:
        sandbox = await driver.acquire(shell("sleep 60 & echo up; wait"), await driver.open_workspace(PLAIN))
        await sandbox.receive()
        stats = sandbox.stats()
        if stats.processes is None:
            pytest.skip("no control group is writable here")
        assert stats.processes == 2
        assert stats.memory is not None
        assert stats.memory > 0
        assert stats.oom_kills == 0


async def test_a_program_over_its_memory_limit_is_told_as_such(tmp_path: Path) -> None:
    runtime = python_runtime()
    code = "x = [b'x' * 2**20 + bytes([n % 251]) for n in range(900)]"
    limits = Limits(memory=32 * 2**20, disk=2**20)
    spec = SandboxSpec("eater", (runtime.argv0, "-I", "-c", code), runtime.env, runtime.mounts, limits=limits)
    async with BubblewrapDriver(tmp_path) as driver:
        sandbox = await driver.acquire(spec, await driver.open_workspace(PLAIN))
        with anyio.fail_after(20):
            ended = await sandbox.wait()
    assert ended.code != 0
    assert "memory" in (ended.reason + sandbox.stderr_tail()).lower()


async def test_python_and_node_start_inside(tmp_path: Path) -> None:
    python, node = python_runtime(), node_runtime()
    async with BubblewrapDriver(tmp_path) as driver:
        for runtime, code in (
            (python, ("-c", "import ssl, sqlite3, ctypes; print(6 * 7)")),
            (node, ("-p", "6*7")),
        ):
            spec = SandboxSpec("runtime", (runtime.argv0, *code), runtime.env, runtime.mounts)
            assert await said(driver, spec) == "42\n"


async def test_without_bubblewrap_the_error_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="apt-get install bubblewrap"):
        await BubblewrapDriver(tmp_path).__aenter__()


async def test_a_driver_that_was_not_opened_says_so(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="not open"):
        await BubblewrapDriver(tmp_path).open_workspace(PLAIN)


def test_an_unknown_driver_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=", ".join(DRIVERS)):
        make_driver("dockr", cache_dir=tmp_path)


def as_somebody(command: Sequence[str], home: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command as an ordinary user who owns nothing but `home`."""
    modules = os.pathsep.join((str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    return subprocess.run(
        command,
        env={"PATH": os.defpath, "PYTHONPATH": modules, "TMPDIR": home, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=home,
        capture_output=True,
        timeout=60,
        user=SOMEBODY,
        group=SOMEBODY,
        extra_groups=[],
    )


def reachable_python(home: str) -> str | None:
    """Return an interpreter that an ordinary user can start and that finds our modules."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            done = as_somebody(
                [python, "-c", "import gateway.sandbox.probe, gateway.sandbox.bubblewrap"], home
            )
        except OSError:
            continue
        if done.returncode == 0:
            return python
    return None


def test_the_probes_hold_without_root_as_well() -> None:
    if os.geteuid() != 0:
        pytest.skip("the other tests have shown it: this is not root")
    with tempfile.TemporaryDirectory() as home:
        os.chown(home, SOMEBODY, SOMEBODY)
        python = reachable_python(home)
        if python is None:
            pytest.skip(f"uid {SOMEBODY} can start no Python that finds the gateway")
        done = as_somebody([python, str(Path(__file__).parent / "unprivileged_probe.py")], home)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, tuple[bool, str]] = json.loads(done.stdout)
    failed = {name: detail for name, (held, detail) in found.items() if not held}
    assert set(failed) <= NEED_CONTROL_GROUPS, failed


def test_without_root_a_launchers_death_costs_its_workspaces_and_no_later_one() -> None:
    if os.geteuid() != 0:
        pytest.skip("this is not root: nobody to become")
    with tempfile.TemporaryDirectory() as home:
        os.chown(home, SOMEBODY, SOMEBODY)
        python = reachable_python(home)
        if python is None:
            pytest.skip(f"uid {SOMEBODY} can start no Python that finds the gateway")
        done = as_somebody([python, str(Path(__file__).parent / "unprivileged_launcher_death.py")], home)
    assert done.stdout.decode().splitlines() == [
        "new: of the seed",
        "old: this workspace takes no new sandbox, its launcher ended: open a new one",
        "read: of the seed",
    ], done.stderr.decode()
