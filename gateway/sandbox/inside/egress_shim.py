"""Runs inside a sandbox: a small listener on its loopback that passes connections on to the gateway's proxy.

    egress_shim.py SOCKET PROGRAM [ARGUMENT...]

A child relays between 127.0.0.1 and the unix socket, byte for byte; this process names the port in
HTTPS_PROXY and becomes the program. Decides nothing: the gateway does. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import socket
import sys
from contextlib import suppress

CANNOT_START = 127
CHUNK = 65_536
MOST = 64
"""Connections at once; more wait to be accepted."""
PR_SET_PDEATHSIG = 1
LOCAL = "localhost,127.0.0.1,::1"


class Side:
    """One end of a connection, and what is still to be written to it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.waiting = b""
        self.ended = False  # nothing more comes from it
        self.shut = False  # nothing more goes to it
        self.other = self


class Relay:
    """Passes bytes between pairs of sockets, one chunk in flight each way."""

    def __init__(self, listener: socket.socket, path: str) -> None:
        listener.setblocking(False)
        self.listener, self.path = listener, path
        self.pairs = 0
        self.ready = selectors.DefaultSelector()
        self.ready.register(listener, selectors.EVENT_READ, None)

    def run(self) -> None:
        """Relay for ever."""
        while True:
            for key, events in self.ready.select():
                side = key.data
                if side is None:
                    self.accept()
                elif side.sock.fileno() >= 0:  # it may have been closed with its other side just now
                    self.move(side, events)

    def accept(self) -> None:
        """Take a connection; one that the gateway does not take is closed at once."""
        inner, _ = self.listener.accept()
        outer = socket.socket(socket.AF_UNIX)
        try:
            outer.connect(self.path)
        except OSError:
            inner.close()
            outer.close()
            return
        one, two = Side(inner), Side(outer)
        one.other, two.other = two, one
        self.pairs += 1
        if self.pairs >= MOST:
            self.ready.unregister(self.listener)
        for side in (one, two):
            self.ready.register(side.sock, selectors.EVENT_READ, side)

    def move(self, side: Side, events: int) -> None:
        """Read from a side that has something, write to one that takes something."""
        try:
            if events & selectors.EVENT_READ:
                self.read(side)
            if events & selectors.EVENT_WRITE:
                side.waiting = side.waiting[side.sock.send(side.waiting) :]
        except BlockingIOError:
            return
        except OSError:
            self.close(side)
            return
        self.settle(side)

    def read(self, side: Side) -> None:
        """Take a chunk for the other side."""
        data = side.sock.recv(CHUNK)
        side.ended = not data
        side.other.waiting = data
        if data:
            with suppress(BlockingIOError):
                side.other.waiting = data[side.other.sock.send(data) :]

    def settle(self, side: Side) -> None:
        """Pass on an end, and wait for what can happen next on both sides."""
        pair = (side, side.other)
        for one in pair:
            if one.other.ended and not one.waiting and not one.shut:
                one.shut = True
                with suppress(OSError):
                    one.sock.shutdown(socket.SHUT_WR)
        if all(one.ended and not one.waiting for one in pair):
            self.close(side)
            return
        for one in pair:
            self.watch(one)

    def watch(self, side: Side) -> None:
        """Listen to a side whose other side took everything; offer one what waits for it."""
        wanted = 0 if side.ended or side.other.waiting else selectors.EVENT_READ
        wanted |= selectors.EVENT_WRITE if side.waiting else 0
        known = side.sock in self.ready.get_map()
        if wanted and known:
            self.ready.modify(side.sock, wanted, side)
        elif wanted:
            self.ready.register(side.sock, wanted, side)
        elif known:
            self.ready.unregister(side.sock)

    def close(self, side: Side) -> None:
        """End a connection."""
        for one in (side, side.other):
            if one.sock in self.ready.get_map():
                self.ready.unregister(one.sock)
            one.sock.close()
        self.pairs -= 1
        if self.listener not in self.ready.get_map():
            self.ready.register(self.listener, selectors.EVENT_READ, None)


def serve_in_child(path: str) -> int:
    """Relay in a child that ends with this process, and return the port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=MOST)
    port = int(listener.getsockname()[1])
    parent = os.getpid()
    if os.fork():
        listener.close()
        return port
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == parent:
            nothing = os.open(os.devnull, os.O_RDWR)
            for number in range(3):  # the pipes are the program's: they end with it
                os.dup2(nothing, number)
            Relay(listener, path).run()
    finally:
        os._exit(1)


def environment(port: int) -> dict[str, str]:
    """Return what tells programs of the proxy."""
    proxy = f"http://127.0.0.1:{port}"
    told = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"), proxy)
    told |= {name.lower(): proxy for name in told}
    return told | {"NO_PROXY": LOCAL, "no_proxy": LOCAL, "NODE_USE_ENV_PROXY": "1"}


def main(path: str, *argv: str) -> None:
    """Start the relay and become the program."""
    env = dict(os.environ) | environment(serve_in_child(path))  # noqa: TID251 - the program's own, inside
    try:
        os.execvpe(argv[0], argv, env)  # noqa: S606 - this is what it is for
    except OSError as error:
        sys.stderr.write(f"{argv[0]} could not be started: {error}\n")
        sys.exit(CANNOT_START)


if __name__ == "__main__":
    main(*sys.argv[1:])
