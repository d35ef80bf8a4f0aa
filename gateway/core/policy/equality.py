"""JSON equality: `1` is `1.0` and not `"1"`, booleans are not numbers, integers are exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.core.json_types import JsonValue

__all__ = ["json_equal", "one_of"]


def json_equal(left: JsonValue, right: JsonValue) -> bool:
    """Whether two JSON values are the same value."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(json_equal(item, right[key]) for key, item in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(json_equal, left, right))
    return left == right


def one_of(values: Sequence[JsonValue]) -> Callable[[JsonValue], bool]:
    """Return a test for equality with any of `values`; strings, the usual case, by hash."""
    strings = frozenset(value for value in values if isinstance(value, str))
    others = tuple(value for value in values if not isinstance(value, str))

    def test(value: JsonValue) -> bool:
        if isinstance(value, str):
            return value in strings
        return any(json_equal(value, other) for other in others)

    return test
