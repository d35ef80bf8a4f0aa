"""`sandgate toolpack init`: a toolpack to start from, sound as it is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.options import FormatOption
from gateway.cli.output import Format, show
from gateway.errors import UsageError

__all__ = ["init"]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_MANIFEST = """\
apiVersion: sandgate/v1
name: NAME
version: 0.1.0
description: One tool of my own.
servers:
  hello:
    command: [python, servers/hello.py]
sandbox: {network: none, memory: 256Mi, pids: 32, disk: 64Mi}
workspace: {path: /workspace}
policy: policy.yaml
env: {tasks: tasks/, max_steps: 10}
"""
_SERVER = '''\
from mcp.server import MCPServer

server = MCPServer("hello")


@server.tool()
def greet(name: str) -> str:
    """Say hello."""
    return f"hello {name}"


server.run("stdio")
'''
_POLICY = """\
version: 1
rules:
  - {id: greet, allow: hello.greet, args: {name: {max_len: 40}}}
tests:
  - {call: hello.greet, args: {name: world}, expect: allow, rule: greet}
  - {call: hello.greet, args: {name: [world]}, expect: deny}
"""
_TASK = """\
id: greet
split: train
prompt: Greet the world with the tool greet, and answer with what it says.
rubric:
  - weight: 0.5
    check: {tool_called: greet}
  - weight: 0.5
    check: {answer_matches: "(?i)hello world"}
"""
_README = """\
# NAME

A toolpack for sandgate: which servers, what they need, what a policy lets through, and tasks.

    sandgate toolpack lock NAME
    sandgate call NAME greet --args '{"name": "world"}'
    sandgate serve NAME
"""
_FILES = {
    "toolpack.yaml": _MANIFEST,
    "servers/hello.py": _SERVER,
    "policy.yaml": _POLICY,
    "tasks/greet.yaml": _TASK,
    "README.md": _README,
}


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder; its name is the pack's.")],
    form: FormatOption = Format.TEXT,
) -> None:
    """Write a toolpack to start from: one server, a policy with tests, one task."""
    name = folder.resolve().name
    if _NAME.fullmatch(name) is None:
        raise UsageError(f"a pack is named in small letters, digits and '-', up to 32 of them: not {name!r}")
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"{folder} is there already and not empty: name a new folder")
        for place, text in _FILES.items():
            file = folder / place
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.replace("NAME", name), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from None
    next_steps = [
        f"sandgate toolpack lock {folder}",
        f'sandgate call {folder} greet --args \'{{"name": "world"}}\'',
        f"sandgate env play {folder}",
    ]
    text = "\n".join([f"{folder}: one server, a policy, a task", *(f"next: {step}" for step in next_steps)])
    show(form, {"pack": name, "folder": str(folder), "files": list(_FILES), "next": next_steps}, text)
