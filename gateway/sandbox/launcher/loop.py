"""The launcher's loop: requests in, descriptors and exits out. One thread, one fork per request.

Messages are JSON over a SOCK_SEQPACKET socket, descriptors beside them. A request `{"op", "id"}` is
answered by `{"id", "ok"}` or `{"id", "error"}`, by the child that served it; the end of a sandbox is
told as `{"exit": id, ...}`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from dataclasses import dataclass, field
from typing import Any

from . import jail, kernel, pins
from .groups import Group, Groups

__all__ = ["Launcher"]

MAX_MESSAGE = 1 << 20
RETRY_SECONDS, LAST_TRIES = 0.01, 200


@dataclass
class Running:
    """A forked sandbox: bwrap's own pid, its groups, where bwrap reports."""

    pid: int
    group: Group
    status: int
    killed: bool = False
    told: bytes = b""

    def report(self, name: str) -> int | None:
        """Return a number that bwrap wrote under `name`, if it did."""
        while chunk := _available(self.status):
            self.told += chunk
        lines = [json.loads(line) for line in self.told.split(b"\n") if line.endswith(b"}")]
        return next((line[name] for line in lines if name in line), None)


@dataclass
class Launcher:
    """What the loop knows."""

    socket: socket.socket
    stage: str
    program: bytes
    groups: Groups
    root: bool
    home: int
    running: dict[int, Running] = field(default_factory=dict[int, Running])
    workers: dict[int, int] = field(default_factory=dict[int, int])
    ended: list[Group] = field(default_factory=list[Group])

    def serve(self) -> None:
        """Answer until the gateway is gone."""
        wake = _wake_on_child()
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        poll.register(wake, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(RETRY_SECONDS * 1000 if self.ended else None)}
            if wake in ready:
                os.read(wake, 4096)
                self.reap()
            self.ended = [group for group in self.ended if not group.remove()]
            if self.socket.fileno() in ready and not self.receive():
                return

    def receive(self) -> bool:
        """Serve one request; False at the end of the socket."""
        try:
            data, fds, _, _ = socket.recv_fds(self.socket, MAX_MESSAGE, 8)
        except ConnectionResetError:
            return False
        if not data:
            return False
        for fd in fds:  # socket.recv_fds ignores its flags, MSG_CMSG_CLOEXEC among them
            os.set_inheritable(fd, False)
        request = json.loads(data)
        try:
            match request["op"]:
                case "start":
                    self.start(request, fds)
                case "kill":
                    self.kill(request["target"])
                case _:
                    self.work(request, fds)
        except OSError as error:
            self.tell({"id": request["id"], "error": str(error)})
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def tell(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        """Send one message to the gateway; its absence is noticed by the loop."""
        try:
            socket.send_fds(self.socket, [json.dumps(message).encode()], fds)
        except (BrokenPipeError, ConnectionResetError):
            return

    def work(self, request: dict[str, Any], fds: list[int]) -> None:
        """Make a pin in a child that ends at once."""
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self.workers[pid] = request["id"]
            return
        try:
            kernel.die_with_parent(parent)
            pin = self.pin(request, fds)
            self.tell({"id": request["id"], "ok": True, "entries": pin.entries}, (pin.namespace, pin.folder))
        except (OSError, ValueError) as error:
            self.tell({"id": request["id"], "error": f"{request['op']}: {error}"})
        finally:
            os._exit(0)

    def pin(self, request: dict[str, Any], fds: list[int]) -> pins.Pin:
        """Serve `seed`, `snapshot` and `workspace`."""
        if request["op"] == "seed":
            return pins.prepare_seed(self.stage, request["source"])
        if request["op"] == "snapshot":
            size = {"disk": request["disk"], "inodes": request["inodes"]}
            return pins.take_snapshot(self.stage, workspace=fds[0], home=self.home, **size)
        return pins.make_workspace(
            self.stage,
            uid=request["uid"],
            disk=request["disk"],
            inodes=request["inodes"],
            seed=fds[0] if fds else None,
            overlay=request["overlay"],
            home=self.home,
        )

    def start(self, request: dict[str, Any], fds: list[int]) -> None:
        """Fork a sandbox; the child answers just before it becomes bwrap."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        group = Group({})
        try:
            group = self.groups.make(
                str(request["id"]), memory=request["memory"], pids=request["pids"], cpu=request["cpu"]
            )
            parent = os.getpid()
            pid = os.fork()
        except OSError:
            self.ended.append(group)
            os.close(reading)
            os.close(writing)
            raise
        if pid == 0:
            self.become_sandbox(parent, request, fds, group, writing)
        os.close(writing)
        self.running[request["id"]] = Running(pid, group, reading)

    def become_sandbox(
        self, parent: int, request: dict[str, Any], fds: list[int], group: Group, status: int
    ) -> None:
        """Turn this child into the sandbox; never returns."""
        try:
            kernel.die_with_parent(parent)
            group.join()
            jail.assemble(self.stage, self.home, fds[3], request)
            for number, fd in enumerate(fds[:3]):
                os.dup2(fd, number)
            jail.drop(request, root=self.root, grouped=bool(group.folders))
            kernel.die_with_parent(parent)
            self.tell({"id": request["id"], "ok": True, "folders": dict(group.folders)})
            jail.execute(request, self.program, status)
        except (OSError, ValueError) as error:
            self.tell({"id": request["id"], "error": str(error)})
        finally:
            os._exit(1)

    def kill(self, target: int) -> None:
        """End a sandbox; its exit is told when it was reaped."""
        sandbox = self.running.get(target)
        if sandbox is None:
            return
        sandbox.killed = True
        sandbox.group.kill()
        _kill(sandbox.report("child-pid"))
        _kill(sandbox.pid)

    def reap(self) -> None:
        """Take note of every child that ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.workers:
                self.worker_ended(self.workers.pop(pid), status)
            for number, sandbox in list(self.running.items()):
                if sandbox.pid == pid:
                    self.sandbox_ended(number, self.running.pop(number), status)

    def worker_ended(self, number: int, status: int) -> None:
        """Tell of a child that could not answer for itself."""
        if status:
            self.tell({"id": number, "error": f"a child of the launcher ended with status {status}"})

    def sandbox_ended(self, number: int, sandbox: Running, status: int) -> None:
        """Tell how a sandbox ended, and let nothing of it remain."""
        sandbox.group.kill()
        _kill(sandbox.report("child-pid"))
        code = sandbox.report("exit-code")
        message = {"exit": number, "code": code, "status": os.waitstatus_to_exitcode(status)}
        self.tell(message | {"killed": sandbox.killed, "oom_kills": sandbox.group.oom_kills()})
        os.close(sandbox.status)
        if not sandbox.group.remove():
            self.ended.append(sandbox.group)

    def end(self) -> None:
        """Kill everything, wait for it, remove the groups."""
        for _ in range(LAST_TRIES):
            for number in list(self.running):
                self.kill(number)
            self.reap()
            self.ended = [group for group in self.ended if not group.remove()]
            if not self.running and not self.ended:
                break
            select.select((), (), (), RETRY_SECONDS)
        self.groups.close()


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


def _wake_on_child() -> int:
    """Return a descriptor that is readable after a child ended."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.set_blocking(reading, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _noted)
    return reading


def _noted(number: int, frame: object) -> int:
    """Handle a signal by its existence: a handler makes Python write to the wake-up descriptor."""
    return number
