"""Masks the operator's secrets in whatever a tool server says, before anyone sees or records it."""

from __future__ import annotations

from gateway.core.json_types import JsonObject, JsonValue

__all__ = ["MASK", "mask", "mask_object"]

MASK = "[secret]"


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


def mask_object(value: JsonObject, secrets: tuple[str, ...]) -> JsonObject:
    """Return an object masked likewise; the same object where there is nothing to hide."""
    if not secrets:
        return value
    return {str(mask(key, secrets)): mask(part, secrets) for key, part in value.items()}
