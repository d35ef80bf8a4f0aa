"""Walking all of a session's files from outside: what there is, and one digest over it.

The agent made the tree and may race us, so no link is followed and what it cost to make bounds what
it costs to walk: holes in files are not read, and folders nested too deeply are refused. Also runs
inside containers: standard library only.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["MAX_DEPTH", "Found", "digest_tree", "list_tree", "walk"]

CHUNK = 1 << 14
"""Small: one byte between two holes costs the reader this much."""
MAX_DEPTH = 200
"""Folders nested more deeply than this are of no use but to exhaust whoever walks them."""


class Found(NamedTuple):
    """One entry: its path below the top, `folder` (open, only until the next one) and name, and facts."""

    path: str
    folder: int
    name: str
    mode: int
    size: int


def walk(folder: int, prefix: str = "", depth: int = 0) -> Iterator[Found]:
    """Yield everything below the open `folder`, a folder before what is in it, by name.

    Raises `OSError` (ENAMETOOLONG) below `MAX_DEPTH`. A folder that may not be read is passed over.
    """
    if depth > MAX_DEPTH:
        raise OSError(errno.ENAMETOOLONG, f"folders are nested more than {MAX_DEPTH} deep", prefix)
    here = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)
    try:
        for name in sorted(entry.name for entry in os.scandir(here)):
            facts = os.stat(name, dir_fd=here, follow_symlinks=False)
            size = facts.st_size if stat.S_ISREG(facts.st_mode) else 0
            yield Found(f"{prefix}{name}", here, name, facts.st_mode, size)
            if stat.S_ISDIR(facts.st_mode):
                yield from _below(name, here, f"{prefix}{name}/", depth + 1)
    finally:
        os.close(here)


def _below(name: str, folder: int, prefix: str, depth: int) -> Iterator[Found]:
    inner = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    try:
        yield from walk(inner, prefix, depth)
    except PermissionError:  # the agent took the right away and we are not root; its mode counts
        return
    finally:
        os.close(inner)


def list_tree(folder: int, max_entries: int) -> list[tuple[str, int, int]]:
    """Return path, mode and size of everything below `folder`. Raises `ValueError` beyond `max_entries`."""
    found: list[tuple[str, int, int]] = []
    for entry in walk(folder):
        if len(found) >= max_entries:
            raise ValueError(f"the workspace holds more than {max_entries} entries")
        found.append((entry.path, entry.mode, entry.size))
    return found


def digest_tree(folder: int) -> str:
    """Return the SHA-256 (hex) over names, kinds, modes and contents below the open `folder`."""
    total = hashlib.sha256()
    for entry in walk(folder):
        head = f"{stat.S_IFMT(entry.mode):o} {stat.S_IMODE(entry.mode):o} {entry.path}"
        for line in (os.fsencode(head), _content(entry)):
            total.update(len(line).to_bytes(8, "big") + line)
    return total.hexdigest()


def _content(entry: Found) -> bytes:
    if stat.S_ISLNK(entry.mode):
        return os.fsencode(os.readlink(entry.name, dir_fd=entry.folder))
    if not stat.S_ISREG(entry.mode):
        return b""
    try:
        fd = os.open(entry.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=entry.folder)
    except PermissionError:  # as in _below
        return b""
    try:
        return _digest_file(fd)
    finally:
        os.close(fd)


def _digest_file(fd: int) -> bytes:
    """Return the digest of a file's length and of its parts that are not all zero."""
    size = os.fstat(fd).st_size
    total = hashlib.sha256(size.to_bytes(8, "big"))
    offset = 0
    while (offset := _next_data(fd, offset, size)) < size:
        data = os.pread(fd, CHUNK, offset)
        if data.count(0) != len(data):
            total.update(offset.to_bytes(8, "big") + data)
        offset += CHUNK
    return total.digest()


def _next_data(fd: int, offset: int, size: int) -> int:
    """Return where the first part from `offset` on begins that holds data; `size` where none does."""
    if offset >= size:
        return size
    try:
        return os.lseek(fd, offset, os.SEEK_DATA) // CHUNK * CHUNK
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        return offset  # a file system that does not know its holes
