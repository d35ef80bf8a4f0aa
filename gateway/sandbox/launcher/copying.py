"""Copying a tree of files by descriptor, owners changed, holes and times kept.

The source may be a session's: links are copied as links, nothing is followed, no fifo is opened.
"""

from __future__ import annotations

import errno
import os
import stat

__all__ = ["MAX_DEPTH", "copy_into"]

MAX_DEPTH = 200
"""As for whoever walks the tree afterwards."""
PART = 1 << 24


def copy_into(source: int, target: int, uid: int, *, plain: bool, depth: int = 0) -> int:
    """Copy the entries of one open folder into another, for `uid`, and close both; return how many.

    `plain` is for trees that people made: it refuses special files, and lets the owner read and write
    all. Without it every mode is kept. Raises `ValueError` for what is refused, else `OSError`.
    """
    count = 0
    try:
        if depth > MAX_DEPTH:
            raise OSError(errno.ENAMETOOLONG, f"folders are nested more than {MAX_DEPTH} deep")
        with os.scandir(source) as found:
            for entry in found:
                count += 1 + _copy_entry(entry.name, source, target, uid, plain, depth)
    finally:
        os.close(source)
        os.close(target)
    return count


def _copy_entry(name: str, source: int, target: int, uid: int, plain: bool, depth: int) -> int:
    facts = os.stat(name, dir_fd=source, follow_symlinks=False)
    mode = stat.S_IMODE(facts.st_mode) & (0o777 if plain else 0o7777)
    below = 0
    if stat.S_ISDIR(facts.st_mode):
        os.mkdir(name, 0o700, dir_fd=target)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        inner, copy = (os.open(name, flags, dir_fd=fd) for fd in (source, target))
        below = copy_into(inner, copy, uid, plain=plain, depth=depth + 1)
        mode |= 0o700 if plain else 0
    elif stat.S_ISREG(facts.st_mode):
        _copy_file(name, source, target)
        mode |= 0o600 if plain else 0
    elif stat.S_ISLNK(facts.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    elif not plain and stat.S_IFMT(facts.st_mode) in (stat.S_IFIFO, stat.S_IFSOCK):
        os.mknod(name, stat.S_IFMT(facts.st_mode) | 0o600, dir_fd=target)
    else:
        raise ValueError(f"the seed holds {name!r}, which is neither a file, a folder nor a link: remove it")
    own = {"dir_fd": target, "follow_symlinks": False}
    os.chown(name, uid, uid if os.geteuid() == 0 else -1, **own)  # type: ignore[arg-type]
    if not stat.S_ISLNK(facts.st_mode):
        os.chmod(name, mode, dir_fd=target)
    os.utime(name, ns=(facts.st_mtime_ns, facts.st_mtime_ns), **own)  # type: ignore[arg-type]
    return below


def _copy_file(name: str, source: int, target: int) -> None:
    reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=source)
    writing = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=target)
    try:
        facts = os.fstat(reading)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.EAGAIN, "it was exchanged while it was copied", name)
        if facts.st_blocks * 512 >= facts.st_size:
            _send(reading, writing, 0, facts.st_size)
        else:
            _copy_data(reading, writing, facts.st_size)
    finally:
        os.close(reading)
        os.close(writing)


def _copy_data(reading: int, writing: int, size: int) -> None:
    """Copy what is not a hole, so that the copy takes no more memory than the file."""
    os.ftruncate(writing, size)
    begin = end = 0
    while end < size:
        try:
            begin = os.lseek(reading, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.EINVAL:  # a file system that does not know its holes
                _send(reading, writing, end, size)
            elif error.errno != errno.ENXIO:  # else only a hole is left
                raise
            return
        end = os.lseek(reading, begin, os.SEEK_HOLE)
        _send(reading, writing, begin, min(end, size))


def _send(reading: int, writing: int, begin: int, end: int) -> None:
    os.lseek(reading, begin, os.SEEK_SET)
    os.lseek(writing, begin, os.SEEK_SET)
    left = end - begin
    while left > 0 and (sent := os.sendfile(writing, reading, None, min(left, PART))):
        left -= sent
