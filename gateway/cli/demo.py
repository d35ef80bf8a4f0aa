"""`sandgate demo`: the main job, on real input, with nothing mocked.

A gateway of its own process, two public MCP servers in sandboxes, and the two clients of
`examples/`, each a process of its own too. Everything that is printed is compared with what should
have come out; the exit code says whether it did.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gateway.cli.options import StateOption
from gateway.cli.output import printable
from gateway.errors import UsageError

if TYPE_CHECKING:
    from anyio.abc import Process

__all__ = ["demo"]

SERVE = ("serve", "files", "git", "--mode", "training", "--port", "0")
READY = "sandgate: ready on "
READY_SECONDS = 600.0
"""The first run installs the two servers."""
ALLOWED: tuple[str, Mapping[str, Any]] = ("git__git_status", {"repo_path": "/workspace"})
DENIED: tuple[str, Mapping[str, Any]] = ("files__read_text_file", {"path": "/workspace/.env"})
TASK = "fix-typo"
ACTIONS: tuple[Mapping[str, Any], ...] = (
    {
        "type": "call_tool",
        "tool_name": "git_add",
        "arguments": {"repo_path": "/workspace", "files": ["README.md"]},
    },
    {
        "type": "call_tool",
        "tool_name": "git_commit",
        "arguments": {"repo_path": "/workspace", "message": "Fix a typo in README.md"},
    },
    {"type": "submit", "answer": "The correction is committed."},
)


def demo(state: StateOption = None) -> None:
    """Serve the toolpacks files and git, let an MCP client and an env client at them, show the ledger.

    Takes a minute the first time, when the two servers are installed, and seconds afterwards. The
    ledger goes to a temporary folder unless --state names one. Exits with 1 if anything comes out
    other than it should.
    """
    import anyio

    if state is not None:
        ended = anyio.run(_demo, state.absolute())
    else:
        with tempfile.TemporaryDirectory(prefix="sandgate-demo-") as folder:
            ended = anyio.run(_demo, Path(folder))
    if ended.wrong:
        raise typer.Exit(1)


@dataclass(slots=True)
class _Story:
    """What is told, and what came out other than it should."""

    started: float
    wrong: list[str] = field(default_factory=list[str])

    def tell(self, text: str, milliseconds: float | None = None) -> None:
        took = "" if milliseconds is None else f"{milliseconds:9.1f} ms"
        print(printable(f"{text:<92}{took}".rstrip()), flush=True)

    def expect(self, what: str, holds: bool) -> None:
        if not holds:
            self.wrong.append(what)
            self.tell(f"  NOT AS EXPECTED: {what}")


async def _demo(state: Path) -> _Story:
    story = _Story(_now())
    story.tell("sandgate demo: two public MCP servers, each in a sandbox of its own; nothing is mocked")
    server, url = await _start(story, state)
    try:
        await _mcp_client(story, url)
        await _env_client(story, url)
    finally:
        code = await _stop(server)
    story.expect(f"the gateway exits with 0 on SIGTERM (it was {code})", code == 0)
    _ledger(story, state)
    verdict = "everything came out as it should" if not story.wrong else f"{len(story.wrong)} things are wrong"
    story.tell(f"\n{verdict}; {_now() - story.started:.1f} s in all")
    return story
