"""Matchers on one argument that no value can satisfy together; the easy cases only."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.core.json_types import JsonValue
from gateway.core.policy.equality import json_equal
from gateway.core.policy.matchers import ValueKind, compile_matchers, implied_kind
from gateway.core.policy.model import Matchers
from gateway.core.policy.situation import NOWHERE

__all__ = ["contradiction"]

_STRING_MATCHERS = frozenset(
    {
        *("glob", "not_glob", "under", "not_under", "symlinks", "regex", "scheme", "host", "port"),
        *("public_only", "sql", "max_len", "max_bytes"),
    }
)
_WANTED_TYPE = {
    **dict.fromkeys(_STRING_MATCHERS, frozenset({"string"})),
    **dict.fromkeys(("min", "max"), frozenset({"number", "integer"})),
    **dict.fromkeys(("keys", "required_keys"), frozenset({"object"})),
    "items": frozenset({"array"}),
}


def contradiction(matchers: Matchers) -> str | None:
    """Return why no value can satisfy `matchers`, or `None`."""
    return next(_contradictions(matchers), None)


def _contradictions(m: Matchers) -> Iterator[str]:
    written = m.model_fields_set
    if {"min", "max"} <= written and m.min > m.max:
        yield f"min {m.min} is above max {m.max}"
    yield from _types(m)
    if m.keys and not set(m.required_keys) <= set(m.keys):
        yield "a key of required_keys is not among keys"
    if {"equals", "in_"} & written:
        values = [m.equals] if "equals" in written else list(m.in_)
        if not any(_satisfies(value, m) for value in values):
            yield "no value of 'equals' or 'in' satisfies the other matchers"


def _types(m: Matchers) -> Iterator[str]:
    possible = frozenset(m.type) or None
    for name in sorted(m.model_fields_set & _WANTED_TYPE.keys()):
        wanted = _WANTED_TYPE[name]
        if possible is not None and not possible & wanted:
            yield f"{name!r} judges {' or '.join(sorted(wanted))}, and the value is another type"
            return
        possible = wanted if possible is None else possible & wanted


def _satisfies(value: JsonValue, m: Matchers) -> bool:
    kind = implied_kind(m)
    if kind is not None:
        # Values of a kind are compared in their one spelling, which depends on the workspace.
        return True
    if "equals" in m.model_fields_set and not json_equal(value, m.equals):
        return False
    return all(
        check.matcher == "from" or check.judge(value, NOWHERE) is not False
        for check in compile_matchers(m, ValueKind(None, "/"))
    )
