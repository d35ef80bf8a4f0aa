"""Field types that the manifest, task and lock schemas share. Checks text; touches no file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, TypeAlias, TypeVar, cast

import re2
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from gateway.core.units import parse_duration, parse_size

__all__ = [
    "FrozenModel",
    "Many",
    "PackPath",
    "Regex",
    "Seconds",
    "Size",
    "Word",
    "WorkspacePath",
    "only_key",
]


class FrozenModel(BaseModel):
    """Base of every file schema: immutable, no coercion, unknown keys refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


def _as_tuple(value: object) -> object:
    if isinstance(value, tuple):
        return cast("tuple[object, ...]", value)
    if not isinstance(value, list):
        raise ValueError("expected a list")
    return tuple(cast("list[object]", value))


_Item = TypeVar("_Item")
Many: TypeAlias = Annotated[tuple[_Item, ...], BeforeValidator(_as_tuple)]
"""A list in the file, a tuple here."""


def _word(value: object) -> object:
    if isinstance(value, float | bool) or value is None:
        raise ValueError("write it in quotes: every word of a command is text")
    return str(value) if isinstance(value, int) else value


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("a word of a command holds no NUL")
    return value


Word: TypeAlias = Annotated[str, BeforeValidator(_word), AfterValidator(_no_nul)]
"""One word of a command. A whole number may stand without quotes: `[git, log, -1]`."""


def _seconds(value: object) -> object:
    number = parse_duration(value)
    return float(number) if isinstance(number, int) and not isinstance(number, bool) else number


Size: TypeAlias = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]
"""Bytes; written as `512Mi`, `4MB` or a plain number."""
Seconds: TypeAlias = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
"""Seconds; written as `20s`, `500ms`, `10m` or a plain number."""


def _relative(value: str) -> str:
    path = PurePosixPath(value)
    if not value or "\0" in value or "\\" in value:
        raise ValueError(f"{value!r} is not a path")
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{value!r} has to be a relative path that stays inside, without '..'")
    return str(path)


PackPath: TypeAlias = Annotated[str, AfterValidator(_relative)]
"""A path relative to the toolpack's folder that does not leave it."""
WorkspacePath: TypeAlias = Annotated[str, AfterValidator(_relative)]
"""A path relative to the workspace that does not leave it."""


def _compiles(value: str) -> str:
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(value, options)  # pyright: ignore[reportUnknownMemberType] - the wheel ships no types
    except re2.error as error:  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        raise ValueError(f"not an RE2 pattern: {_plain(cast('Exception', error))}") from None
    return value


def _plain(error: Exception) -> str:
    detail: object = error.args[0] if error.args else error
    return detail.decode(errors="replace") if isinstance(detail, bytes) else str(detail)


Regex: TypeAlias = Annotated[str, AfterValidator(_compiles)]
"""An RE2 pattern, checked to compile."""


def only_key(value: Mapping[str, object], allowed: tuple[str, ...], what: str) -> str:
    """Return which one of `allowed` stands in `value`; raises `ValueError` unless it is exactly one."""
    present = [key for key in allowed if value.get(key) is not None]
    if len(present) == 1:
        return present[0]
    found = f"found {' and '.join(present)}" if present else "found none"
    raise ValueError(f"{what} has exactly one of {', '.join(allowed)}: {found}")
