"""Trajectories: what an agent did and saw, one JSON line per step, one file per episode.

For training and replay; the ledger, not this, is the audit log. File names are made here, never
from what a client sent.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from gateway.errors import LedgerError

__all__ = ["TrajectoryFolder", "TrajectoryWriter"]


class TrajectoryWriter(Protocol):
    """Where steps are written."""

    async def append(self, name: str, line: bytes) -> None:
        """Add one line, a JSON object, to the trajectory `name`; raises `LedgerError`."""
        ...


class TrajectoryFolder:
    """Writes `FOLDER/<name>.jsonl`, readable by the owner only. Holds no file open between steps."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._prefix = str(folder / "_")[:-1]  # joining paths takes longer than the write

    def path(self, name: str) -> Path:
        """Return where the trajectory `name` is written."""
        return self._folder / f"{name}.jsonl"

    async def append(self, name: str, line: bytes) -> None:
        """Add one line, a JSON object, to the trajectory `name`; raises `LedgerError`."""
        # Not synced, so the system takes it at once: a thread would cost several times the write.
        try:
            descriptor = self._open(name)
            try:
                left = memoryview(line + b"\n")
                while left:
                    left = left[os.write(descriptor, left) :]
            finally:
                os.close(descriptor)
        except OSError as error:
            raise LedgerError(f"the trajectory cannot be written ({error.strerror})") from error

    def _open(self, name: str) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(f"{self._prefix}{name}.jsonl", flags, 0o600)
        except FileNotFoundError:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(self.path(name), flags, 0o600)
