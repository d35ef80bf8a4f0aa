"""Runs pip and npm: outside any sandbox, so with no code of what they install and a bare environment."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

import anyio

from gateway.errors import UsageError
from gateway.runtime.package_cache import BuildSite

__all__ = ["run_installer"]

_TAIL_LINES = 8


async def run_installer(
    argv: Sequence[str],
    *,
    site: BuildSite,
    environ: Mapping[str, str],
    doing: str,
    hint: str,
    check: bool = True,
) -> None:
    """Run one installer to its end; raises `UsageError` with its last lines and `hint` if it fails."""
    done = await _run(argv, site, environ)
    if check and done.returncode:
        said = (done.stderr + b"\n" + done.stdout).decode(errors="replace").splitlines()
        tail = [line for line in said if line.strip()][-_TAIL_LINES:]
        raise UsageError("\n  ".join([f"{doing} failed:", *tail]) + f"\n{hint}")


async def _run(
    argv: Sequence[str], site: BuildSite, environ: Mapping[str, str]
) -> subprocess.CompletedProcess[bytes]:
    return await anyio.run_process(
        list(argv),
        check=False,
        cwd=site.folder,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        pass_fds=(site.lock_fd,),
    )
