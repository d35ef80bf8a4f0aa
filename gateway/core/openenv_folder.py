"""An OpenEnv environment folder for a toolpack: the text of every file but the pack's own; pure.

The environment is the gateway itself: `server/app.py` becomes `sandgate serve` on the copied pack, in
training mode, so calls there take the one path there is. Nothing of OpenEnv is needed to serve it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from gateway.core.json_types import JsonObject
from gateway.core.lock import Lock, PypiLock
from gateway.core.manifest import Egress, Manifest
from gateway.core.tasks import Task

__all__ = ["PACK_FOLDER", "SUMS_FILE", "Environment", "environment_files"]

PACK_FOLDER = "toolpack"
"""Where the pack is copied to."""
SUMS_FILE = "toolpack.sha256"
"""The hash of each of the pack's files; `server/app.py` serves nothing else."""

_MIB = 2**20
_GATEWAY_MB = 512
_PACKAGES_MB = 1024
_MAX_EPISODE = 3600.0
_PYTHON = re.compile(r"cpython-(\d)(\d+)-")
_DEFAULT_PYTHON = "3.12"


@dataclass(frozen=True, slots=True)
class Environment:
    """What is exported. `sums` are SHA-256 by a file's path in the pack.

    `wheel` is a file beside the Dockerfile, `version` sandgate's own; `hidden` are the pack's files that
    `openenv push` would leave behind.
    """

    manifest: Manifest
    tasks: Mapping[str, Task]
    lock: Lock
    sums: Mapping[str, str]
    version: str
    wheel: str | None = None
    hidden: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The environment's name, which is a Python name as well."""
        return self.manifest.name.replace("-", "_")

    @property
    def client(self) -> str:
        """The name of its client class."""
        return "".join(part.capitalize() for part in self.name.split("_")) + "Env"


def environment_files(env: Environment) -> dict[str, str]:
    """Return the files of the folder by their path in it, without the copied pack and the wheel."""
    return {
        "README.md": _card(env),
        "openenv.yaml": _yaml(_openenv(env)),
        "pyproject.toml": _pyproject(env),
        "Dockerfile": _dockerfile(env),
        "__init__.py": f'"""The environment {env.manifest.name}; its client is in `client`."""\n',
        "client.py": _CLIENT.replace("CLASS", env.client).replace("NAME", env.manifest.name),
        "server/__init__.py": '"""The environment\'s server."""\n',
        "server/app.py": _APP,
        SUMS_FILE: "".join(f"{digest}  {PACK_FOLDER}/{name}\n" for name, digest in env.sums.items()),
    }


def _yaml(document: JsonObject) -> str:
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)


def _openenv(env: Environment) -> JsonObject:
    manifest = env.manifest
    calls = [server.call_timeout or 30.0 for server in manifest.servers.values()]
    episode = manifest.env.time_limit or manifest.env.max_steps * max(calls)
    splits: dict[str, int] = {}
    for task in env.tasks.values():
        splits[task.split] = splits.get(task.split, 0) + 1
    capabilities: JsonObject = {"verifier": {"kind": "reward_channel"}, "task_api": bool(splits)}
    if splits:
        capabilities["declared_task_count"] = {**splits}
    needs = manifest.sandbox
    return {
        "spec_version": 1,
        "name": env.name,
        "version": manifest.version,
        "type": "space",
        "runtime": "docker",
        "port": 8000,
        "validation": {
            "reward": {
                "range": list(manifest.env.reward_range),
                "oracle_tolerance": 0.0,
                "floor_margin": 0.1,
            },
            "resources": {
                "cpu": needs.cpu,
                "memory_mb": math.ceil(needs.memory / _MIB) * len(manifest.servers) + _GATEWAY_MB,
                "disk_mb": math.ceil(needs.disk / _MIB) + _PACKAGES_MB,
                "episode_timeout_s": min(episode, _MAX_EPISODE),
            },
            "capabilities": capabilities,
            "types": {"tags": ["mcp", "tool-use"]},
        },
    }


def _pyproject(env: Environment) -> str:
    # A string of JSON is one of TOML.
    description = json.dumps(" ".join(env.manifest.description.split()), ensure_ascii=False)
    return (
        _PYPROJECT.replace("VERSION_OF_SANDGATE", env.version)
        .replace("NAME", env.name)
        .replace("VERSION", env.manifest.version)
        .replace("DESCRIPTION", description)
    )


def _dockerfile(env: Environment) -> str:
    programs = ["bubblewrap", "ca-certificates", "git"]
    if any(server.npm is not None for server in env.manifest.servers.values()):
        programs += ["nodejs", "npm"]
    wheel = f"COPY {env.wheel} .\n" if env.wheel else ""
    what = f"./{env.wheel}" if env.wheel else f"sandgate=={env.version}"
    return (
        _DOCKERFILE.replace("PYTHON", _python(env.lock))
        .replace("PROGRAMS", " ".join(programs))
        .replace("COPY_WHEEL\n", wheel)
        .replace("SANDGATE", what)
    )


def _python(lock: Lock) -> str:
    """Return the newest version of Python that the lock has hashes for."""
    tags = [
        tag
        for server in lock.servers.values()
        if isinstance(server.package, PypiLock)
        for tag in server.package.environments
    ]
    found = [(int(match[1]), int(match[2])) for match in map(_PYTHON.match, tags) if match]
    return "{}.{}".format(*max(found)) if found else _DEFAULT_PYTHON


def _card(env: Environment) -> str:
    manifest = env.manifest
    head: JsonObject = {
        "title": f"{manifest.name} (sandgate)",
        "emoji": "🧰",
        "colorFrom": "gray",
        "colorTo": "blue",
        "sdk": "docker",
        "app_port": 8000,
        "base_path": "/health",
        "pinned": False,
        "tags": ["openenv", "mcp", "sandgate"],
    }
    secrets = sorted({name for server in manifest.servers.values() for name in server.secrets})
    parts = [
        f"---\n{_yaml(head)}---\n\n# {manifest.name}\n\n{manifest.description}\n",
        _INTRODUCTION,
        _servers(env),
        _tasks(env),
        _START.replace("IMAGE", f"openenv-{manifest.name}")
        .replace("CLASS", env.client)
        .replace("NAME", env.name),
        _ISOLATION,
        _network(manifest),
    ]
    if secrets:
        variables = ", ".join(f"`SANDGATE_SECRET_{name}`" for name in secrets)
        parts.append(
            f"## Secrets\n\nIts servers start only with {variables}. They are in none of these files.\n"
        )
    parts.append(_hub(env))
    return "\n".join(parts)


def _servers(env: Environment) -> str:
    lines = ["## Tools", "", "| server | from | tools |", "|---|---|---|"]
    for name, server in env.manifest.servers.items():
        origin = " ".join(server.command) if server.command else str(getattr(server, server.source))
        tools = ", ".join(f"`{tool}`" for tool in sorted(env.lock.tools_of(name)))
        lines.append(f"| {name} | `{_cell(origin)}` | {tools} |")
    policy = f"`{PACK_FOLDER}/{env.manifest.policy}`" if env.manifest.policy else None
    lines += [
        "",
        f"Which calls run is said by {policy}." if policy else "It has no policy: every call is denied.",
    ]
    return "\n".join([*lines, ""])


def _tasks(env: Environment) -> str:
    if not env.tasks:
        return "## Tasks\n\nNone: an episode ends without a reward.\n"
    lines = ["## Tasks", "", "| task | split | prompt |", "|---|---|---|"]
    lines += [f"| {task.id} | {task.split} | {_cell(task.prompt)} |" for task in env.tasks.values()]
    low, high = env.manifest.env.reward_range
    return "\n".join([*lines, "", f"Rewards are between {low:g} and {high:g}.", ""])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _network(manifest: Manifest) -> str:
    need = manifest.sandbox.network
    if isinstance(need, Egress):
        hosts = ", ".join(f"`{host}`" for host in need.egress)
        said = f"They need {hosts}, and reach what the policy grants of that."
    else:
        said = "They have no network."
    return f"{said} The gateway fetches their packages at its first start, by the hashes in the lock.\n"


def _hub(env: Environment) -> str:
    lines = ["## On the Hub", "", _HUB]
    if env.wheel is None:
        lines += [
            f"The image installs sandgate=={env.version} by pip, so the index that is asked has to have it. "
            "`sandgate toolpack export --wheel FILE` takes a wheel along instead.",
            "",
        ]
    if env.hidden:
        names = ", ".join(f"`{PACK_FOLDER}/{name}`" for name in env.hidden)
        lines += [
            f"`openenv push` leaves files with such names behind: {names}. Without them nothing is served. "
            "Push this folder with `hf upload` or git instead.",
            "",
        ]
    return "\n".join(lines)


_INTRODUCTION = """\
A [toolpack](toolpack/) of MCP tool servers, served by sandgate as an environment with reset, step and
reward: each server runs in a sandbox, and a policy is asked about every call.
"""
_START = """\
## Start

```sh
docker build -t IMAGE .
docker run -p 127.0.0.1:8000:8000 -e ENV_TOKEN_SHA256=HASH \\
    --security-opt seccomp=unconfined --security-opt apparmor=unconfined \\
    --security-opt systempaths=unconfined IMAGE
```

`HASH` is what `sandgate auth hash` prints for a token of yours (`openssl rand -hex 32`). Who has the token
plays episodes; nobody else does. `SANDGATE_AUTH` names an auth file instead, for more than one token.

```python
from NAME_env.client import CLASS

with CLASS("http://127.0.0.1:8000", headers={"Authorization": "Bearer TOKEN"}).sync() as env:
    env.reset()
    print(env.list_tools())
```

Without a container: `pip install sandgate`, then `python server/app.py`. It listens on this machine only
and needs no token.
"""
_ISOLATION = """\
## Isolation

The container is not the sandbox. Inside it every tool server gets a sandbox of its own from bubblewrap:
namespaces, a system call filter, no capabilities. Bubblewrap needs user namespaces, and the default
profiles of Docker forbid those to what is in a container; hence the three options above. They loosen the
container, not the sandboxes in it. Where a host allows no user namespaces, the server does not start and
says so. It never runs tools without isolation instead. `sandgate doctor`, run inside, attacks the sandbox
and prints what held. Mostly a container may not write control groups: then CPU time has the container's
limit only, memory is limited for each process, and no server is forked ahead, so sessions start slower.
"""
_HUB = """\
The folder is complete: a Docker Space starts it as it is. Set the Space's secret `ENV_TOKEN_SHA256` first.
There is no web interface: `openenv push --no-interface`. Whether a Space's machine allows user namespaces is
for its operator to say; where it does not, the log of the Space shows why nothing was started.
"""
_CLIENT = '''\
"""The client of the environment NAME."""

from openenv.core.mcp_client import MCPToolClient

__all__ = ["CLASS"]


class CLASS(MCPToolClient):
    """Plays episodes of NAME: `reset(task=...)`, `call_tool(name, ...)`; the tool `submit` ends one."""
'''
_PYPROJECT = """\
[build-system]
requires = ["setuptools>=61"]
build-backend = "setuptools.build_meta"

[project]
name = "openenv-NAME"
version = "VERSION"
description = DESCRIPTION
requires-python = ">=3.11"
dependencies = ["sandgate==VERSION_OF_SANDGATE"]

# For client.py, in an environment of its own: openenv wants an older `mcp` than the server.
[project.optional-dependencies]
client = ["openenv>=0.10"]

[project.scripts]
server = "NAME_env.server.app:main"

[tool.setuptools]
packages = ["NAME_env", "NAME_env.server"]
package-dir = { "NAME_env" = ".", "NAME_env.server" = "server" }

[tool.setuptools.package-data]
NAME_env = ["toolpack.sha256", "toolpack/**/*", "toolpack/**/.*"]
"""
_DOCKERFILE = """\
FROM python:PYTHON-slim

# bubblewrap makes the sandboxes; the other programs are for tool servers and checks.
RUN apt-get update \\
    && apt-get install -y --no-install-recommends PROGRAMS \\
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/sandgate
COPY_WHEEL
RUN pip install --no-cache-dir SANDGATE

RUN useradd --create-home --uid 1000 user
USER user
ENV HOME=/home/user
WORKDIR /home/user/env
COPY --chown=user . .

EXPOSE 8000
HEALTHCHECK --start-period=120s \\
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health')"]
CMD ["python", "server/app.py", "--host", "0.0.0.0", "--port", "8000"]
"""
_APP = '''\
"""Serves the toolpack beside this folder: `sandgate serve` in training mode.

On another address than this machine's own, callers need a token. `ENV_TOKEN_SHA256` has its hash, or
`SANDGATE_AUTH` names an auth file.
"""

import argparse
import hashlib
import os
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACK = ROOT / "toolpack"
SUMS = ROOT / "toolpack.sha256"
AUTH = """\\
version: 1
tokens: [{{sha256: "{}", principal: trainer, roles: [agent, orchestrator]}}]
"""


def main() -> None:
    """Become the gateway; returns only by ending."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()
    check()
    command = [sys.executable, "-m", "gateway.cli", "serve", str(PACK), "--mode", "training", "--locked"]
    command += ["--host", args.host, "--port", str(args.port), *auth(os.environ.get("ENV_TOKEN_SHA256"))]
    os.execv(command[0], command)


def check() -> None:
    """End where a file of the pack is missing or another one than was exported."""
    for line in SUMS.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        file = ROOT / name
        if not file.is_file():
            sys.exit(f"{name} is missing: it was left behind when this folder was copied")
        if hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            sys.exit(f"{name} is not the file that was exported: export the toolpack again")


def auth(digest: str | None) -> list[str]:
    """Return the option that names who may call."""
    if not digest:
        return []
    if re.fullmatch("[0-9a-fA-F]{64}", digest) is None:
        sys.exit("ENV_TOKEN_SHA256 is not the SHA-256 of a token: 'sandgate auth hash' prints it")
    file = Path(tempfile.mkdtemp(prefix="sandgate-env-")) / "auth.yaml"
    file.write_text(AUTH.format(digest), encoding="utf-8")
    return ["--auth", str(file)]


if __name__ == "__main__":
    main()
'''
