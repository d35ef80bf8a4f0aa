"""Paths as rules judge them and servers receive them: absolute, lexically normalised, unambiguous.

Purely lexical: looks at no file system, follows no link. What another reader of the same text
could take for a different path is refused instead of repaired.
"""

from __future__ import annotations

import re
import unicodedata

from gateway.core.policy.unfit import Unfit

__all__ = ["MAX_PATH", "canonical_path"]

MAX_PATH = 4096
"""Longest path in characters, before it is resolved (Linux' PATH_MAX)."""

# Nothing to do for these, and nearly every path is one of them.
_CLEAN = re.compile(r"(?:/(?!\.\.?(?:/|\Z))[A-Za-z0-9 _.,+@=:~#()-]+)+")
_ENCODED = re.compile(r"%(?:25)*(?:2e|2f|5c|00)", re.IGNORECASE)
_MARKS = ".\\/%\0"


def canonical_path(value: str, workspace: str) -> str | Unfit:
    """Return `value` as an absolute path without `.`, `..`, or doubled slashes, or why it is refused.

    Relative values resolve against `workspace`, an absolute canonical path. A `~` means nothing here.
    """
    if len(value) > MAX_PATH:
        return Unfit(f"a path is longer than {MAX_PATH} characters")
    if _CLEAN.fullmatch(value):
        return value
    reason = _ambiguity(value)
    if reason:
        return Unfit(reason)
    return _normalised(value if value.startswith("/") else f"{workspace}/{value}")


def _ambiguity(value: str) -> str | None:
    if "\0" in value:
        return "a path holds a NUL character"
    if "\\" in value:
        return "a path holds a backslash"
    if _ENCODED.search(value):
        return "a path holds a percent-encoded dot, slash, backslash or NUL"
    if value.isascii():
        return None
    if any("\ud800" <= character <= "\udfff" for character in value):
        return "a path holds half a surrogate pair"
    folded = unicodedata.normalize("NFKC", value)
    if any(folded.count(mark) != value.count(mark) for mark in _MARKS):
        return (
            "a path holds a character that Unicode compatibility maps to a dot, slash, backslash or percent"
        )
    return None


def _normalised(path: str) -> str:
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    return "/" + "/".join(kept)
