"""Runs inside a sandbox: uses up what it limits and prints how far it got. Standard library only.

Every bomb stops by itself well above the limit it tests, so that a sandbox without that limit does
not take the machine with it.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path

CHUNK = 1 << 20


def fork(most: int) -> int:
    """Return how many children could be alive at once."""
    children: list[int] = []
    try:
        while len(children) < most:
            child = os.fork()
            if child == 0:
                signal.pause()
            children.append(child)
    except OSError as error:
        if error.errno != errno.EAGAIN:
            raise
    for child in children:
        os.kill(child, signal.SIGKILL)
    return len(children)


def memory(most: int) -> int:
    """Return how many bytes could be used."""
    kept: list[bytearray] = []
    try:
        while len(kept) * CHUNK < most:
            kept.append(bytearray(b"x" * CHUNK))
    except MemoryError:
        pass
    return len(kept) * CHUNK


def disk(most: int) -> int:
    """Return how many bytes could be written to the workspace."""
    written = 0
    try:
        for number in range(16):
            with Path(f"/workspace/fill{number}").open("wb", buffering=0) as file:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                while written < most:
                    written += file.write(b"\0" * CHUNK)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise
    return written


def scratch(most: int) -> int:
    """Return how many bytes could be written outside the workspace."""
    written = 0
    for folder in ("/tmp", "/dev/shm"):  # noqa: S108
        try:
            with Path(f"{folder}/fill").open("wb", buffering=0) as file:
                while written < most:
                    written += file.write(b"\0" * CHUNK)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EFBIG):
                raise
    return written


def inodes(most: int) -> int:
    """Return how many files could be made in the workspace."""
    for made in range(most):
        try:
            Path(f"/workspace/{made}").touch()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return made
    return most


def files(most: int) -> int:
    """Return how many files could be open at once, having tried to raise the limit."""
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    opened = 3
    try:
        while opened < most:
            os.dup(0)
            opened += 1
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    return opened


def cpu(milliseconds: int) -> int:
    """Return the percentage of one core that eight at once could have over so many milliseconds.

    One alone would get little of a busy machine without any limit, and the limit seem to hold.
    """
    began = os.times().elapsed
    others: list[int] = []
    for _ in range(7):
        others.append(os.fork())
        if others[-1] == 0:
            os.setsid()  # the kernel may share out time by sessions
            spin(60)
            os._exit(0)
    spin(milliseconds / 1000)
    for other in others:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
    return round(100 * sum(os.times()[:4]) / (os.times().elapsed - began))


def spin(seconds: float) -> None:
    """Burn time by the clock."""
    end = os.times().elapsed + seconds
    while os.times().elapsed < end:
        pass


def orphan(_: int) -> int:
    """Leave a process behind that holds stdout, and end."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.pause()
        os._exit(0)
    return 1


def flood(descriptor: int) -> int:
    """Write to stdout (1) or stderr (2) without end."""
    data = b"x" * 65_536
    while True:
        os.write(descriptor, data)


BOMBS = {
    function.__name__: function
    for function in (fork, memory, disk, scratch, inodes, files, cpu, orphan, flood)
}


if __name__ == "__main__":
    print(json.dumps(BOMBS[sys.argv[1]](int(sys.argv[2]))), flush=True)
