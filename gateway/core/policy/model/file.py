"""The policy file and the cases files beside it, as written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, JsonValue

from gateway.core.decisions import DecisionCode, Effect
from gateway.core.policy.fields import CaseTool, Globs, Identifier, Version
from gateway.core.policy.model.matching import Matchers
from gateway.core.policy.model.modes import Modes
from gateway.core.policy.model.parts import LIST, Mode, Part, Place
from gateway.core.policy.model.results import Audit, Defaults, Grant, LabelRule, ResultRule
from gateway.core.policy.model.rules import PrincipalPattern, Rule

__all__ = [
    "Case",
    "CaseFile",
    "PolicyFile",
]


class Case(Part):
    """One call and what must be decided about it."""

    call: CaseTool
    args: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    labels: Annotated[tuple[Identifier, ...], LIST] = Field((), description="What the session carries.")
    prompt: str = Field("", description="The task's prompt, for `from`.")
    links: Globs = Field((), description="Paths that lead over a symbolic link, for `symlinks`.")
    as_: str | None = Field(
        None, alias="as", description="A name from `principals`; else the local principal."
    )
    mode: Mode = "deployment"
    expect: Effect = Field(strict=False)
    rule: str | None = Field(None, description="The rule that must have decided.")
    code: DecisionCode | None = Field(None, strict=False, description="The decision's code.")


class CaseFile(Part):
    """A `*.cases.yaml` beside a policy."""

    version: Version = 1
    tests: Annotated[tuple[Case, ...], LIST]


class PolicyFile(Part):
    """A policy file, version 1."""

    version: Version
    vars: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    principals: dict[str, PrincipalPattern] = Field(default_factory=dict[str, PrincipalPattern])
    rules: Annotated[tuple[Rule, ...], LIST]
    labels: Annotated[tuple[LabelRule, ...], LIST] = ()
    results: Annotated[tuple[ResultRule, ...], LIST] = ()
    grants: dict[str, Grant] | None = None
    audit: Audit | None = None
    defaults: Defaults = Defaults()
    modes: Modes = Modes()
    tests: Annotated[tuple[Case, ...], LIST] = ()

    def placed_rules(self) -> Iterator[tuple[Place, Rule, tuple[Mode, ...]]]:
        """Yield each rule of all modes: its place in the document, itself, the modes it holds in."""
        for index, rule in enumerate(self.rules):
            yield ("rules", index), rule, ("training", "deployment")
        for index, rule in enumerate(self.modes.training.rules):
            yield ("modes", "training", "rules", index), rule, ("training",)
        for index, rule in enumerate(self.modes.deployment.rules):
            yield ("modes", "deployment", "rules", index), rule, ("deployment",)

    def every_matchers(self) -> Iterator[Matchers]:
        """Yield what rules and labels ask of arguments."""
        for rule in (*self.every_rule(), *self.labels):
            yield from rule.args.values()

    def every_rule(self) -> tuple[Rule, ...]:
        """Return the rules of all modes: the file's, then each overlay's."""
        return tuple(rule for _, rule, _ in self.placed_rules())
