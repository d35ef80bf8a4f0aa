"""Matchers on one argument that no value can satisfy together; the easy cases only."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.core.json_types import JsonValue
from gateway.core.policy.equality import json_equal
from gateway.core.policy.judges import ValueKind
from gateway.core.policy.matchers import compile_matchers, implied_kind
from gateway.core.policy.model import Matchers, Rule
from gateway.core.policy.situation import NOWHERE

__all__ = ["contradiction", "guard_contradiction"]

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
    if m.under and all(any(_within(root, bar) for bar in m.not_under) for root in m.under):
        yield "all of 'under' is in what 'not_under' bars"
    yield from _types(m)
    if m.keys and not set(m.required_keys) <= set(m.keys):
        yield "a key of required_keys is not among keys"
    if {"equals", "in_"} & written:
        values = [m.equals] if "equals" in written else list(m.in_)
        if not any(_satisfies(value, m) for value in values):
            yield "no value of 'equals' or 'in' satisfies the other matchers"


def _within(root: str, folder: str) -> bool:
    return f"{root.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


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


def guard_contradiction(rule: Rule) -> str | None:
    """Return why a rule can never hold, whatever its arguments, or `None`."""
    labels, limit = rule.if_labels, rule.limit
    if labels:
        barred = set(labels.none)
        if barred & set(labels.all) or (labels.any and set(labels.any) <= barred):
            return "'if_labels' asks for a label and bars it"
    if limit and (limit.calls == 0 or limit.bytes == 0):
        return "its limit leaves room for nothing"
    return None
