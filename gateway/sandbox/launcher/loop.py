"""The launcher's loop: requests in, descriptors and exits out. One thread, one fork per request.

Messages are JSON over a SOCK_SEQPACKET socket, descriptors beside them. A request `{"op", "id"}` is
answered by `{"id", "ok"}` or `{"id", "error"}`, by the child that served it; the end of a sandbox is
told as `{"exit": id, ...}`. A template is a sandbox too: it is answered once it is found fit to fork.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import forking, jail, kernel, network, outer, pins
from .groups import Group, Groups
from .hearing import REST_SECONDS, Hearing
from .running import Forked, Running

__all__ = ["Launcher"]

MAX_MESSAGE = 1 << 20
RETRY_SECONDS, LAST_TRIES = 0.01, 200
FAILED, UNFIT = 1, 2
"""How the child that starts a session ends where it could not, and where its template is at fault."""


@dataclass
class Launcher:
    """What the loop knows."""

    socket: socket.socket
    stage: str
    program: bytes
    groups: Groups
    root: bool
    home: int
    running: dict[int, Running | Forked] = field(default_factory=dict[int, Running | Forked])
    templates: dict[int, forking.Template] = field(default_factory=dict[int, forking.Template])
    workers: dict[int, int] = field(default_factory=dict[int, int])
    ended: list[Group] = field(default_factory=list[Group])
    watched: dict[int, Callable[[], None]] = field(default_factory=dict[int, Callable[[], None]])
    poll: select.poll = field(default_factory=select.poll)

    def __post_init__(self) -> None:
        """Listen to the sandboxes that will be."""
        self.hearing = Hearing(self.watch, self.unwatch, self.tell)

    def serve(self) -> None:
        """Answer until the gateway is gone."""
        wake = _wake_on_child()
        self.poll.register(self.socket, select.POLLIN)
        self.poll.register(wake, select.POLLIN)
        while True:
            ready = {fd for fd, _ in self.poll.poll(self.pause())}
            if wake in ready:
                os.read(wake, 4096)
                self.reap()
            for fd in ready:
                if fd in self.watched:  # none of those called before it ended what it is of
                    self.watched[fd]()
            self.ended = [group for group in self.ended if not group.remove()]
            self.hearing.wake()
            if self.socket.fileno() in ready and not self.receive():
                return

    def pause(self) -> float | None:
        """Return how many milliseconds to wait at most."""
        if self.ended:
            return RETRY_SECONDS * 1000
        return REST_SECONDS * 1000 if self.hearing.resting else None

    def watch(self, fd: int, heard: Callable[[], None]) -> None:
        """Have `heard` called once something is to be read from `fd`, until `unwatch`."""
        self.watched[fd] = heard
        self.poll.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Listen no more, if we did."""
        if self.watched.pop(fd, None) is not None:
            self.poll.unregister(fd)

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
                case "template":
                    self.start_template(request, fds)
                case "fork":
                    self.fork(request, fds)
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
        report, reporting = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        group = Group({})
        with reporting:
            try:
                group = self.group_of(request)
                parent = os.getpid()
                pid = os.fork()
            except OSError:
                self.ended.append(group)
                os.close(reading)
                os.close(writing)
                report.close()
                raise
            if pid == 0:
                self.become_sandbox(parent, request, fds, group, writing, reporting)
        os.close(writing)
        self.runs(request["id"], Running(pid, group, reading, report))

    def runs(self, number: int, sandbox: Running) -> None:
        """Take note of a sandbox, and be told once it has a network."""
        self.running[number] = sandbox
        sandbox.report.setblocking(False)
        self.watch(sandbox.report.fileno(), lambda: self.furnished(number, sandbox))

    def furnished(self, number: int, sandbox: Running) -> None:
        """Listen to what a sandbox tries to reach, now that it has a network, or never will."""
        self.unwatch(sandbox.report.fileno())
        self.hearing.begin(number, sandbox.furnished())

    def group_of(self, request: dict[str, Any]) -> Group:
        """Make the control groups of a sandbox."""
        limits = {"memory": request["memory"], "pids": request["pids"], "cpu": request["cpu"]}
        return self.groups.make(str(request["id"]), **limits)

    def become_sandbox(
        self,
        parent: int,
        request: dict[str, Any],
        fds: list[int],
        group: Group,
        status: int,
        report: socket.socket,
    ) -> None:
        """Turn this child into the sandbox; never returns."""
        try:
            kernel.die_with_parent(parent)
            group.join()
            jail.assemble(self.stage, self.home, fds[3], request)
            _furnish(report)
            for number, fd in enumerate(fds[:3]):
                os.dup2(fd, number)
            # The others' would count against its limit on open files before it is what it is to be.
            jail.keep_only(0, 1, 2, self.socket.fileno(), status)
            jail.drop(request, root=self.root, grouped=bool(group.folders))
            kernel.die_with_parent(parent)
            self.tell({"id": request["id"], "ok": True, "folders": dict(group.folders)})
            jail.execute(request, self.program, status)
        except (OSError, ValueError) as error:
            self.tell({"id": request["id"], "error": str(error)})
        finally:
            os._exit(1)

    def start_template(self, request: dict[str, Any], fds: list[int]) -> None:
        """Fork a template's monitor; it is answered when the template says that it is ready."""
        if "pids" not in self.groups.base:
            raise OSError("templates need control groups, and none is writable here")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        reading, writing = os.pipe()
        os.close(writing)
        report, reporting = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        group = Group({})
        with theirs, reporting:
            try:
                group = self.group_of(request)
                parent = os.getpid()
                pid = os.fork()
            except OSError:
                self.ended.append(group)
                os.close(reading)
                ours.close()
                report.close()
                raise
            if pid == 0:
                self.become_template(parent, request, group, (theirs.fileno(), fds[0]), reporting)
        self.runs(request["id"], Running(pid, group, reading, report))
        self.watch(ours.fileno(), lambda: self.template_said(request["id"], ours))

    def become_template(
        self,
        parent: int,
        request: dict[str, Any],
        group: Group,
        fds: tuple[int, int],
        report: socket.socket,
    ) -> None:
        """Turn this child into the monitor of a template; never returns."""
        try:
            kernel.die_with_parent(parent)
            group.join()
            _furnish(report)
            outer.run(self.stage, request, *fds, root=self.root)
        finally:
            os._exit(1)

    def template_said(self, number: int, control: socket.socket) -> None:
        """Answer for a template that is ready, or is not going to be."""
        self.unwatch(control.fileno())
        monitor = self.running.get(number)
        try:
            word, pid = forking.hear(control)
            if word != b"ready" or monitor is None:
                raise OSError("its preloading failed")
            self.templates[number] = forking.Template.found(control, pid, monitor.pid, monitor.group)
        except OSError as error:
            self.tell({"id": number, "error": str(error)})
            control.close()
            self.kill(number)
            return
        self.tell({"id": number, "ok": True})

    def fork(self, request: dict[str, Any], fds: list[int]) -> None:
        """Fork a child that starts a session and ends; it answers for itself."""
        template = self.templates.get(request["template"])
        if template is None:
            raise OSError("its template has ended")
        door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        report, reporting = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        group = Group({})
        with theirs, reporting:
            try:
                group = self.group_of(request)
                parent = os.getpid()
                pid = os.fork()
            except OSError:
                self.ended.append(group)
                door.close()
                report.close()
                raise
            if pid == 0:
                self.begin(
                    parent, request, fds, forking.Fork(template, group, request, door, theirs), reporting
                )
        door.setblocking(False)
        report.setblocking(False)
        self.running[request["id"]] = Forked(pid, group, door, report, request["template"])

    def begin(
        self, parent: int, request: dict[str, Any], fds: list[int], fork: forking.Fork, report: socket.socket
    ) -> None:
        """Start a session and answer; never returns. A template at fault is said to be, by the status."""
        status = FAILED
        try:
            kernel.die_with_parent(parent)
            init, listeners = fork.start(self.home, self.program, fds, root=self.root)
            socket.send_fds(report, [b"started"], [init, *listeners])
            self.tell({"id": request["id"], "ok": True, "folders": dict(fork.group.folders)})
            status = 0
        except forking.TemplateUnfit as error:
            status = UNFIT
            self.tell({"id": request["id"], "error": str(error)})
        except (OSError, ValueError, KeyError) as error:
            self.tell({"id": request["id"], "error": str(error)})
        finally:
            os._exit(status)

    def begun(self, number: int, sandbox: Forked, status: int) -> None:
        """Take note that who started a session has ended: it runs now, or it is over."""
        sandbox.pid = 0
        if status or not sandbox.started():
            if os.waitstatus_to_exitcode(status) == UNFIT:
                self.kill(sandbox.template)
            return self.session_ended(number)
        self.watch(sandbox.init, lambda: self.session_ended(number))
        self.hearing.begin(number, sandbox.attempts)
        if sandbox.killed:
            sandbox.kill()
        return None

    def session_ended(self, number: int) -> None:
        """Take note that the init of a session has ended, or never began."""
        self.sandbox_ended(number, self.running.pop(number), 0)

    def kill(self, target: int) -> None:
        """End a sandbox; its exit is told when it was reaped."""
        sandbox = self.running.get(target)
        if sandbox is not None:
            sandbox.killed = True
            sandbox.kill()

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
                if sandbox.pid == pid and isinstance(sandbox, Forked):
                    self.begun(number, sandbox, status)
                elif sandbox.pid == pid:
                    self.sandbox_ended(number, self.running.pop(number), status)

    def worker_ended(self, number: int, status: int) -> None:
        """Tell of a child that could not answer for itself."""
        if status:
            self.tell({"id": number, "error": f"a child of the launcher ended with status {status}"})

    def sandbox_ended(self, number: int, sandbox: Running | Forked, status: int) -> None:
        """Tell how a sandbox ended, and let nothing of it remain."""
        if isinstance(sandbox, Forked):
            self.unwatch(sandbox.init)
        else:
            self.unwatch(sandbox.report.fileno())
            sandbox.furnished()  # it may have ended before anybody looked
        self.hearing.end(number, sandbox.attempts)
        if template := self.templates.pop(number, None):
            template.close()
        code = sandbox.exit_code()
        sandbox.kill()
        message = {"exit": number, "code": code, "status": os.waitstatus_to_exitcode(status)}
        self.tell(message | {"killed": sandbox.killed, "oom_kills": sandbox.group.oom_kills()})
        sandbox.close()
        if not sandbox.group.remove():
            self.ended.append(sandbox.group)

    def end(self) -> None:
        """Kill everything, wait for it, remove the groups."""
        for _ in range(LAST_TRIES):
            for number in list(self.running):
                self.kill(number)
            self.reap()
            for fd, _ in self.poll.poll(0):
                if fd in self.watched:
                    self.watched[fd]()
            self.ended = [group for group in self.ended if not group.remove()]
            if not self.running and not self.ended:
                break
            select.select((), (), (), RETRY_SECONDS)
        self.groups.close()


def _furnish(report: socket.socket) -> None:
    """Have a network of one's own, and hand over what sees attempts in it."""
    kernel.unshare(kernel.CLONE_NEWNET)
    listeners = network.make()
    socket.send_fds(report, [b"network"], [listener.fileno() for listener in listeners])


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
