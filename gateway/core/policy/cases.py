"""Test cases of a policy: the file's own `tests` and a `*.cases.yaml` beside it, judged for real."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from gateway.core.calls import LOCAL, Principal
from gateway.core.decisions import Decision
from gateway.core.policy.model import Case, PolicyFile, PrincipalPattern
from gateway.core.policy.patterns import compile_globs
from gateway.core.policy.provenance import Seen
from gateway.core.policy.reading import CaseSet
from gateway.core.policy.request import Judgement, PackFacts, Request
from gateway.core.policy.situation import Situation
from gateway.errors import Problem

__all__ = ["TestResult", "run_cases", "sample_principal"]


Judge: TypeAlias = Callable[[Request], Judgement]


@dataclass(frozen=True, slots=True)
class TestResult:
    """One case and what came of it; `problem` is `None` where it passed."""

    __test__ = False  # pytest: not a test class

    case: Case
    decision: Decision | None
    problem: Problem | None

    @property
    def passed(self) -> bool:
        """Whether the decision was the expected one."""
        return self.problem is None


def run_cases(judge: Judge, model: PolicyFile, cases: CaseSet, facts: PackFacts) -> list[TestResult]:
    """Judge every case and compare; each stands at the start of a session of its own."""
    return [_run(judge, model.principals, cases, index, facts) for index in range(len(cases.cases))]


def sample_principal(name: str, pattern: PrincipalPattern) -> Principal:
    """Return an identity that the pattern covers: its first alternatives, with wildcards filled in."""
    client, user, group = (
        _sample(patterns[0]) if patterns else None
        for patterns in (pattern.client, pattern.user, pattern.group)
    )
    return Principal(name, client=client, user=user, groups=frozenset({group} if group else ()))


def _run(
    judge: Judge, people: Mapping[str, PrincipalPattern], cases: CaseSet, index: int, facts: PackFacts
) -> TestResult:
    case = cases.cases[index]
    if case.as_ is not None and case.as_ not in people:
        message = f"unknown principal {case.as_!r}: define it under 'principals' of the policy"
        return TestResult(case, None, cases.problem(index, "unknown_principal", message))
    principal = LOCAL if case.as_ is None else sample_principal(case.as_, people[case.as_])
    decision = judge(_request(case, principal, facts)).decision
    differences = "; ".join(_differences(case, decision))
    if not differences:
        return TestResult(case, decision, None)
    message = f"test of {case.call} failed: {differences}: {decision.reason}"
    return TestResult(case, decision, cases.problem(index, "test_failed", message))


def _request(case: Case, principal: Principal, facts: PackFacts) -> Request:
    request = Request.named(case.call, dict(case.args), facts, principal=principal, mode=case.mode)
    links = compile_globs(case.links)
    situation = Situation(
        labels=frozenset(case.labels), appeared=Seen(case.prompt).finder(), crosses_link=links
    )
    return request.seen_in(situation)


def _differences(case: Case, decision: Decision) -> Iterator[str]:
    if decision.effect is not case.expect:
        by = f" by rule {decision.rule!r}" if decision.rule else ""
        yield f"expected {case.expect.value}, got {decision.effect.value}{by} ({decision.code.value})"
    if case.rule is not None and case.rule != decision.rule:
        yield f"expected rule {case.rule!r}, got {decision.rule!r}"
    if case.code is not None and case.code is not decision.code:
        yield f"expected code {case.code.value}, got {decision.code.value}"


def _sample(pattern: str) -> str:
    filled: list[str] = []
    characters = iter(pattern)
    for character in characters:
        filled.append(next(characters, "") if character == "\\" else "x" if character in "*?" else character)
    return "".join(filled)
