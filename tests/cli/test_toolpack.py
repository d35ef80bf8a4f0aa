"""`sandgate toolpack show | validate | lock`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.gateways import PACKS, copy_pack
from tests.support.processes import run_sandgate
from tests.support.terminal import sandgate


@pytest.mark.parametrize("name", ["files", "git"])
def test_a_bundled_pack_is_valid_and_locked(name: str) -> None:
    ran = sandgate("toolpack", "validate", name, "--format", "json")
    assert ran.code == 0
    assert (ran.document["valid"], ran.document["notes"]) == (True, [])
    assert ran.document["tasks"] >= 2


def test_show_tells_servers_tools_tasks_and_policy() -> None:
    shown = sandgate("toolpack", "show", str(PACKS / "echo"), "--format", "json").document
    assert shown["servers"]["echo"]["launch"] == ["python", "servers/echo.py"]
    assert "write" in shown["servers"]["echo"]["tools"]
    assert ("be-good", "test") in {(task["id"], task["split"]) for task in shown["tasks"]}
    assert shown["policy"].endswith("policy.yaml")
    text = sandgate("toolpack", "show", str(PACKS / "echo")).out
    assert "  tool   echo.write" in text.splitlines()


def test_a_pack_with_a_faulty_policy_is_not_valid(tmp_path: Path) -> None:
    pack = copy_pack("echo", tmp_path)
    (pack.folder / "policy.yaml").write_text("version: 1\nrules: {}\n")
    ran = sandgate("toolpack", "validate", str(pack.folder))
    assert ran.code == 2
    assert f"{pack.folder}/policy.yaml:2:1: rules" in ran.err


def test_an_unlocked_pack_is_valid_and_says_what_is_missing(tmp_path: Path) -> None:
    pack = copy_pack("echo", tmp_path)
    (pack.folder / "tools.lock.json").unlink(missing_ok=True)
    ran = sandgate("toolpack", "validate", str(pack.folder))
    assert "no tools.lock.json yet: run 'sandgate toolpack lock'" in ran.out.splitlines()


def test_locking_starts_the_server_and_tells_what_changed(tmp_path: Path) -> None:
    pack = copy_pack("echo", tmp_path)
    lock = pack.folder / "tools.lock.json"
    before = json.loads(lock.read_text())
    before["servers"]["echo"]["tools"]["write"] = "0" * 64
    del before["servers"]["echo"]["tools"]["echo"]
    lock.write_text(json.dumps(before))
    first = run_sandgate("toolpack", "lock", str(pack.folder), "--format", "json")
    assert first.returncode == 0, first.stderr
    changes = json.loads(first.stdout)["changes"]["echo"]
    assert (changes["added"], changes["changed"], changes["removed"]) == (["echo"], ["write"], [])
    second = run_sandgate("toolpack", "lock", str(pack.folder))
    assert second.stdout == "no tool changed\n"


def test_a_pack_that_was_begun_is_sound_and_answers(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    begun = sandgate("toolpack", "init", str(folder))
    assert begun.code == 0
    assert f"next: sandgate toolpack lock {folder}" in begun.out.splitlines()
    assert sandgate("toolpack", "validate", str(folder)).code == 0
    assert sandgate("policy", "test", str(folder / "policy.yaml")).code == 0
    locked = run_sandgate("toolpack", "lock", str(folder))
    assert locked.stdout == "hello.greet: added\n", locked.stderr
    assert sandgate("policy", "check", str(folder / "policy.yaml")).out.endswith("1 rules, ok\n")
    arguments = ("greet", "--args", '{"name": "world"}', "--state", str(tmp_path / "state"))
    called = run_sandgate("call", str(folder), *arguments)
    assert called.stdout.startswith("hello world\n"), called.stderr


def test_a_pack_is_begun_in_a_new_folder_with_a_packs_name_only(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.txt").write_text("kept")
    full = sandgate("toolpack", "init", str(tmp_path / "full"))
    assert (full.code, "not empty: name a new folder" in full.err) == (2, True)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["kept.txt"]
    odd = sandgate("toolpack", "init", str(tmp_path / "My_Pack"))
    assert (odd.code, "small letters" in odd.err) == (2, True)
    assert not (tmp_path / "My_Pack").exists()
