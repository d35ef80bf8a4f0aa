"""The matchers: each becomes a closure from a value to a three-valued verdict.

A closure never raises for any JSON value: what it cannot judge (a wrong type, a text that does not
parse) is `None`, and the rule's effect decides what that means (`evaluate`). All take the situation
of the call; only `from` and `symlinks` look at it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from gateway.core.json_types import JsonValue
from gateway.core.policy.arguments import canon_for
from gateway.core.policy.argv import compile_argv
from gateway.core.policy.equality import json_equal, one_of
from gateway.core.policy.model import ItemMatchers, Kind, Matchers
from gateway.core.policy.paths import canonical_path
from gateway.core.policy.patterns import compile_globs, compile_host
from gateway.core.policy.provenance import compile_from
from gateway.core.policy.public_hosts import is_public
from gateway.core.policy.regexes import compile_regex
from gateway.core.policy.secret_shapes import secret_finder
from gateway.core.policy.showing import brief
from gateway.core.policy.situation import Situation
from gateway.core.policy.sql import only_reads
from gateway.core.policy.unfit import Unfit
from gateway.core.policy.urls import Url, split_url
from gateway.core.policy.verdicts import Verdict, all_of, any_of, opposite
from gateway.core.policy.wildcards import StringTest

__all__ = ["Check", "Judge", "ValueKind", "compile_matchers", "implied_kind"]

Judge: TypeAlias = Callable[[JsonValue, Situation], Verdict]

_ListJudge: TypeAlias = Callable[[list[JsonValue], Situation], Verdict]

MAX_GLOB_TEXT = 8_192
"""Longest text a glob judges, in characters; canonical paths and URLs are never longer."""


@dataclass(frozen=True, slots=True)
class ValueKind:
    """How the values a matcher sees are spelled: their kind, and the workspace of relative paths.

    `variables` are the texts of the policy's `vars`, which `from` may name.
    """

    kind: Kind | None
    workspace: str
    variables: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """One matcher of one argument: its name, its operand as data and as text, and the closure that judges."""

    matcher: str
    expected: JsonValue
    wanted: str
    judge: Judge


def implied_kind(matchers: Matchers) -> Kind | None:
    """Return the kind that path and URL matchers give the argument they touch, however deep they stand."""
    for part in matchers.every():
        written = part.model_fields_set
        if written & {"under", "not_under", "symlinks"}:
            return "path"
        if written & {"scheme", "host", "port", "public_only"}:
            return "url"
    return None


def compile_matchers(matchers: Matchers, values: ValueKind) -> tuple[Check, ...]:
    """Return one check for each matcher that is written, in a fixed order."""
    expected = matchers.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return tuple(
        Check(name, expected[name], brief(expected[name]), judge) for name, judge in _judges(matchers, values)
    )


def _judges(m: Matchers, values: ValueKind) -> Iterator[tuple[str, Judge]]:
    written = m.model_fields_set
    if "equals" in written:
        yield "equals", _equals(_spelled(m.equals, values))
    if "in_" in written:
        yield "in", _in(m.in_, values)
    if "not_in" in written:
        yield "not_in", _negated(_in(m.not_in, values))
    if m.type:
        yield "type", _type(m.type)
    if m.under:
        yield "under", _under(m.under, values)
    if m.not_under:
        yield "not_under", _negated(_under(m.not_under, values))
    if m.glob:
        yield "glob", _glob(m.glob, values)
    if m.not_glob:
        yield "not_glob", _negated(_glob(m.not_glob, values))
    if m.symlinks:
        yield "symlinks", _crosses_no_link(values)
    if m.regex:
        yield "regex", _regex(m.regex)
    yield from _url_judges(m, values)
    yield from _meaning_judges(m, values)
    yield from _size_judges(m)
    yield from _nested_judges(m, values)


def _url_judges(m: Matchers, values: ValueKind) -> Iterator[tuple[str, Judge]]:
    if m.scheme:
        yield "scheme", _url_part(lambda url: url.scheme in m.scheme)
    if m.host:
        yield "host", _host(m.host, values)
    if m.port:
        yield "port", _url_part(lambda url: url.port in m.port)
    if m.public_only:
        yield "public_only", _of_host(is_public, values)


def _meaning_judges(m: Matchers, values: ValueKind) -> Iterator[tuple[str, Judge]]:
    if m.sql:
        yield "sql", _text(only_reads)
    if m.argv:
        command = compile_argv(m.argv.prefix, m.argv.deny_flags)
        yield "argv", lambda value, _: command(value)
    if m.no_secrets:
        secret = secret_finder()
        yield "no_secrets", lambda value, _: not secret(value)
    if m.from_:
        yield "from", compile_from(m.from_, values.variables, values.kind, values.workspace)


def _size_judges(m: Matchers) -> Iterator[tuple[str, Judge]]:
    written = m.model_fields_set
    if "min" in written:
        yield "min", _number(lambda number: number >= m.min)
    if "max" in written:
        yield "max", _number(lambda number: number <= m.max)
    if "max_len" in written:
        yield "max_len", _text(lambda text: len(text) <= m.max_len)
    if "max_bytes" in written:
        yield "max_bytes", _max_bytes(m.max_bytes)
    if m.keys:
        yield "keys", _object(lambda keys: keys <= frozenset(m.keys))
    if m.required_keys:
        yield "required_keys", _object(lambda keys: keys >= frozenset(m.required_keys))


def _nested_judges(m: Matchers, values: ValueKind) -> Iterator[tuple[str, Judge]]:
    if m.items is not None:
        yield "items", _items(m.items, values)
    if m.not_ is not None:
        yield "not", _negated(_together(m.not_, values))


def _spelled(expected: JsonValue, values: ValueKind) -> JsonValue:
    """Return an operand spelled as the canonical values it is compared with."""
    canon = canon_for(values.kind, values.workspace)
    if canon is None:
        return expected
    if isinstance(expected, list):
        return [_spelled(item, values) for item in expected]
    spelled = canon(expected) if isinstance(expected, str) else expected
    return expected if isinstance(spelled, Unfit) else spelled


def _equals(expected: JsonValue) -> Judge:
    return lambda value, _: json_equal(value, expected)


def _in(expected: Sequence[JsonValue], values: ValueKind) -> Judge:
    test = one_of([_spelled(value, values) for value in expected])
    return lambda value, _: test(value)


def _negated(judge: Judge) -> Judge:
    return lambda value, situation: opposite(judge(value, situation))


def _together(matchers: Matchers, values: ValueKind) -> Judge:
    judges = [check.judge for check in compile_matchers(matchers, values)]
    if len(judges) == 1:
        return judges[0]
    return lambda value, situation: all_of(judge(value, situation) for judge in judges)


def _text(test: Callable[[str], Verdict]) -> Judge:
    return lambda value, _: test(value) if isinstance(value, str) else None


def _max_bytes(most: int) -> Judge:
    def test(text: str) -> bool:
        if len(text) > most:
            return False
        return text.isascii() or len(text.encode("utf-8", "surrogatepass")) <= most

    return _text(test)


def _number(test: Callable[[int | float], bool]) -> Judge:
    def judge(value: JsonValue, _: Situation) -> Verdict:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            return None
        return test(value)

    return judge


def _object(test: Callable[[frozenset[str]], bool]) -> Judge:
    return lambda value, _: test(frozenset(value)) if isinstance(value, dict) else None


def _type(names: Sequence[str]) -> Judge:
    tests = [_TYPES[name] for name in names]
    return lambda value, _: any(test(value) for test in tests)


def _is_number(value: JsonValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: JsonValue) -> bool:
    """Whether a number has no fraction: `1.0` is `1`."""
    return _is_number(value) and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))


_TYPES: dict[str, Callable[[JsonValue], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": _is_integer,
    "number": _is_number,
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


def _under(roots: Sequence[str], values: ValueKind) -> Judge:
    if values.kind != "path":
        return lambda value, _: None
    folders = [path for root in roots if isinstance(path := canonical_path(root, values.workspace), str)]
    exact = frozenset(folders)
    inside = tuple(f"{folder.rstrip('/')}/" for folder in folders)
    return lambda value, _: (value.startswith(inside) or value in exact) if isinstance(value, str) else None


def _crosses_no_link(values: ValueKind) -> Judge:
    if values.kind != "path":
        return lambda value, _: None

    def judge(value: JsonValue, situation: Situation) -> Verdict:
        return opposite(situation.crosses_link(value)) if isinstance(value, str) else None

    return judge


def _glob(patterns: Sequence[str], values: ValueKind) -> Judge:
    test = compile_globs([_rooted(pattern, values) for pattern in patterns])

    def judge(value: JsonValue, _: Situation) -> Verdict:
        return test(value) if isinstance(value, str) and len(value) <= MAX_GLOB_TEXT else None

    return judge


def _any_test(tests: Sequence[StringTest], text: str) -> bool:
    for test in tests:  # noqa: SIM110 - a generator costs more than the tests
        if test(text):
            return True
    return False


def _rooted(pattern: str, values: ValueKind) -> str:
    """Return a path pattern as an absolute one: a relative pattern resolves as relative values do."""
    if values.kind != "path" or pattern.startswith(("/", "**")):
        return pattern
    return f"{values.workspace.rstrip('/')}/{pattern}"


def _regex(patterns: Sequence[str]) -> Judge:
    tests = [compile_regex(pattern) for pattern in patterns]
    if len(tests) == 1:
        return _text(tests[0])
    return _text(lambda text: any_of(test(text) for test in tests))


def _url_part(test: Callable[[Url], bool]) -> Judge:
    def judge(text: str) -> Verdict:
        url = split_url(text)
        return None if isinstance(url, Unfit) else test(url)

    return _text(judge)


def _host(patterns: Sequence[str], values: ValueKind) -> Judge:
    tests = [compile_host(pattern) for pattern in patterns]
    return _of_host(lambda host: _any_test(tests, host), values)


def _of_host(test: StringTest, values: ValueKind) -> Judge:
    """Return a judge of the host that a value is or names."""
    return _text(test) if values.kind == "host" else _url_part(lambda url: test(url.host))


def _items(items: ItemMatchers, values: ValueKind) -> Judge:
    parts = list(_item_judges(items, values))

    def judge(value: JsonValue, situation: Situation) -> Verdict:
        return all_of(part(value, situation) for part in parts) if isinstance(value, list) else None

    return judge


def _item_judges(items: ItemMatchers, values: ValueKind) -> Iterator[_ListJudge]:
    most = items.max
    if most is not None:
        yield lambda value, _: len(value) <= most
    if items.all:
        every = _together(items.all, values)
        yield lambda value, situation: all_of(every(item, situation) for item in value)
    if items.any:
        some = _together(items.any, values)
        yield lambda value, situation: any_of(some(item, situation) for item in value)
    if items.none:
        unwanted = _together(items.none, values)
        yield lambda value, situation: opposite(any_of(unwanted(item, situation) for item in value))
