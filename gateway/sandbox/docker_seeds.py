"""Packs a seed folder into the byte stream that `inside/keep.py` unpacks. Reads; writes one nameless file.

Per entry one JSON line (`path`, `kind`, `mode`, `time`, `size` or `target`), after a file's line its
bytes, and an empty object at the end.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gateway.core.json_types import JsonObject
from gateway.errors import SandboxError

__all__ = ["CHUNK", "FrozenSeed", "Packed"]

CHUNK = 1 << 20


class Packed:
    """Files to start a workspace as, packed. `source` names them to people; `close` drops them."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - until `close`

    def add(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self._file.write(data)

    def finish(self) -> None:
        """Take no more."""
        self._file.flush()

    def chunks(self) -> Iterator[bytes]:
        """Yield its bytes; several readers do not disturb each other."""
        offset = 0
        while data := os.pread(self._file.fileno(), CHUNK, offset):
            offset += len(data)
            yield data

    def close(self) -> None:
        """Drop it. Idempotent."""
        self._file.close()


class FrozenSeed(Packed):
    """A seed as it was when it was first asked for."""

    def __init__(self, source: Path) -> None:
        super().__init__(str(source))
        try:
            for path in _entries(source):
                self._add(path, path.relative_to(source))
            self.add(b"{}\n")
            self.finish()
        except OSError as error:
            self.close()
            raise SandboxError(f"the seed {source} cannot be read: {error}") from error
        except BaseException:
            self.close()
            raise

    def _add(self, path: Path, relative: Path) -> None:
        facts = path.lstat()
        entry: JsonObject = {"path": str(relative), "mode": facts.st_mode & 0o777, "time": facts.st_mtime_ns}
        if stat.S_ISDIR(facts.st_mode):
            self._line(entry | {"kind": "folder", "mode": facts.st_mode & 0o777 | 0o700})
        elif stat.S_ISLNK(facts.st_mode):
            self._line(entry | {"kind": "link", "target": str(path.readlink())})
        elif stat.S_ISREG(facts.st_mode):
            self._line(entry | {"kind": "file", "mode": facts.st_mode & 0o777 | 0o600, "size": facts.st_size})
            self._content(path, facts.st_size)
        else:
            raise SandboxError(
                f"the seed holds {str(relative)!r}, which is neither a file, a folder nor a link: remove it"
            )

    def _line(self, entry: JsonObject) -> None:
        self._file.write(json.dumps(entry).encode() + b"\n")

    def _content(self, path: Path, size: int) -> None:
        before = self._file.tell()
        with path.open("rb") as file:
            shutil.copyfileobj(file, self._file, CHUNK)
        if self._file.tell() - before != size:
            raise SandboxError(f"the seed's {path} changed while it was read: try again")


def _entries(folder: Path) -> Iterator[Path]:
    """Yield everything below `folder`, a folder before what is in it."""
    for path in sorted(folder.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _entries(path)
