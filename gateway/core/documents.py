"""Strict YAML with positions: the one reader of every file a person writes.

YAML 1.2 core schema (JSON is a subset of it). Refused: duplicate keys, the YAML 1.1 booleans
(`yes`, `no`, `on`, `off`), tags, non-string keys, several documents, aliases that expand beyond
`MAX_NODES`. Every problem, also one that a model or a later check finds, carries `file:line:col`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TypeAlias, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from gateway.core.json_types import JsonValue
from gateway.errors import ConfigError, Problem

__all__ = ["MAX_NODES", "Document", "Path", "Position", "read_document"]

MAX_NODES = 200_000
"""Most values a document may hold once its aliases are expanded."""
MAX_DEPTH = 64
"""Deepest nesting of a document."""

Path: TypeAlias = tuple[str | int, ...]
"""Where a value stands in its document: keys and list indices from the root."""

_Model = TypeVar("_Model", bound=BaseModel)

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_YAML11_BOOL = re.compile(r"(?i:yes|no|on|off)\Z")
_INT = re.compile(r"[-+]?[0-9]{1,4000}\Z")
_OCTAL_OR_HEX = re.compile(r"(0o[0-7]{1,1000})|(0x[0-9a-fA-F]{1,1000})\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF|nan|NaN|NAN)\Z")


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a file, counted from 1."""

    line: int
    column: int


class Document:
    """One parsed file: its plain value, and where each part of it stands."""

    def __init__(self, file: str, value: JsonValue, positions: dict[Path, Position]) -> None:
        self.file = file
        self.value = value
        self._positions = positions

    def position(self, path: Sequence[str | int]) -> Position:
        """Return where the value at `path` stands, or its nearest ancestor that exists."""
        known: Path = ()
        for step in path:
            # A model's error path has segments of its own (union tags): skip what the file lacks.
            if (*known, step) in self._positions:
                known = (*known, step)
        return self._positions.get(known, Position(1, 1))

    def problem(self, path: Sequence[str | int], code: str, message: str) -> Problem:
        """Return a problem at `path`, for the caller to collect or raise."""
        at = self.position(path)
        return Problem(self.file, at.line, at.column, code, message)

    def parse(self, model: type[_Model]) -> _Model:
        """Return the document as `model`; raises `ConfigError` with one problem per fault."""
        try:
            return model.model_validate(self.value)
        except ValidationError as error:
            raise ConfigError(
                [
                    self.problem(fault["loc"], fault["type"], _sentence(fault["loc"], fault["msg"]))
                    for fault in error.errors(include_url=False, include_context=False, include_input=False)
                ]
            ) from None


def _sentence(loc: Sequence[str | int], message: str) -> str:
    where = ".".join(str(step) for step in loc)
    if message == "Extra inputs are not permitted":
        return f"unknown key {where!r}"
    if message == "Field required":
        return f"missing key {where!r}"
    text = message.removeprefix("Value error, ")
    if text.startswith("Input should be a valid dictionary"):
        text = "this is a mapping: {KEY: VALUE}"
    return f"{where}: {text}" if where else text


def read_document(text: str, file: str) -> Document:
    """Parse `text`; `file` is the name used in messages. Raises `ConfigError`."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise ConfigError([Problem(file, line, column, "yaml", error.problem or "not YAML")]) from None
    except (yaml.YAMLError, RecursionError) as error:
        text_of = "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise ConfigError([Problem(file, 1, 1, "yaml", text_of)]) from None
    if node is None:
        raise ConfigError([Problem(file, 1, 1, "empty", "the file is empty")])
    reader = _Reader(file)
    value = reader.build(node, (), 0)
    if reader.problems:
        raise ConfigError(reader.problems)
    return Document(file, value, reader.positions)


class _Reader:
    """Turns nodes into plain values, collecting problems instead of stopping at the first."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.positions: dict[Path, Position] = {}
        self.problems: list[Problem] = []
        self._nodes = 0

    def build(self, node: yaml.Node, path: Path, depth: int) -> JsonValue:
        self._nodes += 1
        self.positions[path] = Position(node.start_mark.line + 1, node.start_mark.column + 1)
        if self._nodes > MAX_NODES:
            raise ConfigError(
                [self._at(node, "too_large", f"more than {MAX_NODES} values (aliases expanded)")]
            )
        if depth > MAX_DEPTH:
            raise ConfigError([self._at(node, "too_deep", f"nested deeper than {MAX_DEPTH} levels")])
        if isinstance(node, yaml.MappingNode | yaml.SequenceNode) and node.tag not in _COLLECTION_TAGS:
            self.problems.append(self._at(node, "tag", f"tags are not supported: {node.tag}"))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, i), depth + 1) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        raise ConfigError([self._at(node, "yaml", "unsupported YAML node")])

    def _mapping(self, node: yaml.MappingNode, path: Path, depth: int) -> JsonValue:
        result: dict[str, JsonValue] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None:
                self.problems.append(self._at(key_node, "key", "keys are strings"))
                continue
            if key in result:
                self.problems.append(self._at(key_node, "duplicate_key", f"duplicate key {key!r}"))
                continue
            if key == "<<" and key_node.style is None:
                self.problems.append(self._at(key_node, "merge_key", "merge keys ('<<') are not supported"))
                continue
            result[key] = self.build(value_node, (*path, key), depth + 1)
            # A mapping's entry is named by its key: that is where a reader looks.
            self.positions[(*path, key)] = Position(
                key_node.start_mark.line + 1, key_node.start_mark.column + 1
            )
        return result

    def _scalar(self, node: yaml.ScalarNode) -> JsonValue:
        text = str(node.value)
        quoted_as_another = node.style is not None and node.tag != "tag:yaml.org,2002:str"
        if node.tag not in _RESOLVED_TAGS or quoted_as_another:
            self.problems.append(self._at(node, "tag", f"tags are not supported: {node.tag}"))
            return None
        if node.style is not None:
            return text
        return self._plain(node, text)

    def _plain(self, node: yaml.ScalarNode, text: str) -> JsonValue:
        if text in _NULL:
            return None
        if text in _BOOL:
            return _BOOL[text]
        if _YAML11_BOOL.match(text):
            message = f"{text!r} is ambiguous in YAML: write true or false, or quote it"
            self.problems.append(self._at(node, "ambiguous_boolean", message))
            return None
        if _INT.match(text):
            return int(text)
        if _OCTAL_OR_HEX.match(text):
            return int(text, 0)
        if _NOT_FINITE.match(text):
            self.problems.append(self._at(node, "number", "numbers are finite here"))
            return None
        if _FLOAT.match(text):
            if not isfinite(float(text)):
                self.problems.append(self._at(node, "number", "numbers are finite here"))
            return float(text)
        return text

    def _at(self, node: yaml.Node, code: str, message: str) -> Problem:
        mark = node.start_mark
        return Problem(self.file, mark.line + 1, mark.column + 1, code, message)


# PyYAML resolves plain scalars by YAML 1.1 before we see them; any of its own tags means "no tag written".
_COLLECTION_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_RESOLVED_TAGS = {
    f"tag:yaml.org,2002:{kind}"
    for kind in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value")
}
