"""The policy file as frozen models: grammar only. What it means is in `matchers` and `evaluate`."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from gateway.core.decisions import DecisionCode, Effect
from gateway.core.policy.fields import (
    Bytes,
    CaseTool,
    Globs,
    Hosts,
    Identifier,
    JsonTypes,
    Names,
    Ports,
    Regexes,
    Roots,
    Schemes,
    ToolPatterns,
    Version,
    Wildcards,
)

__all__ = [
    "KINDS",
    "SELECTORS",
    "ArgumentMatchers",
    "AskMode",
    "Case",
    "CaseFile",
    "Defaults",
    "ItemMatchers",
    "Kind",
    "Matchers",
    "Mode",
    "Modes",
    "OnDeny",
    "PolicyFile",
    "PrincipalPattern",
    "Rule",
]

Kind: TypeAlias = Literal["path", "url", "host", "sql", "command"]
Mode: TypeAlias = Literal["training", "deployment"]
AskMode: TypeAlias = Literal["deny", "prompt", "queue"]

KINDS: dict[str, Kind] = {"path": "path", "url": "url", "host": "host", "sql": "sql", "command": "command"}
"""The kinds by name, for values that come from elsewhere."""
SELECTORS: dict[str, Kind] = {f"@{name}": kind for name, kind in KINDS.items()}
"""How `args` names every argument of a kind."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, populate_by_name=False)


def _tuple(value: object) -> object:
    return tuple(cast("list[object]", value)) if isinstance(value, list) else value


_List = BeforeValidator(_tuple)
_Values: TypeAlias = Annotated[
    tuple[JsonValue, ...], BeforeValidator(_tuple, json_schema_input_type=list[JsonValue] | str)
]


class Matchers(_Part):
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
    regex: Regexes = Field((), description="A string that one of these RE2 expressions matches as a whole.")
    scheme: Schemes = Field((), description="A URL with one of these schemes.")
    host: Hosts = Field((), description="A URL or host: name, *.name (one or more labels) or *.")
    port: Ports = Field(
        (), description="A URL with one of these ports; the scheme's own where none is written."
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


class ItemMatchers(_Part):
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


class PrincipalPattern(_Part):
    """Who is meant: every key that is written has to match the authenticated identity."""

    client: Wildcards | None = None
    user: Wildcards | None = None
    group: Wildcards | None = None

    @model_validator(mode="after")
    def _says_something(self) -> PrincipalPattern:
        if not self.model_fields_set:
            raise ValueError("one or more of client, user, group")
        return self


class Rule(_Part):
    """One rule: an effect on tools, and when it holds."""

    id: Identifier
    allow: ToolPatterns | None = None
    ask: ToolPatterns | None = None
    deny: ToolPatterns | None = None
    to: Names | None = Field(None, description="Names from `principals`; any of them.")
    args: dict[str, ArgumentMatchers] = Field(default_factory=dict[str, ArgumentMatchers])
    why: str | None = Field(None, max_length=500, description="Shown with every decision of this rule.")

    @model_validator(mode="after")
    def _one_effect(self) -> Rule:
        if len(self.model_fields_set & {"allow", "ask", "deny"}) != 1 or not self.tools:
            raise ValueError("a rule has exactly one of allow, ask, deny")
        return self

    @property
    def effect(self) -> Effect:
        """What the rule does when it holds."""
        return Effect.DENY if self.deny else Effect.ASK if self.ask else Effect.ALLOW

    @property
    def tools(self) -> tuple[str, ...]:
        """The tool patterns it is about."""
        return self.deny or self.ask or self.allow or ()


class Defaults(_Part):
    """Caps on arguments, checked before anything else reads them."""

    max_args_bytes: Bytes = 1_000_000
    max_depth: int = Field(default=64, ge=1, le=200)
    max_items: int = Field(
        default=10_000, ge=1, le=100_000, description="Most items of one list or members of one object."
    )


class OnDeny(_Part):
    """What a denial costs in training."""

    penalty: float = Field(default=0.0, description="Added to the reward of the step.")
    end_after: int | None = Field(default=None, ge=1, description="Denials after which the episode ends.")


class Step(_Part):
    """A virtual clock's pace."""

    step: str = Field(pattern=r"^[0-9]{1,6}(ms|s|m|h)$")


class VirtualClock(_Part):
    """A clock that moves with the steps of an episode."""

    virtual: Step


class TrainingMode(_Part):
    """What is different in training."""

    ask: Literal["deny"] = "deny"
    on_deny: OnDeny = OnDeny()
    clock: Literal["virtual", "real"] | VirtualClock = "virtual"


class DeploymentMode(_Part):
    """What is different in deployment."""

    ask: AskMode = "prompt"


class Modes(_Part):
    """Overlays by mode; none can widen an allow."""

    training: TrainingMode = TrainingMode()
    deployment: DeploymentMode = DeploymentMode()


class Case(_Part):
    """One call and what must be decided about it."""

    call: CaseTool
    args: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    as_: str | None = Field(
        None, alias="as", description="A name from `principals`; else the local principal."
    )
    mode: Mode = "deployment"
    expect: Effect = Field(strict=False)
    rule: str | None = Field(None, description="The rule that must have decided.")
    code: DecisionCode | None = Field(None, strict=False, description="The decision's code.")


class CaseFile(_Part):
    """A `*.cases.yaml` beside a policy."""

    version: Version = 1
    tests: Annotated[tuple[Case, ...], _List]


class PolicyFile(_Part):
    """A policy file, version 1."""

    version: Version
    vars: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    principals: dict[str, PrincipalPattern] = Field(default_factory=dict[str, PrincipalPattern])
    rules: Annotated[tuple[Rule, ...], _List]
    defaults: Defaults = Defaults()
    modes: Modes = Modes()
    tests: Annotated[tuple[Case, ...], _List] = ()
