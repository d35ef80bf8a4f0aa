"""Wildcards over text without segments: `*` is any run of characters, `?` is one, `\\` escapes.

Compiled once, matched often, linear but for `?` (bounded by pattern times text). Knows no policy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from itertools import groupby
from typing import TypeAlias

__all__ = ["PatternError", "StringTest", "compile_wildcard"]

StringTest: TypeAlias = Callable[[str], bool]

_UNSUPPORTED = {"[": "character classes", "]": "character classes", "{": "braces", "}": "braces"}
_ESCAPABLE = frozenset("*?[]{}\\")


class PatternError(ValueError):
    """A pattern in a policy file cannot be understood; the message says what to write instead."""


class _Mark(Enum):
    STAR = "*"
    ONE = "?"


_Token: TypeAlias = str | _Mark
"""One literal character, or a mark."""


def compile_wildcard(pattern: str) -> StringTest:
    """Return a test of whole strings; raises `PatternError`."""
    tokens = _tokens(pattern)
    if _Mark.ONE in tokens:
        return _stepwise(tokens)
    runs = [
        None if star else "".join(str(token) for token in run)
        for star, run in groupby(tokens, lambda token: token is _Mark.STAR)
    ]
    return _by_runs(runs)


def _tokens(pattern: str) -> list[_Token]:
    tokens: list[_Token] = []
    characters = iter(pattern)
    for character in characters:
        if character == "\\":
            tokens.append(_escaped(next(characters, ""), pattern))
        elif character in _UNSUPPORTED:
            what = _UNSUPPORTED[character]
            raise PatternError(
                f"{what} are not part of patterns here: list several patterns, "
                rf"or write '\{character}' for the character itself"
            )
        elif character in "*?":
            tokens.append(_Mark(character))
        else:
            tokens.append(character)
    return tokens


def _escaped(character: str, pattern: str) -> str:
    if character not in _ESCAPABLE or not character:
        raise PatternError(
            rf"'\{character}' in {pattern!r} is not an escape: '\' goes before one of * ? [ ] {{ }} \ "
        )
    return character


def _by_runs(runs: Sequence[str | None]) -> StringTest:
    """Return a test for literals with stars (`None`) between them; the common forms first."""
    match runs:
        case []:
            return lambda text: not text
        case [None]:
            return lambda text: True
        case [str(literal)]:
            return literal.__eq__
        case [str(head), None]:
            return lambda text: text.startswith(head)
        case [None, str(tail)]:
            return lambda text: text.endswith(tail)
        case _:
            return _literals_in_order(runs)


def _literals_in_order(runs: Sequence[str | None]) -> StringTest:
    head = runs[0] or ""
    tail = runs[-1] or ""
    inner = [run for run in runs[1:-1] if run]
    shortest = len(head) + len(tail)

    def test(text: str) -> bool:
        if len(text) < shortest or not text.startswith(head) or not text.endswith(tail):
            return False
        at, end = len(head), len(text) - len(tail)
        # The earliest place for each literal leaves the most room for the rest.
        for literal in inner:
            found = text.find(literal, at, end)
            if found < 0:
                return False
            at = found + len(literal)
        return True

    return test


def _stepwise(tokens: Sequence[_Token]) -> StringTest:
    """Return a test that steps through the text and retries only from the last star."""

    def test(text: str) -> bool:
        at = place = retry_at = 0
        retry_place = -1
        while at < len(text):
            token = tokens[place] if place < len(tokens) else None
            if token is _Mark.STAR:
                retry_place, retry_at = place, at
                place += 1
            elif token is _Mark.ONE or token == text[at]:
                place, at = place + 1, at + 1
            elif retry_place >= 0:
                retry_at += 1
                place, at = retry_place + 1, retry_at
            else:
                return False
        return all(token is _Mark.STAR for token in tokens[place:])

    return test
