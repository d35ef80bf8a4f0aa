"""What holds a container's workspace, without the container: its program, asked as the driver asks it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.errors import SandboxError
from gateway.sandbox import docker_keeper
from gateway.sandbox.contract import FileEntry, SandboxSpec, WorkspaceSpec
from gateway.sandbox.docker_keeper import Keeper
from gateway.sandbox.docker_seeds import Packed
from gateway.sandbox.process import ProcessDriver

ROOM = 2**20


@asynccontextmanager
async def keeper(folder: Path, holds: Path) -> AsyncGenerator[Keeper]:
    """Run the program with what stands beside it in a container, over the folder `holds`."""
    helpers = folder / "helpers"
    helpers.mkdir(exist_ok=True)
    holds.mkdir(exist_ok=True)
    here = Path(docker_keeper.__file__).parent
    for name in ("inside/keep.py", "workspace.py", "workspace_tree.py"):
        shutil.copy(here / name, helpers)
    words = (sys.executable, "-I", "-S", str(helpers / "keep.py"), str(holds))
    async with ProcessDriver() as driver:
        workspace = await driver.open_workspace(WorkspaceSpec())
        yield Keeper(await driver.acquire(SandboxSpec("keeper", words), workspace))


def filled(folder: Path) -> Path:
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/file").write_bytes(b"12345")
    (folder / "deep/link").symlink_to("/etc/passwd")
    (folder / "empty").touch(0o640)
    os.mkfifo(folder / "pipe")
    with (folder / "hole").open("wb") as file:
        file.truncate(300_000)
        file.seek(0, os.SEEK_END)
        file.write(b"x")
    (folder / "hole").chmod(0o644)
    return folder


async def test_it_reads_lists_digests_and_looks_for_links(tmp_path: Path) -> None:
    async with keeper(tmp_path, filled(tmp_path / "held")) as one:
        assert await one.read("deep/file", 5) == b"12345"
        assert await one.crosses_link("deep/link")
        assert not await one.crosses_link("deep/file")
        assert FileEntry("hole", "file", 300_001, 0o644) in await one.files(10)
        with pytest.raises(ValueError, match="more than 2 entries"):
            await one.files(2)
        assert len(await one.digest()) == 64


async def test_what_it_packs_fills_another_one_with_the_same(tmp_path: Path) -> None:
    packed = Packed("the snapshot")
    async with (
        keeper(tmp_path, filled(tmp_path / "held")) as one,
        keeper(tmp_path, tmp_path / "other") as other,
    ):
        await one.snapshot(packed.add, ROOM)
        packed.finish()
        await other.seed(packed)
        assert await other.digest() == await one.digest()
    packed.close()


async def test_more_than_may_be_kept_is_refused_and_costs_nothing(tmp_path: Path) -> None:
    async with keeper(tmp_path, filled(tmp_path / "held")) as one:
        with pytest.raises(SandboxError, match="more than 1000 bytes"):
            await one.snapshot(lambda _: pytest.fail("nothing is sent"), 1000)
        assert await one.read("deep/file", 5) == b"12345"
