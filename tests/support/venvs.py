"""Virtual environments for foreign clients (openenv, fastmcp, another mcp), each apart from ours.

Their packages pin what we do not, so they never share an environment with the gateway. An
environment is made once, under the user's cache folder, keyed by interpreter and requirements.
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

__all__ = ["client_venv", "run_client"]


def client_venv(name: str, requirements: Sequence[str]) -> Path:
    """Return the python of an environment that holds `requirements`, making it on first use.

    Exact requirements (`openenv-core==0.10.0`) keep the key honest. Prints what it installs. Safe
    when several test processes ask at once. Raises `subprocess.CalledProcessError`, with what pip
    said in `stderr`, if the installation fails; a half-made environment is never returned.
    """
    folder = _cache() / f"{name}-{_key(requirements)}"
    python = folder / "bin" / "python"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".complete").exists():
            _install(folder, python, requirements)
    return python


def run_client(python: Path, script: str, *args: str, timeout: float = 120.0) -> str:
    """Run `script` (source text) with a client's python, without our own packages; return its stdout.

    A failure raises `AssertionError` that shows both streams.
    """
    done = subprocess.run(
        [str(python), "-I", "-c", script, *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=_environment(python.parent),
        check=False,
    )
    assert done.returncode == 0, f"client failed ({done.returncode})\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _environment(programs: Path) -> dict[str, str]:
    """Return a client's environment: its own programs first, where home and the trusted certificates are."""
    own = {name: os.environ[name] for name in ("HOME", "SSL_CERT_FILE") if name in os.environ}  # noqa: TID251
    return {"HOME": "/", **own, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}  # noqa: TID251


def _install(folder: Path, python: Path, requirements: Sequence[str]) -> None:
    print(f"tests: installing {', '.join(requirements)} into {folder}", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    done = subprocess.run([*pip, *requirements], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr, flush=True)
        done.check_returncode()
    (folder / ".complete").touch()


def _key(requirements: Sequence[str]) -> str:
    wanted = "\n".join([sys.version, *sorted(requirements)])
    return hashlib.sha256(wanted.encode()).hexdigest()[:16]


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"  # noqa: TID251 - test helper
    return Path(base) / "sandgate" / "test-clients"
