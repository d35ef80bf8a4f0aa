"""What the launcher knows of a sandbox that runs: whom to kill, how it ended."""

from __future__ import annotations

import json
import os
import signal
import socket
from dataclasses import dataclass, field

from .attempts import Attempts
from .groups import Group

__all__ = ["Forked", "Running"]

LONGEST, MOST_WORDS, MOST_FDS = 16, 4, 8


@dataclass
class Running:
    """A program below `bwrap`: bwrap's own pid, its groups, where bwrap reports.

    From `report` comes, once, what sees attempts in its network.
    """

    pid: int
    group: Group
    status: int
    report: socket.socket
    attempts: Attempts = field(default_factory=lambda: Attempts([]))
    killed: bool = False
    told: bytes = b""

    def furnished(self) -> Attempts:
        """Take what sees attempts from who furnished the network, if that has happened."""
        if not self.attempts.sockets:
            self.attempts = Attempts([socket.socket(fileno=fd) for fd in _received(self.report)])
        return self.attempts

    def kill(self) -> None:
        """Send SIGKILL to all of it."""
        self.group.kill()
        _kill(self._report("child-pid"))
        _kill(self.pid)

    def exit_code(self) -> int | None:
        """Return what the program ended with, if it came so far."""
        return self._report("exit-code")

    def _report(self, name: str) -> int | None:
        while chunk := _available(self.status):
            self.told += chunk
        lines = [json.loads(line) for line in self.told.split(b"\n") if line.endswith(b"}")]
        return next((line[name] for line in lines if name in line), None)

    def close(self) -> None:
        """Forget it."""
        os.close(self.status)
        self.report.close()


@dataclass
class Forked:
    """A fork of a template: its init, once it was started, where that reports (`door`).

    What comes through the door is the session's own word: it is a number, or nothing.
    """

    group: Group
    door: socket.socket
    template: int
    init: int = -1
    attempts: Attempts = field(default_factory=lambda: Attempts([]))
    killed: bool = False

    def kill(self) -> None:
        """Send SIGKILL to all of it. What is still being started ends with what it is started from."""
        self.group.kill()
        if self.init >= 0:
            _kill_by(self.init)

    def started(self, fds: list[int]) -> None:
        """Take what came from who started it: the init, and what sees attempts."""
        self.init = fds[0]
        self.attempts = Attempts([socket.socket(fileno=fd) for fd in fds[1:]])

    def exit_code(self) -> int | None:
        """Return what the program ended with, if it came so far."""
        code: int | None = None
        for _ in range(MOST_WORDS):
            try:
                word = self.door.recv(LONGEST)
            except (BlockingIOError, ConnectionResetError):
                break
            if not word:
                break
            code = int(word) if word.isdigit() else code
        return code

    def close(self) -> None:
        """Forget it."""
        self.door.close()
        if self.init >= 0:
            os.close(self.init)


def _received(report: socket.socket) -> list[int]:
    """Return the descriptors that came, if any did."""
    try:
        fds = socket.recv_fds(report, LONGEST, MOST_FDS)[1]
    except BlockingIOError:
        return []
    for fd in fds:
        os.set_inheritable(fd, False)
    return fds


def _available(fd: int) -> bytes:
    try:
        return os.read(fd, 4096)
    except BlockingIOError:
        return b""


def _kill(pid: int | None) -> None:
    if pid is None:
        return
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _kill_by(held: int) -> None:
    try:
        signal.pidfd_send_signal(held, signal.SIGKILL)
    except ProcessLookupError:
        return
