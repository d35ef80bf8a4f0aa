"""Folders for sockets: one per gateway, marked with its owner, removed once that is dead."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from gateway.errors import SandboxError
from gateway.sandbox.docker_owner import is_dead, owner

__all__ = ["new_folder", "sweep"]

PREFIX = "sandgate-egress-"
OWNER = "owner"
LONGEST = 100
"""A socket's name has 107 bytes at most, and a number comes after the folder's."""


def new_folder(parent: Path) -> Path:
    """Make a folder of this process that nobody else may enter. Raises `SandboxError`."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        (folder / OWNER).write_text(owner(os.getpid()))
    except OSError as error:
        raise SandboxError(f"no folder for the sockets of sandboxes: {error}") from error
    if len(str(folder)) > LONGEST:
        shutil.rmtree(folder)
        raise SandboxError(f"{folder} is too long a name for sockets: set TMPDIR to a shorter one, as /tmp")
    return folder


def sweep(parent: Path) -> None:
    """Remove this user's folders whose gateway is dead."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(FileNotFoundError):  # it has no owner yet, or another gateway sweeps as well
            facts = folder.lstat()
            mark = (folder / OWNER).read_text() if facts.st_uid == os.geteuid() else ""
            if mark.count("-") == 3 and is_dead(mark):
                shutil.rmtree(folder)
