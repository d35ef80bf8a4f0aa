"""The supervisor: accepts, gives each connection to the worker that has fewest, keeps the workers alive.

It reads no request and knows no session; what workers tell each other goes through it.
"""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import anyio
from anyio.abc import Process, TaskGroup, TaskStatus

from gateway.core.json_types import JsonObject
from gateway.loop import current_loop
from gateway.runtime.shared_memory import SharedMemory
from gateway.serve.server import url_of
from gateway.serve.signals import Signals, ending_signals
from gateway.serve.workers.channel import Channel

__all__ = ["Supervisor", "WorkersFailed"]

logger = logging.getLogger(__name__)

_ACCEPTED_AT_ONCE = 64
_FULL_SECONDS = 0.1
"""How long no connection is accepted where no worker takes any, or the process has no descriptor left."""
_STEADY_SECONDS = 30.0
"""A worker that lived so long does not count as one that keeps ending."""
_MOST_ENDS = 6
"""Times that a worker may end in a row before that before the gateway gives up."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_KILLING_SECONDS = 15.0
"""How long a worker may take to end beyond its drain time."""


class WorkersFailed(Exception):
    """A worker cannot be had; `code` is what the gateway is to exit with."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"exit code {code}")


@dataclass(slots=True, eq=False)
class _Worker:
    """One worker's place: what runs in it now. `begun` once it was ready first, or never will be.

    `open` are the connections given to it less those that ended, `asked` who waits to hear from it, each
    with the number of what was asked.
    """

    number: int
    process: Process | None = None
    channel: Channel | None = None
    ready: bool = False
    begun: anyio.Event = field(default_factory=anyio.Event)
    given: int = 0
    ended: int = 0
    hung_up: bool = False
    asked: set[tuple[int, int]] = field(default_factory=set[tuple[int, int]])

    @property
    def takes(self) -> bool:
        """Whether connections may be given to it."""
        return self.ready and self.channel is not None and not self.channel.stuck

    @property
    def open(self) -> int:
        return self.given - self.ended


class Supervisor:
    """Runs `count` workers on one listener.

    `command` gives the command line of a worker from its number and the two descriptors that it inherits:
    its channel, and the `memory` that all share. `drain` is how long a worker may drain, in seconds.
    """

    def __init__(
        self,
        listener: socket.socket,
        count: int,
        command: Callable[[int, int, int], Sequence[str]],
        memory: SharedMemory,
        *,
        say: Callable[[str], None],
        drain: float,
    ) -> None:
        self._listener = listener
        self._command = command
        self._memory = memory
        self._tables = memory.tables(0)
        self._say = say
        self._drain = drain
        self._workers = {number: _Worker(number) for number in range(1, count + 1)}
        self._serving = self._accepting = False
        self._ending = anyio.Event()
        self._failed: int | None = None

    async def run(self) -> None:
        """Start the workers, serve until SIGTERM or SIGINT, let them drain, and return once all ended.

        Raises `WorkersFailed`.
        """
        async with anyio.create_task_group() as tasks:
            with ending_signals() as signals:
                watching = await tasks.start(self._pass_signals, signals)
                await tasks.start(self._pass_hangups)
                async with anyio.create_task_group() as keepers:
                    await self._start(keepers)
                self._serving = False
                self._accept(False)
                watching.cancel()
            tasks.cancel_scope.cancel()
        if self._failed is not None:
            raise WorkersFailed(self._failed)

    async def _start(self, keepers: TaskGroup) -> None:
        """Start one worker alone: it installs what is missing and writes locks. Then the others at once."""
        first, *others = self._workers.values()
        await self._started([first], keepers)
        await self._started(others, keepers)
        if not self._ending.is_set():
            self._serving = True
            self._accept(True)
            self._say(f"ready on {url_of(self._listener)}")

    async def _started(self, workers: list[_Worker], keepers: TaskGroup) -> None:
        if self._ending.is_set():
            return
        for worker in workers:
            keepers.start_soon(self._keep, worker)
        for worker in workers:
            await worker.begun.wait()

    # -- one worker's life

    async def _keep(self, worker: _Worker) -> None:
        """Have a worker run until the gateway ends; one that ends before is replaced."""
        ends, pause = 0, _FIRST_PAUSE
        while not self._ending.is_set():
            began = anyio.current_time()
            code = await self._live(worker)
            if self._ending.is_set():
                break
            if not worker.begun.is_set():
                self._give_up(code if code > 0 else 1)
                break
            if anyio.current_time() - began > _STEADY_SECONDS:
                ends, pause = 0, _FIRST_PAUSE
            ends += 1
            if ends >= _MOST_ENDS:
                self._say(f"worker {worker.number} keeps ending ({_told(code)}): giving up")
                self._give_up(1)
                break
            self._say(f"worker {worker.number} ended ({_told(code)}), its sessions with it: starting another")
            with anyio.move_on_after(pause):
                await self._ending.wait()
            pause = min(2 * pause, _LONGEST_PAUSE)
        worker.begun.set()

    async def _live(self, worker: _Worker) -> int:
        """Run a worker's process to its end; return its exit code, negative for a signal."""
        own, its = socket.socketpair()
        worker.given = worker.ended = 0
        with its:
            command = self._command(worker.number, its.fileno(), self._memory.fd)
            worker.process = await anyio.open_process(
                command,
                stdin=None,
                stdout=None,
                stderr=None,
                pass_fds=(its.fileno(), self._memory.fd),
                # A terminal's Ctrl-C is for the supervisor, which passes on what is due.
                start_new_session=True,
            )

        def received(message: JsonObject, data: bytes, fd: int | None) -> None:
            if message["do"] == "ready":
                worker.ready = True
                worker.begun.set()
                if worker.hung_up:
                    worker.hung_up = False
                    self._signal(worker, signal.SIGHUP)
            else:
                self._received(worker, message, data, fd)

        worker.channel = Channel(own, received, lambda: self._tables.free_all_of(worker.number))
        try:
            return await worker.process.wait()
        finally:
            with anyio.CancelScope(shield=True):
                if worker.process.returncode is None:
                    worker.process.kill()
                await worker.process.wait()
            worker.ready = False
            worker.channel.close()
            for asker, asking in worker.asked:
                self._reply(asker, {"do": "reply", "id": asking}, b"")
            worker.asked.clear()
            self._tables.free_all_of(worker.number)
            worker.process = None

    def _give_up(self, code: int) -> None:
        self._failed = self._failed or code
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        self._ending.set()
        for worker in self._workers.values():
            self._signal(worker, how)

    def _signal(self, worker: _Worker, how: signal.Signals) -> None:
        if worker.process is not None and worker.process.returncode is None:
            worker.process.send_signal(how)

    # -- signals

    async def _pass_signals(self, signals: Signals, *, task_status: TaskStatus[anyio.CancelScope]) -> None:
        """Let the workers drain at the first signal, stop waiting at the next; kill what stays."""
        with anyio.CancelScope() as scope:
            task_status.started(scope)
            await anext(signals)
            self._end(signal.SIGTERM)
            with anyio.move_on_after(self._drain + _KILLING_SECONDS):
                async for _ in signals:
                    self._end(signal.SIGTERM)
            self._end(signal.SIGKILL)

    async def _pass_hangups(self, *, task_status: TaskStatus[None]) -> None:
        """Have every worker read the policies again at SIGHUP; one that starts does so once it is ready."""
        with anyio.open_signal_receiver(signal.SIGHUP) as hangups:
            task_status.started()
            async for _ in hangups:
                for worker in self._workers.values():
                    worker.hung_up = not worker.ready
                    if worker.ready:
                        self._signal(worker, signal.SIGHUP)

    # -- connections

    def _accept(self, wanted: bool) -> None:
        if wanted != self._accepting:
            self._accepting = wanted
            loop, fd = current_loop(), self._listener.fileno()
            if wanted:
                loop.add_reader(fd, self._accept_some)
            else:
                loop.remove_reader(fd)

    def _accept_some(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            taking = [worker for worker in self._workers.values() if worker.takes]
            if not taking:
                self._accept_later()  # they wait in the listener's queue
                return
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                logger.warning("no connection can be accepted: %s", error)
                self._accept_later()
                return
            self._give(min(taking, key=lambda worker: worker.open), connection.detach(), b"", fixed=False)

    def _accept_later(self) -> None:
        self._accept(False)
        current_loop().call_later(_FULL_SECONDS, lambda: self._accept(self._serving))

    def _received(self, worker: _Worker, message: JsonObject, data: bytes, fd: int | None) -> None:
        match message:
            case {"do": "ended", "connections": int(ended)}:
                worker.ended = ended
            case {"do": "pass", "to": int(number)} if fd is not None:
                to = self._workers.get(number)
                if to is not None and to.takes:
                    self._give(to, fd, data, fixed=False)
                else:
                    self._give(worker, fd, data, fixed=True)
            case {"do": "ask", "to": int(number), "id": int(asking)}:
                self._ask(worker, self._workers.get(number), asking, message, data)
            case {"do": "reply", "to": int(number), "id": int(asking)}:
                worker.asked.discard((number, asking))
                self._reply(number, message, data)
            case _:
                raise AssertionError(f"worker {worker.number} says {message!r}")

    def _ask(self, asker: _Worker, to: _Worker | None, asking: int, message: JsonObject, data: bytes) -> None:
        if to is None or not to.takes or to.channel is None:
            self._reply(asker.number, {"do": "reply", "id": asking}, b"")
            return
        to.asked.add((asker.number, asking))
        to.channel.send({**message, "from": asker.number}, data)

    def _reply(self, asker: int, message: JsonObject, data: bytes) -> None:
        channel = self._workers[asker].channel
        if channel is not None:
            channel.send(message, data)

    def _give(self, worker: _Worker, fd: int, begun: bytes, *, fixed: bool) -> None:
        assert worker.channel is not None, "only who takes connections is given any"
        worker.given += 1
        worker.channel.send({"do": "serve", "fixed": fixed}, begun, fd)


def _told(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"
