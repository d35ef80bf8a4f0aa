"""The peers of `benchmarks.mcp`: how each is installed, started and watched. Measures nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.http_caller import LEGACY, MODERN
from tests.support.node_packages import node_folder
from tests.support.venvs import client_venv

__all__ = ["HERE", "Peer", "Process", "Usage", "free_port", "peers", "running", "usage"]

HERE = Path(__file__).parent
ECHO = HERE / "packs" / "echo" / "servers" / "echo.py"
FASTMCP, MCP_PROXY, SUPERGATEWAY = "fastmcp==4.1.0", "mcp-proxy==0.13.0", "supergateway@4.0.0"
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Process:
    """A running peer; `ready` is how many seconds it took to listen."""

    pid: int
    ready: float


@dataclass(frozen=True)
class Peer:
    """One endpoint under measurement."""

    name: str
    process: Process
    port: int
    path: str
    era: str


@dataclass(frozen=True)
class Usage:
    """What a process has used: seconds of CPU, and bytes it holds in memory."""

    cpu: float
    memory: int


def usage(pid: int) -> Usage:
    """Return what a process, without its children, has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return Usage((int(fields[11]) + int(fields[12])) / _TICK, int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))


@dataclass(frozen=True)
class _Kind:
    """How to run one peer: its command for a port, the path it serves, the eras it speaks."""

    name: str
    argv: Callable[[int], list[str]]
    path: str
    eras: tuple[str, ...]


def _kinds(state: str) -> list[_Kind]:
    python, both = sys.executable, (MODERN, LEGACY)
    floor = [python, str(HERE / "peers" / "floor.py"), str(ECHO)]
    serve = [python, "-m", "gateway.cli", "serve", str(HERE / "packs" / "echo")]
    written = Path(state) / "written.yaml"
    written.write_text("audit: {durability: written}\n")
    return [
        _Kind("floor", lambda port: [*floor, str(port), f"{state}/floor.log"], "/", (MODERN,)),
        _Kind(
            "floor synced", lambda port: [*floor, str(port), f"{state}/synced.log", "synced"], "/", (MODERN,)
        ),
        _Kind("sandgate", lambda port: [*serve, "--port", str(port), "--state", f"{state}/a"], "/mcp", both),
        _Kind(
            "sandgate written",
            lambda port: [*serve, "--port", str(port), "--state", f"{state}/b", "--config", str(written)],
            "/mcp",
            both,
        ),
        _Kind(
            "mcp direct", lambda port: [python, str(HERE / "peers" / "mcp_direct.py"), str(port)], "/", both
        ),
        _Kind("FastMCP proxy", _fastmcp, "/mcp", both),
        _Kind("mcp-proxy", _mcp_proxy, "/mcp", (LEGACY,)),
        _Kind("supergateway", _supergateway, "/mcp", (LEGACY,)),
    ]


def _fastmcp(port: int) -> list[str]:
    python = client_venv("fastmcp", [FASTMCP])
    return [str(python), str(HERE / "peers" / "fastmcp_proxy.py"), str(ECHO), str(port)]


def _mcp_proxy(port: int) -> list[str]:
    program = client_venv("mcp-proxy", [MCP_PROXY]).parent / "mcp-proxy"
    return [str(program), "--port", str(port), sys.executable, str(ECHO)]


def _supergateway(port: int) -> list[str]:
    programs = node_folder("supergateway", [SUPERGATEWAY]) / "node_modules" / ".bin"
    stdio = ["--stdio", f"{sys.executable} {ECHO}", "--outputTransport", "streamableHttp", "--stateful"]
    run = [str(programs / "node"), str((programs / "supergateway").resolve())]
    return [*run, *stdio, "--port", str(port), "--logLevel", "none"]


@contextlib.contextmanager
def peers(state: str, wanted: tuple[str, ...] = ()) -> Generator[list[Peer]]:
    """Start what is compared, or of it what is `wanted`; who cannot be had here is named and left out."""
    found: list[Peer] = []
    with contextlib.ExitStack() as stack:
        for kind in _kinds(state):
            if wanted and kind.name not in wanted:
                continue
            port = free_port()
            try:
                process = stack.enter_context(running(kind.argv(port), port))
            except (OSError, subprocess.CalledProcessError, RuntimeError) as error:
                print(f"left out: {kind.name}: {error}", file=sys.stderr)
                continue
            found += [Peer(kind.name, process, port, kind.path, era) for era in kind.eras]
        yield found


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(argv: list[str], port: int) -> Generator[Process]:
    """Run a peer until the block ends, once it listens. Raises `RuntimeError` if it does not."""
    begin = time.monotonic()
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_until_listening(process, port)
        yield Process(process.pid, time.monotonic() - begin)
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"it ended with {process.returncode} before it listened")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as probe:
            # The gateway has its socket before it answers; a whole exchange shows that it does.
            probe.settimeout(120)
            probe.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            if probe.recv(1):
                return
        time.sleep(0.05)
    raise RuntimeError("it did not listen within 120 s")
