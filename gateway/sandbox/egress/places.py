"""Folders for sockets: one per gateway, marked with its owner, removed once that is dead."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from gateway.errors import SandboxError
from gateway.sandbox.docker_owner import is_dead, owner

__all__ = ["new_folder", "sweep"]

PREFIX = "sandgate-egress-"
LONGEST = 100
"""A socket's name has 107 bytes at most, and a number comes after the folder's."""


def new_folder(parent: Path) -> Path:
    """Make a folder of this process that nobody else may enter. Raises `SandboxError`."""
    folder = parent / f"{PREFIX}{owner(os.getpid())}-{secrets.token_hex(2)}"
    if len(str(folder)) > LONGEST:
        raise SandboxError(f"{folder} is too long a name for sockets: set TMPDIR to a shorter one, as /tmp")
    folder.mkdir(mode=0o700)
    return folder


def sweep(parent: Path) -> None:
    """Remove this user's folders whose gateway is dead."""
    for folder in parent.glob(f"{PREFIX}*"):
        mark = folder.name.removeprefix(PREFIX).rpartition("-")[0]
        with suppress(FileNotFoundError):  # another gateway sweeps as well
            mine = folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.geteuid()
            if mine and mark.count("-") == 3 and is_dead(mark):
                shutil.rmtree(folder)
