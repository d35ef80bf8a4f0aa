"""Reading a session's files from outside, by descriptor: the agent wrote them and may race us."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import PurePosixPath

__all__ = ["digest_tree", "read_file"]

CHUNK = 1 << 20


def read_file(folder: int, relative: str, max_bytes: int) -> bytes:
    """Return the bytes of a file below the open `folder`, following no link; errors as `Workspace.read`."""
    parts = PurePosixPath(relative).parts
    if not parts or relative.startswith("/") or ".." in parts or "\0" in relative:
        raise PermissionError(f"{relative!r} is not a path inside the workspace")
    here = os.dup(folder)
    try:
        for part in parts[:-1]:
            here = _replace(here, _enter(part, here))
        return _read_regular(parts[-1], here, max_bytes)
    finally:
        os.close(here)


def _replace(old: int, new: int) -> int:
    os.close(old)
    return new


def _enter(name: str, folder: int) -> int:
    try:
        return os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    except NotADirectoryError as error:
        raise PermissionError(f"{name!r} is a link or no folder") from error


def _read_regular(name: str, folder: int, max_bytes: int) -> bytes:
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(f"{name!r} is a folder")
    if not stat.S_ISREG(found.st_mode):
        raise PermissionError(f"{name!r} is a link or a special file")
    # It may have been swapped since: no link is followed, and a fifo does not block.
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    with open(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise PermissionError(f"{name!r} is a special file")
        return _read_capped(file.fileno(), name, max_bytes)


def _read_capped(fd: int, name: str, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while data := os.read(fd, CHUNK):
        size += len(data)
        if size > max_bytes:
            raise ValueError(f"{name!r} is larger than {max_bytes} bytes")
        parts.append(data)
    return b"".join(parts)


def digest_tree(folder: int) -> str:
    """Return the SHA-256 (hex) over names, kinds, modes and contents below the open `folder`."""
    total = hashlib.sha256()
    for line in _lines(folder, ""):
        total.update(len(line).to_bytes(8, "big") + line)
    return total.hexdigest()


def _lines(folder: int, prefix: str) -> Iterator[bytes]:
    here = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)
    try:
        for name in sorted(os.listdir(here)):
            facts = os.stat(name, dir_fd=here, follow_symlinks=False)
            path = f"{prefix}{name}"
            yield os.fsencode(f"{stat.S_IFMT(facts.st_mode):o} {stat.S_IMODE(facts.st_mode):o} {path}")
            if stat.S_ISDIR(facts.st_mode):
                yield from _below(name, here, f"{path}/")
            else:
                yield _content(name, here, facts.st_mode)
    finally:
        os.close(here)


def _below(name: str, folder: int, prefix: str) -> Iterator[bytes]:
    inner = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    try:
        yield from _lines(inner, prefix)
    except PermissionError:  # as in _content
        return
    finally:
        os.close(inner)


def _content(name: str, folder: int, mode: int) -> bytes:
    if stat.S_ISLNK(mode):
        return os.fsencode(os.readlink(name, dir_fd=folder))
    if not stat.S_ISREG(mode):
        return b""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except PermissionError:  # the agent took the right away and we are not root; the mode counts
        return b""
    with open(fd, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
