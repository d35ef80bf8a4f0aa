"""From values that were seen to the matchers that allow them: roots, hosts, enums, else types and bounds.

Each proposal is a tree of plain values in which `Noted` says how often a part was seen.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from gateway.core.json_types import JsonValue
from gateway.core.policy.roots import common_roots
from gateway.core.policy.secret_shapes import secret_finder
from gateway.core.policy.sql import only_reads
from gateway.core.policy.unfit import Unfit
from gateway.core.policy.urls import split_url

__all__ = ["Learned", "Noted", "Samples", "counted", "learn_matchers"]

_MOST_ENUM = 8
_ENUM_SEEN = 3
"""A value set is small where each value was seen so often on average."""
_LONGEST_ENUM = 64
_MOST_HOSTS = 12
_MOST_COMMANDS = 12


@dataclass(frozen=True, slots=True)
class Noted:
    """A part of a proposal, and what a comment says of it."""

    value: Learned
    note: str


Learned: TypeAlias = "JsonValue | Noted | Mapping[str, Learned] | Sequence[Learned]"


@dataclass(frozen=True, slots=True)
class Samples:
    """The values of one argument, its declared kind, and the workspace of relative paths."""

    values: tuple[JsonValue, ...]
    kind: str | None
    workspace: str


def learn_matchers(samples: Samples) -> dict[str, Learned]:
    """Return matchers that hold for every value of `samples`."""
    values = samples.values
    if all(isinstance(value, list) for value in values):
        return _lists(samples)
    if all(isinstance(value, str) for value in values):
        texts = [value for value in values if isinstance(value, str)]
        return _of_kind(texts, samples) or _enum(values) or _texts(texts)
    return _enum(values) or _numbers(values) or _types(values)


def _lists(samples: Samples) -> dict[str, Learned]:
    lists = [value for value in samples.values if isinstance(value, list)]
    items = tuple(item for value in lists for item in value)
    most: dict[str, Learned] = {"max": _headroom(max(map(len, lists)))}
    if not items:
        return {"items": most}
    return {"items": {"all": learn_matchers(Samples(items, samples.kind, samples.workspace)), **most}}


def _of_kind(texts: Sequence[str], samples: Samples) -> dict[str, Learned] | None:
    match samples.kind:
        case "path":
            return _paths(texts, samples.workspace)
        case "url":
            return _urls(texts)
        case "host":
            return {"host": counted(texts)} if len(set(texts)) <= _MOST_HOSTS else None
        case "sql":
            return {"sql": {"read_only": True}} if all(only_reads(text) is True for text in texts) else None
        case "command":
            return _commands(texts)
        case _:
            return None


def _paths(texts: Sequence[str], workspace: str) -> dict[str, Learned] | None:
    if not all(text.startswith("/") for text in texts):
        return None
    return {"under": [Noted(root, _seen(count)) for root, count in common_roots(texts, workspace)]}


def _urls(texts: Sequence[str]) -> dict[str, Learned] | None:
    urls = [url for url in map(split_url, texts) if not isinstance(url, Unfit)]
    hosts = {url.host for url in urls}
    if len(urls) < len(texts) or len(hosts) > _MOST_HOSTS:
        return None
    return {
        "scheme": counted([url.scheme for url in urls]),
        "host": counted([url.host for url in urls]),
        "max_len": _headroom(max(map(len, texts))),
    }


def _commands(texts: Sequence[str]) -> dict[str, Learned] | None:
    words = [text.split()[:1] for text in texts]
    firsts = Counter(word[0] for word in words if word)
    plain = all(word and word[0].replace("-", "").replace("_", "").isalnum() for word in words)
    if not plain or len(firsts) > _MOST_COMMANDS:
        return None
    return {"argv": {"prefix": [Noted([word], _seen(count)) for word, count in sorted(firsts.items())]}}


def _enum(values: Sequence[JsonValue]) -> dict[str, Learned] | None:
    """Return the values one by one where there are few and each is seen again and again."""
    if not all(_is_plain(value) for value in values):
        return None
    counts = Counter(json.dumps(value) for value in values)
    if len(counts) > _MOST_ENUM or len(values) < _ENUM_SEEN * len(counts):
        return None
    if any(map(secret_finder(), values)):
        return None  # a policy is read by many
    return {"in": [Noted(json.loads(text), _seen(count)) for text, count in sorted(counts.items())]}


def _is_plain(value: JsonValue) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST_ENUM and value.isprintable()
    return not isinstance(value, list | dict)


def _texts(texts: Sequence[str]) -> dict[str, Learned]:
    return {"type": "string", "max_len": _headroom(max(map(len, texts)))}


def _numbers(values: Sequence[JsonValue]) -> dict[str, Learned] | None:
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(values):
        return None
    whole = all(isinstance(number, int) for number in numbers)
    low, high = min(numbers), max(numbers)
    return {
        "type": "integer" if whole else "number",
        "min": 0 if low >= 0 else -_headroom(-low),
        "max": _headroom(high) if high > 0 else 0,
    }


_NAMES: Sequence[tuple[str, Callable[[JsonValue], bool]]] = (
    ("null", lambda value: value is None),
    ("boolean", lambda value: isinstance(value, bool)),
    ("string", lambda value: isinstance(value, str)),
    ("number", lambda value: isinstance(value, int | float) and not isinstance(value, bool)),
    ("array", lambda value: isinstance(value, list)),
    ("object", lambda value: isinstance(value, dict)),
)


def _types(values: Sequence[JsonValue]) -> dict[str, Learned]:
    """Return the types that were seen; of objects also their keys, of texts their length."""
    names = [name for name, test in _NAMES if any(map(test, values))]
    found: dict[str, Learned] = {"type": list[Learned](names) if len(names) > 1 else names[0]}
    if names == ["object"]:
        keys = [key for value in values if isinstance(value, dict) for key in value]
        if keys:
            found["keys"] = counted(keys)
    return found


def counted(texts: Sequence[str]) -> list[Learned]:
    """Return the texts in order, each once, noted with how often it was seen."""
    return [Noted(text, _seen(count)) for text, count in sorted(Counter(texts).items())]


def _headroom(highest: float) -> int:
    """Return a bound with room to grow: the next power of two that is no less than half more."""
    bound = 1
    while bound < highest * 1.5:
        bound *= 2
    return bound


def _seen(count: int) -> str:
    return "seen once" if count == 1 else f"seen {count} times"
