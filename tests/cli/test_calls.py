"""`sandgate tools` and `sandgate call`, through real sandboxes, and what `audit` says of it afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.gateways import copy_pack
from tests.support.processes import run_sandgate
from tests.support.terminal import sandgate


def call(tmp_path: Path, tool: str, args: str, *more: str) -> tuple[int, dict[str, Any]]:
    folder = str(copy_pack("echo", tmp_path).folder)
    state = str(tmp_path / "state")
    ran = run_sandgate("call", folder, tool, "--args", args, "--state", state, "--format", "json", *more)
    return ran.returncode, json.loads(ran.stdout)


def test_tools_are_listed_as_the_policy_shows_them(tmp_path: Path) -> None:
    folder = str(copy_pack("echo", tmp_path).folder)
    policy = tmp_path / "one.yaml"
    policy.write_text("version: 1\nrules: [{id: a, allow: echo.echo}]\n")
    state = ("--state", str(tmp_path / "state"))
    every = run_sandgate("tools", folder, *state)
    assert every.returncode == 0, every.stderr
    assert "write                            Write a file." in every.stdout.splitlines()
    one = run_sandgate("tools", folder, *state, "--policy", str(policy), "--format", "json")
    assert [tool["name"] for tool in json.loads(one.stdout)["tools"]] == ["echo"]


def test_an_answered_call_is_exit_code_zero_with_result_and_decision(tmp_path: Path) -> None:
    code, shown = call(tmp_path, "echo", '{"text": "hi"}')
    assert (code, shown["outcome"], shown["text"]) == (0, "answered", "hi")
    assert shown["decision"]["rule"] == "talk"
    assert shown["result"]["content"] == [{"type": "text", "text": "hi"}]


def test_a_denied_call_is_exit_code_one_and_never_reaches_the_server(tmp_path: Path) -> None:
    code, shown = call(tmp_path, "read", '{"path": "/workspace/.env"}')
    assert (code, shown["outcome"]) == (1, "denied")
    assert (shown["decision"]["rule"], shown["decision"]["line"]) == ("no-secret-files", 10)
    assert "policy.yaml:10" in shown["text"]


def test_a_tools_own_error_and_a_failure_are_exit_code_one(tmp_path: Path) -> None:
    code, shown = call(tmp_path, "fail", '{"message": "no"}')
    assert (code, shown["outcome"], shown["text"]) == (1, "answered", "no")
    code, shown = call(tmp_path, "crash", "{}")
    assert (code, shown["outcome"], shown["failure"]) == (1, "failed", "crashed")


def test_a_policy_on_the_command_line_stands_in_for_the_packs_own(tmp_path: Path) -> None:
    policy = tmp_path / "none.yaml"
    policy.write_text("version: 1\nrules: []\n")
    code, shown = call(tmp_path, "echo", '{"text": "hi"}', "--policy", str(policy))
    assert (code, shown["decision"]["code"], shown["decision"]["policy"]) == (1, "no_match", "none.yaml")


def test_every_call_is_in_the_ledger_and_the_ledger_verifies(tmp_path: Path) -> None:
    call(tmp_path, "echo", '{"text": "hi"}')
    call(tmp_path, "read", '{"path": "/workspace/.env"}')
    state = str(tmp_path / "state")
    verified = sandgate("audit", "verify", state, "--format", "json")
    assert (verified.code, verified.document["ok"], verified.document["records"]) == (0, True, 4)
    denied = sandgate("audit", "query", state, "--effect", "deny", "--format", "json").document
    assert {(record["front"], record["tool"]) for record in denied} == {("cli", "read")}
    lines = sandgate("audit", "query", state, "--tool", "echo").out.splitlines()
    assert "allow by talk [rule_allow]" in lines[0]
    assert "answered in" in lines[1]


def test_a_changed_ledger_is_exit_code_one(tmp_path: Path) -> None:
    call(tmp_path, "echo", '{"text": "hi"}')
    file = next((tmp_path / "state" / "audit").glob("*.jsonl"))
    file.write_text(file.read_text().replace('"echo"', '"ohce"', 1))
    ran = sandgate("audit", "verify", str(tmp_path / "state"))
    assert ran.code == 1
    assert "the chain is BROKEN" in ran.out
    assert f"{file}:1" in ran.out


def test_without_isolation_a_call_works_and_says_so(tmp_path: Path) -> None:
    code, shown = call(
        tmp_path, "echo", '{"text": "hi"}', "--sandbox", "process", "--i-know-this-is-not-isolated"
    )
    assert (code, shown["text"]) == (0, "hi")


def test_a_call_that_needs_an_approval_is_denied_at_once_where_nobody_can_be_asked(tmp_path: Path) -> None:
    policy = tmp_path / "asks.yaml"
    policy.write_text("version: 1\nrules: [{id: a, ask: echo.echo}]\n")
    code, shown = call(tmp_path, "echo", '{"text": "hi"}', "--policy", str(policy))
    assert (code, shown["decision"]["code"]) == (1, "approval_denied")
    assert "nobody can be asked" in shown["text"]
