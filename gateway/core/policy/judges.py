"""How a matcher judges one value: each is a closure to a three-valued verdict.

A closure never raises for any JSON value: what it cannot judge (a wrong type, a text that does not
parse) is `None`. Which of them a policy asks for, and how they nest, is in `matchers`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from gateway.core.json_types import JsonValue
from gateway.core.policy.arguments import canon_for
from gateway.core.policy.equality import json_equal, one_of
from gateway.core.policy.model import Kind
from gateway.core.policy.paths import canonical_path
from gateway.core.policy.patterns import compile_globs, compile_host
from gateway.core.policy.regexes import compile_regex
from gateway.core.policy.situation import Situation
from gateway.core.policy.unfit import Unfit
from gateway.core.policy.urls import Url, split_url
from gateway.core.policy.verdicts import Verdict, any_of, opposite
from gateway.core.policy.wildcards import StringTest

__all__ = [
    "Judge",
    "ValueKind",
    "bytes_up_to",
    "crosses_no_link",
    "equals",
    "glob",
    "hosts",
    "is_in",
    "negated",
    "of_host",
    "of_keys",
    "of_number",
    "of_text",
    "of_type",
    "of_url",
    "regex",
    "spelled",
    "under",
]

Judge: TypeAlias = Callable[[JsonValue, Situation], Verdict]

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


def spelled(expected: JsonValue, values: ValueKind) -> JsonValue:
    """Return an operand spelled as the canonical values it is compared with."""
    canon = canon_for(values.kind, values.workspace)
    if canon is None:
        return expected
    if isinstance(expected, list):
        return [spelled(item, values) for item in expected]
    canonical = canon(expected) if isinstance(expected, str) else expected
    return expected if isinstance(canonical, Unfit) else canonical


def equals(expected: JsonValue) -> Judge:
    """Return a judge of whether a value is `expected`, canonical where it has a kind."""
    return lambda value, _: json_equal(value, expected)


def is_in(expected: Sequence[JsonValue], values: ValueKind) -> Judge:
    """Return a judge of whether a value is one of those expected."""
    test = one_of([spelled(value, values) for value in expected])
    return lambda value, _: test(value)


def negated(judge: Judge) -> Judge:
    """Return a judge of the opposite; a doubt stays one."""
    return lambda value, situation: opposite(judge(value, situation))


def of_text(test: Callable[[str], Verdict]) -> Judge:
    """Return a judge of texts; of anything else there is a doubt."""
    return lambda value, _: test(value) if isinstance(value, str) else None


def bytes_up_to(most: int) -> Judge:
    """Return a judge of whether a text has at most so many bytes of UTF-8."""

    def test(text: str) -> bool:
        if len(text) > most:
            return False
        return text.isascii() or len(text.encode("utf-8", "surrogatepass")) <= most

    return of_text(test)


def of_number(test: Callable[[int | float], bool]) -> Judge:
    """Return a judge of numbers; of anything else, and of NaN, there is a doubt."""

    def judge(value: JsonValue, _: Situation) -> Verdict:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            return None
        return test(value)

    return judge


def of_keys(test: Callable[[frozenset[str]], bool]) -> Judge:
    """Return a judge of an object's keys; of anything else there is a doubt."""
    return lambda value, _: test(frozenset(value)) if isinstance(value, dict) else None


def of_type(names: Sequence[str]) -> Judge:
    """Return a judge of whether a value has one of the JSON types named."""
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


def under(roots: Sequence[str], values: ValueKind) -> Judge:
    """Return a judge of whether a path is one of the folders or stands below one."""
    if values.kind != "path":
        return lambda value, _: None
    folders = [path for root in roots if isinstance(path := canonical_path(root, values.workspace), str)]
    exact = frozenset(folders)
    inside = tuple(f"{folder.rstrip('/')}/" for folder in folders)
    return lambda value, _: (value.startswith(inside) or value in exact) if isinstance(value, str) else None


def crosses_no_link(values: ValueKind) -> Judge:
    """Return a judge of whether the way to a path leads over no symbolic link."""
    if values.kind != "path":
        return lambda value, _: None

    def judge(value: JsonValue, situation: Situation) -> Verdict:
        return opposite(situation.crosses_link(value)) if isinstance(value, str) else None

    return judge


def glob(patterns: Sequence[str], values: ValueKind) -> Judge:
    """Return a judge of whether a text, or a path as its kind is spelled, fits one of the patterns."""
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


def regex(patterns: Sequence[str]) -> Judge:
    """Return a judge of whether a text fits one of the expressions."""
    tests = [compile_regex(pattern) for pattern in patterns]
    if len(tests) == 1:
        return of_text(tests[0])
    return of_text(lambda text: any_of(test(text) for test in tests))


def of_url(test: Callable[[Url], bool]) -> Judge:
    """Return a judge of a URL that was taken apart."""

    def judge(text: str) -> Verdict:
        url = split_url(text)
        return None if isinstance(url, Unfit) else test(url)

    return of_text(judge)


def hosts(patterns: Sequence[str], values: ValueKind) -> Judge:
    """Return a judge of whether the host that a value is or names fits one of the patterns."""
    tests = [compile_host(pattern) for pattern in patterns]
    return of_host(lambda host: _any_test(tests, host), values)


def of_host(test: StringTest, values: ValueKind) -> Judge:
    """Return a judge of the host that a value is or names."""
    return of_text(test) if values.kind == "host" else of_url(lambda url: test(url.host))
