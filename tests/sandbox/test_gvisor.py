"""The driver `gvisor`: its attacks, inside a kernel of its own, and what it demands of the engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from gateway.errors import SandboxError, UsageError
from gateway.sandbox.contract import SandboxSpec, WorkspaceSpec
from gateway.sandbox.docker_driver import DockerDriver
from gateway.sandbox.docker_gvisor import ARGUMENTS, check_runtime
from gateway.sandbox.egress.inside import with_door
from gateway.sandbox.probe import PROBES, ProbeResult, run_probes
from tests.support.docker_engine import require_gvisor


async def _attack() -> list[ProbeResult]:
    async with DockerDriver(gvisor=True) as driver:
        return await run_probes(driver)


@pytest.fixture(scope="module")
def results(engine_address: str) -> Iterator[dict[str, ProbeResult]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", engine_address)
        require_gvisor()
        yield {result.name: result for result in anyio.run(_attack)}


@pytest.mark.parametrize("name", PROBES)
def test_the_container_holds(results: dict[str, ProbeResult], name: str) -> None:
    assert results[name].held, f"{results[name].meaning}: {results[name].detail}"


async def test_a_program_runs_in_another_kernel_with_threads_and_secrets(engine: str) -> None:
    require_gvisor()
    threads = "import threading; t = threading.Thread(target=print, args=(1,)); t.start(); t.join()"
    script = f"cat /proc/version; echo $TOKEN; python3 -c '{threads}'"
    async with DockerDriver(gvisor=True) as driver:
        workspace = await driver.open_workspace(WorkspaceSpec())
        spec = SandboxSpec("shell", ("/bin/sh", "-c", script), {"TOKEN": "hush-86397"})
        sandbox = await driver.acquire(spec, workspace)
        said = b""
        with anyio.fail_after(20):
            while not said.endswith(b"1\n"):
                said += await sandbox.receive()
    version, secret, _ = said.splitlines()
    assert version.split()[2].decode() != Path("/proc/sys/kernel/osrelease").read_text().strip()
    assert secret == b"hush-86397"


def test_an_engine_configured_as_documented_is_taken() -> None:
    assert check_runtime(ARGUMENTS)
    assert check_runtime(["-network=none", "--oci-seccomp=true", "--host-uds=open", "--debug"])
    assert not check_runtime(["--network=none", "--oci-seccomp"])


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (None, "apt-get install runsc"),
        ([], "--network=none"),
        (["--network=none"], "--oci-seccomp"),
        (["--network=host", "--oci-seccomp"], "--network=none"),
        (["--network=none", "--oci-seccomp=false"], "--oci-seccomp"),
        ([*ARGUMENTS, "--platform=kvm"], "kvm"),
    ],
)
def test_what_would_not_isolate_or_not_start_is_refused_with_the_next_step(
    arguments: list[str] | None, why: str
) -> None:
    with pytest.raises(UsageError, match=why) as refused:
        check_runtime(arguments)
    assert "/etc/docker/daemon.json" in str(refused.value)


async def test_egress_is_refused_where_the_engine_lets_no_socket_through(
    engine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    require_gvisor()

    def no_sockets(_: object) -> bool:
        return False

    monkeypatch.setattr("gateway.sandbox.docker_driver.check_runtime", no_sockets)
    (tmp_path / "socket").touch()
    async with DockerDriver(gvisor=True) as driver:
        workspace = await driver.open_workspace(WorkspaceSpec())
        spec = with_door(SandboxSpec("shell", ("/bin/true",)), tmp_path / "socket")
        with pytest.raises(SandboxError, match="--host-uds=open"):
            await driver.acquire(spec, workspace)
        assert await driver.acquire(replace(spec, egress=None), workspace)
