"""What the command line says to a person who asks for help or makes a mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway import __version__
from tests.support.gateways import PACKS
from tests.support.processes import run_sandgate
from tests.support.terminal import sandgate

ECHO = str(PACKS / "echo")
COMMANDS = [
    ("demo",),
    ("serve",),
    ("stdio",),
    ("tools",),
    ("call",),
    ("policy", "check"),
    ("policy", "test"),
    ("policy", "explain"),
    ("toolpack", "init"),
    ("toolpack", "import"),
    ("toolpack", "validate"),
    ("toolpack", "lock"),
    ("toolpack", "show"),
    ("audit", "verify"),
    ("audit", "export"),
    ("audit", "query"),
    ("doctor",),
    ("auth", "hash"),
    ("client", "print"),
    ("client", "connect"),
    ("approvals", "list"),
    ("env", "run"),
]


@pytest.mark.parametrize("command", [(), *COMMANDS], ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    ran = sandgate(*command, "--help")
    assert ran.code == 0
    assert (
        ran.out.startswith(f"Usage: {' '.join(('sandgate', *command))}")
        or "Usage:" in ran.out.splitlines()[0]
    )
    assert "--help" in ran.out


def test_help_lists_exactly_the_commands_there_are() -> None:
    groups = {command[0] for command in COMMANDS}
    listed = sandgate("--help").out.partition("Commands:\n")[2].partition("\n\n")[0]
    lines = [line for line in listed.splitlines() if line[:2] == "  " and line[2] != " "]
    assert {line.split()[0] for line in lines} == groups


def test_help_costs_no_protocol_library() -> None:
    script = "import sys, gateway.cli.app; print(*{'mcp', 'pydantic', 'rich'} & set(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert loaded.stdout.split() == []


def test_the_version_is_the_packages() -> None:
    ran = sandgate("--version")
    assert (ran.code, ran.out) == (0, f"sandgate {__version__}\n")


@pytest.mark.parametrize("args", [("nonsense",), ("serve",), ("serve", ECHO, "--prot", "1"), ("call", ECHO)])
def test_a_mistaken_command_line_is_a_usage_error(args: tuple[str, ...]) -> None:
    ran = sandgate(*args)
    assert ran.code == 2
    assert ran.out == ""
    assert "Error" in ran.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("serve", "no-such-pack"), "no toolpack 'no-such-pack': give a bundled name ("),
        (("serve", ECHO, ECHO), "pack echo is given twice"),
        (("serve", ECHO, "--host", "0.0.0.0"), "give --auth FILE, or use --host 127.0.0.1"),
        (("serve", ECHO, "--port", "70000"), "--port: Input should be less than or equal to 65535"),
        (("serve", ECHO, "--sandbox", "vm"), "no such driver; there are: bubblewrap, "),
        (("serve", ECHO, "--sandbox", "process"), "with --i-know-this-is-not-isolated"),
        (("serve", ECHO, "--policy", "none.yaml"), "none.yaml: cannot be read: No such file or directory"),
        (("serve", ECHO, "--auth", "none.yaml"), "none.yaml: cannot be read: No such file or directory"),
        (("serve", ECHO, "--config", "none.yaml"), "none.yaml: no such file: check --config"),
        (("call", ECHO, "echo", "--args", "{"), "--args: "),
        (("call", ECHO, "echo", "--args", '{"a": 1, "a": 2}'), "--args: "),
        (("call", ECHO, "echo", "--args", '{"a": NaN}'), "--args: "),
        (("call", ECHO, "echo", "--args", "[1]"), "--args: give a JSON object"),
        (("audit", "verify", "/usr"), "/usr: no ledger here"),
    ],
)
def test_what_cannot_be_done_is_one_line_that_says_what_to_do(args: tuple[str, ...], message: str) -> None:
    ran = sandgate(*args)
    assert ran.code == 2
    assert ran.out == ""
    assert message in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_fault_in_a_manifest_has_its_place(tmp_path: Path) -> None:
    file = tmp_path / "toolpack.yaml"
    file.write_text("apiVersion: sandgate/v1\nname: mine\nversion: 1.0.0\nnmae: x\n")
    ran = sandgate("serve", str(tmp_path))
    assert ran.code == 2
    assert f"{file}:4:1: unknown key 'nmae'" in ran.err.splitlines()


def test_a_fault_in_a_policy_has_its_place(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("version: 1\nrules:\n  - id: a\n    alow: echo.echo\n")
    ran = sandgate("serve", ECHO, "--policy", str(file))
    assert ran.code == 2
    assert f"{file}:4:5: unknown key 'rules.0.alow'" in ran.err.splitlines()


def test_a_fault_in_the_auth_file_has_its_place(tmp_path: Path) -> None:
    file = tmp_path / "auth.yaml"
    file.write_text("version: 1\ntokens:\n  - {sha256: short, principal: a, roles: [agent]}\n")
    ran = sandgate("serve", ECHO, "--auth", str(file), "--host", "0.0.0.0")
    assert ran.code == 2
    assert ran.err.startswith(f"{file}:3:6: tokens.0.sha256: ")


def test_a_policy_whose_own_test_fails_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("version: 1\nrules: []\ntests:\n  - {call: echo.echo, expect: allow}\n")
    ran = sandgate("serve", ECHO, "--policy", str(file))
    assert ran.code == 2
    assert f"{file}:4:5: test of echo.echo failed: expected allow, got deny" in ran.err


def test_a_machine_without_bubblewrap_is_told_what_to_install(tmp_path: Path) -> None:
    ran = run_sandgate("tools", ECHO, "--state", str(tmp_path), env={"PATH": str(tmp_path)})
    assert ran.returncode == 2
    assert "bubblewrap is not installed: run `apt-get install bubblewrap`" in ran.stderr
    assert "Traceback" not in ran.stderr
