"""Runs inside a sandbox: what code writes to its standard streams, capped and kept in files."""

import io
import os
import tempfile

MAX_OUTPUT = 100_000
"""Bytes of stdout, and of stderr, that a turn shows; the rest is dropped and counted."""


class Capture:
    """What is written to one of the standard streams in a turn, by this process or those it starts."""

    def __init__(self, number):
        self.number = number
        fd, path = tempfile.mkstemp()
        self._fd = os.open(path, os.O_APPEND | os.O_RDWR | os.O_CLOEXEC)
        self._dropped = 0
        os.close(fd)
        os.unlink(path)  # noqa: PTH108

    def begin(self):
        """Start anew, whatever became of the stream meanwhile, and return it as a text file."""
        os.ftruncate(self._fd, 0)
        os.dup2(self._fd, self.number)
        self._dropped = 0
        return io.TextIOWrapper(Capped(self), "utf-8", "backslashreplace", write_through=True)

    def add(self, data):
        """Keep what there is room for."""
        room = MAX_OUTPUT - os.fstat(self._fd).st_size
        if room > 0:
            os.write(self._fd, data[:room])
        self._dropped += max(0, len(data) - max(0, room))

    def text(self):
        """Return what was written, with a note where something was left out."""
        size = os.fstat(self._fd).st_size
        shown = os.pread(self._fd, MAX_OUTPUT, 0).decode("utf-8", "replace")
        left = max(0, size - MAX_OUTPUT) + self._dropped
        return f"{shown}\n[{left} more bytes were left out]" if left else shown


class Capped(io.RawIOBase):
    """The raw end of a stream that is captured."""

    def __init__(self, capture):
        self._capture = capture

    def writable(self):
        """Return that it is written to."""
        return True

    def fileno(self):
        """Return the stream's own descriptor, for programs that are started with it."""
        return self._capture.number

    def write(self, data):
        """Take everything, keep what there is room for."""
        data = bytes(data)
        self._capture.add(data)
        return len(data)
