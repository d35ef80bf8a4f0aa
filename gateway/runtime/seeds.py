"""Workspace seeds: a folder of the pack, or a `.tar.gz` of it that is unpacked once into the cache.

An archive is for what a repository cannot hold as files, such as another repository's `.git`. It
is data of unknown origin: only regular files, folders and links that stay inside come out of it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import anyio.to_thread

from gateway.errors import UsageError

__all__ = ["ARCHIVE_SUFFIX", "MAX_SEED_BYTES", "MAX_SEED_FILES", "seed_folder"]

ARCHIVE_SUFFIX = ".tar.gz"
MAX_SEED_BYTES = 2**30
"""Most bytes a seed archive may unpack to."""
MAX_SEED_FILES = 100_000
"""Most files, folders and links a seed archive may hold."""

_CHUNK = 1 << 20


async def seed_folder(seed: Path, cache_dir: Path) -> Path:
    """Return a plain folder for a seed; raises `UsageError` if it is neither folder nor sound archive."""
    return await anyio.to_thread.run_sync(_folder, seed, cache_dir)


def _folder(seed: Path, cache_dir: Path) -> Path:
    if seed.is_dir():
        return seed.resolve()
    if not seed.is_file() or not seed.name.endswith(ARCHIVE_SUFFIX):
        raise UsageError(f"the seed {seed} is neither a folder nor a {ARCHIVE_SUFFIX} archive")
    digest = hashlib.sha256(seed.read_bytes()).hexdigest()[:40]
    target = cache_dir / "seeds" / digest
    return target if target.is_dir() else _unpack_to(seed, target)


def _unpack_to(seed: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix="building.", dir=target.parent))
    try:
        _unpack(seed, building)
        building.chmod(0o755)
        building.rename(target)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        if not target.is_dir():  # else another process was faster, with the same content
            raise UsageError(f"the seed {seed} cannot be unpacked: {error}") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _unpack(seed: Path, folder: Path) -> None:
    budget = _Budget(seed)
    with (
        gzip.open(seed) as plain,
        io.BufferedReader(_CappedReader(plain, seed)) as capped,
        tarfile.open(fileobj=capped, mode="r|") as archive,
    ):
        for member in archive:
            path = budget.checked(member)
            if path.parts:
                _place(seed, archive, member, folder, path)


class _Budget:
    """Counts an archive's members; refuses too many, and any that goes elsewhere."""

    def __init__(self, seed: Path) -> None:
        self._seed = seed
        self._files = 0

    def checked(self, member: tarfile.TarInfo) -> PurePosixPath:
        """Return where a member goes, relative to the seed."""
        self._files += 1
        if self._files > MAX_SEED_FILES:
            raise UsageError(f"the seed {self._seed} holds more than {MAX_SEED_FILES} files")
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or "\0" in member.name:
            raise UsageError(f"the seed {self._seed} names a path outside of itself: {member.name!r}")
        return path


class _CappedReader(io.RawIOBase):
    """The unpacked bytes, with an end to them: refuses an archive that unpacks to too much."""

    def __init__(self, plain: gzip.GzipFile, seed: Path) -> None:
        super().__init__()
        self._plain = plain
        self._seed = seed
        self._left = MAX_SEED_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        data = self._plain.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise UsageError(f"the seed {self._seed} unpacks to more than {MAX_SEED_BYTES} bytes")
        buffer[: len(data)] = data
        return len(data)


def _place(
    seed: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, path: PurePosixPath
) -> None:
    for parent in _parents(folder, path):
        if parent.is_symlink():
            raise UsageError(f"the seed {seed} writes through a link: {member.name!r}")
        parent.mkdir(mode=0o755, exist_ok=True)
    place = folder / path
    if member.isdir():
        place.mkdir(mode=0o755, exist_ok=True)
    elif member.issym():
        place.symlink_to(_link_target(seed, member, path))
    elif member.isreg():
        _write(archive, member, place)
    else:
        raise UsageError(f"the seed {seed} holds something that is no file, folder or link: {member.name!r}")


def _parents(folder: Path, path: PurePosixPath) -> Iterator[Path]:
    place = folder
    for part in path.parts[:-1]:
        place = place / part
        yield place


def _link_target(seed: Path, member: tarfile.TarInfo, path: PurePosixPath) -> str:
    """Return a link's target if, followed by its text alone, it stays in the seed."""
    target = PurePosixPath(member.linkname)
    depth = len(path.parts) - 1
    for part in target.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            break
    if target.is_absolute() or depth < 0 or not target.parts:
        raise UsageError(f"the seed {seed} holds a link that leads outside of it: {member.name!r}")
    return member.linkname


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> None:
    source = archive.extractfile(member)
    assert source is not None, "a regular member has content"
    mode = 0o755 if member.mode & 0o100 else 0o644
    fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(fd, "wb") as file:
        shutil.copyfileobj(source, file, _CHUNK)
    place.chmod(mode)  # whatever the umask
    os.utime(place, (member.mtime, member.mtime))
