"""Reading one of a session's files from outside, by descriptor: the agent wrote it and may race us.

A path is resolved by the kernel in one step (`openat2`), beneath the workspace and through no link;
where the kernel lacks that, folder by folder. Only regular files are ever opened for reading, so that
neither a fifo nor a device can hold or answer the reader. Also runs inside containers: standard
library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from functools import cache
from pathlib import PurePosixPath

__all__ = ["crosses_link", "open_beneath", "read_file"]

CHUNK = 1 << 20
SYS_OPENAT2 = 437
"""One number on every architecture: it came after the tables were unified."""
RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 0x02, 0x04, 0x08
BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
MISSING = (errno.ENOSYS, errno.EPERM)
"""How a kernel before 5.6 and an older container's filter answer."""


class _OpenHow(ctypes.Structure):
    """The kernel's `struct open_how`."""

    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def read_file(folder: int, relative: str, max_bytes: int) -> bytes:
    """Return the bytes of a file below the open `folder`, following no link; errors as `Workspace.read`."""
    if not PurePosixPath(relative).parts:
        raise PermissionError(f"{relative!r} is not a path inside the workspace")
    try:
        found = open_beneath(folder, relative)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EXDEV, errno.ENOTDIR):
            raise PermissionError(f"{relative!r} leads over a link or through a file") from error
        raise
    try:
        return _read_regular(found, relative, max_bytes)
    finally:
        os.close(found)


def crosses_link(folder: int, relative: str) -> bool:
    """Say whether the way to `relative` below the open `folder` leads over a link, or cannot be told.

    What does not exist leads nowhere. It holds for now: whoever may write there can make a link next.
    """
    try:
        os.close(open_beneath(folder, relative))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return False


def open_beneath(folder: int, relative: str) -> int:
    """Return an `O_PATH` descriptor of what stands at `relative` below `folder`.

    Raises `OSError`: ELOOP for a link on the way or at the end, ENOTDIR, ENOENT, EACCES; and
    `PermissionError` for a path that does not name something inside.
    """
    parts = PurePosixPath(relative).parts
    if relative.startswith("/") or ".." in parts or "\0" in relative:
        raise PermissionError(f"{relative!r} is not a path inside the workspace")
    how = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, BENEATH)
    path = os.fsencode(str(PurePosixPath(*parts)))
    size = ctypes.c_size_t(ctypes.sizeof(how))
    result = _libc().syscall(ctypes.c_long(SYS_OPENAT2), ctypes.c_int(folder), path, ctypes.byref(how), size)
    if result >= 0:
        return int(result)
    number = ctypes.get_errno()
    if number in MISSING:
        return _walk(folder, parts)
    raise OSError(number, os.strerror(number), relative)


def _walk(folder: int, parts: tuple[str, ...]) -> int:
    """Do what `openat2` does, one part at a time."""
    here = os.open(".", os.O_PATH | os.O_DIRECTORY, dir_fd=folder)
    try:
        for part in parts:
            below = os.open(part, os.O_PATH | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
            if stat.S_ISLNK(os.fstat(here).st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), part)
    except OSError:
        os.close(here)
        raise
    return here


def _read_regular(found: int, name: str, max_bytes: int) -> bytes:
    mode = os.fstat(found).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{name!r} is a folder")
    if not stat.S_ISREG(mode):
        raise PermissionError(f"{name!r} is a special file")
    # The very file that was looked at, whatever stands at its name by now.
    fd = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return _read_capped(fd, name, max_bytes)
    finally:
        os.close(fd)


def _read_capped(fd: int, name: str, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while data := os.read(fd, min(CHUNK, max_bytes + 1)):
        size += len(data)
        if size > max_bytes:
            raise ValueError(f"{name!r} is larger than {max_bytes} bytes")
        parts.append(data)
    return b"".join(parts)
