"""`${name}` in policy files: put in before the grammar is read, positions kept.

A string that is only `${name}` becomes the variable's value; inside a list a list variable is
spliced; inside a longer string the variable must be a scalar. `$${` is a literal `${`. Variables
may use those defined above them. `tests` are data: nothing is expanded there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gateway.core.documents import Document, Path, Position
from gateway.core.json_types import JsonObject, JsonValue
from gateway.errors import ConfigError, Problem

__all__ = ["expand_variables", "texts_in"]

_USE = re.compile(r"(\$?)\$\{([^}]*)\}")
_LITERAL_PARTS = frozenset({"version", "tests"})


def expand_variables(document: Document) -> Document:
    """Return the document with its `vars` put in; raises `ConfigError` for unknown or misused ones."""
    root = document.value
    if not isinstance(root, dict):
        return document
    expansion = _Expansion(document)
    declared = root.get("vars")
    if isinstance(declared, dict):
        for name, value in declared.items():
            expansion.declare(name, value)
    value = {key: expansion.part(key, part) for key, part in root.items()}
    if expansion.problems:
        raise ConfigError(expansion.problems)
    return Document(document.file, value, expansion.positions)


def texts_in(variables: Mapping[str, JsonValue]) -> Iterator[str]:
    """Yield every text and number that expanded variables hold, as text."""
    for value in variables.values():
        for item in value if isinstance(value, list) else (value,):
            if isinstance(item, str):
                yield item
            elif isinstance(item, int | float) and not isinstance(item, bool):
                yield str(item)


@dataclass(slots=True)
class _Expansion:
    """One pass over a document; `source` is where a value was written, `target` where it ends up."""

    document: Document
    variables: JsonObject = field(default_factory=dict[str, JsonValue])
    positions: dict[Path, Position] = field(default_factory=dict[Path, Position])
    problems: list[Problem] = field(default_factory=list[Problem])

    def declare(self, name: str, value: JsonValue) -> None:
        path = ("vars", name)
        expanded = self.value(value, path, path)
        self.variables[name] = expanded
        if isinstance(expanded, dict) or (isinstance(expanded, list) and any(map(_is_container, expanded))):
            self._problem(path, f"variable {name!r} is a scalar or a list of scalars")

    def part(self, key: str, value: JsonValue) -> JsonValue:
        if key == "vars":
            self.positions[(key,)] = self.document.position((key,))
            return dict(self.variables) if isinstance(value, dict) else value
        if key in _LITERAL_PARTS:
            self._keep_positions(value, (key,))
            return value
        return self.value(value, (key,), (key,))

    def value(self, value: JsonValue, source: Path, target: Path) -> JsonValue:
        self.positions[target] = self.document.position(source)
        if isinstance(value, dict):
            return {key: self.value(item, (*source, key), (*target, key)) for key, item in value.items()}
        if isinstance(value, list):
            return self._list(value, source, target)
        return self._string(value, source) if isinstance(value, str) and "${" in value else value

    def _list(self, items: list[JsonValue], source: Path, target: Path) -> JsonValue:
        result: list[JsonValue] = []
        for index, item in enumerate(items):
            place = (*source, index)
            value = self.value(item, place, (*target, len(result)))
            spliced = value if isinstance(item, str) and isinstance(value, list) else [value]
            for extra in spliced:
                self.positions[(*target, len(result))] = self.document.position(place)
                result.append(extra)
        return result

    def _string(self, text: str, source: Path) -> JsonValue:
        alone = _USE.fullmatch(text)
        if alone and not alone.group(1):
            return self._lookup(alone.group(2), source)
        return _USE.sub(lambda use: self._inside(use, source), text)

    def _inside(self, use: re.Match[str], source: Path) -> str:
        if use.group(1):
            return use.group(0)[1:]
        value = self._lookup(use.group(2), source)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            self._problem(
                source, f"variable {use.group(2)!r} stands inside a string: it must be text or a number"
            )
            return ""
        return str(value)

    def _lookup(self, name: str, source: Path) -> JsonValue:
        if name not in self.variables:
            self._problem(source, f"unknown variable {name!r}: define it under 'vars', above its first use")
            return ""
        return self.variables[name]

    def _keep_positions(self, value: JsonValue, path: Path) -> None:
        self.positions[path] = self.document.position(path)
        if isinstance(value, dict):
            for key, item in value.items():
                self._keep_positions(item, (*path, key))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                self._keep_positions(item, (*path, index))

    def _problem(self, path: Path, message: str) -> None:
        self.problems.append(self.document.problem(path, "variable", message))


def _is_container(value: JsonValue) -> bool:
    return isinstance(value, dict | list)
