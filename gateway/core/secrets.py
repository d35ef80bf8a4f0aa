"""Masks the operator's secrets in whatever a tool server says, before anyone sees or records it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gateway.core.json_types import JsonObject, JsonValue

__all__ = ["MASK", "filled", "mask", "mask_object"]

MASK = "[secret]"
_NAMED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


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
