"""What `benchmarks.env` opens and steps: an episode over the OpenEnv wire, or a tool server over its pipes.

Also what processes have used, told apart into a front (a gateway, a stock server) and its tool servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from websockets.asyncio.client import ClientConnection, connect

from benchmarks.mcp_peers import usage

__all__ = ["TEXT", "BareServer", "Episode", "Session", "Share", "bare_share", "shares"]

TEXT = "x" * 100
_CALL = {"type": "call_tool", "tool_name": "echo", "arguments": {"text": TEXT}}
_STEP = json.dumps({"type": "step", "data": _CALL})
_SEEDS = itertools.count(1)
_NS = 1_000_000_000


class Session(Protocol):
    """Something with one tool that is called again and again."""

    async def reset(self) -> None:
        """Start anew."""
        ...

    async def step(self) -> None:
        """Call the tool; raises `RuntimeError` for any answer but the right one."""
        ...

    async def close(self) -> None:
        """End it."""
        ...


class Episode:
    """An episode session over a WebSocket; each reset asks for a seed of its own, as trainers do."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    @classmethod
    async def open(cls, url: str) -> Episode:
        """Connect."""
        return cls(await connect(url, compression=None, open_timeout=120, proxy=None))

    async def reset(self) -> None:
        """Start an episode."""
        await self._exchange(json.dumps({"type": "reset", "data": {"seed": next(_SEEDS)}}))

    async def step(self) -> None:
        """Call the tool."""
        await self._exchange(_STEP)

    async def close(self) -> None:
        """Close the connection."""
        await self._socket.close()

    async def _exchange(self, frame: str) -> None:
        await self._socket.send(frame)
        answer = await self._socket.recv(decode=False)
        if b'"observation"' not in answer[:40] or b'"error_type"' in answer:
            raise RuntimeError(f"unexpected answer {answer[:300]!r}")


class BareServer:
    """A tool server of its own, spoken to over its pipes and with nothing in front of it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._ids = itertools.count(1)

    @classmethod
    async def open(cls, argv: list[str]) -> BareServer:
        """Start one."""
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe))

    async def reset(self) -> None:
        """Shake hands, at the first time; it has no other beginning."""
        if next(self._ids) == 1:
            info = {"name": "benchmark", "version": "1"}
            params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
            await self._exchange("initialize", params)
            self._say({"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def step(self) -> None:
        """Call the tool."""
        answer = await self._exchange("tools/call", {"name": "echo", "arguments": {"text": TEXT}})
        if TEXT.encode() not in answer:
            raise RuntimeError(f"unexpected answer {answer[:300]!r}")

    async def close(self) -> None:
        """End it."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    async def _exchange(self, method: str, params: dict[str, Any]) -> bytes:
        assert self.process.stdout is not None
        self._say({"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params})
        return await self.process.stdout.readline()

    def _say(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")


@dataclass(frozen=True)
class Share:
    """Seconds of CPU of a front and of the tool servers below it, and bytes that the front holds."""

    front: float
    servers: float
    memory: int


def shares(pid: int) -> Share:
    """Return what a front has used so far, helpers and workers included, and its servers that still run."""
    front, servers, memory = 0.0, 0.0, 0
    for process in (pid, *_below(pid)):
        with contextlib.suppress(OSError):  # it ended meanwhile
            inside = _is_sandboxed(process)
            cpu = _cpu(process)
            front, servers = (front, servers + cpu) if inside else (front + cpu, servers)
            memory += 0 if inside else usage(process).memory
    return Share(front, servers, memory)


def bare_share(sessions: Sequence[Session]) -> Share:
    """Return what servers without a front have used so far."""
    pids = [session.process.pid for session in sessions if isinstance(session, BareServer)]
    return Share(0.0, sum(map(_cpu, pids)), 0)


def _cpu(pid: int) -> float:
    """Return the seconds of CPU of a process's threads that live."""
    spent = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            spent += int((task / "schedstat").read_text().split()[0])
    return spent / _NS


def _is_sandboxed(pid: int) -> bool:
    """Whether a process is of a sandbox: it has a process namespace of its own."""
    return Path(f"/proc/{pid}/ns/pid").readlink() != Path("/proc/self/ns/pid").readlink()


def _below(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            yield child
            with contextlib.suppress(OSError):
                yield from _below(child)
