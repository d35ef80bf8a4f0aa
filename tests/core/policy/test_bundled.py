"""The policies that ship: each fits its toolpack without a warning, and every case of it passes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli.policies import facts_of as facts_of_packs
from gateway.core.policy import (
    PackFacts,
    cases_file_name,
    check,
    compile_policy,
    load_cases,
    load_policy,
    policy_json_schema,
)
from gateway.runtime.packs import load_pack

POLICIES = Path(__file__).parents[3] / "policies"
PACKS_OF = {
    "files": ["files"],
    "files-readonly": ["files"],
    "fetch": ["fetch"],
    "git": ["git"],
    "git-readonly": ["git"],
    "read-only": ["files", "git"],
    "developer": ["files", "git"],
    "reviewer": ["files", "git"],
    # For servers that no bundled pack has.
    "web-reader": [],
    "database-reader": [],
    "agentdojo/banking": [],
    "agentdojo/slack": [],
    "agentdojo/travel": [],
    "agentdojo/workspace": [],
}


def facts_of(policy: str) -> PackFacts | None:
    return facts_of_packs([load_pack(name) for name in PACKS_OF[policy]])


def test_every_shipped_policy_is_tested_here() -> None:
    shipped = {file.relative_to(POLICIES).with_suffix("").as_posix() for file in POLICIES.rglob("*.yaml")}
    assert {name for name in shipped if not name.endswith(".cases")} == set(PACKS_OF)


def test_the_schema_for_editors_is_the_models() -> None:
    shipped = json.loads((POLICIES / "policy.schema.json").read_text())
    assert shipped == policy_json_schema(), "write it anew: scripts/policy-schema"


@pytest.mark.parametrize("name", PACKS_OF)
def test_a_shipped_policy_passes_its_cases_and_has_no_warning(name: str) -> None:
    file = POLICIES / f"{name}.yaml"
    policy = load_policy(file.read_bytes().decode(), str(file))
    facts = facts_of(name)
    cases_file = Path(cases_file_name(str(file)))
    results = compile_policy(policy, facts).run_tests(load_cases(cases_file.read_text(), str(cases_file)))
    assert len(results) >= 8
    assert [str(result.problem) for result in results if result.problem] == []
    assert [str(problem) for problem in check(policy, facts)] == []


@pytest.mark.parametrize("name", PACKS_OF)
def test_every_rule_of_a_shipped_policy_decides_a_case(name: str) -> None:
    file = POLICIES / f"{name}.yaml"
    policy = compile_policy(load_policy(file.read_bytes().decode(), str(file)), facts_of(name))
    cases_file = Path(cases_file_name(str(file)))
    results = [*policy.run_tests(), *policy.run_tests(load_cases(cases_file.read_text(), str(cases_file)))]
    deciding = {result.decision.rule for result in results if result.decision}
    assert {rule.id for rule in policy.model.rules} <= deciding
