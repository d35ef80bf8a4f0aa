"""The matchers: which of the `judges` what is written becomes, and how they nest.

What a judge has a doubt about is `None`, and the rule's effect decides what that means (`evaluate`).
All take the situation of the call; only `from` and `symlinks` look at it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from gateway.core.json_types import JsonValue
from gateway.core.policy import judges
from gateway.core.policy.argv import compile_argv
from gateway.core.policy.judges import Judge, ValueKind
from gateway.core.policy.model import ItemMatchers, Kind, Matchers
from gateway.core.policy.provenance import compile_from
from gateway.core.policy.public_hosts import is_public
from gateway.core.policy.secret_shapes import secret_finder
from gateway.core.policy.showing import brief
from gateway.core.policy.situation import Situation
from gateway.core.policy.sql import only_reads
from gateway.core.policy.verdicts import Verdict, all_of, any_of, opposite

__all__ = ["Check", "compile_matchers", "implied_kind"]

_ListJudge: TypeAlias = Callable[[list[JsonValue], Situation], Verdict]


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
        yield "equals", judges.equals(judges.spelled(m.equals, values))
    if "in_" in written:
        yield "in", judges.is_in(m.in_, values)
    if "not_in" in written:
        yield "not_in", judges.negated(judges.is_in(m.not_in, values))
    if m.type:
        yield "type", judges.of_type(m.type)
    if m.under:
        yield "under", judges.under(m.under, values)
    if m.not_under:
        yield "not_under", judges.negated(judges.under(m.not_under, values))
    if m.glob:
        yield "glob", judges.glob(m.glob, values)
    if m.not_glob:
        yield "not_glob", judges.negated(judges.glob(m.not_glob, values))
    if m.symlinks:
        yield "symlinks", judges.crosses_no_link(values)
    if m.regex:
        yield "regex", judges.regex(m.regex)
    yield from _url_judges(m, values)
    yield from _meaning_judges(m, values)
    yield from _size_judges(m)
    yield from _nested_judges(m, values)


def _url_judges(m: Matchers, values: ValueKind) -> Iterator[tuple[str, Judge]]:
    if m.scheme:
        yield "scheme", judges.of_url(lambda url: url.scheme in m.scheme)
    if m.host:
        yield "host", judges.hosts(m.host, values)
    if m.port:
        yield "port", judges.of_url(lambda url: url.port in m.port)
    if m.public_only:
        yield "public_only", judges.of_host(is_public, values)


def _meaning_judges(m: Matchers, values: ValueKind) -> Iterator[tuple[str, Judge]]:
    if m.sql:
        yield "sql", judges.of_text(only_reads)
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
        yield "min", judges.of_number(lambda number: number >= m.min)
    if "max" in written:
        yield "max", judges.of_number(lambda number: number <= m.max)
    if "max_len" in written:
        yield "max_len", judges.of_text(lambda text: len(text) <= m.max_len)
    if "max_bytes" in written:
        yield "max_bytes", judges.bytes_up_to(m.max_bytes)
    if m.keys:
        yield "keys", judges.of_keys(lambda keys: keys <= frozenset(m.keys))
    if m.required_keys:
        yield "required_keys", judges.of_keys(lambda keys: keys >= frozenset(m.required_keys))


def _nested_judges(m: Matchers, values: ValueKind) -> Iterator[tuple[str, Judge]]:
    if m.items is not None:
        yield "items", _items(m.items, values)
    if m.not_ is not None:
        yield "not", judges.negated(_together(m.not_, values))


def _together(matchers: Matchers, values: ValueKind) -> Judge:
    every = [check.judge for check in compile_matchers(matchers, values)]
    if len(every) == 1:
        return every[0]
    return lambda value, situation: all_of(judge(value, situation) for judge in every)


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
