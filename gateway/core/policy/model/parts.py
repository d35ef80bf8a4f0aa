"""What all parts of the policy's grammar are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict

__all__ = [
    "KINDS",
    "LIST",
    "MANY",
    "SELECTORS",
    "Kind",
    "Mode",
    "Part",
    "Place",
    "as_many",
    "as_tuple",
]

Place: TypeAlias = tuple[str | int, ...]
"""Where a part stands in its document."""
Kind: TypeAlias = Literal["path", "url", "host", "sql", "command"]
Mode: TypeAlias = Literal["training", "deployment"]

KINDS: Mapping[str, Kind] = {"path": "path", "url": "url", "host": "host", "sql": "sql", "command": "command"}
"""The kinds by name, for values that come from elsewhere."""
SELECTORS: Mapping[str, Kind] = {f"@{name}": kind for name, kind in KINDS.items()}
"""How `args` names every argument of a kind."""


class Part(BaseModel):
    """One part: strict, closed and frozen."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, populate_by_name=False)


def as_tuple(value: object) -> object:
    """Return a list as a tuple, and anything else as it is."""
    return tuple(cast("list[object]", value)) if isinstance(value, list) else value


def as_many(value: object) -> object:
    """Return one value, or a list of them, as a tuple."""
    return tuple(cast("list[object]", value)) if isinstance(value, list) else (value,)


MANY = BeforeValidator(as_many, json_schema_input_type=str | list[str])
"""Marks a field of texts that is written as one or as a list."""
LIST = BeforeValidator(as_tuple)
"""Marks a field that is written as a list."""
