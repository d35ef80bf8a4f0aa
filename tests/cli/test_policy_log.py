"""`sandgate policy diff | learn`: what recorded calls say of policies."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.support.ledgers import write_ledger
from tests.support.terminal import sandgate

WALK = Path(__file__).parents[2] / "examples" / "write_a_policy"
LOG = str(WALK / "recorded" / "audit")
WIDE, TIGHT = str(WALK / "wide.yaml"), str(WALK / "tight.yaml")


def test_a_diff_is_one_json_document_and_exit_code_one_where_something_changes() -> None:
    ran = sandgate("policy", "diff", WIDE, TIGHT, "--log", LOG, "--format", "json")
    assert (ran.code, ran.document["judged"]) == (1, 26)
    (changed,) = ran.document["changed"]
    assert (changed["tool"], changed["before"], changed["after"]) == ("fs.read_text_file", "allow", "deny")
    assert ran.document["by_rule"] == {"secrets-never": [changed["call_id"]]}


def test_a_diff_of_equal_policies_is_exit_code_zero() -> None:
    ran = sandgate("policy", "diff", WIDE, WIDE, "--log", LOG)
    assert (ran.code, ran.out) == (0, "0 of 26 recorded calls change\n")
    assert sandgate("policy", "diff", WIDE, WIDE).out == "the policies say the same\n"


def test_rules_that_a_log_cannot_tell_about_are_named(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("version: 1\nrules: [{id: r, allow: fs.x, args: {to: {not: {from: [prompt]}}}}]\n")
    ran = sandgate("policy", "diff", str(file), str(file), "--log", LOG)
    assert "a log keeps no prompts and results, so 'from' finds nothing: r" in ran.err


def test_without_a_log_the_files_are_compared() -> None:
    ran = sandgate("policy", "diff", WIDE, TIGHT)
    assert ran.code == 1
    assert ran.out.splitlines()[0].startswith("- rules.everything:")


def test_a_proposal_is_on_stdout_and_its_summary_on_stderr(tmp_path: Path) -> None:
    ran = sandgate("policy", "learn", "--log", LOG)
    assert ran.code == 0
    assert ran.err.splitlines()[-1] == "sandgate: of 5 calls in 2 sessions held out, it would allow 4"
    file = tmp_path / "learned.yaml"
    file.write_text(ran.out)
    checked = sandgate("policy", "check", str(file), "--pack", "files", "--format", "json")
    assert (checked.code, checked.document["warnings"]) == (0, [])


def test_a_proposal_is_one_json_document() -> None:
    ran = sandgate("policy", "learn", "--log", LOG, "--format", "json")
    assert ran.document["seen"] == 21
    assert ran.document["held_out"] == {"sessions": 2, "calls": 5, "allowed": 4}
    assert len(yaml.safe_load(ran.document["policy"])["rules"]) == 6


async def test_a_log_without_argument_values_says_how_to_get_them(tmp_path: Path) -> None:
    await write_ledger(tmp_path, "c1", "c2")
    ran = sandgate("policy", "learn", "--log", str(tmp_path))
    assert ran.code == 2
    assert "2 calls, and none with its argument values: record in training mode" in ran.err
    assert "audit: {arguments: plain}" in ran.err


def test_a_folder_without_a_ledger_is_a_usage_error(tmp_path: Path) -> None:
    ran = sandgate("policy", "diff", WIDE, TIGHT, "--log", str(tmp_path))
    assert (ran.code, "no ledger here" in ran.err) == (2, True)
