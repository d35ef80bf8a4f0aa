"""Reading the files that a command line names; a fault says which file and why."""

from __future__ import annotations

from pathlib import Path

from gateway.errors import ConfigError, Problem, UsageError

__all__ = ["read_text"]

MAX_BYTES = 4_000_000
"""Largest file a command reads whole."""


def read_text(path: Path) -> str:
    """Return a file's text, line ends untouched; raises `UsageError` or `ConfigError`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError([Problem(str(path), 0, 0, "too_large", f"larger than {MAX_BYTES} bytes")])
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(str(path), line, 1, "encoding", "the file is not UTF-8")]) from None
