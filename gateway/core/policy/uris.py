"""Resource URIs: refused where a server might read them as another one than the rules judged."""

from __future__ import annotations

import re
from urllib.parse import unquote

from gateway.core.policy.unfit import Unfit
from gateway.core.policy.urls import canonical_url

__all__ = ["file_path", "uri_fault"]

MAX_URI = 8_192
"""Longest resource URI that is judged, in characters."""

_URI = re.compile(r"[a-z][a-z0-9+.-]*:[^\x00-\x20\x7f\\]+")
_UNCLEAR = re.compile(r"/(?:\.|%2e){1,2}(?=[/?#]|\Z)|%(?:2f|5c|00)|//[^/]*@", re.IGNORECASE)
_NEEDLESS = re.compile(r"%(?:2[de]|3[0-9]|[46][1-9a-f]|[57][0-9a]|5f|7e)", re.IGNORECASE)
_WEB = re.compile(r"(?:https?|wss?|ftp):")
_FILE = re.compile(r"file:(?://(?:localhost)?(?=/)|(?!//))(/[^?#]*)")


def uri_fault(uri: str) -> str | None:
    """Return why a URI is refused before any rule sees it, or `None`."""
    if len(uri) > MAX_URI:
        return f"a resource URI is longer than {MAX_URI} characters"
    if not _URI.fullmatch(uri):
        return "a resource URI is written scheme:rest in lower case, without spaces or backslashes"
    if _UNCLEAR.search(uri):
        return "a resource URI holds '.' or '..' segments, an encoded slash or user info"
    if _NEEDLESS.search(uri):
        return "a resource URI encodes a letter, digit or mark that needs no encoding"
    if uri.startswith("file:") and file_path(uri) is None:
        return "a file: URI is written file:///path, in UTF-8"
    return _web_fault(uri) if _WEB.match(uri) else None


def _web_fault(uri: str) -> str | None:
    spelled = canonical_url(uri)
    if isinstance(spelled, Unfit):
        return spelled.reason
    return None if spelled == uri else f"a resource URI of the web is written in its one spelling: {spelled}"


def file_path(uri: str) -> str | None:
    """Return the path that a `file:` URI names, or `None` where it names none on this machine."""
    match = _FILE.match(uri)
    try:
        return unquote(match[1], errors="strict") if match else None
    except UnicodeDecodeError:
        return None
