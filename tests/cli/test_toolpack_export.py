"""`sandgate toolpack export`: what is written and printed, and what is refused before anything is."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters

from gateway.runtime.packs import load_pack
from tests.support.gateways import copy_pack
from tests.support.processes import run_sandgate
from tests.support.terminal import sandgate

SANDGATE = Path(sys.executable).with_name("sandgate")


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_an_environment_has_the_files_that_make_the_pack_up_and_no_others(tmp_path: Path) -> None:
    pack = copy_pack("echo", tmp_path).folder
    for stray in (".env", "auth.yaml", "state/audit/1.jsonl", "servers/__pycache__/x.pyc", "servers/.token"):
        (pack / stray).parent.mkdir(parents=True, exist_ok=True)
        (pack / stray).write_text("secret")
    out = tmp_path / "made" / "echo_env"
    ran = sandgate("toolpack", "export", str(pack), "--to", "openenv", "--out", str(out), "--format", "json")
    assert ran.code == 0, ran.err
    assert files_in(out) == set(ran.document["files"])
    copied = files_in(out / "toolpack")
    assert {"toolpack.yaml", "tools.lock.json", "policy.yaml", "servers/echo.py"} <= copied
    assert not any((out / "toolpack" / name).read_text(errors="replace") == "secret" for name in copied)
    assert load_pack(str(out / "toolpack")).tasks.keys() == load_pack(str(pack)).tasks.keys()
    sums = dict(line.split("  ")[::-1] for line in (out / "toolpack.sha256").read_text().splitlines())
    assert sums == {
        f"toolpack/{name}": hashlib.sha256((out / "toolpack" / name).read_bytes()).hexdigest()
        for name in copied
    }


def test_a_bundled_policy_goes_along_and_hidden_files_of_a_seed_are_told(tmp_path: Path) -> None:
    out = tmp_path / "files_env"
    ran = sandgate("toolpack", "export", "files", "--to", "openenv", "--out", str(out))
    assert ran.code == 0, ran.err
    assert (out / "toolpack" / "fixtures" / "project" / ".env").is_file()
    assert load_pack(str(out / "toolpack")).policy_file == out / "toolpack" / "files.yaml"
    assert "fixtures/project/.env" in ran.err
    assert "hf upload" in (out / "README.md").read_text()


def test_a_folder_is_never_written_over_and_never_left_half_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    ran = sandgate("toolpack", "export", "git", "--to", "openenv", "--out", str(tmp_path / "there"))
    assert (ran.code, "is there already: name a new folder" in ran.err) == (2, True)
    assert list((tmp_path / "there").iterdir()) == []
    (tmp_path / "file").write_text("")
    ran = sandgate("toolpack", "export", "git", "--to", "openenv", "--out", str(tmp_path / "file" / "env"))
    assert ran.code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "there"]


def test_a_pack_with_a_link_or_without_a_lock_is_refused(tmp_path: Path) -> None:
    pack = copy_pack("echo", tmp_path).folder
    (pack / "servers" / "link.py").symlink_to(pack / "servers" / "echo.py")
    command = ("toolpack", "export", str(pack), "--to", "openenv", "--out", str(tmp_path / "env"))
    ran = sandgate(*command)
    assert (ran.code, "link.py is no plain file" in ran.err) == (2, True)
    (pack / "tools.lock.json").unlink()
    ran = sandgate(*command)
    assert (ran.code, "run 'sandgate toolpack lock" in ran.err) == (2, True)
    assert not (tmp_path / "env").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--to", "openenv"), "needs --out FOLDER"),
        (("--to", "openenv", "--out", "new", "--wheel", "none.whl"), "is no wheel"),
        (("--to", "server-json"), "needs --name"),
        (("--to", "mcp-servers", "--url", "localhost"), "an address like"),
        (("--to", "mcp-servers", "--out", "x"), "--out is for --to openenv"),
        (("--to", "openenv", "--out", "x", "--name", "a/b"), "--name is for --to server-json"),
    ],
)
def test_an_option_that_is_missing_or_of_another_form_is_said(options: tuple[str, ...], reason: str) -> None:
    ran = sandgate("toolpack", "export", "git", *options)
    assert (ran.code, ran.out) == (2, "")
    assert reason in ran.err


def test_the_registrys_description_of_a_bundled_server_is_printed() -> None:
    ran = sandgate("toolpack", "export", "git", "--to", "server-json", "--name", "io.github.me/git")
    [package] = ran.document["packages"]
    assert (package["identifier"], package["version"]) == ("mcp-server-git", "2026.10.19")
    assert "policy, sandbox and tasks stay with the toolpack" in ran.err


def test_a_gateway_that_runs_is_named_by_its_address() -> None:
    url = "http://127.0.0.1:8000/packs/git/mcp"
    ran = sandgate("toolpack", "export", "git", "--to", "mcp-servers", "--url", url)
    assert ran.document == {"mcpServers": {"git": {"type": "http", "url": url}}}


async def test_the_printed_configuration_starts_a_session_that_answers(tmp_path: Path) -> None:
    pack = copy_pack("echo", tmp_path).folder
    told = subprocess.run(
        [SANDGATE, "toolpack", "export", os.path.relpath(pack), "--to", "mcp-servers"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    [(name, server)] = json.loads(told.stdout)["mcpServers"].items()
    assert (name, server["args"]) == ("echo", ["stdio", str(pack)])
    away = tmp_path / "away"
    away.mkdir()
    target = StdioServerParameters(
        command=server["command"],
        args=server["args"],
        cwd=away,
        env={"XDG_STATE_HOME": str(tmp_path / "state")},
    )
    async with Client(target) as client:
        assert "echo" in {tool.name for tool in (await client.list_tools()).tools}
        answer = await client.call_tool("echo", {"text": "hi"})
    assert [block.model_dump()["text"] for block in answer.content] == ["hi"]


def test_an_environment_from_which_a_file_was_left_behind_serves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "files_env"
    made = run_sandgate("toolpack", "export", "files", "--to", "openenv", "--out", str(out))
    assert made.returncode == 0, made.stderr
    start = [sys.executable, str(out / "server" / "app.py"), "--port", "0"]
    hidden = out / "toolpack" / "fixtures" / "project" / ".env"
    text = hidden.read_text()
    hidden.unlink()
    ran = subprocess.run(start, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, "toolpack/fixtures/project/.env is missing" in ran.stderr) == (1, True)
    hidden.write_text(text + "#")
    ran = subprocess.run(start, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, "is not the file that was exported" in ran.stderr) == (1, True)


def test_an_environment_is_not_open_to_other_machines_without_a_token(tmp_path: Path) -> None:
    out = tmp_path / "echo_env"
    pack = copy_pack("echo", tmp_path).folder
    assert sandgate("toolpack", "export", str(pack), "--to", "openenv", "--out", str(out)).code == 0
    start = [sys.executable, str(out / "server" / "app.py"), "--port", "0", "--host", "0.0.0.0"]
    ran = subprocess.run(start, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, "nobody would have to say who they are" in ran.stderr) == (2, True)
    environ = {**os.environ, "ENV_TOKEN_SHA256": "a token, not its hash"}  # noqa: TID251 - a child's environment
    ran = subprocess.run(start, capture_output=True, text=True, check=False, timeout=60, env=environ)
    assert (ran.returncode, "'sandgate auth hash' prints it" in ran.stderr) == (1, True)
