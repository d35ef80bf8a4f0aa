"""Children of the launcher that do one job after another: what may wait, fail or enter namespaces.

To fork a child for each job costs more than most jobs do. A worker is the launcher's own code and rights;
between jobs it comes home to its namespaces and closes whatever the last one left open.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import jail, kernel

__all__ = ["DIED", "Done", "Job", "Workers"]

DIED = 255
"""The status of a job whose worker ended before it was done."""
MAX_MESSAGE, MOST_FDS = 1 << 20, 16
MOST_IDLE = 8
"""Kept for the next jobs; as many work at once as there are jobs."""

Job = Callable[[dict[str, Any], list[int]], tuple[int, list[int]]]
"""Does what a request says; returns a status of one byte and descriptors, which are closed here."""
Done = Callable[[int, list[int]], None]
"""Told how a job ended; owns the descriptors."""


@dataclass(eq=False)
class _Worker:
    """`done` is there while it works."""

    pid: int
    channel: socket.socket
    done: Done | None = None


class Workers:
    """`job` runs in the workers, with nothing open but the descriptors of `kept` and those of the request;
    `home` is the launcher's mount namespace. `watch` and `unwatch` are the loop's."""

    def __init__(
        self,
        job: Job,
        kept: tuple[int, ...],
        home: int,
        watch: Callable[[int, Callable[[], None]], None],
        unwatch: Callable[[int], None],
    ) -> None:
        self._job, self._kept, self._home = job, kept, home
        self._watch, self._unwatch = watch, unwatch
        self._all: dict[int, _Worker] = {}
        self._idle: list[_Worker] = []

    def give(self, request: dict[str, Any], fds: list[int], done: Done) -> None:
        """Have a job done; the caller keeps its descriptors. Raises `OSError` where it cannot begin."""
        data = json.dumps(request).encode()
        while True:
            worker = self._idle.pop() if self._idle else self._hired()
            try:
                socket.send_fds(worker.channel, [data], fds)
            except BrokenPipeError:  # it was killed meanwhile
                continue
            except OSError:
                self._idle.append(worker)
                raise
            worker.done = done
            return

    def _hired(self) -> _Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            parent = os.getpid()
            try:
                pid = os.fork()
            except OSError:
                ours.close()
                raise
            if pid == 0:
                self._work(parent, theirs)
        worker = self._all[pid] = _Worker(pid, ours)
        self._watch(ours.fileno(), lambda: self._heard(worker))
        return worker

    def _heard(self, worker: _Worker) -> None:
        try:
            word, fds, _, _ = socket.recv_fds(worker.channel, 1, MOST_FDS, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionResetError:
            word, fds = b"", []
        if not word:  # it died: `ended` is told
            self._unwatch(worker.channel.fileno())
            return
        for fd in fds:
            os.set_inheritable(fd, False)
        self._finished(worker, word[0], fds)
        if len(self._idle) < MOST_IDLE:
            self._idle.append(worker)
        else:
            self._dismiss(worker)

    def _finished(self, worker: _Worker, status: int, fds: list[int]) -> None:
        done, worker.done = worker.done, None
        if done is not None:
            done(status, fds)

    def _dismiss(self, worker: _Worker) -> None:
        """Let it end: it does where its channel does."""
        self._unwatch(worker.channel.fileno())
        worker.channel.close()
        self._all.pop(worker.pid, None)

    def ended(self, pid: int) -> None:
        """Take note that a child ended; a job that it had failed with it, unless it is done already."""
        worker = self._all.get(pid)
        if worker is None:
            return
        self._heard(worker)
        self._idle = [one for one in self._idle if one is not worker]
        self._dismiss(worker)
        self._finished(worker, DIED, [])

    # -- in the worker

    def _work(self, parent: int, channel: socket.socket) -> None:
        """Do jobs until the launcher wants none; never returns."""
        try:
            kernel.die_with_parent(parent)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            jail.keep_only(0, 1, 2, channel.fileno(), self._home, *self._kept)
            # Of its own, because without root there is no way back into the host's.
            kernel.unshare(kernel.CLONE_NEWNET)
            network = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            while True:
                request, fds, _, _ = socket.recv_fds(channel, MAX_MESSAGE, MOST_FDS)
                if not request:
                    os._exit(0)
                status, given = self._job(json.loads(request), fds)
                socket.send_fds(channel, [bytes([status])], given)
                kernel.setns(network, kernel.CLONE_NEWNET)
                kernel.setns(self._home, kernel.CLONE_NEWNS)
                jail.keep_only(0, 1, 2, channel.fileno(), self._home, network, *self._kept)
        finally:
            os._exit(1)
