"""What supervisor and workers say to each other: JSON messages, each with bytes and perhaps a descriptor.

One stream socket between the supervisor and each worker. Nothing here waits: what the socket does not
take now is sent when it does, in order.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from gateway.core.json_types import JsonObject
from gateway.loop import current_loop

__all__ = ["Channel", "Received"]

Received: TypeAlias = Callable[[JsonObject, bytes, int | None], None]
"""Told of each message: what it says, its bytes, and a descriptor that is the receiver's to close."""

_HEAD = struct.Struct(">IIB")
"""Lengths of the JSON and of the bytes, and how many descriptors come along (0 or 1)."""
_CHUNK = 262_144
_MOST_WAITING = 64_000_000
"""Bytes that may wait for the other side before it counts as stuck."""
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Channel:
    """One end. `received` is told of messages, `ended` once when the other side is gone."""

    def __init__(self, end: socket.socket, received: Received, ended: Callable[[], object]) -> None:
        self._socket = end
        self._received = received
        self._ended = ended
        self._loop = current_loop()
        self._arrived = bytearray()
        self._descriptors: deque[int] = deque()
        self._leaving: deque[tuple[memoryview, int | None]] = deque()
        self._waiting = 0
        self._open = True
        end.setblocking(False)
        self._loop.add_reader(end.fileno(), self._read)

    @property
    def stuck(self) -> bool:
        """Whether the other side takes nothing any more, or is gone."""
        return not self._open or self._waiting > _MOST_WAITING

    def send(self, message: JsonObject, data: bytes = b"", fd: int | None = None) -> None:
        """Send a message; `fd` is closed here once it is on its way, or if nobody is there."""
        if not self._open:
            _close(fd)
            return
        said = json.dumps(message).encode()
        frame = _HEAD.pack(len(said), len(data), fd is not None) + said + data
        idle = not self._leaving
        self._leaving.append((memoryview(frame), fd))
        self._waiting += len(frame)
        if idle:
            self._write()

    def close(self) -> None:
        """End it. Idempotent; `ended` is not told."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        for fd in (*self._descriptors, *(fd for _, fd in self._leaving)):
            _close(fd)
        self._descriptors.clear()
        self._leaving.clear()

    def _write(self) -> None:
        try:
            while self._leaving:
                self._write_some()
        except BlockingIOError:
            self._loop.add_writer(self._socket.fileno(), self._write)
        except OSError:
            self._end()
        else:
            self._loop.remove_writer(self._socket.fileno())

    def _write_some(self) -> None:
        data, fd = self._leaving[0]
        # A descriptor travels with the first byte of its message.
        sent = self._socket.send(data) if fd is None else socket.send_fds(self._socket, [data], [fd])
        self._waiting -= sent
        _close(fd)
        if sent < len(data):
            self._leaving[0] = data[sent:], None
        else:
            self._leaving.popleft()

    def _read(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._socket, _CHUNK, 8, _CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        self._descriptors.extend(descriptors)
        if not data:
            self._end()
            return
        self._arrived += data
        while self._open and self._take():
            continue

    def _take(self) -> bool:
        """Hand out one message, if it is here as a whole."""
        if len(self._arrived) < _HEAD.size:
            return False
        said, carried, descriptors = _HEAD.unpack_from(self._arrived)
        end = _HEAD.size + said + carried
        if len(self._arrived) < end:
            return False
        message = json.loads(self._arrived[_HEAD.size : _HEAD.size + said])
        data = bytes(self._arrived[_HEAD.size + said : end])
        del self._arrived[:end]
        self._received(message, data, self._descriptors.popleft() if descriptors else None)
        return True

    def _end(self) -> None:
        if self._open:
            self.close()
            self._ended()


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)
