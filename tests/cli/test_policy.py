"""`sandgate policy check | test | explain`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft4Validator  # ours refuses one of the schema's patterns, which Rust does not know

from tests.support.gateways import PACKS
from tests.support.node_packages import node_folder
from tests.support.terminal import sandgate

ECHO = PACKS / "echo" / "policy.yaml"
POLICIES = Path(__file__).parent.parent.parent / "policies"


def write(folder: Path, text: str) -> str:
    file = folder / "policy.yaml"
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize("name", ["files", "git"])
def test_a_bundled_policy_is_clean_and_does_what_its_cases_say(name: str) -> None:
    file = str(POLICIES / f"{name}.yaml")
    assert sandgate("policy", "check", file).code == 0
    tested = sandgate("policy", "test", file, "--format", "json")
    assert (tested.code, tested.document["failed"]) == (0, 0)
    assert tested.document["passed"] > 0


def test_a_faulty_file_is_exit_code_two_and_still_one_json_document(tmp_path: Path) -> None:
    file = write(tmp_path, "version: 1\nrules: [{id: a, allow: b.c, arg: {}}]\n")
    ran = sandgate("policy", "check", file, "--format", "json")
    assert ran.code == 2
    assert ran.document["ok"] is False
    assert (ran.document["errors"][0]["line"], ran.document["errors"][0]["column"]) == (2, 29)
    assert ran.err.startswith(f"{file}:2:29: unknown key")


def test_a_suspicious_file_is_fine_and_the_place_is_shown(tmp_path: Path) -> None:
    file = write(tmp_path, "version: 1\nrules:\n  - {id: a, allow: echo.nothing}\n")
    ran = sandgate("policy", "check", file, "--pack", str(ECHO.parent))
    assert ran.code == 0
    assert f"{file}:3:" in ran.out
    assert "has no tool 'nothing'" in ran.out


def test_a_policy_for_several_packs_is_held_against_all_of_them() -> None:
    file = str(POLICIES / "developer.yaml")
    alone, both = (
        sandgate("policy", "check", file, *(part for pack in packs for part in ("--pack", pack)))
        for packs in (["files"], ["files", "git"])
    )
    assert "no server and tool match 'git.git_status'" in alone.out
    assert both.out == f"{file}: 10 rules, ok\n"


def test_an_argument_that_no_tool_takes_is_named_from_the_packs_lock(tmp_path: Path) -> None:
    file = write(
        tmp_path, "version: 1\nrules:\n  - {id: a, allow: fs.read_text_file, args: {pth: {min: 1}}}\n"
    )
    ran = sandgate("policy", "check", file, "--pack", "files", "--format", "json")
    [warning] = ran.document["warnings"]
    assert (warning["code"], warning["line"], warning["column"]) == ("unknown_argument", 3, 46)


SARIF = "@microsoft/jest-sarif@1.0.0-beta.0"


def sarif_faults(document: Any) -> list[str]:
    """Return what the official schema finds wrong with a document."""
    schemas = node_folder("sarif", [SARIF], program="") / "node_modules/@microsoft/jest-sarif/lib/schemas"
    schema = json.loads((schemas / "sarif-2.1.0-rtm.5.json").read_text(encoding="utf-8-sig"))
    validator: Any = Draft4Validator(schema)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


@pytest.mark.parametrize(
    ("policy", "code", "results"),
    [
        ("version: 1\nrules:\n  - {id: a, allow: echo.echo}\n", 0, False),
        ("version: 1\nrules:\n  - {id: a, allow: echo.nothing}\n", 0, True),
        ("version: 1\nrules: []\ntests:\n  - {call: echo.echo, expect: allow}\n", 1, True),
        ("version: 1\nrule: []\n", 2, True),
        ("version: 1\nrules: [\n", 2, True),
    ],
)
def test_sarif_is_valid_by_the_official_schema(policy: str, code: int, results: bool, tmp_path: Path) -> None:
    file = write(tmp_path, policy)
    ran = sandgate("policy", "check", file, "--pack", str(ECHO.parent), "--format", "sarif")
    assert (ran.code, bool(ran.document["runs"][0]["results"])) == (code, results)
    assert sarif_faults(ran.document) == []
    assert sarif_faults({**ran.document, "version": "3", "extra": 1}) != []


def test_sarif_says_where_in_a_file_with_a_blank_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    file = write(folder, "version: 1\nrules:\n  - {id: a, allow: echo.nothing}\n")
    ran = sandgate("policy", "check", file, "--pack", str(ECHO.parent), "--format", "sarif")
    assert (ran.document["version"], ran.document["$schema"].endswith("sarif-2.1.0.json")) == ("2.1.0", True)
    [run] = ran.document["runs"]
    assert run["columnKind"] == "unicodeCodePoints"
    driver = run["tool"]["driver"]
    assert [rule["id"] for rule in driver["rules"]] == ["unknown_tool"]
    [result] = run["results"]
    assert (result["ruleId"], result["level"], bool(result["message"]["text"])) == (
        "unknown_tool",
        "warning",
        True,
    )
    [location] = result["locations"]
    place = location["physicalLocation"]
    assert place["region"] == {"startLine": 3, "startColumn": 13}
    assert " " not in place["artifactLocation"]["uri"]


def test_a_failing_test_is_exit_code_one_with_its_place(tmp_path: Path) -> None:
    file = write(tmp_path, "version: 1\nrules: []\ntests:\n  - {call: echo.echo, expect: allow}\n")
    ran = sandgate("policy", "test", file)
    assert ran.code == 1
    assert ran.out.startswith(f"{file}:4:5: test of echo.echo failed: expected allow, got deny")
    assert ran.out.splitlines()[-1] == f"{file}: 0 of 1 tests pass"


def test_a_check_runs_the_files_own_tests(tmp_path: Path) -> None:
    file = write(tmp_path, "version: 1\nrules: []\ntests:\n  - {call: echo.echo, expect: allow}\n")
    ran = sandgate("policy", "check", file, "--format", "json")
    assert (ran.code, ran.document["ok"]) == (1, False)
    assert ran.document["errors"][0]["code"] == "test_failed"


def test_sarif_has_a_result_for_each_problem_with_its_place(tmp_path: Path) -> None:
    file = write(tmp_path, "version: 1\nrules:\n  - {id: a, allow: echo.nothing}\n")
    ran = sandgate("policy", "check", file, "--pack", str(ECHO.parent), "--format", "sarif")
    (run,) = ran.document["runs"]
    (result,) = run["results"]
    place = result["locations"][0]["physicalLocation"]
    assert (ran.code, ran.document["version"], result["level"]) == (0, "2.1.0", "warning")
    assert result["ruleId"] in [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert (place["artifactLocation"]["uri"], place["region"]["startLine"]) == (file, 3)


def test_a_faulty_file_is_sarif_too_and_exit_code_two(tmp_path: Path) -> None:
    ran = sandgate("policy", "check", write(tmp_path, "version: 1\nrule: []\n"), "--format", "sarif")
    assert ran.code == 2
    assert {result["level"] for result in ran.document["runs"][0]["results"]} == {"error"}


def test_kinds_come_from_the_pack_that_names_the_file_as_its_own() -> None:
    call = ("--call", "echo.read", "--args", '{"path": ".env"}')
    ran = sandgate("policy", "explain", str(ECHO), *call, "--format", "json")
    assert ran.code == 1
    assert ran.document["decision"]["rule"] == "no-secret-files"
    assert ran.document["arguments"] == {"path": "/workspace/.env"}


def test_without_a_pack_it_is_said_that_kinds_name_nothing(tmp_path: Path) -> None:
    file = write(tmp_path, 'version: 1\nrules: [{id: a, deny: "*", args: {"@path": {under: /x}}}]\n')
    assert "'@path' and the like name nothing: give --pack" in sandgate("policy", "check", file).err


def test_an_allowed_call_is_exit_code_zero_and_names_its_rule() -> None:
    ran = sandgate("policy", "explain", str(ECHO), "--call", "echo.echo", "--args", '{"text": "hi"}')
    assert ran.code == 0
    assert "held: allow rule 'talk' (policy.yaml:4)" in ran.out.splitlines()


def test_a_denied_call_says_what_the_closest_rule_lacked() -> None:
    call = ("--call", "echo.read", "--args", '{"path": "../etc/passwd"}')
    ran = sandgate("policy", "explain", str(ECHO), *call)
    assert ran.code == 1
    assert "did not hold: allow rule 'files' (policy.yaml:7)" in ran.out
    assert "the call has '/etc/passwd'" in ran.out


def test_a_caller_is_a_name_from_the_file(tmp_path: Path) -> None:
    text = "version: 1\nprincipals: {ci: {client: ci-agent}}\nrules: [{id: a, allow: echo.echo, to: ci}]\n"
    file = write(tmp_path, text)
    assert sandgate("policy", "explain", file, "--call", "echo.echo", "--as", "ci").code == 0
    assert sandgate("policy", "explain", file, "--call", "echo.echo").code == 1
    unknown = sandgate("policy", "explain", file, "--call", "echo.echo", "--as", "cj")
    assert unknown.code == 2
    assert "there are: ci" in unknown.err


def test_a_tool_is_named_with_its_server() -> None:
    ran = sandgate("policy", "explain", str(ECHO), "--call", "echo")
    assert ran.code == 2
    assert "name server and tool" in ran.err


def test_explain_takes_the_session_that_the_call_would_stand_in(tmp_path: Path) -> None:
    policy = tmp_path / "p.yaml"
    policy.write_text(
        "version: 1\nrules:\n"
        "  - {id: a, allow: mail.send, args: {to: {from: [prompt]}}}\n"
        "  - {id: d, deny: mail.send, if_labels: {all: [untrusted]}}\n"
        "labels: [{tool: web.get, adds: [untrusted]}]\n"
    )
    call = ("policy", "explain", str(policy), "--call", "mail.send", "--args", '{"to": "ann"}')
    assert sandgate(*call).code == 1
    assert sandgate(*call, "--prompt", "Write to ann").code == 0
    assert sandgate(*call, "--prompt", "Write to ann", "--after", "web.get").code == 1
    denied = sandgate(*call, "--prompt", "Write to ann", "--labels", "untrusted, other")
    assert denied.code == 1
    assert "labels of the session: other, untrusted" in denied.out
