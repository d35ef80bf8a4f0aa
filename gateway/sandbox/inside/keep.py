"""Holds a workspace: keeps its volume mounted, fills it with the seed, and reads it for the gateway.

    keep.py WORKSPACE

One JSON line per request on stdin, one JSON line per answer on stdout: `{"size": n}` before n bytes,
or `{"error": kind, "text": ...}`; a snapshot's bytes come in several such pieces, the last one empty.
The files it reads were written by the agent; no link is followed.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

sys.path.insert(0, os.path.dirname(__file__))  # isolated mode leaves it out

from workspace import crosses_link, read_file  # type: ignore[import-not-found] # stands beside it
from workspace_tree import Found, digest_tree, list_tree, walk  # type: ignore[import-not-found] # as well

CHUNK = 1 << 20
Entry = dict[str, Any]


class Seed:
    """Writes entries below `top`. They come from the operator, in an order that names folders first."""

    def __init__(self, top: str, stream: BinaryIO) -> None:
        self.top, self.stream = top, stream
        self.folders: list[tuple[str, Entry]] = []

    def fill(self) -> None:
        """Make entries until the empty one."""
        while entry := json.loads(self.stream.readline()):
            self.make(entry, os.path.join(self.top, entry["path"]))
        for path, entry in reversed(self.folders):  # their times would change with what is put in them
            os.chmod(path, entry["mode"])
            os.utime(path, ns=(entry["time"], entry["time"]))

    def make(self, entry: Entry, path: str) -> None:
        """Make one folder, link or file."""
        if entry["kind"] == "folder":
            os.mkdir(path, 0o700)
            self.folders.append((path, entry))
            return
        if entry["kind"] == "link":
            os.symlink(entry["target"], path)
        elif entry["kind"] == "special":
            os.mknod(path, entry["mode"])
        else:
            self.write(entry, path)
        os.utime(path, ns=(entry["time"], entry["time"]), follow_symlinks=False)

    def write(self, entry: Entry, path: str) -> None:
        """Make a file of the next `size` bytes."""
        left = entry["size"]
        with open(path, "xb", buffering=0) as file:
            while left:
                data = self.stream.read(min(left, CHUNK))
                if not data:
                    raise EOFError("the seed ended early")
                left -= _write(file.fileno(), data)
            os.fchmod(file.fileno(), entry["mode"])


def _write(fd: int, data: bytes) -> int:
    """Write all of `data`, also where the system takes less at once; return its length."""
    done = 0
    while done < len(data):
        done += os.write(fd, data[done:])
    return done


def packed(folder: int, most: int) -> Iterator[bytes]:
    """Yield what `Seed` reads, for everything below `folder`: its modes as they are, holes filled.

    Raises `ValueError` at once where that is more than `most` bytes.
    """
    if sum(found.size for found in walk(folder)) > most:
        raise ValueError(f"its files hold more than {most} bytes, holes and further names counted")
    for found in walk(folder):
        if stat.S_ISDIR(found.mode) and found.mode & 0o500 != 0o500:
            raise PermissionError(f"{found.path} may not be read")
        head, fd = described(found)
        try:
            yield json.dumps(head).encode() + b"\n"
            left = head.get("size", 0)
            while left:
                data = os.read(fd, min(left, CHUNK))
                if not data:
                    raise OSError(f"{found.path} was cut while it was read")
                left -= len(data)
                yield data
        finally:
            if fd >= 0:
                os.close(fd)
    yield b"{}\n"


def described(found: Found) -> tuple[Entry, int]:
    """Return the line of an entry, and for a file a descriptor to read it by."""
    facts = os.stat(found.name, dir_fd=found.folder, follow_symlinks=False)
    entry: Entry = {"path": found.path, "mode": stat.S_IMODE(found.mode), "time": facts.st_mtime_ns}
    if stat.S_ISDIR(found.mode):
        return entry | {"kind": "folder"}, -1
    if stat.S_ISLNK(found.mode):
        return entry | {"kind": "link", "target": os.readlink(found.name, dir_fd=found.folder)}, -1
    if not stat.S_ISREG(found.mode):
        return entry | {"kind": "special", "mode": found.mode}, -1
    fd = os.open(found.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=found.folder)
    return entry | {"kind": "file", "size": os.fstat(fd).st_size}, fd


def answer(request: Entry, top: str, folder: int, stream: BinaryIO) -> bytes:
    """Do what `request` asks and return the bytes to answer with."""
    if request["op"] == "seed":
        Seed(top, stream).fill()
        return b""
    if request["op"] == "digest":
        return digest_tree(folder).encode()
    if request["op"] == "files":
        return json.dumps(list_tree(folder, request["max_entries"])).encode()
    if request["op"] == "crosses_link":
        return b"1" if crosses_link(folder, request["path"]) else b""
    return read_file(folder, request["path"], request["max_bytes"])


def piece(data: bytes) -> None:
    """Write one answer."""
    sys.stdout.buffer.write(json.dumps({"size": len(data)}).encode() + b"\n" + data)
    sys.stdout.buffer.flush()


def main(top: str) -> None:
    """Answer requests until stdin ends. A seed that failed half-way ends the keeper: its rest is unread."""
    folder = os.open(top, os.O_PATH | os.O_DIRECTORY)
    stream, out = sys.stdin.buffer, sys.stdout.buffer
    while line := stream.readline():
        request = json.loads(line)
        try:
            if request["op"] == "snapshot":
                for data in packed(folder, request["most"]):
                    piece(data)
                piece(b"")
            else:
                piece(answer(request, top, folder, stream))
        except Exception as error:  # noqa: BLE001 - it is passed on
            out.write(json.dumps({"error": type(error).__name__, "text": str(error)}).encode() + b"\n")
            out.flush()
            if request["op"] == "seed":
                return


if __name__ == "__main__":
    main(sys.argv[1])
