"""Values in a few words, for reasons and explanations."""

from __future__ import annotations

import json

from gateway.core.json_types import JsonValue

__all__ = ["brief", "type_phrase"]

_LONGEST = 120


def brief(value: JsonValue) -> str:
    """Return a value as one short line."""
    text = (
        json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else repr(value[: _LONGEST + 1])
    )
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def type_phrase(value: JsonValue) -> str:
    """Return `it is a …` for the value's JSON type."""
    match value:
        case None:
            name = "null"
        case str():
            name = "a string"
        case bool():
            name = "a boolean"
        case list():
            name = "a list"
        case dict():
            name = "an object"
        case _:
            name = "a number"
    return f"it is {name}"
