"""URI templates (RFC 6570), as far as to tell whether one may have made a URI. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from gateway.core.policy.regexes import compile_regex
from gateway.core.policy.wildcards import PatternError

__all__ = ["made_by"]

_EXPRESSION = re.compile(r"\{([+#./;?&]?)[^{}]*\}")
_MOST = 64
"""Expressions of the longest template that is looked at."""


def made_by(template: str, uri: str) -> bool:
    """Whether the template makes this URI with some values."""
    test = _test(template)
    return test is not None and test(uri) is True


@lru_cache(maxsize=1_024)
def _test(template: str) -> Callable[[str], bool | None] | None:
    parts: list[str] = []
    at = 0
    for count, match in enumerate(_EXPRESSION.finditer(template)):
        if count >= _MOST:
            return None
        # A plain value cannot hold a slash; with an operator it may hold anything.
        parts += [re.escape(template[at : match.start()]), ".*" if match[1] else "[^/?#]*"]
        at = match.end()
    try:
        return compile_regex("".join([*parts, re.escape(template[at:])]))
    except PatternError:
        return None
