"""The official MCP conformance suite: runs it against a URL and reads what it says.

`python -m tests.conformance.suite` runs it against the reference server directly and through the
gateway, and prints the table of scenarios; exit 1 where the gateway loses one.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

from tests.support.gateways import PACKS
from tests.support.node_packages import node_folder, run_node
from tests.support.processes import serving

__all__ = ["REQUIREMENTS", "Report", "both", "direct", "lost", "run_suite", "table", "through_the_gateway"]

SUITE = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
REQUIREMENTS = ("2025-11-25", "2026-07-28")

_LINE = re.compile(r"^([✓✗]) ([a-z0-9-]+): (\d+) passed, (\d+) failed", re.MULTILINE)
_UNSCORED = re.compile(r"^ {2}[✓✗] ([a-z0-9-]+) \(", re.MULTILINE)


@dataclass(frozen=True)
class Report:
    """What one run says: scenarios that count, and which of all passed."""

    scored: tuple[str, ...]
    passed: frozenset[str]
    output: str

    @property
    def score(self) -> int:
        """How many of those that count passed."""
        return sum(name in self.passed for name in self.scored)


def run_suite(url: str, requirements: str) -> Report:
    """Run the scenarios that a revision of the specification requires."""
    folder = node_folder("conformance", [SUITE])
    arguments = ("server", "--url", url, "--requirements", requirements)
    done = run_node(folder, "conformance", *arguments, timeout=300)
    lines = _LINE.findall(done.stdout)
    assert lines, f"the suite told nothing\n{done.stdout[-2_000:]}\n{done.stderr[-2_000:]}"
    unscored = set(_UNSCORED.findall(done.stdout))
    names = tuple(name for _, name, _, _ in lines if name not in unscored)
    passed = frozenset(name for mark, name, _, _ in lines if mark == "✓")
    return Report(names, passed, done.stdout)


@contextmanager
def direct() -> Generator[str]:
    """Serve the reference server over HTTP, nothing in between; yields its URL."""
    server = PACKS / "everything" / "servers" / "everything.py"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen([sys.executable, str(server), "--port", str(port)])
    try:
        _await_port(port)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def through_the_gateway(folder: Path) -> Generator[str]:
    """Serve the same server in a sandbox, with a policy that allows what the suite does."""
    pack = folder / "everything"
    shutil.copytree(PACKS / "everything", pack)
    with serving(str(pack), "--state", str(folder / "state")) as served:
        url = f"{served.url}/mcp"
        _start_servers(url)
        yield url


def both(url: str) -> dict[str, Report]:
    """Run both revisions' requirements against one URL, at the same time."""
    with ThreadPoolExecutor() as pool:
        reports = pool.map(partial(run_suite, url), REQUIREMENTS)
        return dict(zip(REQUIREMENTS, reports, strict=True))


def table(direct: dict[str, Report], gateway: dict[str, Report]) -> str:
    """Return a line for each scenario, with how it ended on both ways."""
    lines = [f"{'scenario':<50}{'direct':<10}gateway"]
    for requirements in REQUIREMENTS:
        ours, theirs = gateway[requirements], direct[requirements]
        lines.append(
            f"-- {requirements}: direct {theirs.score}, gateway {ours.score} of {len(theirs.scored)}"
        )
        lines += [
            f"{name:<50}{_mark(name in theirs.passed):<10}{_mark(name in ours.passed)}"
            for name in theirs.scored
        ]
    return "\n".join(lines)


def passes_alone(url: str, requirements: str, scenario: str) -> bool:
    """Whether a scenario passes by itself: some give an answer half a second, whatever else runs here."""
    folder = node_folder("conformance", [SUITE])
    arguments = ("server", "--url", url, "--spec-version", requirements, "--scenario", scenario)
    return run_node(folder, "conformance", *arguments, timeout=120).returncode == 0


def lost(url: str, reference: dict[str, Report], ours: dict[str, Report]) -> dict[str, frozenset[str]]:
    """Return the scenarios that pass directly and not at `url`, by revision; each has a second try, alone."""
    missing = {each: reference[each].passed - ours[each].passed for each in REQUIREMENTS}
    return {
        requirements: frozenset(name for name in names if not passes_alone(url, requirements, name))
        for requirements, names in missing.items()
    }


def _start_servers(url: str) -> None:
    """Have the session without a name start its server, which takes longer than some scenarios wait."""
    meta: dict[str, Any] = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"name": "test_simple_text", "arguments": {}, "_meta": meta}
    headers = {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": "test_simple_text",
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    answer = httpx2.post(url, json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text


def _mark(passed: bool) -> str:
    return "pass" if passed else "FAIL"


def _await_port(port: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")


def main() -> int:
    """Run all of it and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        with direct() as url:
            reference = both(url)
        with through_the_gateway(Path(folder)) as url:
            ours = both(url)
            missing = {name for names in lost(url, reference, ours).values() for name in names}
    print(table(reference, ours))
    print(f"lost through the gateway: {', '.join(sorted(missing)) or 'nothing'}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
