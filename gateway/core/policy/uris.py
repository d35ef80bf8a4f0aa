"""Resource URIs: refused where a server might read them as another one than the rules judged."""

from __future__ import annotations

import re

__all__ = ["uri_fault"]

MAX_URI = 8_192
"""Longest resource URI that is judged, in characters."""

_URI = re.compile(r"[a-z][a-z0-9+.-]*:[^\x00-\x20\x7f\\]+")
_UNCLEAR = re.compile(r"/(?:\.|%2e){1,2}(?=[/?#]|\Z)|%(?:2f|5c|00)|//[^/]*@", re.IGNORECASE)


def uri_fault(uri: str) -> str | None:
    """Return why a URI is refused before any rule sees it, or `None`."""
    if len(uri) > MAX_URI:
        return f"a resource URI is longer than {MAX_URI} characters"
    if not _URI.fullmatch(uri):
        return "a resource URI is written scheme:rest in lower case, without spaces or backslashes"
    if _UNCLEAR.search(uri):
        return "a resource URI holds '.' or '..' segments, an encoded slash or user info"
    return None
