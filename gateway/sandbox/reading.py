"""A session's files as the gateway reads them: what `workspace*.py` finds, in threads, as values."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable
from typing import TypeVar

import anyio.to_thread

from gateway.errors import SandboxError

from .contract import FileEntry
from .workspace import crosses_link, read_file
from .workspace_tree import digest_tree, list_tree

__all__ = ["TreeReader", "file_entries"]

T = TypeVar("T")


class TreeReader:
    """Reads below the open folder `folder`, which stays the caller's."""

    def __init__(self, folder: int) -> None:
        self._folder = folder

    async def read(self, relative: str, max_bytes: int) -> bytes:
        """As `contract.Workspace.read`."""
        return await anyio.to_thread.run_sync(read_file, self._folder, relative, max_bytes)

    def crosses_link(self, relative: str) -> bool:
        """As `contract.Workspace.crosses_link`. Looks names up in memory, so it needs no thread."""
        return crosses_link(self._folder, relative)

    async def files(self, max_entries: int) -> tuple[FileEntry, ...]:
        """As `contract.Workspace.files`."""
        found = await anyio.to_thread.run_sync(_walked, lambda: list_tree(self._folder, max_entries))
        return file_entries(found)

    async def digest(self) -> str:
        """As `contract.Workspace.digest`."""
        return await anyio.to_thread.run_sync(_walked, lambda: digest_tree(self._folder))


def _walked(walk: Callable[[], T]) -> T:
    try:
        return walk()
    except OSError as error:
        raise SandboxError(f"the workspace cannot be walked: {error}") from error


def file_entries(found: Iterable[tuple[str, int, int]]) -> tuple[FileEntry, ...]:
    """Return entries from paths, modes as the kernel gives them, and sizes."""
    return tuple(_entry(path, mode, size) for path, mode, size in found)


def _entry(path: str, mode: int, size: int) -> FileEntry:
    bits = stat.S_IMODE(mode)
    if stat.S_ISREG(mode):
        return FileEntry(path, "file", size, bits)
    if stat.S_ISDIR(mode):
        return FileEntry(path, "folder", 0, bits)
    return FileEntry(path, "link" if stat.S_ISLNK(mode) else "special", 0, bits)
