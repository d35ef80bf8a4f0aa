"""The field types of the policy file: one checked string type per notation.

Each check raises where the value stands, so that a bad pattern is reported at its own `file:line:col`.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias, cast

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from gateway.core.policy.egress import parse_host_rule
from gateway.core.policy.expressions import check_expression
from gateway.core.policy.hours import compile_hours
from gateway.core.policy.paths import canonical_path
from gateway.core.policy.patterns import (
    compile_glob,
    compile_host,
    split_name,
    split_pattern,
    split_tool_pattern,
)
from gateway.core.policy.regexes import compile_regex
from gateway.core.policy.secret_shapes import SHAPES
from gateway.core.policy.unfit import Unfit
from gateway.core.policy.wildcards import compile_wildcard
from gateway.core.units import parse_duration

__all__ = [
    "Bytes",
    "CaseTool",
    "Duration",
    "Expression",
    "Globs",
    "HostPorts",
    "Hosts",
    "Hours",
    "Identifier",
    "JsonType",
    "JsonTypes",
    "Names",
    "Ports",
    "Prefixes",
    "Rate",
    "Regexes",
    "Roots",
    "Schemes",
    "Shapes",
    "Sources",
    "TargetPatterns",
    "ToolPatterns",
    "Version",
    "Wildcards",
]

JsonType: TypeAlias = Literal["string", "integer", "number", "boolean", "null", "array", "object"]

_SIZE = re.compile(r"(\d{1,12}) ?([A-Za-z]*)")
_RATE = re.compile(r"(\d{1,7}) ?/ ?(s|sec|second|m|min|minute|h|hour|d|day)")
_PERIODS = {
    **dict.fromkeys(("s", "sec", "second"), 1),
    **dict.fromkeys(("m", "min", "minute"), 60),
    **dict.fromkeys(("h", "hour"), 3_600),
    **dict.fromkeys(("d", "day"), 86_400),
}
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


def _duration(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a duration is a number of seconds or one with a unit: 90, 30s, 10m, 1h")
    return parse_duration(value)


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


def _target_pattern(pattern: str) -> str:
    split_pattern(pattern)
    return pattern


def _source(source: str) -> str:
    if source.startswith("tool:"):
        split_tool_pattern(source.removeprefix("tool:"))
    elif source not in ("prompt", "policy"):
        raise ValueError(f"a source is prompt, policy or tool:SERVER.TOOL, not {source!r}")
    return source


def _host_port(text: str) -> str:
    parse_host_rule(text)
    return text


def _shape(name: str) -> str:
    known = [shape.name for shape in SHAPES]
    if name not in known:
        raise ValueError(f"no secret shape {name!r} is known; there are: {', '.join(known)}")
    return name


def _hours(span: str) -> str:
    compile_hours([span])
    return span


def _expression(text: str) -> str:
    check_expression(text)
    return text


def _rate(value: object) -> object:
    if isinstance(value, list | tuple):
        return cast("object", value)
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if not match or not int(match.group(1)):
        raise ValueError("a rate is a number of calls and a period: 30/min, 5/s, 1000/h, 10/d")
    return int(match.group(1)), float(_PERIODS[match.group(2)])


def _prefixes(value: object) -> object:
    """Return one command's words, or several commands' each as words, as words of each."""
    many = cast("list[object]", value) if isinstance(value, list) else [value]
    if all(isinstance(one, str) for one in many):
        many = [many] if isinstance(value, list) else [str(value).split()]
    return tuple(tuple(cast("list[object]", one)) if isinstance(one, list) else one for one in many)


def _case_tool(name: str) -> str:
    split_name(name)
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
Duration: TypeAlias = Annotated[
    float, Field(strict=False), BeforeValidator(_duration, json_schema_input_type=float | str)
]

Names: TypeAlias = Annotated[tuple[str, ...], _STRINGS, _SOME]
Globs: TypeAlias = Annotated[tuple[Annotated[str, AfterValidator(_glob)], ...], _STRINGS, _SOME]
Regexes: TypeAlias = Annotated[tuple[Annotated[str, AfterValidator(_regex)], ...], _STRINGS, _SOME]
Roots: TypeAlias = Annotated[tuple[Annotated[str, AfterValidator(_root)], ...], _STRINGS, _SOME]
Hosts: TypeAlias = Annotated[tuple[Annotated[str, AfterValidator(_host)], ...], _STRINGS, _SOME]
HostPorts: TypeAlias = Annotated[tuple[Annotated[str, AfterValidator(_host_port)], ...], _STRINGS, _SOME]
Wildcards: TypeAlias = Annotated[tuple[Annotated[str, AfterValidator(_wildcard)], ...], _STRINGS, _SOME]
ToolPatterns: TypeAlias = Annotated[
    tuple[Annotated[str, AfterValidator(_tool_pattern)], ...], _STRINGS, _SOME
]
TargetPatterns: TypeAlias = Annotated[
    tuple[Annotated[str, AfterValidator(_target_pattern)], ...], _STRINGS, _SOME
]
Sources: TypeAlias = Annotated[tuple[Annotated[str, AfterValidator(_source)], ...], _STRINGS, _SOME]
Shapes: TypeAlias = Annotated[tuple[Annotated[str, AfterValidator(_shape)], ...], _STRINGS, _SOME]
Hours: TypeAlias = Annotated[tuple[Annotated[str, AfterValidator(_hours)], ...], _STRINGS, _SOME]
Expression: TypeAlias = Annotated[
    str, StringConstraints(min_length=1, max_length=2_000), AfterValidator(_expression)
]
Rate: TypeAlias = Annotated[tuple[int, float], BeforeValidator(_rate, json_schema_input_type=str)]
Word: TypeAlias = Annotated[str, StringConstraints(min_length=1)]
Prefixes: TypeAlias = Annotated[
    tuple[Annotated[tuple[Word, ...], _SOME], ...],
    BeforeValidator(_prefixes, json_schema_input_type=str | list[str] | list[list[str]]),
    _SOME,
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
