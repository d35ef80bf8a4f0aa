"""The gateway's end of the launcher: starts it, asks it, hears of exits. Knows nothing of drivers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import anyio
import anyio.abc
import anyio.to_thread

from gateway.core.json_types import JsonObject
from gateway.errors import SandboxError, UsageError

__all__ = ["Launcher", "Reply"]

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


class Launcher:
    """A running launcher. `on_exit(message)` is called for each sandbox that ended; `on_loss` if it dies."""

    def __init__(self, on_exit: Callable[[JsonObject], None], on_loss: Callable[[], None]) -> None:
        self._on_exit, self._on_loss = on_exit, on_loss
        self._pending: dict[int, _Pending] = {}
        self._last = 0
        self._lost = False
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, tasks: anyio.abc.TaskGroup, program: bytes, stage: Path) -> JsonObject:
        """Start it with a seccomp program and an empty folder; return what it found out about the machine.

        Raises `UsageError` where the kernel refuses the namespaces a sandbox is made of.
        """
        hello = self._pending[0] = _Pending()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        with theirs:
            self._process = await anyio.to_thread.run_sync(_spawn, theirs.fileno(), program, stage)
        tasks.start_soon(self._listen, self._socket)
        with anyio.move_on_after(START_SECONDS):
            await hello.done.wait()
        if hello.reply is None or "error" in hello.reply.body:
            why = hello.reply.body["error"] if hello.reply else "it did not answer"
            raise UsageError(f"the sandbox launcher could not start: {why}; {ADVICE}")
        return hello.reply.body

    async def ask(self, request: JsonObject, fds: Sequence[int] = ()) -> Reply:
        """Send a request and return its reply. Raises `SandboxError` where it failed or the launcher is gone.

        A reply that comes after the caller was cancelled is closed unseen.
        """
        number = self.next_id() if "id" not in request else cast(int, request["id"])
        pending = self._pending[number] = _Pending()
        try:
            await self.tell(request | {"id": number}, fds)
            await pending.done.wait()
        finally:
            self._pending.pop(number, None)
        reply = pending.reply
        if reply is None or "error" in reply.body:
            raise SandboxError(str(reply.body["error"]) if reply else "the sandbox launcher is gone")
        return reply

    def next_id(self) -> int:
        """Return a number that no request had before."""
        self._last += 1
        return self._last

    async def tell(self, request: JsonObject, fds: Sequence[int] = ()) -> None:
        """Send a request that is not answered. Raises `SandboxError` if the launcher is gone."""
        data = json.dumps(request).encode()
        while True:
            if self._lost or self._socket is None:
                raise SandboxError("the sandbox launcher is gone: restart the gateway")
            try:
                socket.send_fds(self._socket, [data], fds)
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            except OSError as error:
                raise SandboxError(f"the sandbox launcher cannot be reached: {error}") from error
            else:
                return

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
                return self._gone()
            self._heard(cast(JsonObject, json.loads(data)), tuple(fds))

    def _heard(self, body: JsonObject, fds: tuple[int, ...]) -> None:
        for fd in fds:  # socket.recv_fds ignores its flags, MSG_CMSG_CLOEXEC among them
            os.set_inheritable(fd, False)
        if "exit" in body:
            return self._on_exit(body)
        pending = self._pending.get(cast(int, body["id"]))
        if pending is None:
            for fd in fds:
                os.close(fd)
            return None
        pending.reply = Reply(body, fds)
        return pending.done.set()

    def _gone(self) -> None:
        self._lost = True
        for pending in self._pending.values():
            pending.done.set()
        self._on_loss()

    async def aclose(self) -> None:
        """Hang up, which makes it kill what it runs, and wait until it has ended."""
        if self._socket is not None:
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._process is not None:
            await anyio.to_thread.run_sync(_reap, self._process)
        if self._socket is not None:
            anyio.notify_closing(self._socket)
            self._socket.close()
            self._socket = None


def _spawn(channel: int, program: bytes, stage: Path) -> subprocess.Popen[bytes]:
    data = os.memfd_create("seccomp")
    os.write(data, program)
    words = (str(Path(__file__).parent), str(channel), str(data), str(stage))
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", BOOT, *words],
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
