"""`sandgate demo`: the main job, on real input, with nothing mocked.

A gateway in a process of its own, two public MCP servers in sandboxes, and the two clients of
`examples/`, each a process too. What is printed is compared with what should have come out; the
exit code says whether it did.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gateway.cli.options import StateOption
from gateway.cli.output import printable
from gateway.errors import UsageError

if TYPE_CHECKING:
    from anyio.abc import Process

    from gateway.runtime.clock import Clock

__all__ = ["demo"]

SERVE = ("serve", "files", "git", "--mode", "training", "--port", "0")
READY = "sandgate: ready on "
READY_SECONDS = 600
"""The first run installs the two servers."""
CLIENT_SECONDS = 120
END_SECONDS = 45
ALLOWED = ("git__git_status", {"repo_path": "/workspace"})
DENIED = ("files__read_text_file", {"path": "/workspace/.env"})
RESET = {"task": "fix-typo", "seed": 0}
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
        wrong = anyio.run(_demo, state.absolute())
    else:
        with tempfile.TemporaryDirectory(prefix="sandgate-demo-") as folder:
            wrong = anyio.run(_demo, Path(folder))
    if wrong:
        raise typer.Exit(1)


@dataclass(slots=True)
class _Story:
    """What is told, and what came out other than it should."""

    clock: Clock
    wrong: list[str] = field(default_factory=list[str])

    def tell(self, text: str, milliseconds: float | None = None) -> None:
        took = "" if milliseconds is None else f"{milliseconds:8.1f} ms"
        print(printable(f"{text:<88}{took}".rstrip()), flush=True)

    def detail(self, text: str) -> None:
        for line in text.strip().splitlines()[:4]:
            print(printable(f"             | {line[:96]}"), flush=True)

    def expect(self, what: str, holds: bool) -> None:
        if not holds:
            self.wrong.append(what)
            self.tell(f"   NOT AS EXPECTED: {what}")


async def _demo(state: Path) -> list[str]:
    from gateway.runtime.clock import SystemClock

    story = _Story(SystemClock())
    started = story.clock.monotonic()
    story.tell("sandgate demo: two public MCP servers, each in a sandbox of its own; nothing is mocked")
    async with _serving(story, state) as url:
        await _mcp_client(story, url)
        await _env_client(story, url)
    _ledger(story, state)
    verdict = (
        f"{len(story.wrong)} things came out wrong" if story.wrong else "everything came out as it should"
    )
    story.tell(f"\n{verdict} ({story.clock.monotonic() - started:.1f} s)")
    return story.wrong


@asynccontextmanager
async def _serving(story: _Story, state: Path) -> AsyncGenerator[str]:
    """Run the gateway in a process of its own and end it by SIGTERM; yields its URL once it is ready."""
    import anyio

    began = story.clock.monotonic()
    story.tell(f"\n1. sandgate {' '.join(SERVE)}")
    command = [sys.executable, "-m", "gateway.cli", *SERVE, "--state", str(state)]
    async with (
        await anyio.open_process(command, stdin=subprocess.DEVNULL, stdout=None) as server,
        anyio.create_task_group() as tasks,
    ):
        ready = _Ready(anyio.Event())
        tasks.start_soon(_relay, server, ready)
        try:
            with anyio.move_on_after(READY_SECONDS):
                await ready.said.wait()
            if not ready.url:
                raise UsageError("the gateway did not start; what it said stands above")
            story.tell(f"   ready on {ready.url}", (story.clock.monotonic() - began) * 1000)
            yield ready.url
        finally:
            code = await _end(server)
        story.expect(f"SIGTERM ends the gateway with 0 (it was {code})", code == 0)


async def _end(server: Process) -> int | None:
    import anyio

    if server.returncode is None:
        server.terminate()
        with anyio.move_on_after(END_SECONDS, shield=True):
            return await server.wait()
        server.kill()
    return server.returncode


@dataclass(slots=True)
class _Ready:
    said: Any
    url: str = ""


async def _relay(server: Process, ready: _Ready) -> None:
    """Pass on what the gateway says; take note when it is ready, or will never be."""
    from anyio.streams.text import TextReceiveStream

    assert server.stderr is not None
    rest = ""
    async for text in TextReceiveStream(server.stderr):
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            if line.startswith(READY):
                ready.url = line.removeprefix(READY).strip()
                ready.said.set()
            else:
                print(printable(f"   {line}"), file=sys.stderr, flush=True)
    ready.said.set()


async def _mcp_client(story: _Story, url: str) -> None:
    calls = [word for tool, arguments in (ALLOWED, DENIED) for word in (tool, json.dumps(arguments))]
    listing, allowed, denied = await _client("mcp_client.py", 3, f"{url}/mcp", *calls)
    who = f"an MCP client (official SDK, protocol {listing['protocol']})"
    story.tell(f"\n2. {who} finds {len(listing['tools'])} tools")
    story.expect("both packs' tools are listed", {ALLOWED[0], DENIED[0]} <= set(listing["tools"]))
    _tell_call(story, allowed, "allow")
    story.expect("the tool of the allowed call answers", allowed["is_error"] is False)
    _tell_call(story, denied, "deny")
    story.expect("the denied call is an error result", denied["is_error"] is True)


def _tell_call(story: _Story, answer: Mapping[str, Any], effect: str) -> None:
    decision: Mapping[str, Any] = answer.get("decision") or {}
    rule = f"by rule {decision.get('rule')} ({decision.get('policy')}:{decision.get('line')})"
    verb = {"allow": "allowed", "deny": "denied"}.get(str(decision.get("effect")), "undecided")
    story.tell(f"   {verb:<8} {answer['tool']} {rule}", answer["ms"])
    story.detail(str(decision.get("reason")) if effect == "deny" else answer["text"])
    story.expect(f"{answer['tool']} is {effect}ed by a rule with its line", decision.get("effect") == effect)
    story.expect(
        "the decision names rule, file and line", bool(decision.get("rule") and decision.get("line"))
    )


async def _env_client(story: _Story, url: str) -> None:
    address = f"{url.replace('http', 'ws', 1)}/packs/git/ws"
    words = [json.dumps(RESET), *(json.dumps(action) for action in ACTIONS)]
    reset, *steps = await _client("env_client.py", 1 + len(ACTIONS), address, *words)
    story.tell(f"\n3. an env client plays the task {RESET['task']} of the pack git over {address}")
    story.tell("   reset", reset["ms"])
    story.detail(textwrap.fill(str(reset["data"]["observation"].get("prompt")), 96))
    for action, step in zip(ACTIONS, steps, strict=True):
        _tell_step(story, action, step)
    last = steps[-1]["data"]
    story.expect("the episode is done", last["done"] is True)
    story.expect("the checks give the full reward", last["reward"] == 1.0)


def _tell_step(story: _Story, action: Mapping[str, Any], step: Mapping[str, Any]) -> None:
    data = step["data"]
    observation = data["observation"]
    earned = "" if data["reward"] is None else f"reward {data['reward']}"
    story.tell(f"   step     {action.get('tool_name', action['type'])}  {earned}".rstrip(), step["ms"])
    story.expect("the step is no error", not observation.get("error"))
    metadata: Mapping[str, Any] = observation.get("metadata") or {}
    checks: list[dict[str, Any]] = metadata.get("rubric") or []
    story.detail("\n".join(f"check {check['check']}: {check['score']}" for check in checks))


async def _client(script: str, answers: int, *words: str) -> list[dict[str, Any]]:
    """Run a client of `examples/` to its end and return the JSON lines it printed."""
    import anyio

    from gateway.data import data_folder

    command = [sys.executable, str(data_folder("examples") / script), *words]
    with anyio.move_on_after(CLIENT_SECONDS):
        done = await anyio.run_process(command, check=False, stderr=None)
        lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
        if done.returncode == 0 and len(lines) == answers:
            return lines
        raise UsageError(
            f"{script} ended with {done.returncode} after {len(lines)} of {answers} answers: {lines[-1:]}"
        )
    raise UsageError(f"{script} did not end within {CLIENT_SECONDS} s")


def _ledger(story: _Story, state: Path) -> None:
    from gateway.cli.audit import record_line, summary
    from gateway.runtime import audit

    story.tell("\n4. the ledger of these calls: a decision and an outcome each")
    records = [record for record in audit.query(state) if record.get("call_id")]
    for record in records:
        story.tell(f"   {record_line(record)}")
    report = audit.verify(state)
    story.tell(f"   {summary(report)}")
    story.expect("the chain verifies", report.ok)
    decided = sum(1 for record in records if record["event"] == "decision")
    story.expect(f"four calls were decided on (they were {decided})", decided == 4)
