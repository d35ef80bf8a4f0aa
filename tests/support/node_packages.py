"""Foreign clients from npm, each with its packages in a folder of its own and a Node that is new enough.

A folder is made once, under the user's cache, keyed by what is in it. Exact versions keep the key honest.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["NODE", "node_folder", "run_node"]

NODE = "node@22.22.1"
"""npm's package of the Node program: what a distribution ships is often older than what clients want."""


def node_folder(name: str, packages: Sequence[str], *, program: str = NODE) -> Path:
    """Return a folder with `packages` and `NODE` installed, making it on first use; says what it installs.

    No `program`: only files of the packages are wanted. Raises `subprocess.CalledProcessError` if that
    fails; a half-made folder is never returned.
    """
    wanted = [*filter(None, [program]), *packages]
    key = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:16]
    folder = _cache() / f"{name}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".complete").exists():
            print(f"tests: installing {', '.join(wanted)} into {folder}", file=sys.stderr, flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            quiet = ["--silent", "--no-audit", "--no-fund", "--prefix", str(folder)]
            subprocess.run(["npm", "install", *quiet, *wanted], check=True)
            (folder / ".complete").touch()
    return folder


def run_node(
    folder: Path, program: str, *args: str, timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run a package's own command, as it comes, and return how it ended."""
    binaries = folder / "node_modules" / ".bin"
    return subprocess.run(
        [str(binaries / "node"), str(binaries / program), *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={"PATH": f"{binaries}:{os.environ['PATH']}", "HOME": str(folder)},  # noqa: TID251 - test helper
        check=False,
    )


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"  # noqa: TID251 - test helper
    return Path(base) / "sandgate" / "test-clients"
