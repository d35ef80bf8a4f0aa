"""Workspace seeds: folders as they are, archives unpacked once, hostile archives refused."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.errors import UsageError
from gateway.runtime import seeds
from gateway.runtime.seeds import seed_folder

Member = tuple[tarfile.TarInfo, bytes]


def member(
    name: str, content: bytes = b"", *, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, link: str = ""
) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname, info.mtime = kind, mode, link, 1_000_000_000
    info.size = len(content)
    return info, content


def archive(path: Path, *members: Member) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


def left_in(cache: Path) -> list[Path]:
    return list((cache / "seeds").iterdir())


async def test_a_folder_is_its_own_seed(tmp_path: Path):
    assert await seed_folder(tmp_path, tmp_path / "cache") == tmp_path


async def test_an_archive_becomes_a_folder_with_its_files(tmp_path: Path):
    seed = archive(
        tmp_path / "s.tar.gz",
        member(".", kind=tarfile.DIRTYPE, mode=0o700),
        member("docs", kind=tarfile.DIRTYPE, mode=0o700),
        member("docs/a.md", b"hello", mode=0o600),
        member("run.sh", b"#!/bin/sh\n", mode=0o4755),
        member("deep/er/x", b"x"),
        member("docs/link", kind=tarfile.SYMTYPE, link="../run.sh"),
    )
    folder = await seed_folder(seed, tmp_path / "cache")
    assert (folder / "docs/a.md").read_bytes() == b"hello"
    assert (folder / "docs/link").readlink() == Path("../run.sh")
    modes = {
        name: (folder / name).lstat().st_mode & 0o7777
        for name in ("docs", "docs/a.md", "run.sh", "deep/er/x")
    }
    assert modes == {"docs": 0o755, "docs/a.md": 0o644, "run.sh": 0o755, "deep/er/x": 0o644}
    assert (folder / "docs/a.md").stat().st_mtime == 1_000_000_000
    assert folder.stat().st_mode & 0o777 == 0o755


async def test_an_archive_is_unpacked_once(tmp_path: Path):
    cache = tmp_path / "cache"
    first = await seed_folder(archive(tmp_path / "a.tar.gz", member("x", b"1")), cache)
    (first / "mark").touch()
    again = await seed_folder((tmp_path / "a.tar.gz").rename(tmp_path / "b.tar.gz"), cache)
    other = await seed_folder(archive(tmp_path / "c.tar.gz", member("x", b"2")), cache)
    assert (again / "mark").exists()
    assert other != first
    assert len(left_in(cache)) == 2


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([member("../x", b"x")], "names a path outside of itself: '../x'"),
        ([member("a/../../x", b"x")], "names a path outside of itself"),
        ([member("/etc/x", b"x")], "names a path outside of itself"),
        ([member("x", kind=tarfile.SYMTYPE, link="/etc/passwd")], "a link that leads outside of it: 'x'"),
        ([member("a/x", kind=tarfile.SYMTYPE, link="../../x")], "a link that leads outside of it"),
        ([member("a/x", kind=tarfile.SYMTYPE, link="b/../../../x")], "a link that leads outside of it"),
        ([member("x", kind=tarfile.LNKTYPE, link="/etc/passwd")], "no file, folder or link: 'x'"),
        ([member("x", kind=tarfile.CHRTYPE)], "no file, folder or link"),
        ([member("x", kind=tarfile.BLKTYPE)], "no file, folder or link"),
        ([member("x", kind=tarfile.FIFOTYPE)], "no file, folder or link"),
        (
            [
                member("a", kind=tarfile.DIRTYPE),
                member("l", kind=tarfile.SYMTYPE, link="a"),
                member("l/x", b"x"),
            ],
            "writes through a link: 'l/x'",
        ),
        ([member("x", b"1"), member("x", b"2")], "cannot be unpacked"),
        ([member("x", kind=tarfile.SYMTYPE, link="y"), member("x", b"2")], "cannot be unpacked"),
        ([member("x", b"1"), member("x/y", b"2")], "cannot be unpacked"),
    ],
)
async def test_a_hostile_archive_is_refused_and_leaves_nothing(
    tmp_path: Path, members: list[Member], reason: str
):
    seed = archive(tmp_path / "s.tar.gz", *members)
    with pytest.raises(UsageError, match=r"s\.tar\.gz") as error:
        await seed_folder(seed, tmp_path / "cache")
    assert reason in str(error.value)
    assert left_in(tmp_path / "cache") == []
    assert not (tmp_path / "x").exists()


def truncated(path: Path) -> None:
    data = archive(path, member("x", b"x" * 100_000)).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def not_gzip(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 something else")


def not_tar(path: Path) -> None:
    path.write_bytes(gzip.compress(b"plain text, and no archive at all" * 100))


@pytest.mark.parametrize("make", [truncated, not_gzip, not_tar])
async def test_a_damaged_archive_is_refused_and_leaves_nothing(tmp_path: Path, make: Callable[[Path], None]):
    make(tmp_path / "s.tar.gz")
    with pytest.raises(UsageError, match="cannot be unpacked"):
        await seed_folder(tmp_path / "s.tar.gz", tmp_path / "cache")
    assert left_in(tmp_path / "cache") == []


async def test_an_archive_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(seeds, "MAX_SEED_BYTES", 1_000_000)
    bomb = archive(tmp_path / "s.tar.gz", member("x", bytes(5_000_000)))
    assert bomb.stat().st_size < 10_000
    with pytest.raises(UsageError, match="unpacks to more than 1000000 bytes"):
        await seed_folder(bomb, tmp_path / "cache")
    assert left_in(tmp_path / "cache") == []


async def test_an_archive_of_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(seeds, "MAX_SEED_FILES", 3)
    many = archive(tmp_path / "s.tar.gz", *(member(f"f{i}") for i in range(4)))
    with pytest.raises(UsageError, match="holds more than 3 files"):
        await seed_folder(many, tmp_path / "cache")


@pytest.mark.parametrize("name", ["missing", "missing.tar.gz", "seed.zip"])
async def test_anything_else_is_no_seed(tmp_path: Path, name: str):
    (tmp_path / "seed.zip").touch()
    with pytest.raises(UsageError, match="neither a folder nor a"):
        await seed_folder(tmp_path / name, tmp_path / "cache")
