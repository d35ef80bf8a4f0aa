"""The launcher's loop: requests in, descriptors and exits out. One thread; what may wait is a worker's.

Messages are JSON over a SOCK_SEQPACKET socket, descriptors beside them. A request `{"op", "id"}` is
answered by `{"id", "ok"}` or `{"id", "error"}`, by the process that served it; the end of a sandbox is
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

from . import forking, jail, kernel, network, outer
from .groups import Group, Groups
from .hearing import REST_SECONDS, Hearing
from .jobs import UNFIT, Jobs
from .running import Forked, Running
from .workers import DIED, Workers

__all__ = ["Launcher"]

MAX_MESSAGE = 1 << 20
RETRY_SECONDS, LAST_TRIES = 0.01, 200


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
    ended: list[Group] = field(default_factory=list[Group])
    watched: dict[int, Callable[[], None]] = field(default_factory=dict[int, Callable[[], None]])
    poll: select.poll = field(default_factory=select.poll)

    def __post_init__(self) -> None:
        """Be ready to listen to the sandboxes that will be."""
        self.hearing = Hearing(self.watch, self.unwatch, self.tell)
        jobs = Jobs(self.stage, self.program, self.root, self.home, self.tell)
        kept = (self.socket.fileno(),)
        self.workers = Workers(jobs.do, kept, self.home, self.watch, self.unwatch)

    def serve(self) -> None:
        """Answer until the gateway is gone."""
        wake = _wake_on_child()
        self.poll.register(self.socket, select.POLLIN)
        self.poll.register(wake, select.POLLIN)
        while True:
            ready = {fd: self.watched.get(fd) for fd, _ in self.poll.poll(self.pause())}
            if wake in ready:
                os.read(wake, 4096)
                self.reap()
            self.hear(ready)
            self.ended = [group for group in self.ended if not group.remove()]
            self.hearing.wake()
            if self.socket.fileno() in ready and not self.receive():
                return

    def pause(self) -> float | None:
        """Return how many milliseconds to wait at most."""
        if self.ended:
            return RETRY_SECONDS * 1000
        return REST_SECONDS * 1000 if self.hearing.resting else None

    def hear(self, ready: dict[int, Callable[[], None] | None]) -> None:
        """Call those watched for when `ready` was found; not for what another call ended, whose number may be
        taken."""
        for fd, heard in ready.items():
            if heard is not None and self.watched.get(fd) is heard:
                heard()

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
            ended = isinstance(error, forking.TemplateEnded)
            self.tell({"id": request["id"], "error": str(error), "ended": ended})
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
        """Have a worker make a pin; it answers, unless it dies."""
        number = request["id"]
        self.workers.give(request, fds, lambda status, _: self.worked(number, status))

    def worked(self, number: int, status: int) -> None:
        """Tell of a worker that could not answer for itself."""
        if status == DIED:
            self.tell({"id": number, "error": "a worker of the launcher ended before it was done"})

    def start(self, request: dict[str, Any], fds: list[int]) -> None:
        """Fork a sandbox; the child answers just before it becomes bwrap."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)

        def become(parent: int, group: Group, report: socket.socket) -> None:
            self.become_sandbox(parent, request, fds, group, writing, report)

        try:
            self.begin(request, reading, become)
        finally:
            os.close(writing)

    def begin(
        self, request: dict[str, Any], status: int, become: Callable[[int, Group, socket.socket], None]
    ) -> None:
        """Fork what `become` turns into a sandbox, and take note of it. `status` is closed if that fails."""
        report, reporting = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        group = Group({})
        with reporting:
            try:
                group = self.group_of(request)
                parent = os.getpid()
                pid = os.fork()
            except OSError:
                self.ended.append(group)
                os.close(status)
                report.close()
                raise
            if pid == 0:
                become(parent, group, reporting)
        self.runs(request["id"], Running(pid, group, status, report))

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

        def become(parent: int, group: Group, report: socket.socket) -> None:
            self.become_template(parent, request, group, (theirs.fileno(), fds[0]), report)

        with theirs:
            try:
                self.begin(request, reading, become)
            except OSError:
                ours.close()
                raise
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
            if word != b"ready" or not isinstance(monitor, Running):
                raise OSError("its preloading failed")
            self.templates[number] = forking.Template.found(control, pid, monitor.pid, monitor.group)
        except OSError as error:
            self.tell({"id": number, "error": str(error)})
            control.close()
            self.kill(number)
            return
        self.tell({"id": number, "ok": True})

    def fork(self, request: dict[str, Any], fds: list[int]) -> None:
        """Have a worker start a session; it answers, unless it dies."""
        number, template = request["id"], self.templates.get(request["template"])
        if template is None:
            raise forking.TemplateEnded
        door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        door.setblocking(False)
        group = Group({})
        with theirs:
            try:
                group = self.group_of(request)
                words, held = template.told()
                sandbox = Forked(group, door, request["template"])
                self.workers.give(
                    request | {"of": words, "folders": dict(group.folders)},
                    [*fds, door.fileno(), theirs.fileno(), *held],
                    lambda status, given: self.begun(number, sandbox, status, given),
                )
            except OSError:
                self.ended.append(group)
                door.close()
                raise
        self.running[number] = sandbox

    def begun(self, number: int, sandbox: Forked, status: int, fds: list[int]) -> None:
        """Take note that a session was started: it runs now, or it is over. A template at fault goes too."""
        if status:
            if status == UNFIT:
                self.kill(sandbox.template)
            return self.session_ended(number)
        sandbox.started(fds)
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
            self.workers.ended(pid)
            for number, sandbox in list(self.running.items()):
                if isinstance(sandbox, Running) and sandbox.pid == pid:
                    self.sandbox_ended(number, self.running.pop(number), status)

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
            self.hear({fd: self.watched.get(fd) for fd, _ in self.poll.poll(0)})
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
