"""The stock OpenEnv 0.10 command and client on an exported folder: it is accepted, started and played."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import run_sandgate
from tests.support.venvs import client_venv, run_client

REQUIREMENTS = ("openenv==0.10.0",)
TOKEN = "a token that only this test knows"

PLAYER = r"""
import json, sys
sys.path.insert(0, sys.argv[1])
from git_env.client import GitEnv

headers = {"Authorization": "Bearer " + sys.argv[3]}
with GitEnv(sys.argv[2], headers=headers).sync() as env:
    start = env.reset(task="fix-typo")
    tools = [tool.name for tool in env.list_tools()]
    status = env.call_tool("git_status", repo_path="/workspace")
    env.call_tool("submit", answer="done")
print(json.dumps([start.done, tools, str(status)]))
"""
STRANGER = r"""
import sys
from openenv.core.mcp_client import MCPToolClient

try:
    MCPToolClient(sys.argv[1]).sync().connect()
except Exception as error:
    print(error)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "git_env"
    made = run_sandgate("toolpack", "export", "git", "--to", "openenv", "--out", str(out))
    assert made.returncode == 0, made.stderr
    return out


def openenv(*args: str) -> subprocess.CompletedProcess[str]:
    """Run the stock command `openenv` with its own interpreter."""
    program = client_venv("openenv", REQUIREMENTS).with_name("openenv")
    return subprocess.run([program, *args], capture_output=True, text=True, check=False, timeout=240)


@contextmanager
def started(folder: Path, state: Path, *args: str, **environ: str) -> Generator[str]:
    """Start `server/app.py` as it is, on a free port, and yield its URL once it is ready."""
    process = subprocess.Popen(
        [sys.executable, "server/app.py", "--port", "0", *args],
        cwd=folder,
        env={**os.environ, "XDG_STATE_HOME": str(state), **environ},  # noqa: TID251 - a child's environment
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        said = ""
        for line in process.stderr:
            said += line
            if "ready on " in line:
                break
        else:
            raise AssertionError(f"ended before it was ready:\n{said}")
        yield line.split("ready on ")[1].strip()
    finally:
        process.terminate()
        process.wait(60)
        process.stderr.close()
    assert process.returncode == 0


def test_the_stock_validator_accepts_the_folder(folder: Path) -> None:
    ran = openenv("validate", str(folder), "--json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = json.loads(ran.stdout)
    assert {check["check_id"]: check["status"] for check in report["results"]}["static.manifest"] == "pass"
    assert not [check for check in report["results"] if check["status"] in {"fail", "error"}]


def test_its_server_passes_the_stock_validators_running_checks(folder: Path, tmp_path: Path) -> None:
    with started(folder, tmp_path) as url:
        ran = openenv("validate", "--url", url, "--timeout", "60", "--json")
    report = json.loads(ran.stdout)
    assert (ran.returncode, report["passed"], report["summary"]["failed_criteria"]) == (0, True, [])
    assert report["mode"] == "simulation"


def test_its_own_client_plays_with_the_token_that_the_server_was_given(folder: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    python = client_venv("openenv", REQUIREMENTS)
    with started(folder, tmp_path, "--host", "0.0.0.0", ENV_TOKEN_SHA256=digest) as url:
        url = url.replace("0.0.0.0", "127.0.0.1")
        done, tools, status = json.loads(run_client(python, PLAYER, str(folder.parent), url, TOKEN))
        refused = run_client(python, STRANGER, url)
    assert done is False
    assert "git_status" in tools
    assert "Repository status" in status
    assert "401" in refused


def test_the_folder_is_one_that_the_stock_push_takes(folder: Path) -> None:
    script = "import sys; from pathlib import Path\n"
    script += "from openenv.cli._cli_utils import validate_env_structure\n"
    script += "print(validate_env_structure(Path(sys.argv[1])))"
    told = run_client(client_venv("openenv", REQUIREMENTS), script, str(folder))
    assert told.strip() == "['Recommended directory missing: outputs/']"
