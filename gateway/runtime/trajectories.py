"""Trajectories: what an agent did and saw, one JSON line per step, one file per episode.

For training and replay; the ledger, not this, is the audit log. File names are made here, never
from what a client sent.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import anyio.to_thread

from gateway.core.json_types import JsonObject
from gateway.core.strict_json import dumps
from gateway.errors import LedgerError

__all__ = ["TrajectoryFolder", "TrajectoryWriter"]


class TrajectoryWriter(Protocol):
    """Where steps are written."""

    async def append(self, name: str, line: JsonObject) -> None:
        """Add one line to the trajectory `name`; raises `LedgerError`."""
        ...


class TrajectoryFolder:
    """Writes `FOLDER/<name>.jsonl`, readable by the owner only. Holds no file open between steps."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str) -> Path:
        """Return where the trajectory `name` is written."""
        return self._folder / f"{name}.jsonl"

    async def append(self, name: str, line: JsonObject) -> None:
        """Add one line to the trajectory `name`; raises `LedgerError`."""
        await anyio.to_thread.run_sync(self._append, name, dumps(line) + b"\n")

    def _append(self, name: str, line: bytes) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(
                self.path(name), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            with os.fdopen(descriptor, "wb") as file:
                file.write(line)
        except OSError as error:
            raise LedgerError(f"the trajectory cannot be written: {error}") from error
