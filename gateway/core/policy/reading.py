"""Reading a policy file: text in, a checked `Policy` out, every fault with its `file:line:col`.

Order: strict YAML, `${vars}`, the model, names that must exist.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.core.decisions import Effect
from gateway.core.documents import Document, read_document
from gateway.core.policy.model import SELECTORS, ArgumentMatchers, Case, CaseFile, Matchers, Place, PolicyFile
from gateway.core.policy.variables import expand_variables
from gateway.errors import ConfigError, Problem

__all__ = ["CaseSet", "Policy", "cases_file_name", "load_cases", "load_policy"]


@dataclass(frozen=True, slots=True)
class CaseSet:
    """Test cases and where they stand."""

    cases: tuple[Case, ...]
    document: Document

    def problem(self, index: int, code: str, message: str) -> Problem:
        """Return a problem at one case."""
        return self.document.problem(("tests", index), code, message)


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy file as written: its name, the digest of its bytes, its model and its positions."""

    file: str
    sha256: str
    model: PolicyFile
    document: Document

    @property
    def name(self) -> str:
        """The file's name without its folders, as decisions show it."""
        return self.file.rpartition("/")[2]

    @property
    def cases(self) -> CaseSet:
        """The file's own tests."""
        return CaseSet(self.model.tests, self.document)


def load_policy(text: str, file: str) -> Policy:
    """Read a policy; raises `ConfigError`. `text` is the file's bytes decoded, line ends untouched."""
    document = expand_variables(read_document(text, file))
    model = document.parse(PolicyFile)
    _refuse(
        [
            *_duplicate_ids(document, model),
            *_unknown_names(document, model),
            *_selectors(document, model),
            *_links_denied(document, model),
        ]
    )
    return Policy(file, hashlib.sha256(text.encode()).hexdigest(), model, document)


def load_cases(text: str, file: str) -> CaseSet:
    """Read a `*.cases.yaml`; raises `ConfigError`."""
    document = read_document(text, file)
    return CaseSet(document.parse(CaseFile).tests, document)


def cases_file_name(policy_file: str) -> str:
    """Return the name of the cases file that belongs beside a policy file: `git.yaml` -> `git.cases.yaml`."""
    stem = policy_file.removesuffix(".yaml").removesuffix(".yml").removesuffix(".json")
    return f"{stem}.cases.yaml"


def _refuse(problems: Sequence[Problem]) -> None:
    if problems:
        raise ConfigError(problems)


def _duplicate_ids(document: Document, model: PolicyFile) -> Iterator[Problem]:
    first: dict[str, Place] = {}
    for place, rule, _ in model.placed_rules():
        if rule.id in first:
            line = document.position(first[rule.id]).line
            message = f"rule id {rule.id!r} is already used in line {line}"
            yield document.problem((*place, "id"), "duplicate_rule", message)
        first.setdefault(rule.id, place)


def _unknown_names(document: Document, model: PolicyFile) -> Iterator[Problem]:
    for place, name in _principals_named(model):
        if name not in model.principals:
            message = f"unknown principal {name!r}: define it under 'principals'"
            yield document.problem(place, "unknown_principal", message)
    rules = {rule.id for rule in model.every_rule()}
    for index, case in enumerate(model.tests):
        if case.rule is not None and case.rule not in rules:
            yield document.problem(
                ("tests", index, "rule"), "unknown_rule", f"no rule has the id {case.rule!r}"
            )


def _principals_named(model: PolicyFile) -> Iterator[tuple[Place, str]]:
    for place, rule, _ in model.placed_rules():
        for position, name in enumerate(rule.to or ()):
            yield (*place, "to", position), name
        for position, name in enumerate((rule.approve and rule.approve.by) or ()):
            yield (*place, "approve", "by", position), name
    for index, case in enumerate(model.tests):
        if case.as_ is not None:
            yield ("tests", index, "as"), case.as_


def _arguments(model: PolicyFile) -> Iterator[tuple[Place, str, ArgumentMatchers]]:
    for place, rule, _ in model.placed_rules():
        for argument, matchers in rule.args.items():
            yield (*place, "args", argument), argument, matchers
    for index, label in enumerate(model.labels):
        for argument, matchers in label.args.items():
            yield ("labels", index, "args", argument), argument, matchers


def _selectors(document: Document, model: PolicyFile) -> Iterator[Problem]:
    for path, argument, matchers in _arguments(model):
        if argument.startswith("@") and argument not in SELECTORS:
            message = f"{argument!r} is not a kind: {', '.join(SELECTORS)}"
            yield document.problem(path, "unknown_kind", message)
        elif not all(argument.split(".")):
            yield document.problem(path, "argument", f"{argument!r} has an empty part")
        elif argument in SELECTORS and matchers.items is not None:
            message = f"{argument!r} judges each item of a list already: write the matchers without 'items'"
            yield document.problem((*path, "items"), "selector_items", message)
        elif argument in SELECTORS and "absent" in matchers.model_fields_set:
            message = f"{argument!r} names the arguments that are there: 'absent' says nothing of them"
            yield document.problem((*path, "absent"), "selector_absent", message)


def _links_denied(document: Document, model: PolicyFile) -> Iterator[Problem]:
    """Yield where `symlinks: deny` restricts: it would do so to paths without a link, and reads otherwise."""
    denies = [(place, rule.args) for place, rule, _ in model.placed_rules() if rule.effect is Effect.DENY]
    labels = [(("labels", index), label.args) for index, label in enumerate(model.labels)]
    for place, args in (*denies, *labels):
        for argument, matchers in args.items():
            if _wants_no_link(matchers):
                message = "this would hold for paths without a link: write 'not: {symlinks: deny}'"
                yield document.problem((*place, "args", argument), "symlinks", message)


def _wants_no_link(matchers: Matchers) -> bool:
    items = matchers.items
    inner = (items.all, items.any) if items else ()
    return matchers.symlinks is not None or any(part is not None and _wants_no_link(part) for part in inner)
