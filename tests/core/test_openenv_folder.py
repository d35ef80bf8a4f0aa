"""The files of an OpenEnv environment folder, from manifest, tasks and lock alone."""

from __future__ import annotations

import ast
import json
import tomllib
from dataclasses import replace

import pytest
import yaml

from gateway.core.lock import Lock, PypiLock, ServerLock
from gateway.core.manifest import parse_manifest
from gateway.core.openenv_folder import SUMS_FILE, Environment, environment_files
from gateway.core.tasks import read_task

MANIFEST = """\
apiVersion: sandgate/v1
name: my-pack
version: 1.2.0
description: 'Says "hello" | C:\\new.'
servers:
  hello: {pypi: hello==1.0, call_timeout: 10s, secrets: [HELLO_TOKEN]}
sandbox: {memory: 256Mi, disk: 64Mi, cpu: 0.5}
policy: policy.yaml
env: {tasks: tasks/, max_steps: 4, reward_range: [-1, 1]}
"""
TASK = 'id: greet\nsplit: test\nprompt: "Greet | them."\nrubric: [{check: {tool_called: greet}}]\n'


def environment(old: str = "", new: str = "") -> Environment:
    """Return the environment of the manifest above, with `new` in the place of `old`."""
    assert old in MANIFEST
    text = MANIFEST.replace(old, new) if old else MANIFEST
    task = read_task(TASK, "greet.yaml")[0]
    package = PypiLock(
        name="hello",
        version="1.0",
        environments={"cpython-311-linux-x86_64": {}, "cpython-39-linux-x86_64": {}},
    )
    lock = Lock(servers={"hello": ServerLock(launch=(), package=package, tools={"greet": "0" * 64})})
    manifest = parse_manifest(text, "toolpack.yaml")
    return Environment(manifest, {task.id: task}, lock, {"toolpack.yaml": "f" * 64}, "0.1.0")


def test_the_environment_declares_what_the_pack_says() -> None:
    told = yaml.safe_load(environment_files(environment())["openenv.yaml"])
    assert (told["name"], told["version"], told["port"]) == ("my_pack", "1.2.0", 8000)
    checked = told["validation"]
    assert checked["reward"]["range"] == [-1.0, 1.0]
    assert checked["resources"] == {
        "cpu": 0.5,
        "memory_mb": 256 + 512,
        "disk_mb": 64 + 1024,
        "episode_timeout_s": 40.0,
    }
    assert checked["capabilities"]["declared_task_count"] == {"test": 1}


def test_a_very_long_episode_is_declared_as_long_as_the_validator_takes() -> None:
    long = environment("max_steps: 4", "max_steps: 4000")
    told = yaml.safe_load(environment_files(long)["openenv.yaml"])
    assert told["validation"]["resources"]["episode_timeout_s"] == 3600.0


def test_the_card_names_tools_tasks_secrets_and_the_isolation_there_is() -> None:
    card = environment_files(environment())["README.md"]
    _, head, text = card.split("---\n", 2)
    assert yaml.safe_load(head)["sdk"] == "docker"
    assert "| hello | `hello==1.0` | `greet` |" in text
    assert "| greet | test | Greet \\| them. |" in text
    assert "`SANDGATE_SECRET_HELLO_TOKEN`" in text
    assert "It never runs tools without isolation instead." in text
    assert "hf upload" not in text


def test_files_that_a_push_would_leave_behind_are_named_in_the_card() -> None:
    card = environment_files(replace(environment(), hidden=("fixtures/.env",)))["README.md"]
    assert "`toolpack/fixtures/.env`" in card
    assert "hf upload" in card


def test_the_image_has_the_python_of_the_lock_and_the_programs_of_the_servers() -> None:
    plain = environment_files(environment())["Dockerfile"]
    assert plain.startswith("FROM python:3.11-slim\n")
    assert "RUN pip install --no-cache-dir sandgate==0.1.0\n" in plain
    assert "bubblewrap" in plain
    assert "nodejs" not in plain
    node = environment("pypi: hello==1.0", "npm: hello@1.0.0")
    assert "nodejs npm" in environment_files(node)["Dockerfile"]
    assert "installs sandgate==0.1.0 by pip" in environment_files(environment())["README.md"]
    files = environment_files(replace(environment(), wheel="sandgate-9-py3-none-any.whl"))
    assert "by pip" not in files["README.md"]
    taken = files["Dockerfile"]
    assert "COPY sandgate-9-py3-none-any.whl .\n" in taken
    assert "RUN pip install --no-cache-dir ./sandgate-9-py3-none-any.whl\n" in taken


def test_what_is_started_is_the_gateway_in_training_with_its_locked_pack() -> None:
    files = environment_files(environment())
    started = json.loads(files["Dockerfile"].rpartition("\nCMD ")[2])
    assert started == ["python", "server/app.py", "--host", "0.0.0.0", "--port", "8000"]
    for word in ('"gateway.cli", "serve"', '"training"', '"--locked"'):
        assert word in files["server/app.py"]
    assert files[SUMS_FILE] == f"{'f' * 64}  toolpack/toolpack.yaml\n"


def test_its_python_is_python_and_its_project_a_project() -> None:
    files = environment_files(environment())
    project = tomllib.loads(files["pyproject.toml"])["project"]
    assert project["description"] == 'Says "hello" | C:\\new.'
    assert (project["version"], project["dependencies"]) == ("1.2.0", ["sandgate==0.1.0"])
    assert project["scripts"] == {"server": "my_pack_env.server.app:main"}
    [client] = [node.name for node in ast.parse(files["client.py"]).body if isinstance(node, ast.ClassDef)]
    assert client == "MyPackEnv"


@pytest.mark.parametrize("name", ["__init__.py", "server/__init__.py", "server/app.py"])
def test_nothing_of_openenv_is_imported_to_serve_it(name: str) -> None:
    tree = ast.parse(environment_files(environment())[name])
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert "openenv" not in imported
    assert not [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != "pathlib"
    ]
