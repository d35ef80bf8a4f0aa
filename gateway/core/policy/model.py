"""The policy file as frozen models: grammar only. What it means is in `matchers` and `evaluate`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from gateway.core.decisions import DecisionCode, Effect
from gateway.core.policy.fields import (
    Bytes,
    CaseTool,
    Duration,
    Expression,
    Globs,
    Hosts,
    Hours,
    Identifier,
    JsonTypes,
    Names,
    Ports,
    Prefixes,
    Rate,
    Regexes,
    Roots,
    Schemes,
    Shapes,
    Sources,
    TargetPatterns,
    Version,
    Wildcards,
)

__all__ = [
    "KINDS",
    "SELECTORS",
    "Approve",
    "ArgumentMatchers",
    "Argv",
    "AskMode",
    "Case",
    "CaseFile",
    "Defaults",
    "Grant",
    "IfLabels",
    "ItemMatchers",
    "Kind",
    "LabelRule",
    "Limit",
    "Matchers",
    "Mode",
    "Modes",
    "OnDeny",
    "Per",
    "PolicyFile",
    "PrincipalPattern",
    "ResultRule",
    "Rule",
]

Place: TypeAlias = tuple[str | int, ...]
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


class Sql(_Part):
    """What an SQL text does."""

    read_only: Literal[True]


def _sql(value: object) -> object:
    return {"read_only": True} if value == "read_only" else value


class Argv(_Part):
    """What a command's words are."""

    prefix: Prefixes = Field((), description="The words it starts with: [git, status] or a list of such.")
    deny_flags: Names = Field((), description="Options that must not be among the words.")

    @model_validator(mode="after")
    def _says_something(self) -> Argv:
        if not self.model_fields_set:
            raise ValueError("one or both of prefix, deny_flags")
        return self


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


class Approve(_Part):
    """Who may say yes to what a rule asks for, and how long that takes and lasts at most."""

    by: Names | None = Field(
        default=None, description="Names from `principals`; any of them. Else the caller too."
    )
    ttl: Duration = Field(
        default=600.0, gt=0, le=86_400, description="From asking to running: 10m, 1h or seconds."
    )
    wait: Duration = Field(default=60.0, ge=0, le=600, description="How long a call waits to be approved.")


Per: TypeAlias = Literal["session", "principal", "tool", "server"]


class Limit(_Part):
    """How much a rule grants; what is spent is granted again only by a rate."""

    rate: Rate | None = Field(None, description="Calls in a period: 30/min; a bucket holds as many.")
    calls: int | None = Field(None, ge=0, description="Calls in all.")
    bytes: Bytes | None = Field(None, description="Bytes of arguments and results in all.")
    per: Per = Field(
        default="session", description="What is counted apart; all but session across the gateway."
    )

    @model_validator(mode="after")
    def _says_something(self) -> Limit:
        if not self.model_fields_set & {"rate", "calls", "bytes"}:
            raise ValueError("one or more of rate, calls, bytes")
        return self


class IfLabels(_Part):
    """Which labels a session has to have; all that is written has to hold."""

    all: Names = Field((), description="Each of these.")
    any: Names = Field((), description="At least one of these.")
    none: Names = Field((), description="None of these.")

    @model_validator(mode="after")
    def _says_something(self) -> IfLabels:
        if not self.model_fields_set:
            raise ValueError("one or more of all, any, none")
        return self


class LabelRule(_Part):
    """What a result does to its session. `*` covers everything: tools, resources and prompts."""

    tool: TargetPatterns
    args: dict[str, ArgumentMatchers] = Field(default_factory=dict[str, ArgumentMatchers])
    adds: Annotated[tuple[Identifier, ...], _List, Field(min_length=1)]


class ResultRule(_Part):
    """What is kept back of a result before anyone sees it. `*` covers everything."""

    tool: TargetPatterns
    redact: Shapes = ()
    max_bytes: Bytes | None = None

    @model_validator(mode="after")
    def _says_something(self) -> ResultRule:
        if not self.model_fields_set & {"redact", "max_bytes"}:
            raise ValueError("one or both of redact, max_bytes")
        return self


class GrantedMounts(_Part):
    """Folders a sandbox may see; this version has the workspace and nothing else."""

    rw: Roots = ()
    ro: Roots = ()


class Grant(_Part):
    """What one server's sandbox may have; it gets no more than it needs."""

    mounts: GrantedMounts | None = None
    memory: Bytes | None = Field(None, gt=0)
    cpu: float | None = Field(None, gt=0, le=1024, strict=False)
    pids: int | None = Field(None, ge=1, le=32_768)
    secrets: Names = Field((), description="Secrets by name; none that is not written.")
    egress: Names = Field((), description="Hosts as name:port; none that is not written.")


class Rule(_Part):
    """One rule: an effect on tools, and when it holds."""

    id: Identifier
    allow: TargetPatterns | None = None
    ask: TargetPatterns | None = None
    deny: TargetPatterns | None = None
    to: Names | None = Field(None, description="Names from `principals`; any of them.")
    args: dict[str, ArgumentMatchers] = Field(default_factory=dict[str, ArgumentMatchers])
    why: str | None = Field(None, max_length=500, description="Shown with every decision of this rule.")
    approve: Approve | None = Field(None, description="Of an ask: who may approve, and for how long.")
    limit: Limit | None = Field(None, description="Of an allow or ask: how much it grants.")
    if_labels: IfLabels | None = None
    hours: Hours | None = Field(None, description="When it holds: Mon-Fri 08:00-19:00 Europe/Paris.")
    when: Expression | None = Field(None, description="A CEL expression that has to be true.")

    @model_validator(mode="after")
    def _one_effect(self) -> Rule:
        if len(self.model_fields_set & {"allow", "ask", "deny"}) != 1 or not self.tools:
            raise ValueError("a rule has exactly one of allow, ask, deny")
        if self.approve and not self.ask:
            raise ValueError("'approve' says who answers an 'ask': this rule does not ask")
        if self.limit and self.deny:
            raise ValueError("'limit' says how much a rule grants: a deny grants nothing")
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

    step: Duration = Field(gt=0, le=86_400)


class VirtualClock(_Part):
    """A clock that moves with the steps of an episode."""

    virtual: Step


def _refuse_allow(value: object) -> object:
    if isinstance(value, dict) and "allow" in value:
        raise ValueError("a mode may deny or ask, never allow: put it among the file's rules")
    return cast("object", value)


_Overlay: TypeAlias = Annotated[
    tuple[Annotated[Rule, BeforeValidator(_refuse_allow)], ...],
    _List,
    Field(description="Only deny and ask."),
]


class TrainingMode(_Part):
    """What is different in training."""

    ask: Literal["deny"] = "deny"
    on_deny: OnDeny = OnDeny()
    clock: Literal["virtual", "real"] | VirtualClock = "virtual"
    rules: _Overlay = ()


class DeploymentMode(_Part):
    """What is different in deployment."""

    ask: AskMode = "prompt"
    rules: _Overlay = ()


class Modes(_Part):
    """Overlays by mode; none can widen an allow."""

    training: TrainingMode = TrainingMode()
    deployment: DeploymentMode = DeploymentMode()


class Case(_Part):
    """One call and what must be decided about it."""

    call: CaseTool
    args: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    labels: Annotated[tuple[Identifier, ...], _List] = Field((), description="What the session carries.")
    prompt: str = Field("", description="The task's prompt, for `from`.")
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
    labels: Annotated[tuple[LabelRule, ...], _List] = ()
    results: Annotated[tuple[ResultRule, ...], _List] = ()
    grants: dict[str, Grant] | None = None
    defaults: Defaults = Defaults()
    modes: Modes = Modes()
    tests: Annotated[tuple[Case, ...], _List] = ()

    def placed_rules(self) -> Iterator[tuple[Place, Rule, tuple[Mode, ...]]]:
        """Yield each rule of all modes: its place in the document, itself, the modes it holds in."""
        for index, rule in enumerate(self.rules):
            yield ("rules", index), rule, ("training", "deployment")
        for index, rule in enumerate(self.modes.training.rules):
            yield ("modes", "training", "rules", index), rule, ("training",)
        for index, rule in enumerate(self.modes.deployment.rules):
            yield ("modes", "deployment", "rules", index), rule, ("deployment",)

    def every_rule(self) -> tuple[Rule, ...]:
        """Return the rules of all modes: the file's, then each overlay's."""
        return tuple(rule for _, rule, _ in self.placed_rules())
