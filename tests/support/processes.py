"""`sandgate` as a user runs it: a process of its own, told apart by what it prints."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Served", "run_sandgate", "sandgate_argv", "serving"]

_READY = re.compile(r"(?:sandgate: |\"message\": \")ready on (http://[^\s\"]+)")


@dataclass(frozen=True)
class Served:
    """A running `sandgate serve`: its process, its URL, and what it said until it was ready."""

    process: subprocess.Popen[str]
    url: str
    said: str


def sandgate_argv(*args: str) -> list[str]:
    """Return the command line that runs this checkout's `sandgate`."""
    return [sys.executable, "-m", "gateway.cli", *args]


def run_sandgate(
    *args: str, env: Mapping[str, str] | None = None, timeout: float = 60, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    environ = {**os.environ, **(env or {})}  # noqa: TID251 - a child's environment
    return subprocess.run(
        sandgate_argv(*args),
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environ,
        cwd=cwd,
        check=False,
    )


@contextmanager
def serving(*args: str, env: Mapping[str, str] | None = None) -> Generator[Served]:
    """Serve on a free port until the block ends, then end it by SIGTERM unless it has ended."""
    environ = {**os.environ, **(env or {})}  # noqa: TID251 - a child's environment
    process = subprocess.Popen(
        sandgate_argv("serve", *args, "--port", "0"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
    )
    try:
        yield _ready(process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(40)
        if process.stderr is not None:
            process.stderr.close()


def _ready(process: subprocess.Popen[str]) -> Served:
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if match := _READY.search(line):
            return Served(process, match[1], said)
    raise AssertionError(f"serve ended with {process.wait(10)} before it was ready:\n{said}")
