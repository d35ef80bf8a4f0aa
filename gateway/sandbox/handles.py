"""What the bubblewrap driver hands out: a workspace and a running sandbox. All work is the driver's."""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol

import anyio
import anyio.to_thread

from gateway.errors import SandboxError

from .contract import Exit, SandboxStats, WorkspaceSpec
from .pipes import Pipes
from .usage import read_stats
from .workspace import digest_tree, read_file

__all__ = ["BubblewrapSandbox", "BubblewrapWorkspace"]

KILL_SECONDS = 1.0


class Keeper(Protocol):
    """What a handle asks of its driver."""

    async def kill(self, number: int) -> None:
        """End the sandbox of that number."""
        ...

    async def forget(self, workspace: BubblewrapWorkspace) -> None:
        """End the sandboxes over a workspace and let go of it."""
        ...


class BubblewrapWorkspace:
    """Files in memory, pinned by `namespace` and `folder`. Use `aclose`."""

    def __init__(self, driver: Keeper, spec: WorkspaceSpec, uid: int, fds: tuple[int, int]) -> None:
        self.path, self.spec, self.uid = spec.path, spec, uid
        self._driver = driver
        self._fds: tuple[int, int] | None = fds
        self._stranded = False

    @property
    def namespace(self) -> int:
        """Return the pinned mount namespace. Raises `SandboxError` once closed or stranded."""
        if self._stranded:
            raise SandboxError("this workspace takes no new sandbox, its launcher ended: open a new one")
        return self._pinned()[0]

    def strand(self) -> None:
        """Note that no launcher can enter it any more; its files can still be read."""
        self._stranded = True

    def _pinned(self) -> tuple[int, int]:
        if self._fds is None:
            raise SandboxError("this workspace is closed: open a new one")
        return self._fds

    async def read(self, relative: str, *, max_bytes: int) -> bytes:
        """As `contract.Workspace.read`."""
        with _duplicate(self._pinned()[1]) as folder:
            return await anyio.to_thread.run_sync(read_file, folder, relative, max_bytes)

    async def digest(self) -> str:
        """As `contract.Workspace.digest`."""
        with _duplicate(self._pinned()[1]) as folder:
            return await anyio.to_thread.run_sync(digest_tree, folder)

    async def aclose(self) -> None:
        """End the sandboxes over it and drop the files."""
        await self._driver.forget(self)
        fds, self._fds = self._fds, None
        for fd in fds or ():
            os.close(fd)


@contextmanager
def _duplicate(fd: int) -> Generator[int]:
    """A second descriptor for a while, so that closing the first meanwhile does no harm."""
    copy = os.dup(fd)
    try:
        yield copy
    finally:
        os.close(copy)


class BubblewrapSandbox:
    """One program below `bwrap`."""

    def __init__(self, driver: Keeper, number: int, name: str, pipes: Pipes) -> None:
        self.id = f"{name}-{secrets.token_hex(6)}"
        self.number, self._driver, self._pipes = number, driver, pipes
        self._exit: Exit | None = None
        self._ended = anyio.Event()
        self._folders: dict[str, str] = {}

    def started(self, folders: dict[str, str]) -> None:
        """Note the folders of its control groups."""
        self._folders = folders

    def ended(self, exit_: Exit) -> None:
        """Note how it ended; only the first report counts."""
        if self._exit is None:
            self._exit = exit_
            self._pipes.close_stdin()
            self._ended.set()

    async def send(self, data: bytes) -> None:
        """As `contract.Sandbox.send`; a send that was cancelled half-way breaks the pipe."""
        await self._pipes.send(data)

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """As `contract.Sandbox.receive`."""
        return await self._pipes.receive(max_bytes)

    def stderr_tail(self) -> str:
        """As `contract.Sandbox.stderr_tail`."""
        return self._pipes.stderr.text()

    async def wait(self) -> Exit:
        """As `contract.Sandbox.wait`."""
        await self._ended.wait()
        assert self._exit is not None
        return self._exit

    def stats(self) -> SandboxStats:
        """As `contract.Sandbox.stats`."""
        return read_stats(self._folders)

    async def kill(self) -> None:
        """As `contract.Sandbox.kill`."""
        with anyio.CancelScope(shield=True):
            if self._exit is None:
                await self._driver.kill(self.number)
            with anyio.move_on_after(KILL_SECONDS):
                await self._ended.wait()
            self.ended(Exit(-9, "killed by the gateway; its end was not confirmed within a second"))
            self._pipes.close()
