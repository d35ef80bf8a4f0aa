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

_TOP = frozenset({"audit"})
_MATCHERS = frozenset({"symlinks"})
_WHY = {
    "symlinks": "the gateway judges names and sees no files, and a sandbox has nothing outside it to link to",
}
_NESTED = ("not", "all", "any", "none", "items")


def unenforced(document: Document) -> Iterator[Problem]:
    """Yield one problem for each use of such a part."""
    for path in _uses(document.value):
        why = _WHY.get(str(path[-1]), "a policy that relies on it is refused")
        message = f"{path[-1]!r} is not enforced by this version: {why}"
        yield document.problem(path, "not_enforced", message)


def _uses(root: JsonValue) -> Iterator[Path]:
    yield from _keys(root, (), _TOP)
    top = _mapping(root)
    modes = _mapping(top.get("modes"))
    overlays = [(("modes", mode, "rules"), _mapping(part).get("rules")) for mode, part in modes.items()]
    for place, rules in ((("rules",), top.get("rules")), (("labels",), top.get("labels")), *overlays):
        for index, rule in enumerate(rules if isinstance(rules, list) else ()):
            for argument, matchers in _mapping(_mapping(rule).get("args")).items():
                yield from _in_matchers(matchers, (*place, index, "args", argument))
    for mode, settings in modes.items():
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
