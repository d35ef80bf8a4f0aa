"""Which arguments a tool takes, read from its input schema: by name, nested ones by dotted path. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.core.json_types import JsonObject, JsonValue

__all__ = ["argument_paths", "known_names", "schema_of"]

_DEEPEST = 4
_MOST = 256
_LONGEST = 128


def known_names(schema: JsonObject) -> frozenset[str] | None:
    """Return the argument names a schema declares, or `None` where it explicitly takes any."""
    extra = schema.get("additionalProperties")
    if extra is True or isinstance(extra, dict) or schema.get("patternProperties"):
        return None
    properties = schema.get("properties")
    names = set(properties) if isinstance(properties, dict) else set[str]()
    for keyword in ("allOf", "anyOf", "oneOf"):
        branches = schema.get(keyword)
        for branch in branches if isinstance(branches, list) else []:
            if not isinstance(branch, dict) or "$ref" in branch:
                return None  # the schema composes its names elsewhere: its own validation has to do
            inner = known_names(branch)
            if inner is None:
                return None
            names |= inner
    return None if "$ref" in schema else frozenset(names)


def argument_paths(schema: JsonValue) -> tuple[str, ...] | None:
    """Return the dotted paths of the arguments a schema declares, sorted; `None` where it takes any.

    Nested ones are those of objects that are described in place. Names that no policy could write, or
    more of them than anybody would read, count as any.
    """
    names = known_names(schema) if isinstance(schema, dict) else None
    if names is None or not isinstance(schema, dict):
        return None
    found = sorted(_paths(schema, names, "", 1))
    fits = len(found) <= _MOST and all(0 < len(path) <= _LONGEST and path.isprintable() for path in found)
    return tuple(found) if fits else None


def _paths(schema: JsonObject, names: Iterable[str], prefix: str, depth: int) -> Iterator[str]:
    properties = schema.get("properties")
    for name in names:
        if "." in name:
            continue  # a policy reads it as a path
        yield prefix + name
        inner = properties.get(name) if isinstance(properties, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get("properties"), dict) and depth < _DEEPEST:
            yield from _paths(inner, known_names(inner) or (), f"{prefix}{name}.", depth + 1)


def schema_of(paths: Iterable[str]) -> JsonObject:
    """Return a schema that declares arguments of these dotted paths and says nothing else of them."""
    root: JsonObject = {"properties": {}}
    for path in sorted(paths):
        here = root
        for name in path.split("."):
            properties = here.setdefault("properties", {})
            assert isinstance(properties, dict)
            inner = properties.setdefault(name, {})
            assert isinstance(inner, dict)
            here = inner
    return root
