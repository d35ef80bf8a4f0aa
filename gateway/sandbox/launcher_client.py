"""The gateway's end of the launcher: starts it, asks it, hears of exits. Knows nothing of drivers."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import anyio
import anyio.abc
import anyio.to_thread

from gateway.core.json_types import JsonObject
from gateway.errors import SandboxError, UsageError

__all__ = ["Launcher", "LauncherGone", "Reply", "TemplateEnded"]

logger = logging.getLogger(__name__)

MAX_MESSAGE = 1 << 20
MAX_FDS = 4
START_SECONDS, END_SECONDS = 10.0, 4.0
BOOT = "import sys; sys.path.append(sys.argv[1]); from launcher.main import main; main()"

ADVICE = (
    "run as root or allow user namespaces: "
    "`sysctl -w kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0`"
)


@dataclass(frozen=True, slots=True)
class Reply:
    """The launcher's answer and the descriptors that came with it, which the asker now owns."""

    body: JsonObject
    fds: tuple[int, ...]


@dataclass(slots=True)
class _Pending:
    done: anyio.Event = field(default_factory=anyio.Event)
    reply: Reply | None = None


class LauncherGone(SandboxError):
    """It died before it answered, and what it may have begun died with it: its successor can be asked."""


class TemplateEnded(SandboxError):
    """What was to be forked has ended, as the next message about it will tell."""


class Launcher:
    """The launcher, replaced at the next request after it died.

    `on_exit(message)` is called for each sandbox that ended, `on_attempt(message)` for what one tried to
    reach, `on_loss()` when the launcher died and every sandbox with it. The numbers of requests are never
    used twice, also by the next launcher.
    """

    def __init__(
        self,
        program: bytes,
        stage: Path,
        on_exit: Callable[[JsonObject], None],
        on_attempt: Callable[[JsonObject], None],
        on_loss: Callable[[], None],
    ) -> None:
        """Take a seccomp program and an empty folder; start nothing."""
        self._program, self._stage = program, stage
        self._on_exit, self._on_attempt, self._on_loss = on_exit, on_attempt, on_loss
        self._pending: dict[int, _Pending] = {}
        self._last = 0
        self._gone = self._closed = False
        self._starting = anyio.Lock()
        self._telling = anyio.Lock(fast_acquire=True)
        self._tasks: anyio.abc.TaskGroup | None = None
        self._uids: tuple[int, int] | None = None  # first uid, and the descriptor that holds the block
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, tasks: anyio.abc.TaskGroup) -> JsonObject:
        """Start it and return what it found out about the machine.

        Raises `UsageError` where the kernel refuses the namespaces a sandbox is made of.
        """
        self._tasks = tasks
        return await self._start(tasks)

    async def _start(self, tasks: anyio.abc.TaskGroup) -> JsonObject:
        hello = self._pending[0] = _Pending()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        words = [str(self._stage), *([str(self._uids[0])] if self._uids else [])]
        with theirs:
            self._process = await anyio.to_thread.run_sync(_spawn, theirs.fileno(), self._program, words)
        self._gone = False
        tasks.start_soon(self._listen, self._socket)
        with anyio.move_on_after(START_SECONDS):
            await hello.done.wait()
        if hello.reply is None or "error" in hello.reply.body:
            self._lose(self._socket)
            why = hello.reply.body["error"] if hello.reply else "it did not answer"
            raise UsageError(f"the sandbox launcher could not start: {why}; {ADVICE}")
        for holder in hello.reply.fds:
            self._uids = (cast(int, hello.reply.body["uid"]), holder)
        return hello.reply.body

    async def _revive(self) -> None:
        """Start another launcher if the last one died, once for all who ask; raises `SandboxError`."""
        if not self._gone:  # nothing is awaited: what was noted for the request would be reported lost
            return
        async with self._starting:
            if not self._gone or self._closed or self._tasks is None:
                return
            logger.warning("the sandbox launcher ended: starting another")
            await self._hang_up()
            try:
                await self._start(self._tasks)
            except UsageError as error:
                raise SandboxError(str(error)) from error

    async def ask(self, request: JsonObject, fds: Sequence[int] = ()) -> Reply:
        """Send a request and return its reply. Raises `SandboxError` where it failed or the launcher died.

        A reply that comes after the caller was cancelled is closed unseen.
        """
        number = self.next_id() if "id" not in request else cast(int, request["id"])
        try:
            pending = await self._deliver(number, request | {"id": number}, fds)
            await pending.done.wait()
        finally:
            self._pending.pop(number, None)
        reply = pending.reply
        if reply is None:
            raise LauncherGone("the sandbox launcher ended meanwhile")
        if "error" in reply.body:
            kind = TemplateEnded if reply.body.get("ended") else SandboxError
            raise kind(str(reply.body["error"]))
        return reply

    async def _deliver(self, number: int, request: JsonObject, fds: Sequence[int]) -> _Pending:
        await self._revive()
        pending = self._pending[number] = _Pending()
        await self.tell(request, fds)
        return pending

    def next_id(self) -> int:
        """Return a number that no request had before."""
        self._last += 1
        return self._last

    async def tell(self, request: JsonObject, fds: Sequence[int] = ()) -> None:
        """Send a request that is not answered. Raises `SandboxError` if the launcher is gone."""
        data = json.dumps(request).encode()
        async with self._telling:  # only one may wait for a full channel, and requests keep their order
            while not await self._sent(data, fds):
                continue

    async def _sent(self, data: bytes, fds: Sequence[int]) -> bool:
        """Send one message, or wait until there may be room for it."""
        channel = self._socket
        if self._gone or channel is None:
            raise LauncherGone("the sandbox launcher is gone")
        try:
            socket.send_fds(channel, [data], fds)
        except BlockingIOError:
            # A channel that is hung up meanwhile is no longer the one the next attempt finds.
            with suppress(anyio.ClosedResourceError):
                await anyio.wait_writable(channel)
            return False
        except OSError as error:
            self._lose(channel)
            raise LauncherGone(f"the sandbox launcher cannot be reached: {error}") from error
        return True

    async def _listen(self, channel: socket.socket) -> None:
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(channel, MAX_MESSAGE, MAX_FDS)
            except BlockingIOError:
                await anyio.wait_readable(channel)
                continue
            except OSError:
                data, fds = b"", list[int]()
            if not data:
                return self._lose(channel)
            self._heard(cast(JsonObject, json.loads(data)), tuple(fds))

    def _heard(self, body: JsonObject, fds: tuple[int, ...]) -> None:
        for fd in fds:  # socket.recv_fds ignores its flags, MSG_CMSG_CLOEXEC among them
            os.set_inheritable(fd, False)
        if "exit" in body:
            starting = self._pending.get(cast(int, body["exit"]))
            if starting is not None and starting.reply is None:
                starting.reply = Reply({"error": "it ended before it could start its program"}, ())
                starting.done.set()
            return self._on_exit(body)
        if "attempt" in body:
            return self._on_attempt(body)
        pending = self._pending.get(cast(int, body["id"]))
        if pending is None:
            for fd in fds:
                os.close(fd)
            return None
        pending.reply = Reply(body, fds)
        return pending.done.set()

    def _lose(self, channel: socket.socket) -> None:
        """Note the end of the launcher behind `channel`; only the first notice counts."""
        if self._gone or channel is not self._socket:
            return
        self._gone = True
        for pending in self._pending.values():
            pending.done.set()
        self._on_loss()

    async def aclose(self) -> None:
        """Hang up, which makes it kill what it runs, and wait until it has ended."""
        self._closed = True
        async with self._starting:
            await self._hang_up()
        if self._uids is not None:
            os.close(self._uids[1])
            self._uids = None

    async def _hang_up(self) -> None:
        channel, process = self._socket, self._process
        if channel is not None and not self._gone:
            channel.shutdown(socket.SHUT_RDWR)
        if process is not None:
            await anyio.to_thread.run_sync(_reap, process)
        if channel is not None:
            anyio.notify_closing(channel)
            channel.close()
        self._socket = self._process = None


def _spawn(channel: int, program: bytes, words: Sequence[str]) -> subprocess.Popen[bytes]:
    data = os.memfd_create("seccomp")
    os.write(data, program)
    known = (str(Path(__file__).parent), str(channel), str(data))
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", BOOT, *known, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(channel, data),
            start_new_session=True,
            env=_loader_environment(),
        )
    finally:
        os.close(data)


def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _loader_environment() -> dict[str, str]:
    """Return what this interpreter needs to start, and nothing of the gateway's own environment."""
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return {}
    return {"LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR"))}
