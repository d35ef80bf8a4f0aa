"""The matchers as written: what must be true of one value. What they mean is in `matchers`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from gateway.core.policy.fields import (
    Bytes,
    Globs,
    Hosts,
    JsonTypes,
    Names,
    Ports,
    Prefixes,
    Regexes,
    Roots,
    Schemes,
    Sources,
)
from gateway.core.policy.model.parts import Part, as_tuple

__all__ = [
    "ArgumentMatchers",
    "Argv",
    "ItemMatchers",
    "Matchers",
    "Sql",
]

_Values: TypeAlias = Annotated[
    tuple[JsonValue, ...], BeforeValidator(as_tuple, json_schema_input_type=list[JsonValue] | str)
]


class Sql(Part):
    """What an SQL text does."""

    read_only: Literal[True]


def _sql(value: object) -> object:
    return {"read_only": True} if value == "read_only" else value


class Argv(Part):
    """What a command's words are."""

    prefix: Prefixes = Field((), description="The words it starts with: [git, status] or a list of such.")
    deny_flags: Names = Field((), description="Options that must not be among the words.")

    @model_validator(mode="after")
    def _says_something(self) -> Argv:
        if not self.model_fields_set:
            raise ValueError("one or both of prefix, deny_flags")
        return self


class Matchers(Part):
    """What must be true of one value; all that are written have to hold."""

    equals: JsonValue = Field(None, description="The value, by JSON equality.")
    in_: _Values = Field((), alias="in", description="One of these values.")
    not_in: _Values = Field((), description="None of these values.")
    glob: Globs = Field(
        (), description="A string that one of these patterns matches: * in a segment, ** across."
    )
    not_glob: Globs = Field((), description="A string that none of these patterns matches.")
    under: Roots = Field((), description="A path that is one of these folders or inside one.")
    not_under: Roots = Field((), description="A path that is outside all of these folders.")
    symlinks: Literal["deny"] | None = Field(
        None, description="deny: a path in the workspace that leads over no symbolic link."
    )
    regex: Regexes = Field((), description="A string that one of these RE2 expressions matches as a whole.")
    scheme: Schemes = Field((), description="A URL with one of these schemes.")
    host: Hosts = Field((), description="A URL or host: name, *.name (one or more labels) or *.")
    port: Ports = Field(
        (), description="A URL with one of these ports; the scheme's own where none is written."
    )
    public_only: Literal[True] | None = Field(
        None, description="A URL or host on the public network, as far as its name tells."
    )
    sql: Annotated[Sql | None, BeforeValidator(_sql, json_schema_input_type=Sql | Literal["read_only"])] = (
        Field(None, description="SQL that only reads: read_only; a doubt is no.")
    )
    argv: Argv | None = Field(None, description="A command, given as words or as plain text.")
    no_secrets: Literal[True] | None = Field(
        None, description="A value without any secret of a known shape, however deep."
    )
    from_: Sources = Field(
        (), alias="from", description="A value seen in: prompt, policy (its vars), tool:SERVER.TOOL."
    )
    min: int | float = Field(0, description="A number not below this.")
    max: int | float = Field(0, description="A number not above this.")
    max_len: int = Field(0, ge=0, description="A string of at most so many characters.")
    max_bytes: Bytes = Field(0, description="A string of at most so many bytes of UTF-8: 65536, 64KB.")
    type: JsonTypes = Field((), description="A value of one of these JSON types.")
    keys: Names = Field((), description="An object that has no other keys.")
    required_keys: Names = Field((), description="An object that has all of these keys.")
    items: ItemMatchers | None = Field(None, description="A list whose items match.")
    not_: Matchers | None = Field(None, alias="not", description="The matchers in it do not hold together.")

    @model_validator(mode="after")
    def _says_something(self) -> Matchers:
        if not self.model_fields_set:
            raise ValueError("no matcher: remove the argument or say what must be true of it")
        return self

    def every(self) -> Iterator[Matchers]:
        """Yield these matchers and those that stand in them, however deep."""
        yield self
        items = self.items
        for inner in (self.not_, *((items.all, items.any, items.none) if items else ())):
            if inner:
                yield from inner.every()


class ItemMatchers(Part):
    """What must be true of a list."""

    all: Matchers | None = Field(None, description="Every item matches (an empty list does).")
    any: Matchers | None = Field(None, description="At least one item matches.")
    none: Matchers | None = Field(None, description="No item matches.")
    max: int | None = Field(None, ge=0, description="At most so many items.")

    @model_validator(mode="after")
    def _says_something(self) -> ItemMatchers:
        if not self.model_fields_set:
            raise ValueError("one or more of all, any, none, max")
        return self


class ArgumentMatchers(Matchers):
    """What must be true of one argument, which may also be said to be absent."""

    absent: bool = Field(False, description="true: the argument must not be there; false: it must.")

    @model_validator(mode="after")
    def _absent_stands_alone(self) -> ArgumentMatchers:
        if self.absent and self.model_fields_set != {"absent"}:
            raise ValueError("'absent: true' stands alone: nothing else can be true of what is not there")
        return self
