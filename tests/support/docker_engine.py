"""A Docker engine for tests: the one that answers, or Debian's, started in a temporary folder as root.

The image is built once per machine and kept as a tar file beside the other temporary files; an engine that
was started here is stopped at the end, one that was found is left as it was.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.errors import SandgateError, UsageError
from gateway.sandbox.docker import Engine
from gateway.sandbox.images import Recipe, add_image, build_archive, read_recipe

__all__ = ["docker_engine", "provide_engine"]

START_SECONDS, STOP_SECONDS = 30, 30
ALONE = ("--iptables=false", "--ip6tables=false", "--bridge=none", "--log-level=error")


@contextmanager
def docker_engine() -> Generator[str]:
    """Yield the address of an engine with the image `base`; skip the test where there is none.

    Starting an engine and building its image takes minutes and packages that `make test` does not
    install, so these tests are asked for by name: `make docker`.
    """
    if os.environ.get("TEST_DOCKER") != "1":  # noqa: TID251 - how a test run is asked for
        pytest.skip("docker tests run with `make docker`, which needs docker.io and mmdebstrap")
    with _answering() as address:
        try:
            _add_base(address)
        except SandgateError as error:
            pytest.skip(f"the image for docker tests cannot be built: {error}")
        yield address


def provide_engine(request: pytest.FixtureRequest) -> None:
    """Give a test that is parametrised over driver names the engine that its driver needs, or skip it."""
    if request.param == "docker":
        request.getfixturevalue("engine")


@contextmanager
def _answering() -> Generator[str]:
    try:
        engine = Engine()
    except UsageError:
        with _started() as address:
            yield address
    else:
        engine.close()
        yield f"unix://{engine.socket}"


@contextmanager
def _started() -> Generator[str]:
    program = shutil.which("dockerd")
    if program is None or os.geteuid() != 0:
        pytest.skip("no Docker engine answers; root can start one after `apt-get install docker.io`")
    with tempfile.TemporaryDirectory(prefix="engine-", ignore_cleanup_errors=True) as folder:
        socket = f"unix://{folder}/engine.sock"
        command = [program, "--host", socket, *ALONE, *_folders(Path(folder))]
        with Path(folder, "log").open("wb") as log, subprocess.Popen(command, stderr=log) as engine:
            try:
                _wait(Path(folder), engine)
                yield socket
            finally:
                engine.terminate()
                engine.wait(STOP_SECONDS)


def _folders(folder: Path) -> list[str]:
    return [
        f"--data-root={folder}/data",
        f"--exec-root={folder}/exec",
        f"--pidfile={folder}/pid",
        "--group=root",
    ]


def _wait(folder: Path, engine: subprocess.Popen[bytes]) -> None:
    """Wait until it answers: it writes its pid file early and makes its socket before it serves on it."""
    asking = ["docker", "-H", f"unix://{folder}/engine.sock", "version"]
    for _ in range(START_SECONDS * 2):
        if engine.poll() is not None:
            pytest.skip(f"dockerd does not start here: {(folder / 'log').read_text()[-500:]}")
        try:
            done = subprocess.run(asking, capture_output=True, timeout=0.5, check=False)
        except subprocess.TimeoutExpired:
            continue
        if done.returncode == 0:
            return
        with pytest.raises(subprocess.TimeoutExpired):
            engine.wait(0.5)
    pytest.skip("dockerd did not answer in time")


def _add_base(address: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", address)
        engine = Engine()
    try:
        recipe = read_recipe("base")
        if engine.image(recipe.tag) is None:
            add_image(engine, recipe, _archive(recipe))
    finally:
        engine.close()


def _archive(recipe: Recipe) -> Path:
    """Return the built image, building it where no earlier run has; one run at a time."""
    folder = Path(tempfile.gettempdir()) / f"sandgate-test-images-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    archive = folder / f"{recipe.tag.replace('/', '-').replace(':', '-')}.tar"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            part = archive.with_suffix(".part")
            build_archive(recipe, part)
            part.rename(archive)
    return archive
