"""Reading: what a policy file may say, and the `file:line:col` of everything it may not."""

from __future__ import annotations

import hashlib

import jsonschema_rs
import pytest
import yaml

from gateway.core.policy import cases_file_name, compile_policy, load_cases, load_policy, policy_json_schema
from gateway.errors import ConfigError

HEAD = "version: 1\nrules:\n"


def problem_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compile_policy(load_policy(text, "p.yaml"))
    return str(caught.value.problems[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "p.yaml:1:1: the file is empty"),
        (
            "version: 2\nrules: []\n",
            "p.yaml:1:1: version: version 2 is newer than this program: it knows version 1",
        ),
        ("rules: []\n", "p.yaml:1:1: missing key 'version'"),
        ("version: 1\n", "p.yaml:1:1: missing key 'rules'"),
        ("version: 1\nrules: []\nrulez: []\n", "p.yaml:3:1: unknown key 'rulez'"),
        ("version: 1\nversion: 1\nrules: []\n", "p.yaml:2:1: duplicate key 'version'"),
        (HEAD + "  - id: a\n    allow: fs.x\n    alow: y\n", "p.yaml:5:5: unknown key 'rules.0.alow'"),
        (HEAD + "  - allow: fs.x\n", "p.yaml:3:5: missing key 'rules.0.id'"),
        (HEAD + "  - {id: a}\n", "p.yaml:3:5: rules.0: a rule has exactly one of allow, ask, deny"),
        (HEAD + "  - {id: a, allow: fs.x, deny: fs.x}\n", "p.yaml:3:5: rules.0: a rule has exactly one of"),
        (HEAD + "  - {id: a, allow: []}\n", "p.yaml:3:13: rules.0.allow: "),
        (HEAD + "  - {id: 'a b', allow: fs.x}\n", "p.yaml:3:6: rules.0.id: "),
        (HEAD + "  - {id: a, allow: read}\n", "p.yaml:3:13: rules.0.allow.0: tools are named 'server.tool'"),
        (
            HEAD + "  - id: a\n    allow:\n      - fs.x\n      - 'fs.[x]'\n",
            "p.yaml:6:9: rules.0.allow.1: character",
        ),
        (
            HEAD + "  - {id: a, allow: 'resource:a**b/c'}\n",
            "p.yaml:3:13: rules.0.allow.0: '**' stands",
        ),
        (
            HEAD + "  - {id: a, allow: fs.x}\n  - {id: a, deny: fs.y}\n",
            "p.yaml:4:6: rule id 'a' is already used in line 3",
        ),
        (HEAD + "  - {id: a, allow: fs.x, to: bob}\n", "p.yaml:3:26: unknown principal 'bob'"),
        (
            "version: 1\nprincipals: {p: {}}\nrules: []\n",
            "p.yaml:2:14: principals.p: one or more of client, user, group",
        ),
        (
            "version: 1\nprincipals: {p: {name: x}}\nrules: []\n",
            "p.yaml:2:18: unknown key 'principals.p.name'",
        ),
        (HEAD + "  - {id: a, allow: fs.x, args: {p: {}}}\n", "p.yaml:3:33: rules.0.args.p: no matcher"),
        (HEAD + "  - {id: a, allow: fs.x, args: {p: x}}\n", "p.yaml:3:33: rules.0.args.p: "),
        (
            HEAD + "  - {id: a, allow: fs.x, args: {p: {globs: x}}}\n",
            "p.yaml:3:37: unknown key 'rules.0.args.p.globs'",
        ),
        (
            HEAD + "  - id: a\n    allow: fs.x\n    args:\n      p:\n        regex: '('\n",
            "p.yaml:7:9: rules.0.args.p.regex.0: not an RE2 expression: missing ): (",
        ),
        (
            HEAD + "  - id: a\n    allow: fs.x\n    args: {p: {regex: [ok, '(?=x)']}}\n",
            "p.yaml:5:28: rules.0.args.p.regex.1: not an RE2 expression",
        ),
        (
            HEAD + "  - {id: a, allow: fs.x, args: {p: {glob: '**.py'}}}\n",
            "p.yaml:3:37: rules.0.args.p.glob.0: '**' stands",
        ),
        (
            HEAD + "  - {id: a, allow: fs.x, args: {p: {under: 'a\\b'}}}\n",
            "p.yaml:3:37: rules.0.args.p.under.0: a path holds",
        ),
        (
            HEAD + "  - {id: a, allow: fs.x, args: {p: {host: 'x*.com'}}}\n",
            "p.yaml:3:37: rules.0.args.p.host.0: host patterns",
        ),
        (HEAD + "  - {id: a, allow: fs.x, args: {p: {in: x}}}\n", "p.yaml:3:37: rules.0.args.p.in: "),
        (HEAD + "  - {id: a, allow: fs.x, args: {p: {min: '1'}}}\n", "p.yaml:3:37: rules.0.args.p.min"),
        (
            HEAD + "  - {id: a, allow: fs.x, args: {p: {max_len: true}}}\n",
            "p.yaml:3:37: rules.0.args.p.max_len",
        ),
        (
            HEAD + "  - {id: a, allow: fs.x, args: {p: {max_bytes: 1XB}}}\n",
            "p.yaml:3:37: rules.0.args.p.max_bytes: a size",
        ),
        (
            HEAD + "  - {id: a, allow: fs.x, args: {p: {max_bytes: -1}}}\n",
            "p.yaml:3:37: rules.0.args.p.max_bytes: a size",
        ),
        (HEAD + "  - {id: a, allow: fs.x, args: {p: {type: str}}}\n", "p.yaml:3:37: rules.0.args.p.type"),
        (
            HEAD + "  - {id: a, allow: fs.x, args: {p: {items: {}}}}\n",
            "p.yaml:3:37: rules.0.args.p.items: one or more of",
        ),
        (
            HEAD + "  - {id: a, allow: fs.x, args: {p: {not: {items: {all: {glob: ''}}}}}}\n",
            "p.yaml:3:57: rules.0.args.p.not.items.all.glob.0: an empty pattern",
        ),
        (
            HEAD + "  - {id: a, allow: fs.x, args: {p: {absent: true, in: [1]}}}\n",
            "p.yaml:3:33: rules.0.args.p: 'absent: true' stands alone",
        ),
        (
            HEAD + "  - {id: a, allow: fs.x, args: {'@paths': {glob: x}}}\n",
            "p.yaml:3:33: '@paths' is not a kind: @path,",
        ),
        (
            HEAD + "  - {id: a, allow: fs.x, args: {a..b: {glob: x}}}\n",
            "p.yaml:3:33: 'a..b' has an empty part",
        ),
        (
            HEAD + "  - {id: a, allow: fs.x, args: {'@path': {items: {max: 1}}}}\n",
            "p.yaml:3:43: '@path' judges each item of a list already",
        ),
        (
            HEAD + "  - {id: a, allow: fs.x, args: {'@path': {absent: true}}}\n",
            "p.yaml:3:43: '@path' names the arguments",
        ),
        (HEAD + "  - {id: a, allow: fs.x, why: yes}\n", "p.yaml:3:31: 'yes' is ambiguous in YAML"),
        ("version: 1\nrules: []\ndefaults: {max_depth: 0}\n", "p.yaml:3:12: defaults.max_depth"),
        ("version: 1\nrules: []\nmodes: {training: {ask: prompt}}\n", "p.yaml:3:20: modes.training.ask"),
        ("version: 1\nrules: []\nmodes: {staging: {}}\n", "p.yaml:3:9: unknown key 'modes.staging'"),
        ("version: 1\nrules: []\ntests:\n  - {call: fs.x, expect: maybe}\n", "p.yaml:4:18: tests.0.expect"),
        (
            "version: 1\nrules: []\ntests:\n  - {call: 'fs.*', expect: deny}\n",
            "p.yaml:4:6: tests.0.call: name server and tool",
        ),
        (
            "version: 1\nrules: []\ntests:\n  - {call: fs.x, as: bob, expect: deny}\n",
            "p.yaml:4:18: unknown principal 'bob'",
        ),
        (
            "version: 1\nrules: []\ntests:\n  - {call: fs.x, rule: r, expect: deny}\n",
            "p.yaml:4:18: no rule has the id 'r'",
        ),
        (
            "version: 1\nrules: []\ntests:\n  - {call: fs.x, expect: allow}\n",
            "p.yaml:4:5: test of fs.x failed: expected allow, got deny (no_match): no rule allows fs.x",
        ),
    ],
)
def test_a_fault_is_told_with_its_place(text: str, expected: str) -> None:
    assert problem_of(text).startswith(expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "  - {id: a, deny: fs.x, limit: {calls: 1}}\n",
            "p.yaml:3:5: rules.0: 'limit' says how much a rule grants",
        ),
        ("  - {id: a, allow: fs.x, limit: {per: tool}}\n", "p.yaml:3:26: rules.0.limit: one or more of rate"),
        ("  - {id: a, allow: fs.x, limit: {rate: 0/min}}\n", "p.yaml:3:34: rules.0.limit.rate: a rate is"),
        ("  - {id: a, allow: fs.x, limit: {rate: fast}}\n", "p.yaml:3:34: rules.0.limit.rate: a rate is"),
        ("  - {id: a, allow: fs.x, limit: {rate: 30}}\n", "p.yaml:3:34: rules.0.limit.rate: a rate is"),
        ("  - {id: a, allow: fs.x, limit: {calls: -1}}\n", "p.yaml:3:34: rules.0.limit.calls: "),
        (
            "  - {id: a, allow: fs.x, args: {p: {symlinks: follow}}}\n",
            "p.yaml:3:37: rules.0.args.p.symlinks: Input should be 'deny'",
        ),
        (
            "  - {id: a, ask: fs.x, approve: {clears: 'no label'}}\n",
            "p.yaml:3:34: rules.0.approve.clears.0: ",
        ),
        (
            "  - {id: a, deny: fs.x, args: {'@path': {symlinks: deny}}}\n",
            "p.yaml:3:32: this would hold for paths without a link: write 'not: {symlinks: deny}'",
        ),
        (
            "  - {id: a, deny: fs.x, args: {p: {items: {any: {symlinks: deny}}}}}\n",
            "p.yaml:3:32: this would hold for paths without a link",
        ),
        ("  []\naudit: {}\n", "p.yaml:4:1: missing key 'audit.arguments'"),
        ("  []\naudit: {arguments: shape}\n", "p.yaml:4:9: audit.arguments: Input should be 'plain'"),
        (
            "  []\nmodes: {training: {ask: {approver: {seed: 1}}}}\n",
            "p.yaml:4:26: missing key 'modes.training.ask.approver.probability'",
        ),
        (
            "  []\nmodes: {training: {ask: {approver: {probability: 2}}}}\n",
            "p.yaml:4:37: modes.training.ask.approver.probability: Input should be less than or equal to 1",
        ),
        (
            "  []\nmodes: {training: {ask: queue}}\n",
            "p.yaml:4:20: modes.training.ask: nobody is asked in training",
        ),
        (
            "  []\nmodes: {deployment: {ask: {approver: {probability: 1}}}}\n",
            "p.yaml:4:22: modes.deployment.ask: dice approve nothing in deployment",
        ),
        ("  - {id: a, allow: fs.x, if_labels: {}}\n", "p.yaml:3:26: rules.0.if_labels: one or more of all"),
        ("  - {id: a, allow: fs.x, if_labels: {only: [a]}}\n", "p.yaml:3:38: unknown key"),
        (
            "  - {id: a, allow: fs.x, args: {p: {from: web}}}\n",
            "p.yaml:3:37: rules.0.args.p.from.0: a source is",
        ),
        (
            "  - {id: a, allow: fs.x, args: {p: {from: 'tool:x'}}}\n",
            "p.yaml:3:37: rules.0.args.p.from.0: tools are",
        ),
        ("  - {id: a, allow: fs.x, args: {p: {sql: writes}}}\n", "p.yaml:3:37: rules.0.args.p.sql: "),
        (
            "  - {id: a, allow: fs.x, args: {p: {argv: {}}}}\n",
            "p.yaml:3:37: rules.0.args.p.argv: one or both",
        ),
        (
            "  - {id: a, allow: fs.x, args: {p: {no_secrets: false}}}\n",
            "p.yaml:3:37: rules.0.args.p.no_secrets",
        ),
        ("  []\nlabels: [{tool: fs.x}]\n", "p.yaml:4:10: missing key 'labels.0.adds'"),
        (
            "  []\nlabels: [{tool: 'fs', adds: [a]}]\n",
            "p.yaml:4:11: labels.0.tool.0: tools are named",
        ),
        (
            "  []\nresults: [{tool: fs.x, redact: [pin]}]\n",
            "p.yaml:4:33: results.0.redact.0: no secret shape 'pin'",
        ),
        ("  []\nresults: [{tool: fs.x}]\n", "p.yaml:4:11: results.0: one or both of redact"),
        ("  []\ngrants: {fs: {disk: 1}}\n", "p.yaml:4:15: unknown key 'grants.fs.disk'"),
        (
            "  []\nmodes: {training: {clock: {virtual: {step: 0s}}}}\n",
            "p.yaml:4:38: modes.training.clock.virtual.step",
        ),
    ],
)
def test_a_fault_in_the_later_parts_is_told_with_its_place(text: str, said: str) -> None:
    assert problem_of(
        HEAD + text if not text.startswith("  []") else f"version: 1\nrules:\n{text}"
    ).startswith(said)


def test_every_fault_of_a_file_is_told_at_once() -> None:
    text = HEAD + "  - {id: a, allow: read}\n  - {id: b, allow: fs.x, args: {p: {regex: '('}}}\n"
    with pytest.raises(ConfigError) as caught:
        load_policy(text, "p.yaml")
    assert [problem.line for problem in caught.value.problems] == [3, 4]


def test_json_is_read_as_well() -> None:
    policy = load_policy('{"version": 1, "rules": [{"id": "a", "allow": "fs.x"}]}', "p.json")
    assert policy.model.rules[0].id == "a"


def test_the_digest_is_that_of_the_files_bytes() -> None:
    text = "version: 1\r\nrules: []  # é\r\n"
    assert load_policy(text, "p.yaml").sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_training_costs_and_their_defaults() -> None:
    text = (
        "version: 1\nrules: []\nmodes: {training: {on_deny: {penalty: -0.5, end_after: 3}, clock: virtual}}\n"
    )
    assert compile_policy(load_policy(text, "p.yaml")).on_deny.end_after == 3
    plain = compile_policy(load_policy("version: 1\nrules: []\n", "p.yaml"))
    assert (plain.on_deny.penalty, plain.on_deny.end_after) == (0.0, None)


def test_a_cases_file_has_the_shape_of_tests_and_a_name_of_its_own() -> None:
    cases = load_cases("tests:\n  - {call: fs.x, expect: deny}\n", "p.cases.yaml")
    assert [case.call for case in cases.cases] == ["fs.x"]
    assert cases_file_name("policies/git.yaml") == "policies/git.cases.yaml"
    with pytest.raises(ConfigError, match=r"p\.cases\.yaml:2:32: unknown key"):
        load_cases("tests:\n  - {call: fs.x, expect: deny, colour: red}\n", "p.cases.yaml")


def test_the_editors_schema_accepts_what_is_accepted_and_refuses_a_typo() -> None:
    schema = policy_json_schema()
    jsonschema_rs.meta.validate(schema)
    good = yaml.safe_load(
        "{version: 1, vars: {ws: /w}, "
        "rules: [{id: a, allow: fs.x, args: {p: {under: ['${ws}'], not: {in: [1]}}}}]}"
    )
    assert jsonschema_rs.is_valid(schema, good)
    good["rules"][0]["alow"] = "fs.y"
    assert not jsonschema_rs.is_valid(schema, good)
