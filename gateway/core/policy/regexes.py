"""The one door to RE2: anchored, linear-time regular expressions with typed results.

`google-re2` ships no types, so nothing else imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import re2 as _untyped

from gateway.core.policy.wildcards import PatternError

__all__ = ["compile_finder", "compile_regex", "compile_replacer"]

_BUDGET = 8_000_000
"""Text bytes times program size beyond which a match is not tried (tens of milliseconds at worst)."""
_MAX_PROGRAM = 5_000


class _Regexp(Protocol):
    programsize: int

    def fullmatch(self, text: bytes) -> object | None: ...
    def search(self, text: bytes) -> object | None: ...
    def sub(self, replacement: bytes, text: bytes) -> bytes: ...


def compile_regex(pattern: str) -> Callable[[str], bool | None]:
    """Return a test of whole strings: `None` where the text is too long or no text at all."""
    regexp = _compiled(pattern)
    longest = _BUDGET // max(regexp.programsize, 1)
    fullmatch = regexp.fullmatch

    def test(text: str) -> bool | None:
        try:
            encoded = text.encode()
        except UnicodeEncodeError:
            return None
        return None if len(encoded) > longest else fullmatch(encoded) is not None

    return test


def compile_finder(pattern: str) -> Callable[[str], bool]:
    """Return a test whether the pattern occurs in a text of any length, in one linear pass."""
    search = _compiled(pattern).search
    return lambda text: search(text.encode("utf-8", "surrogatepass")) is not None


def compile_replacer(pattern: str, replacement: str) -> Callable[[str], str]:
    """Return what puts `replacement` (no backslashes) in place of every occurrence of the pattern."""
    sub, instead = _compiled(pattern).sub, replacement.encode()
    return lambda text: sub(instead, text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")


def _compiled(pattern: str) -> _Regexp:
    re2 = cast("Any", _untyped)
    options = re2.Options()
    options.never_capture = True
    options.log_errors = False
    try:
        regexp = cast("_Regexp", re2.compile(pattern.encode(), options))
    except re2.error as error:
        detail = error.args[0] if error.args else b""
        text = detail.decode(errors="replace") if isinstance(detail, bytes) else str(detail)
        raise PatternError(f"not an RE2 expression: {text}") from None
    except UnicodeEncodeError:
        raise PatternError("not an RE2 expression: half a surrogate pair") from None
    if regexp.programsize > _MAX_PROGRAM:
        raise PatternError(f"the expression is too large ({regexp.programsize} instructions): simplify it")
    return regexp
