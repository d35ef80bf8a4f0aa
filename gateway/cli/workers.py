"""`serve --workers N`: the process that starts the workers, and what it tells each of them."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.cli.logs import teller
from gateway.errors import UsageError
from gateway.runtime.shared_memory import SharedMemory

if TYPE_CHECKING:
    from gateway.config import Config

__all__ = ["Seat", "supervise"]


@dataclass(frozen=True, slots=True)
class Seat:
    """What a worker inherits: its number, its end of the channel, and the memory that all share."""

    number: int
    channel: socket.socket
    memory: SharedMemory

    @classmethod
    def read(cls, text: str) -> Seat:
        """Return what a supervisor wrote (`_command`); raises `UsageError` where none did."""
        try:
            number, channel, memory = map(int, text.split(":"))
            for inherited in (channel, memory):
                os.set_inheritable(inherited, False)  # no process of this one's gets them
            return cls(number, socket.socket(fileno=channel), SharedMemory(memory))
        except (ValueError, OSError):
            raise UsageError("--worker-seat is for the supervisor of `serve --workers` only") from None


def _command(number: int, channel: int, memory: int) -> list[str]:
    """Return this program's own command line, as that of a worker."""
    arguments = sys.argv[1:]
    interpreter = sys.orig_argv[1 : len(sys.orig_argv) - len(arguments)]
    seat = f"--worker-seat={number}:{channel}:{memory}"
    return [sys.executable, *interpreter, arguments[0], seat, *arguments[1:]]


async def supervise(config: Config) -> int:
    """Serve with several workers until a signal; return the exit code."""
    from gateway.runtime.clock import SystemClock
    from gateway.runtime.ledger_chains import holding_chains
    from gateway.serve.server import bind
    from gateway.serve.workers.supervisor import Supervisor, WorkersFailed

    with (
        await bind(config.host, config.port) as listener,
        holding_chains(config.state, config.workers, SystemClock().now()),
    ):
        supervisor = Supervisor(
            listener,
            config.workers,
            _command,
            SharedMemory.make(config.limits.max_sessions),
            say=teller(config.log),
            drain=config.limits.drain,
        )
        try:
            await supervisor.run()
        except WorkersFailed as failed:
            return failed.code
    return 0
