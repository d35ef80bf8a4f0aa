"""Holds a workspace: keeps its volume mounted, fills it with the seed, and reads it for the gateway.

    keep.py WORKSPACE

One JSON line per request on stdin, one JSON line per answer on stdout: `{"size": n}` before n bytes,
or `{"error": kind, "text": ...}`. The files it reads were written by the agent; no link is followed.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, BinaryIO

sys.path.insert(0, os.path.dirname(__file__))  # isolated mode leaves it out

from workspace import digest_tree, read_file  # type: ignore[import-not-found] # stands beside it

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


def answer(request: Entry, top: str, folder: int, stream: BinaryIO) -> bytes:
    """Do what `request` asks and return the bytes to answer with."""
    if request["op"] == "seed":
        Seed(top, stream).fill()
        return b""
    if request["op"] == "digest":
        return digest_tree(folder).encode()
    return read_file(folder, request["path"], request["max_bytes"])


def main(top: str) -> None:
    """Answer requests until stdin ends. A seed that failed half-way ends the keeper: its rest is unread."""
    folder = os.open(top, os.O_PATH | os.O_DIRECTORY)
    stream, out = sys.stdin.buffer, sys.stdout.buffer
    while line := stream.readline():
        request = json.loads(line)
        try:
            data = answer(request, top, folder, stream)
        except Exception as error:  # noqa: BLE001 - it is passed on
            out.write(json.dumps({"error": type(error).__name__, "text": str(error)}).encode() + b"\n")
            out.flush()
            if request["op"] == "seed":
                return
        else:
            out.write(json.dumps({"size": len(data)}).encode() + b"\n" + data)
            out.flush()


if __name__ == "__main__":
    main(sys.argv[1])
