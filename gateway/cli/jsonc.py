"""JSON with comments and trailing commas, edited in place: what is not ours stays byte for byte.

Editors keep their settings in it. `set_member` and `remove_member` change one member of one object and
nothing else: no comment, order or indentation of anybody is lost. Reads and writes text, no files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["JsoncError", "parse", "remove_member", "set_member"]

_SPACE = re.compile(r"(?:[ \t\r\n]|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_SCALAR = re.compile(r"-?[0-9][0-9.eE+-]*|true|false|null")
_MAX_DEPTH = 100


class JsoncError(ValueError):
    """The text is not JSON with comments; `line` and `column` count from 1."""

    def __init__(self, text: str, at: int, message: str) -> None:
        self.line = text.count("\n", 0, at) + 1
        self.column = at - (text.rfind("\n", 0, at) + 1) + 1
        super().__init__(message)


@dataclass(slots=True)
class _Member:
    key: str
    start: int
    value: _Node
    comma: int | None = None


@dataclass(slots=True)
class _Node:
    """One value: where it stands and what it is. `members` are those of an object."""

    start: int
    end: int
    value: Any
    members: list[_Member] | None = None


def parse(text: str) -> Any:
    """Return the plain value of `text`; raises `JsoncError`."""
    return _read(text).value


def set_member(text: str, path: Sequence[str], value: Any) -> str:
    """Return `text` with the member at `path` set, and the objects on the way made; raises `JsoncError`."""
    root = _object(text, _read(text))
    node = root
    for depth, key in enumerate(path):
        member = _find(text, node, key)
        if member is None:
            for missing in reversed(path[depth + 1 :]):
                value = {missing: value}
            return _insert(text, node, key, value)
        if depth == len(path) - 1:
            shown = _shown(value, _indent_at(text, member.start), _unit(text, root))
            return text[: member.value.start] + shown + text[member.value.end :]
        node = _object(text, member.value)
    return text


def remove_member(text: str, path: Sequence[str]) -> str:
    """Return `text` without the member at `path`; the same text if there is none. Raises `JsoncError`."""
    node = _object(text, _read(text))
    for key in path[:-1]:
        member = _find(text, node, key)
        if member is None:
            return text
        node = _object(text, member.value)
    member = _find(text, node, path[-1])
    if member is None:
        return text
    members = node.members or []
    place = members.index(member)
    end = member.value.end if member.comma is None else member.comma + 1
    start = member.start
    if _own_line(text, start) and _blank_to_line_end(text, end):
        # Its line goes with it, but not the line's end where something stands behind: it may end a comment.
        start = len(text[:start].rstrip(" \t"))
        start -= text[:start].endswith("\n")
    text = text[:start] + text[end:]
    if place and place == len(members) - 1 and (comma := members[place - 1].comma) is not None:
        text = text[:comma] + text[comma + 1 :]
    return text


# -- editing


def _insert(text: str, node: _Node, key: str, value: Any) -> str:
    members = node.members or []
    unit = _unit(text, node)
    closing = node.end - 1
    base = _indent_at(text, node.start)
    indent = (
        _indent_at(text, members[0].start) if members and _own_line(text, members[0].start) else base + unit
    )
    # After the last thing in the object, comments included; a comma goes where it belongs, at the value.
    last = len(text[:closing].rstrip())
    new = f"\n{indent}{json.dumps(key, ensure_ascii=False)}: {_shown(value, indent, unit)}"
    tail = text[last:closing]
    closed = tail if "\n" in tail else f"\n{base}"
    text = text[:last] + new + closed + text[closing:]
    if members and members[-1].comma is None:
        at = members[-1].value.end
        text = text[:at] + "," + text[at:]
    return text


def _shown(value: Any, indent: str, unit: str) -> str:
    lines = json.dumps(value, ensure_ascii=False, indent=unit).splitlines()
    return f"\n{indent}".join(lines)


def _own_line(text: str, at: int) -> bool:
    return not text[text.rfind("\n", 0, at) + 1 : at].strip()


def _blank_to_line_end(text: str, at: int) -> bool:
    rest = text[at:].lstrip(" \t\r")
    return not rest or rest.startswith("\n")


def _indent_at(text: str, at: int) -> str:
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip())]


def _unit(text: str, node: _Node) -> str:
    """Return how deep one level is indented here."""
    for member in node.members or []:
        if _own_line(text, member.start):
            unit = _indent_at(text, member.start).removeprefix(_indent_at(text, node.start))
            return unit or "  "
    return "  "


def _object(text: str, node: _Node) -> _Node:
    if node.members is None:
        raise JsoncError(text, node.start, "an object is expected here")
    return node


def _find(text: str, node: _Node, key: str) -> _Member | None:
    found = [member for member in node.members or [] if member.key == key]
    if len(found) > 1:
        raise JsoncError(
            text, found[1].start, f"{key!r} stands here twice: which one counts is anybody's guess"
        )
    return found[0] if found else None


# -- reading


def _read(text: str) -> _Node:
    start = _skip(text, 1 if text.startswith("\ufeff") else 0)
    node = _value(text, start, 0)
    if (rest := _skip(text, node.end)) != len(text):
        raise JsoncError(text, rest, "nothing more is expected here")
    return node


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return at if match is None else match.end()


def _value(text: str, at: int, depth: int) -> _Node:
    if depth > _MAX_DEPTH:
        raise JsoncError(text, at, "nested too deeply")
    if text.startswith("{", at):
        return _read_object(text, at, depth)
    if text.startswith("[", at):
        return _read_array(text, at, depth)
    match = _STRING.match(text, at) or _SCALAR.match(text, at)
    if match is None:
        raise JsoncError(text, at, "a value is expected here")
    return _Node(at, match.end(), _scalar(text, at, match[0]))


def _scalar(text: str, at: int, written: str) -> Any:
    try:
        return json.loads(written)
    except ValueError:
        raise JsoncError(text, at, "this is no JSON value") from None


def _read_object(text: str, start: int, depth: int) -> _Node:
    members: list[_Member] = []
    at = _skip(text, start + 1)
    while not text.startswith("}", at):
        if members and members[-1].comma is None:
            raise JsoncError(text, at, "a comma or } is expected here")
        match = _STRING.match(text, at)
        colon = -1 if match is None else _skip(text, match.end())
        if match is None or not text.startswith(":", colon):
            raise JsoncError(text, at, "a key and a colon are expected here")
        value = _value(text, _skip(text, colon + 1), depth + 1)
        members.append(_Member(str(_scalar(text, at, match[0])), at, value))
        at = _skip(text, value.end)
        if text.startswith(",", at):
            members[-1].comma = at
            at = _skip(text, at + 1)
    return _Node(start, at + 1, {member.key: member.value.value for member in members}, members)


def _read_array(text: str, start: int, depth: int) -> _Node:
    items: list[Any] = []
    at, comma = _skip(text, start + 1), True
    while not text.startswith("]", at):
        if not comma:
            raise JsoncError(text, at, "a comma or ] is expected here")
        item = _value(text, at, depth + 1)
        items.append(item.value)
        at = _skip(text, item.end)
        comma = text.startswith(",", at)
        at = _skip(text, at + 1) if comma else at
    return _Node(start, at + 1, items)
