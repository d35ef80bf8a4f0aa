"""Starts one session as a fork of a template. Runs in a worker of the launcher.

The template is told to fork and to give the child one end of a socket. From then on the child is met
over that socket alone; its resource limits are its template's. It begins as the init of its own namespaces.
In this order it is looked at, moved to its own control groups, and given its network and its user ids; it
forks the server, which gets the workspace; both drop their rights and are looked at again; the server gets
pipes, arguments and environment. Until that last step they know nothing of their session.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from . import jail, kernel, looking, network, pins
from .groups import Group

__all__ = ["SECONDS", "Fork", "Template", "TemplateEnded", "TemplateUnfit", "hear"]

SECONDS = 10.0
MAX_MESSAGE = 4096
CREDENTIALS = struct.Struct("iII")
FILTERS = 2
"""The template's and the session's own."""


class TemplateUnfit(OSError):
    """The template, not this fork, is at fault: it must not be asked again."""


class TemplateEnded(OSError):
    """There is no template any more, which is told of it in time as well."""

    def __init__(self) -> None:
        super().__init__("its template has ended")


@dataclass(frozen=True)
class Template:
    """A template that is ready: where it is asked, and what stood when it was found fit.

    `turn` is a pipe with one byte in it, held while the template's own group is being looked at.
    """

    control: socket.socket
    pid: int
    group: Group
    processes: frozenset[int]
    namespaces: dict[str, str]
    turn: tuple[int, int]

    @classmethod
    def found(cls, control: socket.socket, pid: int, monitor: int, group: Group) -> Template:
        """Return the template that said it is ready; raises `TemplateUnfit` where it cannot be forked."""
        init = looking.parent_of(pid)
        processes = frozenset({monitor, init, pid})
        turn = os.pipe()
        os.write(turn[1], b"1")
        control.settimeout(SECONDS)
        template = cls(control, pid, group, processes, looking.namespaces(pid), turn)
        template.check()
        if finding := looking.unshared(pid, "it"):
            raise TemplateUnfit(finding)
        if left := [name for name in os.listdir(f"/proc/{pid}/root/tmp") if name != "home"]:
            raise TemplateUnfit(f"it wrote files while it was imported, /tmp/{left[0]} among them")
        if left := os.listdir(f"/proc/{pid}/root{jail.ENVIRONMENT['HOME']}"):
            raise TemplateUnfit(f"it wrote files while it was imported, ~/{left[0]} among them")
        if os.readlink(f"/proc/{pid}/cwd") != "/":
            raise TemplateUnfit("it changed the working folder while it was imported")
        _freeze_scratch(pid)
        return template

    def check(self) -> None:
        """Raise `TemplateUnfit` where it is no longer alone, or has a way to talk to a fork.

        What memory they share is looked for in the fork: it takes two.
        """
        others = looking.members(self.group.folders["pids"]) - self.processes
        if others:
            raise TemplateUnfit(f"it started {len(others)} processes that still run")
        if finding := looking.alone(self.pid, (0, 1, 2), "it"):
            raise TemplateUnfit(finding)

    def told(self) -> tuple[dict[str, Any], list[int]]:
        """Return what tells a worker of it, and its descriptors: `received` undoes this."""
        words = {"pid": self.pid, "folders": dict(self.group.folders), "namespaces": self.namespaces}
        return words | {"processes": list(self.processes)}, [self.control.fileno(), *self.turn]

    @classmethod
    def received(cls, words: dict[str, Any], fds: list[int]) -> Template:
        """Return the template that `told` was asked for, in another process; it owns the descriptors."""
        control, *turn = fds
        channel = socket.socket(fileno=control)
        channel.settimeout(SECONDS)
        known = Group(words["folders"]), frozenset(words["processes"]), words["namespaces"]
        return cls(channel, words["pid"], *known, (turn[0], turn[1]))

    def close(self) -> None:
        """Let go of it; without its control it ends."""
        for fd in self.turn:
            os.close(fd)
        self.control.close()


@dataclass
class Fork:
    """The start of one session. `door` is our end of the socket to it, `theirs` the other, which it closes.

    `init` is the first process of its namespaces, `network` the inode of the one for the network.
    """

    template: Template
    group: Group
    request: dict[str, Any]
    door: socket.socket
    theirs: int
    init: int = 0
    network: int = 0

    def start(self, home: int, program: bytes, fds: list[int], *, root: bool) -> tuple[int, list[int]]:
        """Bring it up to its server's first step; return a descriptor of its init, and what sees attempts.

        `fds`: standard input, output and error, and the namespace of the workspace. Raises `OSError`.
        """
        self.door.settimeout(SECONDS)
        self._fork()
        listeners = self._furnish()
        self._give_ids(root=root)
        trees = [pins.take(fds[3], home)]
        if not self.request["writable"]:
            kernel.read_only(trees[0])
        if egress := self.request["egress"]:
            trees.append(kernel.detached_copy(egress["source"]))
            kernel.read_only(trees[1])
        self.door.send(program)
        socket.send_fds(self.door, [json.dumps(self._rooms()).encode()], trees)
        came = dict(self._hear() for _ in range(2))
        held = os.pidfd_open(self.init)
        self._look(came[b"init"], came[b"server"])
        signal.pidfd_send_signal(held, signal.SIGUSR1)
        if self._hear() != (b"hidden", self.init):
            raise OSError("a fork's init did not hide")
        socket.send_fds(self.door, [b"go"], [*fds[:3], self._words()])
        return held, listeners

    def _fork(self) -> None:
        """Have the template fork, and see that nothing but our socket connects it to the fork."""
        turn = self.template.turn
        os.read(turn[0], 1)
        try:
            try:
                socket.send_fds(self.template.control, [b"fork"], [self.theirs])
            except (BrokenPipeError, ConnectionResetError) as error:
                raise TemplateEnded from error
            os.close(self.theirs)
            # It keeps nothing of the fork's: it says so, and is looked at below. Heard first, and always,
            # so that the next one does not take this answer for its own.
            said = hear(self.template.control)
            if not said[0]:
                raise TemplateEnded
            if said != (b"forked", self.template.pid):
                raise TemplateUnfit("it does not answer as it should")
            word, pid = self._hear()
            if word != b"apart" or looking.parent_of(pid) != self.template.pid:
                raise OSError("a fork answered out of turn")
            self.group.take(pid)
            self.template.check()
            if finding := looking.alone(pid, (0,), "a fork"):
                raise TemplateUnfit(finding)
        finally:
            os.write(turn[1], b"1")
        self.init = pid

    def _furnish(self) -> list[int]:
        """Make the fork's network from outside, so that what its template did cannot keep it unseen."""
        namespace = os.open(f"/proc/{self.init}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.network = os.fstat(namespace).st_ino
            others = {
                os.stat(f"/proc/{who}/ns/net").st_ino for who in ("self", os.getppid(), self.template.pid)
            }
            # Asked once its namespace is held: it is a fork's, and not that of a later process of its number.
            if self.network in others or looking.parent_of(self.init) != self.template.pid:
                raise TemplateUnfit("a fork made no network of its own")
            kernel.setns(namespace, kernel.CLONE_NEWNET)
        finally:
            os.close(namespace)
        return [listener.detach() for listener in network.make()]

    def _give_ids(self, *, root: bool) -> None:
        if not root:
            _write(f"/proc/{self.init}/setgroups", "deny")
        for name, outside in (("uid_map", self.request["uid"]), ("gid_map", self.request["gid"])):
            _write(f"/proc/{self.init}/{name}", f"{jail.INSIDE_UID} {outside} 1")
        self.door.send(b"mapped")

    def _rooms(self) -> dict[str, Any]:
        request, owner = self.request, f"mode=0700,uid={jail.INSIDE_UID},gid={jail.INSIDE_UID}"
        return {
            "tmp": f"size={request['scratch']},nr_inodes={request['scratch_inodes']},{owner}",
            "shm": f"size={request['shm']},nr_inodes=256,{owner}",
            "trees": [request["workspace"], *([request["egress"]["socket"]] if request["egress"] else [])],
            "cwd": request["cwd"],
        }

    def _look(self, init: int, server: int) -> None:
        members = looking.members(self.group.folders["pids"])
        if init != self.init or looking.parent_of(server) != init or members - {init, server}:
            raise TemplateUnfit("a fork started processes of its own before its session")
        for pid in (init, server):
            uid, gid = self.request["uid"], self.request["gid"]
            finding = (
                looking.alone(pid, (0,), "a fork")
                or looking.unshared(pid, "a fork")
                or looking.apart(pid, self.template.namespaces)
                or looking.locked(pid, uid, gid, FILTERS)
            )
            if finding:
                raise TemplateUnfit(finding)
            if os.stat(f"/proc/{pid}/ns/net").st_ino != self.network:
                raise TemplateUnfit("a fork left the network that it was given")

    def _words(self) -> int:
        """Return a nameless file with the session's arguments, its environment and its way out."""
        fd = os.memfd_create("words", os.MFD_CLOEXEC)
        words = {
            "argv": self.request["argv"],
            "env": jail.ENVIRONMENT | self.request["env"],
            "egress": self.request["egress"],
        }
        with open(os.dup(fd), "wb") as file:
            file.write(json.dumps(words).encode())
        return fd

    def _hear(self) -> tuple[bytes, int]:
        word, pid = hear(self.door)
        if not word or word.startswith(b"failed"):
            raise OSError(f"a fork ended early ({word.decode(errors='replace') or 'without a word'})")
        return word, pid


def _freeze_scratch(pid: int) -> None:
    """Let a template write nowhere any more, so that no file can go between it and its forks."""
    child = os.fork()
    if child == 0:
        try:
            namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
            kernel.setns(namespace, kernel.CLONE_NEWNS)
            flags = kernel.MS_REMOUNT | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
            kernel.mount("tmpfs", jail.SCRATCH, flags=flags)
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        raise TemplateUnfit("its scratch folder could not be made read-only")


def hear(door: socket.socket) -> tuple[bytes, int]:
    """Return the next message and who sent it; nothing at the end."""
    data, extra, _, _ = door.recvmsg(MAX_MESSAGE, socket.CMSG_SPACE(CREDENTIALS.size))
    return data, next(_senders(extra), 0)


def _senders(extra: Iterable[tuple[int, int, bytes]]) -> Iterator[int]:
    for level, kind, data in extra:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            yield CREDENTIALS.unpack(data[: CREDENTIALS.size])[0]


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
