"""Masks the operator's secrets in whatever a tool server says, before anyone sees or records it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote

from gateway.core.json_types import JsonObject, JsonValue

__all__ = ["MASK", "filled", "mask", "mask_object", "spellings"]

MASK = "[secret]"
_TELLING = 16
"""From this length on a line of a secret with several is masked on its own as well."""
_NAMED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def spellings(values: Iterable[str]) -> tuple[str, ...]:
    """Return how secrets may stand in a text, the longest first: as they are, in JSON, in a URL, by line."""
    return tuple(sorted({form for value in values if value for form in _forms(value)}, key=len, reverse=True))


def _forms(value: str) -> Iterator[str]:
    yield value
    yield quote(value, safe="")
    for in_ascii in (True, False):
        yield json.dumps(value, ensure_ascii=in_ascii)[1:-1]
    lines = value.splitlines()
    if len(lines) > 1:  # a key in a file: its first and last line say what it is, and are no secret
        yield from (line for line in lines if len(line) >= _TELLING and not line.startswith("-----"))


def mask(value: JsonValue, secrets: tuple[str, ...]) -> JsonValue:
    """Return `value` with every occurrence of a secret, in text or key, replaced by `MASK`."""
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, MASK)
        return value
    if isinstance(value, list):
        return [mask(part, secrets) for part in value]
    if isinstance(value, dict):
        return mask_object(value, secrets)
    return value


def filled(text: str, secrets: Mapping[str, str]) -> str:
    """Return `text` with each `${NAME}` replaced by that secret's value; one that is not there stays."""
    return _NAMED.sub(lambda match: secrets.get(match[1], match[0]), text)


def mask_object(value: JsonObject, secrets: tuple[str, ...]) -> JsonObject:
    """Return an object masked likewise; the same object where there is nothing to hide."""
    if not secrets:
        return value
    return {str(mask(key, secrets)): mask(part, secrets) for key, part in value.items()}
