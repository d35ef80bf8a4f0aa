"""Keeps one `docker_reaper.py` running beside the gateway, and starts another where it was killed.

It is no child of the gateway: where the engine cannot be reached at the end, it goes on after it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread

from gateway.errors import UsageError

from .docker_reaper import DONE

__all__ = ["Reaper"]

PROGRAM = Path(__file__).parent / "docker_reaper.py"
START_SECONDS = 10.0


class Reaper:
    """Ends the containers that carry `label` once this process has ended.

    `left_over` is set by the driver that could not remove all of its own: then the reaper does.
    """

    def __init__(self, engine: str, label: str) -> None:
        self._command = [sys.executable, "-I", "-S", str(PROGRAM), engine, label]
        self.left_over = False

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Keep one running until cancelled. Raises `UsageError` where it does not start."""
        process = await self._start()
        task_status.started()
        while True:
            try:
                await _said(process)
            finally:
                await self._dismiss(process)
            process = await self._start()

    async def _start(self) -> subprocess.Popen[bytes]:
        process = await anyio.to_thread.run_sync(self._spawn)
        try:
            with anyio.fail_after(START_SECONDS):
                said = await _said(process)
        except BaseException:
            _close(process)
            raise
        if not said:
            _close(process)
            raise UsageError("the process that ends containers after the gateway did not start")
        return process

    def _spawn(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
        )
        process.wait()  # it forks, and its child stays
        return process

    async def _dismiss(self, process: subprocess.Popen[bytes]) -> None:
        """Let it end, having said that there is nothing to do for it, if so."""
        with anyio.CancelScope(shield=True):
            assert process.stdin is not None
            if not self.left_over:
                with suppress(BrokenPipeError):  # it was killed
                    process.stdin.write(DONE)
                process.stdin.close()
                await _said(process)
            _close(process)


async def _said(process: subprocess.Popen[bytes]) -> bytes:
    """Return what it says next; nothing once it has ended."""
    assert process.stdout is not None
    await anyio.wait_readable(process.stdout)
    return os.read(process.stdout.fileno(), 64)


def _close(process: subprocess.Popen[bytes]) -> None:
    for end in (process.stdin, process.stdout):
        assert end is not None
        end.close()
