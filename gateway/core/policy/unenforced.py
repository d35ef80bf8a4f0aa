"""Parts of the policy grammar that this version does not enforce: refused, never ignored.

A policy that says `limit:` and gets no limit would be a hole that nobody sees. The tables shrink as
the parts are built; nothing else in the package mentions them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.core.documents import Document, Path
from gateway.core.json_types import JsonValue
from gateway.errors import Problem

__all__ = ["unenforced"]

_TOP = frozenset({"labels", "results", "grants", "audit"})
_RULE = frozenset({"limit", "when", "hours", "if_labels", "approve"})
_MATCHERS = frozenset({"symlinks", "public_only", "no_secrets", "sql", "argv", "from"})
_MODE = frozenset({"rules"})
_NESTED = ("not", "all", "any", "none", "items")


def unenforced(document: Document) -> Iterator[Problem]:
    """Yield one problem for each use of such a part."""
    for path in _uses(document.value):
        message = f"{path[-1]!r} is not enforced by this version: a policy that relies on it is refused"
        yield document.problem(path, "not_enforced", message)


def _uses(root: JsonValue) -> Iterator[Path]:
    yield from _keys(root, (), _TOP)
    top = _mapping(root)
    rules = top.get("rules")
    for index, rule in enumerate(rules if isinstance(rules, list) else ()):
        path = ("rules", index)
        yield from _keys(rule, path, _RULE)
        for argument, matchers in _mapping(_mapping(rule).get("args")).items():
            yield from _in_matchers(matchers, (*path, "args", argument))
    for mode, settings in _mapping(top.get("modes")).items():
        yield from _keys(settings, ("modes", mode), _MODE)
        yield from _keys(_mapping(settings).get("ask"), ("modes", mode, "ask"), frozenset({"approver"}))


def _in_matchers(matchers: JsonValue, path: Path) -> Iterator[Path]:
    yield from _keys(matchers, path, _MATCHERS)
    for key in _NESTED:
        inner = _mapping(matchers).get(key)
        if isinstance(inner, dict):
            yield from _in_matchers(inner, (*path, key))


def _keys(value: JsonValue, path: Path, names: frozenset[str]) -> Iterator[Path]:
    for key in _mapping(value):
        if key in names:
            yield (*path, key)


def _mapping(value: JsonValue) -> Mapping[str, JsonValue]:
    return value if isinstance(value, dict) else {}
