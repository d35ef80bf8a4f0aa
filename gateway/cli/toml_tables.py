"""One table of a TOML file, set or removed by its text: the rest stays byte for byte. Text only, no files.

Understands headers (`[a.b]`), which is how people and programs write such files. Whatever it does is read
again and compared with what was meant; where the two differ (inline tables, dotted keys) it refuses.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any, cast

__all__ = ["TomlError", "set_table", "table_text"]

_HEADER = re.compile(r"^[ \t]*\[\[?([^\]\n]+)\]\]?[ \t]*(?:#[^\n]*)?$", re.MULTILINE)
_BARE = re.compile(r"[A-Za-z0-9_-]+")


class TomlError(ValueError):
    """The file cannot be read, or not be changed without a doubt."""


def set_table(text: str, parent: str, name: str, table: dict[str, Any] | None) -> str:
    """Return `text` with `[parent.name]` set to `table`, `None` removes it; raises `TomlError`."""
    before = _load(text)
    kept = _without(text, [parent, name])
    changed = kept
    if table is not None:
        gap = "" if not kept or kept.endswith("\n\n") else "\n" if kept.endswith("\n") else "\n\n"
        changed = kept + gap + table_text(parent, name, table)
    if not _says(changed, _meant(before, parent, name, table)):
        raise TomlError(f"[{parent}.{name}] is not written as a table of its own: change it by hand")
    return changed


def table_text(parent: str, name: str, table: dict[str, Any]) -> str:
    """Return the table as TOML."""
    lines = [f"[{_key(parent)}.{_key(name)}]", *(f"{_key(k)} = {_value(v)}" for k, v in table.items())]
    return "\n".join(lines) + "\n"


def _says(text: str, meant: dict[str, Any]) -> bool:
    try:
        return tomllib.loads(text) == meant
    except tomllib.TOMLDecodeError:
        return False


def _load(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TomlError(str(error)) from None


def _meant(before: dict[str, Any], parent: str, name: str, table: dict[str, Any] | None) -> dict[str, Any]:
    tables = before.get(parent, {})
    if not isinstance(tables, dict):
        raise TomlError(f"{parent!r} is no table")
    others = {key: value for key, value in cast("dict[str, Any]", tables).items() if key != name}
    if table is not None:
        others[name] = table
    rest = {key: value for key, value in before.items() if key != parent}
    return {**rest, parent: others} if others else rest


def _without(text: str, path: list[str]) -> str:
    """Return `text` without the table at `path` and those below it."""
    headers = list(_HEADER.finditer(text))
    ends = [*(header.start() for header in headers[1:]), len(text)][: len(headers)]
    for header, end in reversed(list(zip(headers, ends, strict=True))):
        if _path(header[1])[: len(path)] == path:
            text = text[: header.start()] + text[end:]
    return text


def _path(header: str) -> list[str]:
    parts = re.findall(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'|[A-Za-z0-9_-]+', header)
    return [json.loads(part) if part.startswith('"') else part.strip("'") for part in parts]


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in table.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, cast("list[Any]", value))) + "]"
    if isinstance(value, str | bool | int | float):
        # A JSON string is a TOML basic string but for DEL, which nothing here holds.
        return json.dumps(value, ensure_ascii=False)
    raise TomlError(f"the table holds a {type(value).__name__}, which is not written here: change it by hand")
