"""`sandgate client`: what is written where, what stays as it was, and how to go back."""

from __future__ import annotations

import json
import os
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import jsonc
from gateway.cli.mcp_clients import CLIENTS
from tests.support.terminal import sandgate

URL = "http://127.0.0.1:8000/mcp"
JSON_CLIENTS = [name for name, client in CLIENTS.items() if client.syntax == "json"]

# As each client's own documentation writes it, with a token from a variable.
WRITTEN: dict[str, tuple[str, dict[str, Any]]] = {
    "claude-code": (
        "mcpServers",
        {"type": "http", "url": URL, "headers": {"Authorization": "Bearer ${TOKEN}"}},
    ),
    "cursor": ("mcpServers", {"url": URL, "headers": {"Authorization": "Bearer ${env:TOKEN}"}}),
    "vscode": ("servers", {"type": "http", "url": URL, "headers": {"Authorization": "Bearer ${env:TOKEN}"}}),
    "gemini-cli": ("mcpServers", {"httpUrl": URL, "headers": {"Authorization": "Bearer ${TOKEN}"}}),
    "codex": ("mcp_servers", {"url": URL, "bearer_token_env_var": "TOKEN"}),
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches this user's own clients."""
    for variable in ("XDG_CONFIG_HOME", "CODEX_HOME", "APPDATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")


def told(*args: str) -> dict[str, Any]:
    ran = sandgate("client", *args, "--format", "json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def read(file: str | Path) -> Any:
    text = Path(file).read_text(encoding="utf-8")
    return tomllib.loads(text) if str(file).endswith(".toml") else jsonc.parse(text)


@pytest.mark.parametrize("client", WRITTEN)
def test_each_client_gets_its_own_form_with_a_reference_to_the_token(client: str) -> None:
    section, entry = WRITTEN[client]
    shown = told("print", client, "--token-env", "TOKEN")
    assert (shown["section"], shown["entry"]) == (section, entry)
    assert not Path(shown["file"]).exists()
    file = told("connect", client, "--token-env", "TOKEN")["file"]
    assert read(file) == {section: {"sandgate": entry}}
    assert (file, Path(file).stat().st_mode & 0o777) == (shown["file"], 0o600)


@pytest.mark.parametrize("client", CLIENTS)
def test_each_client_can_start_the_gateway_itself(client: str) -> None:
    entry = told("print", client, "--stdio", "files")["entry"]
    assert entry["args"] == ["stdio", "files"]
    assert Path(entry["command"]).is_absolute() or entry["command"] == "sandgate"


@pytest.mark.parametrize(
    ("client", "place"),
    [
        ("claude-code", "project/.mcp.json"),
        ("claude-desktop", "home/.config/Claude/claude_desktop_config.json"),
        ("cursor", "home/.cursor/mcp.json"),
        ("vscode", "project/.vscode/mcp.json"),
        ("gemini-cli", "home/.gemini/settings.json"),
        ("codex", "home/.codex/config.toml"),
        ("zed", "home/.config/zed/settings.json"),
    ],
)
@pytest.mark.skipif(os.uname().sysname != "Linux", reason="the places are those of Linux")
def test_each_client_has_its_own_place(client: str, place: str, tmp_path: Path) -> None:
    assert told("print", client, "--stdio", "files")["file"] == str(tmp_path / place)


SETTINGS = """\
// my settings
{
    "theme": "One Dark", /* dark */
    "context_servers": {
        // another one
        "other": {"command": "x", "args": [], "env": {"KEY": "value"}}, // keep me
        "sandgate": {"url": "http://old:1/mcp", "headers": {"X": "1"}, "timeout": 5},
    },
    "tabs": [1, 2, 3,], // the end
}
"""


def test_comments_order_and_unknown_keys_stay_and_there_is_a_backup(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(SETTINGS)
    file.chmod(0o640)
    done = told("connect", "zed", "--file", str(file))
    now = file.read_text()
    assert jsonc.parse(now)["context_servers"]["sandgate"] == {"url": URL, "timeout": 5}
    before, after = SETTINGS.splitlines(), now.splitlines()
    assert after[:6] == before[:6]
    assert after[-3:] == before[-3:]
    assert Path(done["backup"]).read_text() == SETTINGS
    assert file.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.glob("*settings*")) == [
        "settings.json",
        "settings.json.backup-1",
    ]


@pytest.mark.parametrize("client", CLIENTS)
def test_connecting_again_changes_nothing_and_removing_brings_back_what_was_there(
    client: str, tmp_path: Path
) -> None:
    file = tmp_path / ("config.toml" if client == "codex" else "config.json")
    text = 'model = "x"  # mine\n' if client == "codex" else '{\n  "mine": [1]\n}\n'
    file.write_text(text)
    options = ("connect", client, "--stdio", "files", "--file", str(file))
    assert told(*options)["changed"] is True
    once = file.read_text()
    assert told(*options) == {"file": str(file), "name": "sandgate", "changed": False, "backup": None}
    assert file.read_text() == once
    assert told(*options, "--remove")["changed"] is True
    section = CLIENTS[client].section
    assert {name: value for name, value in read(file).items() if name != section or value} == read_text(
        text, client
    )
    assert told(*options, "--remove")["changed"] is False


def read_text(text: str, client: str) -> Any:
    return tomllib.loads(text) if client == "codex" else jsonc.parse(text)


TOML = """\
model = "gpt-5"

[mcp_servers.sandgate]  # ours
url = "http://old:1/mcp"
startup_timeout_sec = 20

[mcp_servers.sandgate.http_headers]
X = "1"

[mcp_servers.other]
command = "x"  # keep me

[profiles."a b"]
model = '''
[mcp_servers.fake]
'''
"""


def test_a_toml_table_is_replaced_and_every_other_line_stays(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(TOML)
    told("connect", "codex", "--file", str(file), "--token-env", "TOKEN")
    now, was = read(file), tomllib.loads(TOML)
    entry = now["mcp_servers"].pop("sandgate")
    assert entry == {"url": URL, "bearer_token_env_var": "TOKEN", "startup_timeout_sec": 20}
    del was["mcp_servers"]["sandgate"]
    assert now == was
    assert TOML[TOML.index("[mcp_servers.other]") :] in file.read_text()


@pytest.mark.parametrize(
    ("client", "text", "said"),
    [
        ("cursor", '{"mcpServers": {"a": 1,, }}', ":1:24: a key and a colon are expected here: nothing was"),
        ("cursor", '{"mcpServers": []}', "an object is expected here"),
        ("cursor", '{"mcpServers": {}, "mcpServers": {}}', "stands here twice"),
        ("cursor", '{"a": 1} x', "nothing more is expected"),
        ("cursor", "[" * 5000, "nested too deeply"),
        ("codex", "x = [\n", "config.toml:2:1: Invalid value: nothing was changed"),
        ("codex", "a = 1\nx = = 2\n", "config.toml:2:5: Invalid value: nothing was changed"),
        ("codex", 'mcp_servers = {sandgate = {url = "x"}}', "change it by hand; nothing was changed"),
        ("codex", 'mcp_servers.sandgate.url = "x"', "change it by hand; nothing was changed"),
        ("codex", 'mcp_servers = "x"', "nothing was changed"),
    ],
)
def test_a_file_that_cannot_be_changed_without_a_doubt_is_left_alone(
    client: str, text: str, said: str, tmp_path: Path
) -> None:
    file = tmp_path / ("config.toml" if client == "codex" else "mcp.json")
    file.write_text(text)
    ran = sandgate("client", "connect", client, "--file", str(file))
    assert (ran.code, said in ran.err) == (2, True), ran.err
    assert file.read_text() == text
    assert [path.name for path in file.parent.glob("*backup*")] == []


def test_the_way_back_leads_to_the_very_file_that_was_changed(tmp_path: Path) -> None:
    file = tmp_path / "my settings.json"
    file.write_text('{"mcpServers": {}}')
    ran = sandgate("client", "connect", "cursor", "--file", str(file), "--name", "a b")
    (undo,) = [
        line.removeprefix("undo: sandgate ") for line in ran.out.splitlines() if line.startswith("undo:")
    ]
    assert sandgate(*shlex.split(undo)).code == 0
    assert read(file) == {"mcpServers": {}}


def test_a_token_in_clear_is_written_only_when_it_is_asked_for(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    refused = sandgate("client", "connect", "zed", "--token-env", "TOKEN")
    assert (refused.code, "--token-file" in refused.err) == (2, True)
    file = told("connect", "zed", "--token-file", str(token))["file"]
    assert read(file)["context_servers"]["sandgate"]["headers"] == {"Authorization": "Bearer s3cret"}
    assert Path(file).stat().st_mode & 0o777 == 0o600


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles.json", tmp_path / "mcp.json"
    real.write_text("{}")
    link.symlink_to(real)
    told("connect", "cursor", "--file", str(link))
    assert link.is_symlink()
    assert "sandgate" in real.read_text()


def test_what_makes_no_sense_is_refused_with_the_next_step() -> None:
    for args, said in [
        (("print", "emacs"), "there are: claude-code"),
        (("print", "claude-desktop"), "give --stdio PACK"),
        (("print", "cursor", "--url", "localhost"), "an address like"),
        (("print", "cursor", "--token-env", "A", "--token-file", "x"), "give one of"),
    ]:
        ran = sandgate("client", *args)
        assert (ran.code, said in ran.err) == (2, True), ran.err


@pytest.mark.parametrize(
    "text", ["{}", "{ }", "{\n}", "{/* c */}", "{// c\n}", '{"a":1}', '{"a":1,}', "\ufeff{}"]
)
@pytest.mark.parametrize("path", [["m"], ["m", "n"], ["m", "n", "o"]])
def test_a_member_can_be_put_anywhere_and_taken_out_again(text: str, path: list[str]) -> None:
    put = jsonc.set_member(text, path, {"x": [1]})
    expected: Any = {"x": [1]}
    for key in reversed(path):
        expected = {key: expected}
    assert jsonc.parse(put) == {**jsonc.parse(text), **expected}
    assert ("c */" in put or "// c" in put) == ("c" in text)
    assert jsonc.parse(jsonc.remove_member(put, path[:1])) == jsonc.parse(text)
    if "," not in text.replace('"a":1,}', ","):
        json.loads(put.removeprefix("\ufeff").replace("/* c */", "").replace("// c", ""))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('{"a": 1, // c\n"m": 2, "b": 3}', '{"a": 1, // c\n "b": 3}'),
        ('{"a": 1, // c\n"m": 2}', '{"a": 1 // c\n}'),
        ('{\n  "a": 1,\n  // mine\n  "m": 2\n}', '{\n  "a": 1\n  // mine\n}'),
        ('{\n  "m": 2, // mine\n  "b": 3\n}', '{\n   // mine\n  "b": 3\n}'),
        ('{"m": {"x": "}"}}', "{}"),
        ('{"b": {"m": 1}}', '{"b": {"m": 1}}'),
    ],
)
def test_what_is_taken_out_leaves_no_comment_that_swallows_the_rest(text: str, left: str) -> None:
    assert jsonc.remove_member(text, ["m"]) == left
    assert "m" not in jsonc.parse(left)
