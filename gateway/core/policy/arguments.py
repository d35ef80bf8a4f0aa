"""Arguments of a call: measured against the caps, found by dotted path or kind, made canonical.

Nothing here knows rules. A value that is not canonicalised is passed on exactly as it came.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import count
from typing import Final, TypeAlias

from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.policy.model import Defaults, Kind
from gateway.core.policy.paths import canonical_path
from gateway.core.policy.unfit import Unfit
from gateway.core.policy.urls import canonical_host, canonical_url

__all__ = [
    "MAX_SPELLINGS",
    "UNREACHABLE",
    "Canon",
    "Finder",
    "Found",
    "canon_for",
    "canonicalise",
    "excess",
    "named",
    "of_kind",
]

MAX_SPELLINGS = 1_000
"""Most paths, URLs or hosts one list argument may hold."""
MAX_SPELT = 65_536
"""Most characters of all of them together."""
_WIDEST = 4
"""Most bytes of one character."""
_LONG = 10**18
_SPREAD = 10
"""Most values of one depth, as a multiple of the cap on one list."""


class _Unreachable(Enum):
    UNREACHABLE = "a value on the way is not an object"


UNREACHABLE: Final = _Unreachable.UNREACHABLE
"""Found in place of a value whose dotted path runs into something that is not an object."""

Found: TypeAlias = "JsonValue | _Unreachable"
Finder: TypeAlias = Callable[[JsonObject], Sequence[Found]]
"""The values a condition is about: none where the argument is missing."""
Canon: TypeAlias = Callable[[str], str | Unfit]


def excess(arguments: JsonObject, caps: Defaults) -> str | None:
    """Return which cap the arguments exceed, or `None`. Bytes are those of compact JSON without escapes."""
    if _plainly_small(arguments, caps):
        return None
    size, most_values = 0, caps.max_items * _SPREAD
    level: list[JsonValue] = [arguments]
    for depth in count():
        deeper: list[JsonValue] = []
        for value in level:
            if isinstance(value, dict | list):
                if depth >= caps.max_depth:
                    return f"arguments are nested deeper than {caps.max_depth} levels"
                if len(value) > caps.max_items:
                    return f"a list or an object has more than {caps.max_items} items"
                deeper += value.values() if isinstance(value, dict) else value
                if len(deeper) > most_values:
                    return f"arguments hold more than {most_values} values"
            size += _own_size(value)
        if size > caps.max_args_bytes:
            return f"arguments are larger than {caps.max_args_bytes} bytes"
        if not deeper:
            break
        level = deeper
    return None


def _plainly_small(arguments: JsonObject, caps: Defaults) -> bool:
    """Whether the arguments are flat and small at a glance, as nearly all are: this saves the walk."""
    if len(arguments) > caps.max_items:
        return False
    characters = 8
    for key, value in arguments.items():
        if isinstance(value, str):
            characters += len(value)
        elif isinstance(value, dict | list) or (isinstance(value, int) and not -_LONG < value < _LONG):
            return False
        characters += len(key) + 8
    return characters * _WIDEST <= caps.max_args_bytes


def _own_size(value: JsonValue) -> int:
    """Return a value's bytes without those of the values in it, with one separator."""
    if isinstance(value, str):
        return _text_size(value) + 3
    if isinstance(value, dict):
        return sum(map(_text_size, value)) + 3 * len(value) + 3
    if isinstance(value, int) and not isinstance(value, bool):
        return value.bit_length() * 30103 // 100_000 + 2
    return 6


def _text_size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def named(argument: str) -> Finder:
    """Return a finder for one argument by its dotted path."""
    first, *rest = argument.split(".")
    if not rest:
        return lambda arguments: (arguments[first],) if first in arguments else ()

    def find(arguments: JsonObject) -> Sequence[Found]:
        value: JsonValue = arguments
        for key in (first, *rest):
            if not isinstance(value, dict):
                return (UNREACHABLE,)
            if key not in value:
                return ()
            value = value[key]
        return (value,)

    return find


def of_kind(kind: Kind, kinds: Mapping[str, Kind]) -> Finder:
    """Return a finder for every value of a kind: each argument declared so, each item where it is a list."""
    names = [argument for argument, declared in kinds.items() if declared == kind]
    tops = [name for name in names if "." not in name]
    nested = [named(name) for name in names if "." in name]

    def find(arguments: JsonObject) -> Sequence[Found]:
        found: list[Found] = []
        for name in tops:
            if name in arguments:
                value = arguments[name]
                found += value if isinstance(value, list) else (value,)
        for finder in nested:
            for value in finder(arguments):
                found += value if isinstance(value, list) else (value,)
        return found

    return find


def canon_for(kind: Kind | None, workspace: str) -> Canon | None:
    """Return how values of a kind are spelled, or `None` for kinds that are left as they came."""
    match kind:
        case "path":
            return lambda value: canonical_path(value, workspace)
        case "url":
            return canonical_url
        case "host":
            return canonical_host
        case _:
            return None


@dataclass(frozen=True, slots=True)
class Spelling:
    """One argument that is made canonical before it is judged and forwarded: its dotted path in parts."""

    first: str
    rest: tuple[str, ...]
    canon: Canon

    @property
    def argument(self) -> str:
        """The dotted path as written."""
        return ".".join((self.first, *self.rest))


def canonicalise(arguments: JsonObject, spellings: Sequence[Spelling]) -> JsonObject | Unfit:
    """Return the arguments in their one spelling; what does not change is shared with the input."""
    for spelling in spellings:
        value = arguments.get(spelling.first)
        if value is None:
            continue
        changed = _respelled(value, spelling.rest, spelling.canon)
        if isinstance(changed, Unfit):
            return replace(changed, reason=f"argument {spelling.argument!r}: {changed.reason}")
        if changed is not value:
            arguments = {**arguments, spelling.first: changed}
    return arguments


def _respelled(value: JsonValue, rest: Sequence[str], canon: Canon) -> JsonValue | Unfit:
    if not rest:
        return canon(value) if isinstance(value, str) else _items_spelled(value, canon)
    inner = value.get(rest[0]) if isinstance(value, dict) else None
    if inner is None or not isinstance(value, dict):
        return value
    changed = _respelled(inner, rest[1:], canon)
    if isinstance(changed, Unfit):
        return changed
    return value if changed is inner else {**value, rest[0]: changed}


def _items_spelled(value: JsonValue, canon: Canon) -> JsonValue | Unfit:
    if not isinstance(value, list):
        return value
    if len(value) > MAX_SPELLINGS:
        return Unfit(f"a list of more than {MAX_SPELLINGS} paths, URLs or hosts", too_large=True)
    if sum(len(item) for item in value if isinstance(item, str)) > MAX_SPELT:
        return Unfit(f"a list of paths, URLs or hosts of more than {MAX_SPELT} characters", too_large=True)
    items: list[JsonValue] = []
    for item in value:
        changed = canon(item) if isinstance(item, str) else item
        if isinstance(changed, Unfit):
            return changed
        items.append(changed)
    return items
