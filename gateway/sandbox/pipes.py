"""A program's three pipes as seen by the gateway. Raw bytes; framing is the caller's."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import sys
import termios
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio

from gateway.loop import EventLoop, Promise, current_loop

__all__ = ["LARGEST_PIPE", "PIPE_BYTES", "Pipes", "StderrTail", "drain", "read_when_ready"]

TAIL_BYTES = 16_384
STDERR_CHUNK = 65_536
STDERR_BURST, STDERR_RATE = 4 * 2**20, 2**20
"""Bytes of stderr read at once if need be, and per second from then on; a flood waits in its own pipe."""


PIPE_BYTES = 65_536
"""What a pipe holds unless it was made larger."""
LARGEST_PIPE = 2**18
"""Bytes to which a pipe may grow for a frame: what does not fit is written and read in turns."""


class StderrTail:
    """The last bytes of stderr and the number of all."""

    def __init__(self) -> None:
        self.total = 0
        self._parts: deque[bytes] = deque()
        self._kept = 0

    def add(self, data: bytes) -> None:
        """Keep `data`, forgetting the oldest beyond `TAIL_BYTES`."""
        self.total += len(data)
        self._parts.append(data[-TAIL_BYTES:])
        self._kept += len(self._parts[-1])
        while self._kept - len(self._parts[0]) >= TAIL_BYTES:
            self._kept -= len(self._parts.popleft())

    def text(self) -> str:
        """Return the tail as text; bytes that are no UTF-8 are replaced."""
        return b"".join(self._parts)[-TAIL_BYTES:].decode(errors="replace")


class Output:
    """The reading end of a pipe. The loop watches it for as long as somebody keeps reading.

    One reader at a time. What nobody waits for stays in the pipe.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop: EventLoop | None = None
        self._wanted: Promise[bytes] | None = None
        self._most = 0
        self._kept: bytes | None = None

    async def read(self, max_bytes: int) -> bytes:
        """Return the next bytes, none at the end and once it is closed."""
        kept, self._kept = self._kept, None
        if kept is not None:
            return kept
        if self._loop is None:
            try:
                return os.read(self._fd, max_bytes) if self._fd >= 0 else b""
            except BlockingIOError:
                self._loop = current_loop()
                self._loop.add_reader(self._fd, self._readable)
        wanted = self._wanted = Promise()
        self._most = max_bytes
        try:
            return await wanted
        except BaseException:
            self._wanted = None
            if wanted.done:  # it came, and the reader was cancelled in the same moment
                self._kept = wanted.value
            raise

    def _readable(self) -> None:
        wanted, self._wanted = self._wanted, None
        if wanted is None:
            self._unwatch()
            return
        try:
            data = os.read(self._fd, self._most)
        except BlockingIOError:
            self._wanted = wanted
            return
        except OSError as error:
            wanted.break_with(error)
            return
        wanted.keep(data)

    def _unwatch(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._fd)
            self._loop = None

    def closing(self) -> None:
        """Let go of the descriptor, which is about to be closed, and tell who waits."""
        self._unwatch()
        self._fd = -1
        wanted, self._wanted = self._wanted, None
        if wanted is not None:
            wanted.keep(b"")


class Pipes:
    """stdin, stdout and stderr of one program. `theirs` is to be handed over and closed here once it was."""

    def __init__(self, owner: tuple[int, int] | None = None) -> None:
        """`owner` (uid, gid) may open the pipes by name, as `/dev/stderr` does."""
        pairs = [os.pipe() for _ in range(3)]
        self.theirs: tuple[int, ...] = (pairs[0][0], pairs[1][1], pairs[2][1])
        self._in, self._out, self._err = pairs[0][1], pairs[1][0], pairs[2][0]
        self._output = Output(self._out)
        self._writing = anyio.Lock()
        self._broken = False
        self._open = {self._in, self._out, self._err}
        self.stderr = StderrTail()
        for fd in self._open:
            os.set_blocking(fd, False)
        for fd in self.theirs if owner else ():
            os.fchown(fd, *(owner or (-1, -1)))

    def handed_over(self) -> None:
        """Close the program's ends here."""
        for fd in self.theirs:
            os.close(fd)
        self.theirs = ()

    def send_now(self, data: bytes) -> bool:
        """Write all of `data`, if the pipe takes it at once; else nothing of it.

        Raises `BrokenResourceError` after a write cut short, which only a reader that tampers with the pipe
        can bring about: what follows could not be understood.
        """
        if self._broken or self._in not in self._open or self._writing.locked():
            return False
        if len(data) > select.PIPE_BUF and not self._has_room(len(data)):
            return False
        try:
            written = os.write(self._in, data)
        except OSError:
            return False  # full, or nobody reads any more: `send` finds out which
        if written < len(data):
            self._broken = True
            raise anyio.BrokenResourceError
        return True

    def _has_room(self, size: int) -> bool:
        """Whether the pipe takes so much as a whole: it is empty, and as large or to be made so."""
        return size <= LARGEST_PIPE and not _waiting_in(self._in) and size <= _enlarged(self._in, size)

    async def send(self, data: bytes) -> None:
        """Write all of `data`. Raises `BrokenResourceError` at the end, and after a write cut short."""
        async with self._writing:
            if self._broken:
                raise anyio.BrokenResourceError
            self._broken = True
            rest = memoryview(data)
            while rest:
                rest = rest[await self._write(rest) :]
            self._broken = False

    async def _write(self, data: memoryview) -> int:
        while self._in in self._open:
            try:
                return os.write(self._in, data)
            except BlockingIOError:
                await _ready(anyio.wait_writable, self._in)
            except OSError as error:
                if error.errno != errno.EPIPE:
                    raise
                break
        raise anyio.BrokenResourceError

    async def receive(self, max_bytes: int) -> bytes:
        """Return the next bytes of stdout. Raises `EndOfStream`."""
        data = await self._output.read(max_bytes)
        if not data:
            raise anyio.EndOfStream
        if len(data) == PIPE_BYTES and max_bytes >= PIPE_BYTES:  # it was full, and its writer may wait
            _enlarged(self._out, LARGEST_PIPE)
        return data

    async def _read(self, fd: int, max_bytes: int) -> bytes:
        while fd in self._open:
            try:
                return os.read(fd, max_bytes)
            except BlockingIOError:
                await _ready(anyio.wait_readable, fd)
        return b""

    async def drain_stderr(self) -> None:
        """Read stderr to its end, no faster than the cap once the burst is used up."""
        await drain(lambda most: self._read(self._err, most), self.stderr)

    def close_stdin(self) -> None:
        """Let the program read the end of its input."""
        self._close(self._in)

    def close(self) -> None:
        """Close what is still open and wake who waits on it."""
        for fd in (*self._open, *self.theirs):
            self._close(fd)
        self.theirs = ()

    def _close(self, fd: int) -> None:
        if fd in self._open:
            self._open.discard(fd)
            if fd == self._out:
                self._output.closing()
            anyio.notify_closing(fd)
        elif fd not in self.theirs:
            return
        os.close(fd)


def _waiting_in(fd: int) -> int:
    """Return how many bytes wait in a pipe."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


def _enlarged(fd: int, size: int) -> int:
    """Make a pipe so large where that is allowed; return what it holds."""
    if not hasattr(fcntl, "F_SETPIPE_SZ"):  # macOS
        return select.PIPE_BUF
    room = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    if room < size:
        with suppress(OSError):  # a user has so many pages of pipes and no more
            room = fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, size)
    return room


async def drain(read: Callable[[int], Awaitable[bytes]], tail: StderrTail) -> None:
    """Move what `read` gives to `tail` until it gives nothing, capped as the constants above say."""
    credit, last = float(STDERR_BURST), anyio.current_time()
    while data := await read(STDERR_CHUNK):
        tail.add(data)
        now = anyio.current_time()
        credit = min(STDERR_BURST, credit + (now - last) * STDERR_RATE) - len(data)
        last = now
        if credit < 0:
            await anyio.sleep(-credit / STDERR_RATE)


async def read_when_ready(fd: int, max_bytes: int) -> bytes:
    """Return the next bytes from a non-blocking descriptor that the caller keeps open."""
    while True:
        try:
            return os.read(fd, max_bytes)
        except BlockingIOError:
            await anyio.wait_readable(fd)


async def _ready(wait: Callable[[int], Awaitable[None]], fd: int) -> None:
    """Wait; a descriptor closed meanwhile counts as ready, and the loop around sees that it is."""
    try:
        await wait(fd)
    except anyio.ClosedResourceError:
        return
