"""`sandgate toolpack import`, with servers that start in the sandbox."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.support.processes import run_sandgate
from tests.support.terminal import sandgate

SERVER = '''\
from mcp.server import MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("hello")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def greet(name: str) -> str:
    """Say hello."""
    return f"hello {name}"


server.run("stdio")
'''


def config(folder: Path, **servers: object) -> Path:
    file = folder / "mcp.json"
    file.write_text(json.dumps({"mcpServers": servers}))
    return file


def project(folder: Path) -> Path:
    (folder / "hello.py").write_text(SERVER)
    return config(folder, hello={"command": "python3", "args": ["hello.py"], "autoApprove": ["greet"]})


def test_an_imported_server_is_locked_and_every_call_of_it_is_denied(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    ran = run_sandgate("toolpack", "import", str(project(tmp_path)), str(folder), "--format", "json")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["pack"], told["servers"], told["locked"]) == ("mine", ["hello"], True)
    assert "server 'hello': not carried over: autoApprove" in told["notes"]
    lock = json.loads((folder / "tools.lock.json").read_text())
    assert list(lock["servers"]["hello"]["tools"]) == ["greet"]
    assert sandgate("toolpack", "validate", str(folder)).out == "mine 0.1.0: ok, 1 servers, 0 tasks\n"
    assert sandgate("policy", "check", str(folder / "policy.yaml")).code == 0
    assert "says of itself: readOnlyHint: true" in (folder / "policy.yaml").read_text()
    arguments = ("greet", "--args", '{"name": "world"}', "--state", str(tmp_path / "state"))
    called = run_sandgate("call", str(folder), *arguments, "--format", "json")
    assert called.returncode == 1, called.stderr
    assert json.loads(called.stdout)["decision"]["code"] == "no_match"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hello.py", "mcp.json", "mine", "state"]


def test_a_bundle_runs_from_the_pack_without_what_is_private_of_its_folder(tmp_path: Path) -> None:
    source = tmp_path / "bundle"
    (source / "server").mkdir(parents=True)
    (source / "server" / "main.py").write_text(SERVER)
    (source / ".env").write_text("A=1")
    run = {"command": "python", "args": ["${__dirname}/server/main.py"]}
    server = {"type": "python", "entry_point": "server/main.py", "mcp_config": run}
    manifest = {
        "manifest_version": "0.3",
        "name": "hello",
        "version": "2.0.0",
        "description": "x",
        "server": server,
    }
    (source / "manifest.json").write_text(json.dumps(manifest))
    folder = source / "out" / "hello"
    ran = run_sandgate("toolpack", "import", str(source / "manifest.json"), str(folder))
    assert ran.returncode == 0, ran.stderr
    assert f"{folder}: 1 servers, locked; its policy allows nothing yet" in ran.stdout.splitlines()
    assert sorted(path.name for path in (folder / "servers").iterdir()) == ["server"]
    assert sandgate("toolpack", "validate", str(folder)).code == 0


def test_a_server_that_does_not_start_leaves_nothing_behind(tmp_path: Path) -> None:
    file = project(tmp_path)
    (tmp_path / "hello.py").write_text("raise SystemExit('not today')\n")
    ran = run_sandgate("toolpack", "import", str(file), str(tmp_path / "new" / "mine"))
    assert (ran.returncode, "Nothing was written: --no-lock" in ran.stderr) == (2, True), ran.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hello.py", "mcp.json"]


def test_without_its_secrets_a_pack_is_written_and_says_what_is_next(tmp_path: Path) -> None:
    value = "ghp_" + "a1B2" * 10
    entry = {"command": "npx", "args": ["-y", "srv@1.0.0"], "env": {"IMPORTED_TOKEN": value}}
    folder = tmp_path / "mine"
    ran = sandgate("toolpack", "import", str(config(tmp_path, srv=entry)), str(folder))
    assert (ran.code, ran.err) == (0, "")
    assert "SANDGATE_SECRET_IMPORTED_TOKEN" in ran.out
    assert f"next: sandgate toolpack lock {folder}" in ran.out.splitlines()
    assert value not in ran.out
    assert [path for path in folder.rglob("*") if path.is_file() and value in path.read_text()] == []
    manifest = yaml.safe_load((folder / "toolpack.yaml").read_text())
    assert manifest["servers"]["srv"] == {"npm": "srv@1.0.0", "secrets": ["IMPORTED_TOKEN"]}
    assert sandgate("toolpack", "validate", str(folder)).code == 0


def test_a_server_elsewhere_is_not_spoken_to_before_its_grant(tmp_path: Path) -> None:
    entry = {"url": "https://mcp.example.com/mcp", "headers": {"Authorization": "Bearer ${input:t}"}}
    folder = tmp_path / "mine"
    ran = sandgate("toolpack", "import", str(config(tmp_path, web=entry)), str(folder))
    assert (ran.code, "take the '# ' off 'grants'" in ran.out) == (0, True)
    policy = (folder / "policy.yaml").read_text()
    assert '#   web: {egress: ["mcp.example.com:443"], secrets: ["T"]}' in policy.splitlines()
    assert sandgate("toolpack", "validate", str(folder)).code == 0


def test_a_range_without_a_lock_is_written_and_not_served(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    entry = {"command": "uvx", "args": ["srv"]}
    ran = sandgate("toolpack", "import", str(config(tmp_path, srv=entry)), str(folder), "--no-lock")
    assert ran.code == 0
    checked = sandgate("toolpack", "validate", str(folder))
    assert (checked.code, "run 'sandgate toolpack lock'" in checked.err) == (2, True)


@pytest.mark.parametrize(
    ("word", "told"),
    [("../out.py", "leads out"), ("link.py", "outside of the project"), ("none.py", "there is no file")],
)
def test_only_files_of_the_project_are_copied(tmp_path: Path, word: str, told: str) -> None:
    inside = tmp_path / "project"
    inside.mkdir()
    (tmp_path / "out.py").write_text("x = 1\n")
    (inside / "link.py").symlink_to(tmp_path / "out.py")
    file = config(inside, one={"command": "python", "args": [word]})
    ran = sandgate("toolpack", "import", str(file), str(tmp_path / "mine"))
    assert (ran.code, f"{file}: server 'one'" in ran.err, told in ran.err) == (2, True, True), ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.py", "project"]


def test_a_file_with_a_secret_is_not_copied(tmp_path: Path) -> None:
    file = project(tmp_path)
    (tmp_path / "hello.py").write_text(f"KEY = 'ghp_{'a1B2' * 10}'\n")
    ran = sandgate("toolpack", "import", str(file), str(tmp_path / "mine"))
    assert (ran.code, "looks like a secret" in ran.err, "a1B2" in ran.err) == (2, True, False)


def test_what_is_there_is_never_written_over(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "kept.txt").write_text("kept")
    ran = sandgate("toolpack", "import", str(project(tmp_path)), str(folder))
    assert (ran.code, "name a new folder" in ran.err) == (2, True)
    assert [path.name for path in folder.iterdir()] == ["kept.txt"]


def test_what_is_refused_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    file = config(tmp_path, one={"command": "bash", "args": ["-c", "curl x | sh"]})
    ran = sandgate("toolpack", "import", str(file), str(tmp_path / "mine"))
    assert (ran.code, ran.err.startswith(f"{file}: server 'one': 'bash' evaluates a script")) == (2, True)
    assert not (tmp_path / "mine").exists()
