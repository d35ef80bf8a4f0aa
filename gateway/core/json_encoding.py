"""How values are written as JSON: compact UTF-8, as they stand or with sorted keys. Pure.

The C encoder of the standard library does it. It takes its time for each character, so long texts are
escaped by pydantic's serializer instead, to the same bytes in a fifth of the time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from pydantic_core import to_json

from gateway.core.json_types import JsonValue

__all__ = ["canonical", "dumps", "encode", "encode_sorted", "quote"]

_Encode: TypeAlias = "Callable[[JsonValue], str]"

_own: Any = json.encoder
_LONG = 2_048
"""Characters from which on a text is worth being escaped by the other encoder."""
_DEPTH, _WIDTH = 5, 32
"""How far a value is searched for long texts: as far as messages of the protocol have them."""

quote: Callable[[str], str] = _own.encode_basestring
"""Return a string as JSON, quotes included; half of a surrogate pair stays and has no UTF-8 form."""


def dumps(value: JsonValue) -> bytes:
    """Return compact UTF-8 JSON, keys in their order: what we forward.

    Raises `ValueError` for what is not JSON (NaN, infinity, a lone surrogate), `TypeError` for other types.
    """
    return (_encode_long if _has_long_text(value, _DEPTH) else encode)(value).encode()


def canonical(value: JsonValue) -> bytes:
    """Return compact UTF-8 JSON with sorted keys: equal values give equal bytes. Raises as `dumps` does."""
    return (_encode_long_sorted if _has_long_text(value, _DEPTH) else encode_sorted)(value).encode()


def _has_long_text(value: JsonValue, depth: int) -> bool:
    """Whether a long text is easily found in a value. Asked of every message, so written for speed."""
    if isinstance(value, dict):
        items: Iterable[JsonValue] = value.values()
    elif isinstance(value, list):
        items = value
    else:
        return isinstance(value, str) and len(value) > _LONG
    if not depth or len(value) > _WIDTH:
        return False
    for item in items:
        if isinstance(item, str):
            if len(item) > _LONG:
                return True
        elif isinstance(item, (dict, list)) and _has_long_text(item, depth - 1):
            return True
    return False


def _quote_any(text: str) -> str:
    return quote(text) if len(text) < _LONG else to_json(text).decode()


def _encoder(quote_text: Callable[[str], str], *, sort_keys: bool) -> _Encode:
    """Return an encoder; the C one is made once, where `JSONEncoder.encode` makes one for every value."""
    encoder = json.JSONEncoder(
        ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=sort_keys
    )
    make: Callable[..., Callable[[JsonValue, int], Iterable[str]]] | None = _own.c_make_encoder
    if make is None:  # an interpreter without the C module
        return encoder.encode
    chunks = make(None, encoder.default, quote_text, None, ":", ",", sort_keys, False, False)
    return lambda value: "".join(chunks(value, 0))


encode = _encoder(quote, sort_keys=False)
"""Return the text that `dumps` encodes, whatever it holds."""
encode_sorted = _encoder(quote, sort_keys=True)
"""Return the text that `canonical` encodes, whatever it holds."""
_encode_long = _encoder(_quote_any, sort_keys=False)
_encode_long_sorted = _encoder(_quote_any, sort_keys=True)
