"""The one door to RE2: anchored, linear-time regular expressions with typed results.

`google-re2` ships no types, so nothing else imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import re2 as _untyped

from gateway.core.policy.wildcards import PatternError

__all__ = ["compile_regex"]

_BUDGET = 8_000_000
"""Text bytes times program size beyond which a match is not tried (tens of milliseconds at worst)."""
_MAX_PROGRAM = 5_000


class _Regexp(Protocol):
    programsize: int

    def fullmatch(self, text: bytes) -> object | None: ...


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
