"""`argv`: commands as words, with the flags that must not be among them.

A command given as one text is split only where every shell agrees on the words; anything a shell
would expand, join or run is a doubt (`None`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from gateway.core.json_types import JsonValue
from gateway.core.policy.verdicts import Verdict

__all__ = ["compile_argv"]

_SHELL: Final = re.compile(r"[;&|<>()`$\\!*?\[\]{}~#\x00-\x08\x0a-\x1f\x7f]")
_PIECE: Final = re.compile(r"""[ \t]+|[^ \t'"]+|'[^']*'|"[^"]*"|['"]""")
MAX_COMMAND: Final = 65_536
"""Longest command text that is split, in characters."""


def compile_argv(
    prefixes: Sequence[Sequence[str]], denied_flags: Sequence[str]
) -> Callable[[JsonValue], Verdict]:
    """Return a judge of commands: one of the prefixes (if any are given), and none of the flags."""

    def judge(value: JsonValue) -> Verdict:
        words = _words(value)
        if words is None:
            return None
        if prefixes and not any(words[: len(prefix)] == list(prefix) for prefix in prefixes):
            return False
        return not any(_is_flag(word, flag) for word in words for flag in denied_flags)

    return judge


def _words(value: JsonValue) -> list[str] | None:
    if isinstance(value, list):
        words = [item for item in value if isinstance(item, str) and "\0" not in item]
        return words if words and len(words) == len(value) else None
    if not isinstance(value, str) or len(value) > MAX_COMMAND or _SHELL.search(value):
        return None
    return _split(value) or None


def _split(text: str) -> list[str]:
    """Return the words of a text without shell characters; none where a quote is left open."""
    words: list[str] = []
    pieces: list[str] | None = None
    for piece in _PIECE.findall(text):
        if piece[0] in " \t":
            words += ["".join(pieces)] if pieces is not None else []
            pieces = None
        elif piece in "'\"":
            return []
        else:
            pieces = pieces if pieces is not None else []
            pieces.append(piece[1:-1] if piece[0] in "'\"" else piece)
    return [*words, *(["".join(pieces)] if pieces is not None else [])]


def _is_flag(word: str, flag: str) -> bool:
    """Whether a word is the flag, also with a value, cut short as option parsers allow, or in a cluster."""
    if word == flag or word.startswith(f"{flag}="):
        return True
    if word.startswith("--") and flag.startswith("--"):
        name = word.partition("=")[0]
        return len(name) > 2 and flag.startswith(name)
    single = len(flag) == 2 and flag[0] == "-" and flag != "--"
    return single and word.startswith("-") and not word.startswith("--") and flag[1] in word[1:]
