"""A policy's own tests: they run at load, by the rules' own judge, and a failing one refuses the file."""

from __future__ import annotations

import pytest

from gateway.core.policy import PackFacts, compile_policy, load_cases, load_policy
from gateway.errors import ConfigError

POLICY = """\
version: 1
principals:
  coder: {client: "ci-*", group: [devs, ops]}
  owner: {user: "*@example.com"}
rules:
  - {id: read, allow: fs.read, to: [coder, owner]}
  - {id: ask, ask: fs.push}
  - {id: secrets, deny: "*", args: {"@path": {glob: "**/.env"}}}
tests:
  - {call: fs.read, as: coder, expect: allow, rule: read}
  - {call: fs.read, as: owner, expect: allow, code: rule_allow}
  - {call: fs.read, expect: deny, code: no_match}
  - {call: fs.push, expect: ask}
  - {call: fs.push, mode: training, expect: deny, code: approval_denied}
"""
FACTS = PackFacts(kinds={"fs": {"path": "path"}}, workspace="/srv")


def test_every_case_is_judged_as_the_principal_and_in_the_mode_it_names() -> None:
    assert all(result.passed for result in compile_policy(load_policy(POLICY, "p.yaml")).run_tests())


def test_cases_are_judged_with_the_kinds_and_the_workspace_of_the_toolpack() -> None:
    policy = compile_policy(load_policy(POLICY, "p.yaml"), FACTS)
    cases = load_cases(
        "tests:\n  - {call: fs.read, args: {path: /srv/x/../.env}, as: coder, expect: deny, rule: secrets}\n",
        "c.yaml",
    )
    assert [result.passed for result in policy.run_tests(cases)] == [True]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("{call: fs.read, as: coder, expect: deny}", "expected deny, got allow by rule 'read' (rule_allow)"),
        ("{call: fs.read, as: coder, expect: allow, rule: ask}", "expected rule 'ask', got 'read'"),
        (
            "{call: fs.read, as: coder, expect: allow, code: approved}",
            "expected code approved, got rule_allow",
        ),
        ("{call: fs.read, as: nobody, expect: allow}", "unknown principal 'nobody'"),
    ],
)
def test_a_case_that_fails_says_where_and_what_came_instead(case: str, message: str) -> None:
    policy = compile_policy(load_policy(POLICY, "p.yaml"))
    (result,) = policy.run_tests(load_cases(f"tests:\n  - {case}\n", "p.cases.yaml"))
    assert result.problem is not None
    assert (result.problem.file, result.problem.line) == ("p.cases.yaml", 2)
    assert message in result.problem.message


def test_a_failing_test_refuses_the_file_unless_it_is_only_looked_at() -> None:
    text = POLICY + "  - {call: fs.rm, expect: allow}\n"
    with pytest.raises(ConfigError, match=r"p\.yaml:15:5: test of fs\.rm failed"):
        compile_policy(load_policy(text, "p.yaml"))
    looked_at = compile_policy(load_policy(text, "p.yaml"), verify=False)
    assert [result.passed for result in looked_at.run_tests()] == [True] * 5 + [False]
