"""What a modern request says twice: in its body, and in headers for whoever routes it on the way.

A tool marks an argument with `x-mcp-header: TOKEN` in its input schema; a call then repeats the argument's
value in `Mcp-Param-TOKEN`, and a server refuses a call whose header and body disagree.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from gateway.core.json_types import JsonObject, JsonValue

__all__ = ["Marks", "argument_headers", "header_value", "marked_arguments"]

Marks: TypeAlias = Mapping[tuple[str, ...], str]
"""Path of an argument, through nested objects, to the token of its header."""

_MARK = "x-mcp-header"
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PLAIN = re.compile(r"[\x20-\x7E]*")
_ENCODED = re.compile(r"=\?base64\?.*\?=")
_TYPES = ("string", "integer", "boolean")

# Where JSON Schema 2020-12 holds further schemas, besides `properties`: a mark in one of these is none that
# can be followed, because which arguments it is about depends on the call.
_ONE = (
    *("items", "contains", "unevaluatedItems", "additionalProperties", "propertyNames"),
    *("unevaluatedProperties", "not", "if", "then", "else", "contentSchema"),
)
_LIST = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAP = ("patternProperties", "dependentSchemas", "$defs", "definitions")

_Position: TypeAlias = tuple[tuple[str, ...] | None, JsonValue]


def marked_arguments(schema: JsonValue) -> Marks:
    """Return a tool's marked arguments; none at all where one of the marks is not as it has to be."""
    marks: dict[tuple[str, ...], str] = {}
    for path, found in _schemas(schema):
        if _MARK not in found:
            continue
        token, kind = found[_MARK], found.get("type")
        if not path or not isinstance(token, str) or not _TOKEN.fullmatch(token) or kind not in _TYPES:
            return {}
        if token.lower() in {other.lower() for other in marks.values()}:
            return {}
        marks[path] = token
    return marks


def argument_headers(marks: Marks, arguments: JsonValue) -> dict[str, str]:
    """Return the headers that repeat a call's arguments; what is absent, `null` or no scalar has none."""
    headers: dict[str, str] = {}
    for path, token in marks.items():
        if (text := _scalar(_at(arguments, path))) is not None:
            headers[f"mcp-param-{token.lower()}"] = header_value(text)
    return headers


def header_value(text: str) -> str:
    """Return a text as a header holds it: as it is, or in the protocol's encoding."""
    if _PLAIN.fullmatch(text) and text == text.strip() and not _ENCODED.fullmatch(text):
        return text
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


def _schemas(root: JsonValue) -> Iterator[tuple[tuple[str, ...] | None, JsonObject]]:
    """Yield every schema in a schema, with its path while only `properties` led there, else `None`."""
    waiting: list[_Position] = [((), root)]
    while waiting:
        path, schema = waiting.pop()
        if isinstance(schema, dict):
            yield path, schema
            for keyword, value in schema.items():
                waiting.extend(_below(path, keyword, value))


def _below(path: tuple[str, ...] | None, keyword: str, value: JsonValue) -> Iterator[_Position]:
    if keyword == "properties" and isinstance(value, dict):
        yield from ((None if path is None else (*path, name), below) for name, below in value.items())
    elif keyword in _ONE:
        yield None, value
    elif keyword in _LIST and isinstance(value, list):
        yield from ((None, below) for below in value)
    elif keyword in _MAP and isinstance(value, dict):
        yield from ((None, below) for below in value.values())


def _at(arguments: JsonValue, path: tuple[str, ...]) -> JsonValue:
    for name in path:
        if not isinstance(arguments, dict):
            return None
        arguments = arguments.get(name)
    return arguments


def _scalar(value: JsonValue) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        return None
    try:
        return str(value)
    except ValueError:  # more digits than Python prints: the protocol's own implementations send none
        return None
