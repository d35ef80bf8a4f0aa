"""Probes the way out: a sandbox that was granted one host reaches it, and nothing else by any spelling."""

from __future__ import annotations

import json
import socket
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import cast

import anyio

from gateway.core.egress import Verdict as Decision
from gateway.core.policy.egress import parse_host_rule
from gateway.errors import SandboxError
from gateway.sandbox.contract import Attempt, Mount, Sandbox, SandboxDriver, SandboxSpec, WorkspaceSpec
from gateway.sandbox.egress import Account, Door, EgressGate, EgressSettings
from gateway.sandbox.runtimes import python_runtime

from . import bombs

__all__ = ["way_out"]

CODE = "/opt/probe"
SECONDS = 30.0
ADDRESSES = {
    "granted.example": ["127.0.0.1"],
    "metadata.granted.example": ["169.254.169.254"],
    "private.granted.example": ["10.0.0.1"],
    "six.granted.example": ["::1"],
    "mapped.granted.example": ["::ffff:169.254.169.254"],
}
REFUSED = (
    *("metadata.granted.example:{0}", "private.granted.example:{0}", "six.granted.example:{0}"),
    *("mapped.granted.example:{0}", "unknown.granted.example:{0}", "granted.example:1", "localhost:{0}"),
    *("127.0.0.1:{0}", "127.1:{0}", "0x7f.1:{0}", "2130706433:{0}", "[::1]:{0}", "169.254.169.254:80"),
    *("granted.example.:{0}", "evilgranted.example:{0}", "granted.example.evil.test:{0}"),
)

LOOKED_UP = "past.the.proxy.example"
PAST = {("tcp", "169.254.169.254"), ("udp", "169.254.169.254"), ("dns", LOOKED_UP)}
"""What is tried past the proxy, and has to be told where a driver tells at all; IPv6 may be switched off."""

Verdict = tuple[bool, str]


@dataclass
class _Notes:
    """What would be in the ledger."""

    decisions: list[Decision] = field(default_factory=list[Decision])
    ends: list[str] = field(default_factory=list[str])
    past: list[Attempt] = field(default_factory=list[Attempt])
    unheard: str | None = None

    async def decided(self, verdict: Decision) -> None:
        """Keep a decision."""
        self.decisions.append(verdict)

    async def closed(self, verdict: Decision, kind: str, ms: float, sent: int, received: int) -> None:
        """Keep how a connection ended."""
        self.ends.append(kind)


async def _resolve(host: str, port: int) -> Sequence[str]:
    if host not in ADDRESSES:
        raise OSError("no such name")
    return ADDRESSES[host]


async def way_out(driver: SandboxDriver) -> dict[str, Verdict]:
    """Return the verdicts of `egress_granted`, `egress_refused` and `past_the_proxy`."""
    with _listener() as port:
        rules = [parse_host_rule(f"{host}:{port}") for host in ("granted.example", "*.granted.example")]
        notes = _Notes()
        lines = [f"CONNECT {target.format(port)} HTTP/1.1" for target in ("granted.example:{0}", *REFUSED)]
        lines.append(f"GET http://granted.example:{port}/ HTTP/1.1")
        answers: list[str] = []
        passed: list[str] = []
        gate = EgressGate(EgressSettings((ip_network("127.0.0.0/8"),)), resolver=_resolve)
        async with gate, anyio.create_task_group() as tasks:
            door = Door(gate, rules, notes, Account(10**6))
            await tasks.start(door.serve)
            try:
                answers, passed = await _ask(driver, door, lines, notes)
            except SandboxError as error:
                answers, passed = [str(error)] * len(lines), [str(error)]
            finally:
                await door.aclose()
        return _judged(lines, answers, notes) | {"past_the_proxy": _judged_past(passed, notes)}


def _judged_past(passed: list[str], notes: _Notes) -> Verdict:
    if passed:
        return False, f"passed: {', '.join(passed)}"
    if notes.unheard is not None:
        return True, f"refused, and not recorded: {notes.unheard}"
    seen = {("dns", each.name) if each.name else (each.protocol, each.address) for each in notes.past}
    unseen = sorted(what for what, _ in PAST - seen)
    return not unseen, f"refused, and NOT recorded: {', '.join(unseen)}" if unseen else "refused and recorded"


def _judged(lines: list[str], answers: list[str], notes: _Notes) -> dict[str, Verdict]:
    passed = [line for line, answer in zip(lines, answers, strict=True) if answer == "200"]
    wrong = [line for line in passed if line != lines[0]]
    recorded = len(notes.decisions) == len(lines)
    said = f"{len(lines) - 1} attempts refused" + (" and recorded" if recorded else ", and NOT recorded")
    return {
        "egress_granted": (lines[0] in passed, f"the proxy answered {answers[0]}"),
        "egress_refused": (not wrong and recorded, f"passed: {', '.join(wrong)}" if wrong else said),
    }


async def _ask(
    driver: SandboxDriver, door: Door, lines: list[str], notes: _Notes
) -> tuple[list[str], list[str]]:
    runtime = python_runtime()
    argv = (runtime.argv0, "-I", "-S", f"{CODE}/through.py", json.dumps(lines), LOOKED_UP)
    mounts = (*runtime.mounts, Mount(Path(bombs.__file__).parent, CODE))
    workspace = await driver.open_workspace(WorkspaceSpec())
    try:
        sandbox = await driver.acquire(
            door.fit(SandboxSpec("probe-egress", argv, runtime.env, mounts)), workspace
        )
        notes.unheard = sandbox.notice(notes.past.append)
        with anyio.fail_after(SECONDS):
            answers = await _answers(sandbox)
        await sandbox.kill()  # what it tried is told before its end is
        return answers
    finally:
        await workspace.aclose()


async def _answers(sandbox: Sandbox) -> tuple[list[str], list[str]]:
    output = b""
    while not output.endswith(b"\n"):
        try:
            output += await sandbox.receive()
        except anyio.EndOfStream:
            raise SandboxError(f"it did not run: {sandbox.stderr_tail()[-300:]}") from None
    answers, passed = cast(tuple[list[str], list[str]], json.loads(output))
    return answers, passed


@contextmanager
def _listener() -> Generator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=8) as server:
        yield server.getsockname()[1]
