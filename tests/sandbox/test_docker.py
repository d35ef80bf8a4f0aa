"""The docker driver beyond the common contract: what it asks of the engine, its attacks, its ends."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import docker  # type: ignore[import-untyped]
import pytest
from anyio.abc import SocketStream

from gateway.errors import SandboxError, UsageError
from gateway.sandbox.contract import Attempt, Limits, Mount, Sandbox, SandboxSpec, WorkspaceSpec
from gateway.sandbox.docker import Engine
from gateway.sandbox.docker_container import INTERPRETER
from gateway.sandbox.docker_driver import DockerDriver
from gateway.sandbox.docker_handles import DockerWorkspace
from gateway.sandbox.docker_network import NOT_ROOT, NOT_SEEN, Unheard, furnish
from gateway.sandbox.docker_owner import DRIVER, OWNER, is_dead, owner
from gateway.sandbox.images import read_recipe
from gateway.sandbox.probe import PROBES, ProbeResult, run_probes

STAND_IN = Path(__file__).parent / "docker_stand_in.py"
DEAF = Path(__file__).parent / "docker_way_out.py"


def shell(script: str, **settings: Any) -> SandboxSpec:
    return SandboxSpec("shell", ("/bin/sh", "-c", script), **settings)


async def output(sandbox: Sandbox) -> bytes:
    kept = b""
    with anyio.fail_after(10):
        while True:
            try:
                kept += await sandbox.receive()
            except anyio.EndOfStream:
                return kept


@contextmanager
def asked() -> Generator[Engine]:
    engine = Engine()
    try:
        yield engine
    finally:
        engine.close()


def left(key: str, value: str) -> bool:
    """Say whether any container or volume carries the label."""
    with asked() as engine:
        return value in engine.labels_in_use(key)


# --- isolation ---


async def _attack() -> list[ProbeResult]:
    async with DockerDriver() as driver:
        return await run_probes(driver)


@pytest.fixture(scope="module")
def results(engine_address: str) -> Iterator[dict[str, ProbeResult]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", engine_address)
        yield {result.name: result for result in anyio.run(_attack)}


@pytest.mark.parametrize("name", PROBES)
def test_the_container_holds(results: dict[str, ProbeResult], name: str) -> None:
    assert results[name].held, f"{results[name].meaning}: {results[name].detail}"


def test_being_killed_for_memory_is_told_apart_from_other_ends(results: dict[str, ProbeResult]) -> None:
    assert "memory" in results["memory_bomb"].detail


async def test_secrets_reach_the_program_and_neither_the_engine_nor_its_files(engine: str) -> None:
    secret = "hush-86397"
    async with DockerDriver() as driver:
        workspace = await driver.open_workspace(WorkspaceSpec())
        assert isinstance(workspace, DockerWorkspace)
        sandbox = await driver.acquire(shell("echo $TOKEN; read end", env={"TOKEN": secret}), workspace)
        assert await sandbox.receive() == f"{secret}\n".encode()
        with asked() as known:
            records = [known.inspect(one.container) for one in workspace.sandboxes]
        assert len(records) == 2
        assert secret not in json.dumps(records)
        assert not [line for line in command_lines() if secret in " ".join(line)]


def command_lines() -> list[list[str]]:
    return [words(path) for path in Path("/proc").glob("[0-9]*/cmdline")]


# --- what is tried past the proxy ---

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may listen in a container's network")


@AS_ROOT
def test_what_a_container_tries_past_the_proxy_is_recorded(results: dict[str, ProbeResult]) -> None:
    assert results["past_the_proxy"].detail == "refused and recorded"


@pytest.mark.skipif(shutil.which("setpriv") is None or os.geteuid() != 0, reason="takes away root's rights")
@pytest.mark.parametrize("rights", ["-all", "-sys_admin", "-net_admin"])
def test_without_the_right_to_listen_containers_are_as_tight_and_that_is_said(
    engine: str, rights: str
) -> None:
    command = ("setpriv", f"--bounding-set={rights}", "--inh-caps=-all", sys.executable, str(DEAF))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["past_the_proxy"] == [True, f"refused, and not recorded: {NOT_ROOT}"]
    assert all(held for held, _ in found.values())
    assert done.stderr.count(NOT_ROOT) == 1


@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="makes a pid namespace")
def test_an_engine_s_process_that_is_another_one_here_is_left_alone(engine: str) -> None:
    command = ("unshare", "--pid", "--fork", "--mount-proc", sys.executable, str(DEAF))
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert found["past_the_proxy"] == [True, f"refused, and not recorded: {NOT_SEEN}"]
    assert all(held for held, _ in found.values())


@pytest.mark.parametrize("pid", [os.getpid(), 2**22 + 1])
def test_a_process_of_no_such_container_is_not_entered(pid: int) -> None:
    with pytest.raises(Unheard, match=NOT_SEEN):
        furnish("0" * 64, pid)


FURNISH = """
import os, pathlib
from gateway.sandbox.docker_network import Unheard, furnish
try:
    furnish(pathlib.Path("/proc/self/cgroup").read_text(), os.getpid())
except Unheard as why:
    print(why)
"""


@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="makes a network")
def test_the_gateway_s_own_network_is_never_furnished() -> None:
    command = ("unshare", "--net", sys.executable, "-c", FURNISH)
    said = subprocess.run(command, capture_output=True, check=True).stdout
    assert said == b"the container has the gateway's own network\n"


@AS_ROOT
async def test_what_is_tried_last_is_told_at_the_end_and_the_network_is_let_go(engine: str) -> None:
    async with DockerDriver() as driver:
        workspace = await driver.open_workspace(WorkspaceSpec())
        before = sockets()
        program = f"import socket\n{''.join(TRIES.format(number) for number in range(3))}"
        sandbox = await driver.acquire(SandboxSpec("tries", (INTERPRETER, "-c", program)), workspace)
        told: list[Attempt] = []
        assert sandbox.notice(told.append) is None
        assert (await sandbox.wait()).code == 0
        assert [(each.protocol, each.address, each.count) for each in told] == [
            ("tcp", f"203.0.113.{number}", 1) for number in range(3)
        ]
        await sandbox.kill()
        assert sockets() == before


TRIES = "socket.socket().connect_ex(('203.0.113.{}', 80))\n"


def sockets() -> int:
    """Return how many sockets this process has."""
    found = 0
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing's own
            found += str(path.readlink()).startswith("socket:")
    return found


# --- workspaces ---


async def test_a_workspace_outlives_its_servers_and_a_check_sees_it_read_only(engine: str) -> None:
    async with DockerDriver() as driver:
        workspace = await driver.open_workspace(WorkspaceSpec())
        await output(await driver.acquire(shell("echo kept > file"), workspace))
        check = await driver.acquire(
            shell("cat file; echo no > file || echo refused", writable=False), workspace
        )
        assert await output(check) == b"kept\nrefused\n"
        assert await workspace.read("file", max_bytes=10) == b"kept\n"


async def test_a_seed_too_large_for_its_workspace_is_told_and_leaves_nothing(
    engine: str, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(os.urandom(3 * 2**20))
    async with DockerDriver() as driver:
        with pytest.raises(SandboxError, match=r"cannot be filled from .*(No space left|File too large)"):
            await driver.open_workspace(WorkspaceSpec(seed=tmp_path, disk=2**20))
        assert not left(DRIVER, driver.label)


async def test_a_seed_with_a_special_file_is_refused(engine: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    async with DockerDriver() as driver:
        with pytest.raises(SandboxError, match="'pipe', which is neither a file, a folder nor a link"):
            await driver.open_workspace(WorkspaceSpec(seed=tmp_path))


async def test_odd_names_times_and_modes_of_a_seed_arrive(engine: str, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"\xff\n odd")
    odd.mkdir()
    (odd / "run").write_text("#!/bin/sh\n")
    (odd / "run").chmod(0o755)
    os.utime(odd / "run", ns=(10**18, 10**18))
    async with DockerDriver() as driver:
        workspace = await driver.open_workspace(WorkspaceSpec(seed=tmp_path))
        said = await output(await driver.acquire(shell("stat -c '%a %Y %U' */run"), workspace))
    assert said == b"755 1000000000 agent\n"


async def test_a_closed_workspace_refuses(engine: str) -> None:
    async with DockerDriver() as driver:
        workspace = await driver.open_workspace(WorkspaceSpec())
        await workspace.aclose()
        with pytest.raises(SandboxError, match="closed"):
            await workspace.digest()
        with pytest.raises(SandboxError, match="closed"):
            await driver.acquire(shell("true"), workspace)


# --- programs ---


async def test_the_limits_of_processes_and_memory_and_the_use_are_those_of_the_container(engine: str) -> None:
    async with DockerDriver() as driver:
        workspace = await driver.open_workspace(WorkspaceSpec())
        spec = shell("sleep 60 & sleep 60 & echo up; wait", limits=Limits(memory=64 * 2**20))
        sandbox = await driver.acquire(spec, workspace)
        await sandbox.receive()
        stats = sandbox.stats()
    if stats.processes is None:
        pytest.skip("the engine's control groups cannot be seen from here")
    assert stats.processes == 3
    assert stats.memory is not None
    assert 0 < stats.memory < 64 * 2**20


async def test_a_flood_on_one_stream_does_not_hold_up_the_other(engine: str) -> None:
    async with DockerDriver() as driver:
        workspace = await driver.open_workspace(WorkspaceSpec())
        sandbox = await driver.acquire(shell("yes >&2 & while read line; do echo $line; done"), workspace)
        for _ in range(3):
            await sandbox.send(b"x\n")
            with anyio.fail_after(5):
                assert await sandbox.receive() == b"x\n"


async def test_a_mount_that_does_not_exist_is_a_fault_of_the_sandbox(engine: str, tmp_path: Path) -> None:
    async with DockerDriver() as driver:
        workspace = await driver.open_workspace(WorkspaceSpec())
        with pytest.raises(SandboxError, match="does not exist"):
            await driver.acquire(shell("true", mounts=(Mount(tmp_path / "no", "/opt/thing"),)), workspace)


# --- ends ---


async def test_nothing_is_left_with_the_engine_once_the_driver_is_left(engine: str) -> None:
    async with DockerDriver() as driver:
        workspace = await driver.open_workspace(WorkspaceSpec())
        await driver.acquire(shell("sleep 60"), workspace)
        assert left(DRIVER, driver.label)
    assert not left(DRIVER, driver.label)


async def test_two_drivers_of_one_gateway_do_not_meet(engine: str) -> None:
    async with DockerDriver() as one:
        sandbox = await one.acquire(shell("read line; echo $line"), await one.open_workspace(WorkspaceSpec()))
        async with DockerDriver() as two:
            await two.open_workspace(WorkspaceSpec())
        await sandbox.send(b"alive\n")
        assert await sandbox.receive() == b"alive\n"


def sleepers(word: str) -> int:
    return sum(line[:2] == ["sleep", word] for line in command_lines())


async def becomes(condition: Callable[[], bool], seconds: float = 2) -> bool:
    """Say whether something comes true within so many seconds."""
    until = anyio.current_time() + seconds
    while anyio.current_time() < until:
        if await anyio.to_thread.run_sync(condition):
            return True
    return condition()


@asynccontextmanager
async def stand_in(sleep: str) -> AsyncGenerator[tuple[subprocess.Popen[bytes], str]]:
    """Run a gateway with hostile programs; yield it and its driver's label. It is dead at the end."""
    command = [sys.executable, str(STAND_IN), sleep]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as gateway:  # noqa: ASYNC220 - returns at once
        try:
            assert gateway.stdout is not None
            label = (await anyio.to_thread.run_sync(gateway.stdout.readline)).decode().strip()
            assert await becomes(lambda: sleepers(sleep) == 4), sleepers(sleep)
            yield gateway, label
        finally:
            gateway.kill()


def reapers(label: str) -> list[int]:
    """Return the processes that wait for the end of the driver with that label."""
    found = (path for path in Path("/proc").glob("[0-9]*/cmdline"))
    return [int(path.parent.name) for path in found if f"{DRIVER}={label}" in words(path)]


def words(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
async def test_no_process_is_left_two_seconds_after_the_gateway_died(engine: str, by: signal.Signals) -> None:
    sleep = f"86391.{by.value}"
    async with stand_in(sleep) as (gateway, label):
        gateway.send_signal(by)
        assert await becomes(lambda: sleepers(sleep) == 0)
        assert await becomes(lambda: not left(DRIVER, label), 10)


async def test_a_reaper_that_is_killed_is_replaced(engine: str) -> None:
    async with stand_in("86392.1") as (gateway, label):
        (first,) = reapers(label)
        os.kill(first, signal.SIGKILL)
        assert await becomes(lambda: reapers(label) not in ([], [first]))
        gateway.kill()
        assert await becomes(lambda: sleepers("86392.1") == 0)


async def test_a_start_sweeps_what_a_gateway_left_that_died_with_its_reaper(engine: str) -> None:
    async with stand_in("86393.1") as (gateway, label):
        (reaper,) = reapers(label)
        os.kill(gateway.pid, signal.SIGSTOP)  # so that it starts no other
        os.kill(reaper, signal.SIGKILL)
        gateway.kill()
        gateway.wait()
        assert left(DRIVER, label)
        async with DockerDriver():
            assert sleepers("86393.1") == 0
            assert not left(DRIVER, label)


OLD = f"sandgate/base:{'0' * 12}"
HELD = f"sandgate/base:{'1' * 12}"
FOREIGN = ("sandgate/base:mine", f"somebody/base:{'0' * 12}", f"sandgate/other:{'0' * 12}")
UNLABELLED = f"sandgate/base:{'2' * 12}"


def add_images(folder: Path, engine: Engine) -> None:
    """Add small images of those names, each of one file."""
    for number, tag in enumerate((OLD, HELD, *FOREIGN, UNLABELLED)):
        archive, file = folder / f"{number}.tar", folder / "file"
        file.write_text(tag)
        with tarfile.open(archive, "w") as tar:
            tar.add(file, "file")
        engine.import_image(archive, tag, [] if tag == UNLABELLED else ['LABEL sandgate.python="3.11"'])


async def test_a_start_removes_images_of_earlier_recipes_and_nobody_elses(
    engine: str, tmp_path: Path
) -> None:
    api: Any = docker.APIClient(base_url=engine)
    with closing(api), asked() as images:
        async with stand_in("86395.1"):
            add_images(tmp_path, images)
            container = api.create_container(HELD, ["x"])["Id"]
            async with DockerDriver():
                assert images.image(OLD) is not None  # another gateway lives, perhaps of another version
        try:
            async with DockerDriver():
                assert images.image(OLD) is None
                for tag in (HELD, *FOREIGN, UNLABELLED, read_recipe("base").tag):
                    assert images.image(tag) is not None, tag
            api.remove_container(container)
            async with DockerDriver():
                assert images.image(HELD) is None
        finally:
            for tag in (*FOREIGN, UNLABELLED):
                assert images.remove_image(tag)


async def test_a_sweep_leaves_a_living_gateway_alone(engine: str) -> None:
    async with stand_in("86394.1"), DockerDriver():
        assert sleepers("86394.1") == 4


def test_the_mark_of_a_process_tells_the_living_from_the_dead() -> None:
    mine = owner(os.getpid())
    boot, namespace, pid, started = mine.split("-")
    assert not is_dead(mine)
    assert is_dead(f"{boot}-{namespace}-{pid}-{int(started) + 1}")
    assert is_dead(f"{'0' * len(boot)}-{namespace}-{pid}-{started}")
    assert not is_dead(f"{boot}-{int(namespace) + 1}-{pid}-1"), "nothing is known of other pid namespaces"


@asynccontextmanager
async def relay(address: str, place: Path) -> AsyncGenerator[anyio.CancelScope]:
    """Pass connections to `place` on to an engine, until the block ends or the scope is cancelled."""
    listener = await anyio.create_unix_listener(place)
    passing = anyio.CancelScope()

    async def serve(client: SocketStream) -> None:
        engine = await anyio.connect_unix(address.removeprefix("unix://"))
        async with client, engine, anyio.create_task_group() as both:
            both.start_soon(pump, client, engine)
            both.start_soon(pump, engine, client)

    async def accept() -> None:
        with passing:
            async with listener:
                await listener.serve(serve)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(accept)
        yield passing
        passing.cancel()


async def pump(source: SocketStream, target: SocketStream) -> None:
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        async for data in source:
            await target.send(data)
        await target.send_eof()


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
async def test_an_engine_that_hangs_up_ends_every_sandbox_and_the_reaper_tidies_when_it_is_back(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "engine.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{place}")
    driver = DockerDriver()
    async with relay(engine, place) as passing, driver:
        sandbox = await driver.acquire(shell("sleep 60"), await driver.open_workspace(WorkspaceSpec()))
        passing.cancel()
        with anyio.fail_after(5):
            assert "engine" in (await sandbox.wait()).reason
    monkeypatch.setenv("DOCKER_HOST", engine)
    assert await becomes(lambda: left(DRIVER, driver.label))
    async with relay(engine, place):
        assert await becomes(lambda: not left(DRIVER, driver.label), 10)
    gc.collect()  # the client keeps a socket open that was refused


# --- the machine ---


async def test_no_engine_is_told_with_the_next_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(UsageError, match=r"apt-get install docker\.io"):
        async with DockerDriver():
            raise AssertionError("it opened")


async def test_an_engine_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with pytest.raises(UsageError, match="use a local one"):
        async with DockerDriver():
            raise AssertionError("it opened")


def test_the_marks_differ_by_process() -> None:
    assert owner(os.getpid()) != owner(os.getppid())
    assert OWNER != DRIVER
