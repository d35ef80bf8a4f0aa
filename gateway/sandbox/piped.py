"""A sandbox whose program is reached over pipes, whichever driver started it: talking to it, and its end."""

from __future__ import annotations

import secrets

import anyio

from .contract import Exit
from .pipes import Pipes

__all__ = ["PipedSandbox"]


class PipedSandbox:
    """What `contract.Sandbox` asks of any program over pipes; its driver's own kind adds how it is ended."""

    def __init__(self, name: str, pipes: Pipes) -> None:
        self.id = f"{name}-{secrets.token_hex(6)}"
        self._pipes = pipes
        self._exit: Exit | None = None
        self._ended = anyio.Event()

    def ended(self, exit_: Exit) -> None:
        """Note how it ended; only the first report counts."""
        if self._exit is None:
            self._exit = exit_
            self._pipes.close_stdin()
            self._ended.set()

    def send_now(self, data: bytes) -> bool:
        """As `contract.Sandbox.send_now`."""
        return self._pipes.send_now(data)

    async def send(self, data: bytes) -> None:
        """As `contract.Sandbox.send`; a send that was cancelled half-way breaks the pipe."""
        await self._pipes.send(data)

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """As `contract.Sandbox.receive`."""
        return await self._pipes.receive(max_bytes)

    def stderr_tail(self) -> str:
        """As `contract.Sandbox.stderr_tail`."""
        return self._pipes.stderr.text()

    async def wait(self) -> Exit:
        """As `contract.Sandbox.wait`."""
        await self._ended.wait()
        assert self._exit is not None
        return self._exit
