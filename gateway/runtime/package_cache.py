"""A folder of finished installations, shared by every gateway of this user.

entries/KEY      one installation; KEY is the digest of what is in it
requests/KEY     which entry a request without a lock was resolved to
building/KEY.*   being made; moved to entries in one step, or swept by the next builder
locks/KEY        held (flock) by whoever builds KEY, and by the installers it started
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from gateway.core.strict_json import canonical

__all__ = ["BuildSite", "PackageCache", "cache_key"]

_POLL_SECONDS = 0.1


def cache_key(*parts: str) -> str:
    """Return the digest that names `parts`, in their order, in the cache."""
    return hashlib.sha256(canonical(list(parts))).hexdigest()[:40]


@dataclass(frozen=True, slots=True)
class BuildSite:
    """Where to build: an empty folder, and the lock to hand on to the programs that build in it.

    A program that outlives a killed gateway then still holds the lock, and nobody builds beside it.
    """

    folder: Path
    lock_fd: int


class PackageCache:
    """Finds and makes installations; an entry is complete or absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def entry(self, key: str) -> Path | None:
        """Return the finished installation `key`, if there is one."""
        path = self.folder / "entries" / key
        return path if path.is_dir() else None

    def resolved(self, request: str) -> Path | None:
        """Return the installation that an earlier `request` came to, if it is still there."""
        try:
            key = (self.folder / "requests" / request).read_text()
        except FileNotFoundError:
            return None
        return self.entry(key)

    @asynccontextmanager
    async def building(self, key: str, say: Callable[[str], None]) -> AsyncGenerator[BuildSite]:
        """Hold `key`'s lock and give an empty folder, which is gone afterwards unless published."""
        for part in ("entries", "requests", "building", "locks"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        fd = os.open(self.folder / "locks" / key, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            await _locked(fd, say)
            await anyio.to_thread.run_sync(self._sweep, key)
            folder = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=self.folder / "building"))
            try:
                yield BuildSite(folder, fd)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))
        finally:
            os.close(fd)

    def publish(self, site: BuildSite, key: str, request: str | None = None) -> Path:
        """Make a finished build the entry `key`; if the entry came to be meanwhile, that one stands."""
        _make_readable(site.folder)
        target = self.folder / "entries" / key
        try:
            site.folder.rename(target)
        except OSError:
            if not target.is_dir():
                raise
        if request is not None:
            self._remember(request, key)
        return target

    def _remember(self, request: str, key: str) -> None:
        with tempfile.NamedTemporaryFile("w", dir=self.folder / "requests", delete=False) as file:
            file.write(key)
        Path(file.name).replace(self.folder / "requests" / request)

    def _sweep(self, key: str) -> None:
        """Drop what a killed builder of `key` left: we hold the lock, so nobody else is building it."""
        for leftover in (self.folder / "building").glob(f"{key}.*"):
            shutil.rmtree(leftover, ignore_errors=True)


async def _locked(fd: int, say: Callable[[str], None]) -> None:
    told = False
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if not told:
            say("another gateway is installing the same package: waiting for it")
            told = True
        await anyio.sleep(_POLL_SECONDS)


def _make_readable(folder: Path) -> None:
    """Let the unprivileged users of sandboxes read what was installed under any umask."""
    folder.chmod(0o755)
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent) / name
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                continue
            executable = 0o111 if stat.S_ISDIR(mode) or mode & 0o100 else 0
            path.chmod(0o644 | executable)
