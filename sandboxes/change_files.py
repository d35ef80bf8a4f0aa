"""Runs inside a sandbox: makes a task's changes to a workspace. The gateway mounts it and never imports it.

    change_files.py ROOT [SOURCE...]

On stdin one line `{"changes": [{"kind", "path", "text"?, "source"?}]}`, where `source` counts the SOURCEs
from 0; on stdout one line `{"results": [{"applied": bool, "reason": str}]}`.

Standard library only. No link is followed, wherever it stands: folders on the way are opened one by one,
a file is put in its place as a whole. What stands in the way is left alone and told.
"""

import json
import os
import shutil
import stat
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def parent_of(root, path):
    """Open the folder that a path's last part stands in, made if need be; yields it and that part."""
    *folders, name = [part for part in path.split("/") if part not in ("", ".")]
    here = os.open(root, FOLDER)
    try:
        for folder in folders:
            with suppress(FileExistsError):  # a link among them is refused by the next line
                os.mkdir(folder, 0o755, dir_fd=here)
            inner = os.open(folder, FOLDER, dir_fd=here)
            os.close(here)
            here = inner
        yield here, name
    finally:
        os.close(here)


def standing(folder, name):
    """Return what stands at a name, links not followed, or `None`."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def put(folder, name, data, mode):
    """Put a whole file in its place: whatever file or link was there is replaced, not written through."""
    there = standing(folder, name)
    if there is not None and stat.S_ISDIR(there.st_mode):
        raise IsADirectoryError(21, "a folder stands there")
    aside = f".sandgate-{os.getpid()}"
    fd = os.open(
        aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=folder
    )
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
        os.rename(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(aside, dir_fd=folder)
        raise


def write(root, change):
    """Write a text as the whole file; the mode of a file that was there stays."""
    with parent_of(root, change["path"]) as (folder, name):
        there = standing(folder, name)
        regular = there is not None and stat.S_ISREG(there.st_mode)
        put(folder, name, change["text"].encode(), stat.S_IMODE(there.st_mode) if regular else 0o644)


def append(root, change):
    """Add a text to a file, or to nothing."""
    with parent_of(root, change["path"]) as (folder, name):
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o644, dir_fd=folder), "wb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(22, "no regular file")
            data = change["text"].encode()
            while data:
                data = data[file.write(data) :]


def delete(root, change):
    """Remove a file, a link or a whole folder; what is not there is gone already."""
    with parent_of(root, change["path"]) as (folder, name):
        there = standing(folder, name)
        if there is None:
            return
        if stat.S_ISDIR(there.st_mode):
            shutil.rmtree(name, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)


def copy(root, change):
    """Copy a file, or what is in a folder, of the pack; a link there is copied as a link."""
    with parent_of(root, change["path"]) as (folder, name):
        place(Path(sys.argv[2 + change["source"]]), folder, name)


def place(source, folder, name):
    """Put what stands at `source` under a name."""
    facts = source.lstat()
    if stat.S_ISLNK(facts.st_mode):
        there = standing(folder, name)
        if there is not None and not stat.S_ISDIR(there.st_mode):
            os.unlink(name, dir_fd=folder)
        os.symlink(source.readlink(), name, dir_fd=folder)
    elif stat.S_ISDIR(facts.st_mode):
        if standing(folder, name) is None:
            os.mkdir(name, 0o755, dir_fd=folder)
        inner = os.open(name, FOLDER, dir_fd=folder)
        try:
            for entry in sorted(source.iterdir()):
                place(entry, inner, entry.name)
        finally:
            os.close(inner)
    else:
        put(folder, name, source.read_bytes(), 0o755 if facts.st_mode & 0o100 else 0o644)


KINDS = {"write": write, "append": append, "delete": delete, "copy": copy}


def applied(root, change):
    """Make one change and return what came of it."""
    try:
        KINDS[change["kind"]](root, change)
    except OSError as error:
        return {"applied": False, "reason": error.strerror or str(error)}
    return {"applied": True, "reason": ""}


def main():
    """Make the changes that stdin lists, in order."""
    changes = json.loads(sys.stdin.readline())["changes"]
    sys.stdout.write(json.dumps({"results": [applied(sys.argv[1], change) for change in changes]}) + "\n")


if __name__ == "__main__":
    main()
