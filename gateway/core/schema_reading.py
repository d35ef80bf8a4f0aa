"""What a JSON Schema says of an object's properties, for people and for Python. Pure; validates nothing."""

from __future__ import annotations

from gateway.core.json_types import JsonObject, JsonValue

__all__ = ["properties_of", "required_of", "resolved"]

_MAX_HOPS = 8


def resolved(schema: JsonValue, root: JsonObject) -> JsonObject:
    """Return a schema without a `$ref` of its own: what that points at in `root`; `{}` for anything odd."""
    for _ in range(_MAX_HOPS):
        if not isinstance(schema, dict):
            return {}
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            return schema
        schema = _pointed_at(reference, root)
    return {}


def properties_of(schema: JsonObject) -> JsonObject:
    """Return an object's properties, by name."""
    properties = schema.get("properties")
    return properties if isinstance(properties, dict) else {}


def required_of(schema: JsonObject) -> list[str]:
    """Return the names of the properties an object must have, those that are words."""
    required = schema.get("required")
    return [name for name in required if isinstance(name, str)] if isinstance(required, list) else []


def _pointed_at(reference: str, root: JsonObject) -> JsonValue:
    """Return what a reference into the schema itself points at; `None` for any other."""
    found: JsonValue = root if reference.startswith("#/") else None
    for step in reference.removeprefix("#/").split("/"):
        found = found.get(step) if isinstance(found, dict) else None
    return found
