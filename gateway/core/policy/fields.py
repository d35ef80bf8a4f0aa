"""The field types of the policy file: one checked string type per notation.

Each check raises where the value stands, so that a bad pattern is reported at its own `file:line:col`.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias, cast

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from gateway.core.policy.paths import canonical_path
from gateway.core.policy.patterns import compile_glob, compile_host, split_tool_pattern
from gateway.core.policy.regexes import compile_regex
from gateway.core.policy.unfit import Unfit
from gateway.core.policy.wildcards import compile_wildcard

__all__ = [
    "Bytes",
    "CaseTool",
    "Globs",
    "Hosts",
    "Identifier",
    "JsonType",
    "JsonTypes",
    "Names",
    "Ports",
    "Regexes",
    "Roots",
    "Schemes",
    "ToolPatterns",
    "Version",
    "Wildcards",
]

JsonType: TypeAlias = Literal["string", "integer", "number", "boolean", "null", "array", "object"]

_SIZE = re.compile(r"(\d{1,12}) ?([A-Za-z]*)")
_UNITS = {
    **{"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9},
    **{"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
}


def _many(value: object) -> object:
    return tuple(cast("list[object]", value)) if isinstance(value, list) else (value,)


def _size(value: object) -> object:
    if not isinstance(value, str):
        if isinstance(value, int) and value < 0:
            raise ValueError("a size is not negative")
        return value
    match = _SIZE.fullmatch(value)
    if not match or match.group(2) not in _UNITS:
        raise ValueError("a size is a number of bytes or one with a unit: 65536, 64KB, 1MB, 512Ki")
    return int(match.group(1)) * _UNITS[match.group(2)]


def _version(value: object) -> object:
    if isinstance(value, int) and value > 1:
        raise ValueError(f"version {value} is newer than this program: it knows version 1")
    return value


def _glob(pattern: str) -> str:
    compile_glob(pattern)
    return pattern


def _regex(pattern: str) -> str:
    compile_regex(pattern)
    return pattern


def _wildcard(pattern: str) -> str:
    compile_wildcard(pattern)
    return pattern


def _host(pattern: str) -> str:
    compile_host(pattern)
    return pattern


def _tool_pattern(pattern: str) -> str:
    split_tool_pattern(pattern)
    return pattern


def _case_tool(name: str) -> str:
    server, tool = split_tool_pattern(name)
    if "*" in server + tool:
        raise ValueError("a test calls one tool: server.tool")
    return name


def _root(root: str) -> str:
    path = canonical_path(root, "/")
    if isinstance(path, Unfit):
        raise ValueError(path.reason)
    return root


_STRINGS = BeforeValidator(_many, json_schema_input_type=str | list[str])
_SOME = Field(min_length=1)

Identifier: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Version: TypeAlias = Annotated[Literal[1], BeforeValidator(_version, json_schema_input_type=Literal[1])]
Bytes: TypeAlias = Annotated[int, BeforeValidator(_size, json_schema_input_type=int | str)]
CaseTool: TypeAlias = Annotated[str, AfterValidator(_case_tool)]

Names: TypeAlias = Annotated[tuple[str, ...], _STRINGS, _SOME]
Globs: TypeAlias = Annotated[tuple[Annotated[str, AfterValidator(_glob)], ...], _STRINGS, _SOME]
Regexes: TypeAlias = Annotated[tuple[Annotated[str, AfterValidator(_regex)], ...], _STRINGS, _SOME]
Roots: TypeAlias = Annotated[tuple[Annotated[str, AfterValidator(_root)], ...], _STRINGS, _SOME]
Hosts: TypeAlias = Annotated[tuple[Annotated[str, AfterValidator(_host)], ...], _STRINGS, _SOME]
Wildcards: TypeAlias = Annotated[tuple[Annotated[str, AfterValidator(_wildcard)], ...], _STRINGS, _SOME]
ToolPatterns: TypeAlias = Annotated[
    tuple[Annotated[str, AfterValidator(_tool_pattern)], ...], _STRINGS, _SOME
]
Schemes: TypeAlias = Annotated[
    tuple[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9+.-]*$")], ...], _STRINGS, _SOME
]
Ports: TypeAlias = Annotated[
    tuple[Annotated[int, Field(ge=0, le=65535)], ...],
    BeforeValidator(_many, json_schema_input_type=int | list[int]),
    _SOME,
]
JsonTypes: TypeAlias = Annotated[
    tuple[JsonType, ...],
    BeforeValidator(_many, json_schema_input_type=JsonType | list[JsonType]),
    _SOME,
]
