"""The engine's attach sockets: stdin and stdout over one, stderr over another, so that neither waits.

The engine frames what a container writes: one byte for the stream, three of zero, four of length
(big-endian), then the bytes. What goes in is raw. Raw bytes for the caller; framing of messages is his.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable

import anyio

from .pipes import StderrTail, drain

__all__ = ["STDERR", "STDOUT", "AttachedStreams", "FrameReader", "attach"]

STDOUT, STDERR = 1, 2
HEADER = struct.Struct(">BxxxL")

ATTACH = (
    "POST /v1.40/containers/{}/attach?stream=1&{} HTTP/1.1\r\n"
    "Host: engine\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
)
MOST_HEADERS = 16_384

Receive = Callable[[int], Awaitable[bytes]]
"""Return at most so many next bytes of the connection; none at its end."""


def attach(engine: str, container: str, wanted: str) -> socket.socket:
    """Return a connection to the `wanted` streams of a container. Blocks; raises `OSError`.

    `engine` is the path of its unix socket; `wanted` is such as `stdin=1&stdout=1`. No client library
    hands out the bare connection, and none may have read ahead of us.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(engine)
        connection.sendall(ATTACH.format(container, wanted).encode())
        headers = _headers(connection)
        if not headers.startswith((b"HTTP/1.1 101 ", b"HTTP/1.1 200 ")):
            raise OSError(f"the engine does not attach: {headers[:80]!r}")
    except BaseException:
        connection.close()
        raise
    return connection


def _headers(connection: socket.socket) -> bytes:
    """Read an answer's headers byte by byte: what comes after them is the container's."""
    kept = b""
    while not kept.endswith(b"\r\n\r\n") and len(kept) < MOST_HEADERS:
        byte = connection.recv(1)
        if not byte:
            break
        kept += byte
    return kept


class FrameReader:
    """Takes the payload of one stream out of the frames. A read that is cancelled loses nothing."""

    def __init__(self, receive: Receive, stream: int) -> None:
        self._receive, self._stream = receive, stream
        self._header = b""
        self._left = 0

    async def read(self, max_bytes: int) -> bytes:
        """Return the next bytes; none at the end, also at one in the middle of a frame or of nonsense."""
        while True:
            if self._left:
                data = await self._receive(min(max_bytes, self._left))
                self._left -= len(data)
                return data
            if not await self._next_frame():
                return b""

    async def _next_frame(self) -> bool:
        while len(self._header) < HEADER.size:
            part = await self._receive(HEADER.size - len(self._header))
            if not part:
                return False
            self._header += part
        stream, self._left = HEADER.unpack(self._header)
        self._header = b""
        return stream == self._stream


class AttachedStreams:
    """Both sockets of one container, as `pipes.Pipes` for a process. Takes them over and closes them."""

    def __init__(self, main: socket.socket, errors: socket.socket) -> None:
        self._main, self._errors = main, errors
        self._out = FrameReader(lambda most: self._receive(main, most), STDOUT)
        self._err = FrameReader(lambda most: self._receive(errors, most), STDERR)
        self._writing = anyio.Lock()
        self._broken = self._ended = self._closed = False
        self.stderr = StderrTail()
        for sock in (main, errors):
            sock.setblocking(False)

    async def send(self, data: bytes) -> None:
        """Write all of `data`. Raises `BrokenResourceError` at the end, and after a write cut short."""
        async with self._writing:
            if self._broken or self._ended:
                raise anyio.BrokenResourceError
            self._broken = True
            rest = memoryview(data)
            while rest:
                rest = rest[await self._send(rest) :]
            self._broken = False

    async def _send(self, data: memoryview) -> int:
        while not self._ended:
            try:
                return self._main.send(data)
            except BlockingIOError:
                await _ready(anyio.wait_writable, self._main)
            except OSError as error:
                raise anyio.BrokenResourceError from error
        raise anyio.BrokenResourceError

    async def receive(self, max_bytes: int) -> bytes:
        """Return the next bytes of stdout. Raises `EndOfStream`."""
        data = await self._out.read(max_bytes)
        if not data:
            raise anyio.EndOfStream
        return data

    async def _receive(self, sock: socket.socket, max_bytes: int) -> bytes:
        while not self._closed:
            try:
                return sock.recv(max_bytes)
            except BlockingIOError:
                await _ready(anyio.wait_readable, sock)
            except ConnectionError:
                break
        return b""

    async def drain_stderr(self) -> None:
        """Read stderr to its end, no faster than the cap once the burst is used up."""
        await drain(self._err.read, self.stderr)

    def close_stdin(self) -> None:
        """Let no more be written; what was written by the program can still be read."""
        self._ended = True
        if not self._closed:
            anyio.notify_closing(self._main)  # who waits looks again; the engine itself holds on

    def close(self) -> None:
        """Close both and wake who waits on them. Idempotent."""
        if self._closed:
            return
        self._ended = self._closed = True
        for sock in (self._main, self._errors):
            anyio.notify_closing(sock)
            sock.close()


async def _ready(wait: Callable[[socket.socket], Awaitable[None]], sock: socket.socket) -> None:
    """Wait; a socket closed meanwhile counts as ready, and the loop around sees that it is."""
    try:
        await wait(sock)
    except anyio.ClosedResourceError:
        return
