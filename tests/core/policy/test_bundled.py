"""The policies that ship: each fits its toolpack without a warning, and every case of it passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.policy import PackFacts, cases_file_name, check, compile_policy, load_cases, load_policy
from gateway.runtime.packs import load_pack

POLICIES = Path(__file__).parents[3] / "policies"
PACK_OF = {"files": "files", "files-readonly": "files", "git": "git", "git-readonly": "git"}


def facts_of(pack_name: str) -> PackFacts:
    pack = load_pack(pack_name)
    assert pack.lock is not None
    servers = pack.manifest.servers
    return PackFacts(
        tools={name: {tool: {} for tool in pack.lock.tools_of(name)} for name in servers},
        kinds={name: server.kind_of() for name, server in servers.items()},
        workspace=pack.manifest.workspace.path,
    )


def test_every_shipped_policy_is_tested_here() -> None:
    shipped = {file.stem for file in POLICIES.glob("*.yaml") if not file.name.endswith(".cases.yaml")}
    assert shipped == set(PACK_OF)


@pytest.mark.parametrize("name", PACK_OF)
def test_a_shipped_policy_passes_its_cases_and_has_no_warning(name: str) -> None:
    file = POLICIES / f"{name}.yaml"
    policy = load_policy(file.read_bytes().decode(), str(file))
    facts = facts_of(PACK_OF[name])
    cases_file = Path(cases_file_name(str(file)))
    results = compile_policy(policy, facts).run_tests(load_cases(cases_file.read_text(), str(cases_file)))
    assert len(results) >= 8
    assert [str(result.problem) for result in results if result.problem] == []
    assert [str(problem) for problem in check(policy, facts)] == []


@pytest.mark.parametrize("name", PACK_OF)
def test_every_rule_of_a_shipped_policy_decides_a_case(name: str) -> None:
    file = POLICIES / f"{name}.yaml"
    policy = compile_policy(load_policy(file.read_bytes().decode(), str(file)), facts_of(PACK_OF[name]))
    cases_file = Path(cases_file_name(str(file)))
    results = [*policy.run_tests(), *policy.run_tests(load_cases(cases_file.read_text(), str(cases_file)))]
    deciding = {result.decision.rule for result in results if result.decision}
    assert {rule.id for rule in policy.model.rules} <= deciding
