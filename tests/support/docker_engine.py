"""A Docker engine for tests: the one that answers, with an image made on this machine.

The image is built once per machine and kept as a tar file beside the other temporary files.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.errors import SandgateError, UsageError
from gateway.sandbox.docker import Engine
from gateway.sandbox.docker_gvisor import RUNTIME, check_runtime
from gateway.sandbox.images import Recipe, add_image, build_archive, read_recipe

__all__ = ["docker_engine", "provide_engine", "require_gvisor"]


@contextmanager
def docker_engine() -> Generator[str]:
    """Yield the address of the engine that answers, with the image `base`; skip the test where none does.

    None is started here: `scripts/engine` does that, for `.ci/run` and `make docker`.
    """
    try:
        engine = Engine()
    except UsageError as error:
        pytest.skip(f"docker tests run with `make docker`: {error}")
    try:
        _add_base(engine)
    except SandgateError as error:
        pytest.skip(f"the image for docker tests cannot be built: {error}")
    finally:
        engine.close()
    yield f"unix://{engine.socket}"


def provide_engine(request: pytest.FixtureRequest) -> None:
    """Give a test that is parametrised over driver names the engine that its driver needs, or skip it."""
    if request.param in ("docker", "gvisor"):
        request.getfixturevalue("engine")
    if request.param == "gvisor":
        require_gvisor()


def require_gvisor() -> None:
    """Skip a test where the engine that answers cannot run gVisor as it has to be."""
    engine = Engine()
    try:
        check_runtime(engine.runtime_arguments(RUNTIME))
    except UsageError as error:
        pytest.skip(str(error))
    finally:
        engine.close()


def _add_base(engine: Engine) -> None:
    recipe = read_recipe("base")
    if engine.image(recipe.tag) is None:
        add_image(engine, recipe, _archive(recipe))


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
