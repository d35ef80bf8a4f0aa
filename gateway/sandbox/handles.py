"""What the bubblewrap driver hands out: workspaces, snapshots and sandboxes. All work is the driver's."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

import anyio

from gateway.errors import SandboxError

from .contract import Attempt, Exit, FileEntry, SandboxStats, Snapshot, WorkspaceSpec
from .noticing import Noticing
from .piped import PipedSandbox
from .pipes import Pipes
from .reading import TreeReader
from .usage import read_stats

__all__ = ["BubblewrapSandbox", "BubblewrapSnapshot", "BubblewrapWorkspace"]

KILL_SECONDS = 1.0


class Keeper(Protocol):
    """What a handle asks of its driver."""

    async def kill(self, number: int) -> None:
        """End the sandbox of that number."""
        ...

    async def forget(self, workspace: BubblewrapWorkspace) -> None:
        """End the sandboxes over a workspace and let go of it."""
        ...

    async def snapshot(self, workspace: BubblewrapWorkspace) -> Snapshot:
        """Freeze what a workspace holds."""
        ...


class Pin:
    """Files in memory, held by descriptors of their mount namespace and of their top folder."""

    def __init__(self, what: str, use: str, fds: tuple[int, int]) -> None:
        """`what` it is and what nothing can do with it once its launcher ended (`use`), for people."""
        self._what, self._use = what, use
        self._fds: tuple[int, int] | None = fds
        self._stranded = False

    @property
    def namespace(self) -> int:
        """Return the pinned mount namespace. Raises `SandboxError` once closed or stranded."""
        if self._stranded:
            raise SandboxError(f"this {self._what} {self._use}, its launcher ended: open a new one")
        return self._open()[0]

    @contextmanager
    def reader(self) -> Generator[TreeReader]:
        """Give what reads the files, for a while: closing the pin meanwhile does no harm."""
        copy = os.dup(self._open()[1])
        try:
            yield TreeReader(copy)
        finally:
            os.close(copy)

    def strand(self) -> None:
        """Note that no launcher can enter it any more; its files can still be read."""
        self._stranded = True

    def _open(self) -> tuple[int, int]:
        if self._fds is None:
            raise SandboxError(f"this {self._what} is closed: open a new one")
        return self._fds

    def close(self) -> None:
        """Drop the files, unless somebody else holds them. Idempotent."""
        fds, self._fds = self._fds, None
        for fd in fds or ():
            os.close(fd)


class BubblewrapWorkspace:
    """A session's files in memory. Use `aclose`."""

    def __init__(self, driver: Keeper, spec: WorkspaceSpec, uid: int, fds: tuple[int, int]) -> None:
        self.path, self.spec, self.uid = spec.path, spec, uid
        self.pin = Pin("workspace", "takes no new sandbox", fds)
        self._driver = driver

    async def read(self, relative: str, *, max_bytes: int) -> bytes:
        """As `contract.Workspace.read`."""
        with self.pin.reader() as reader:
            return await reader.read(relative, max_bytes)

    async def files(self, *, max_entries: int = 10_000) -> tuple[FileEntry, ...]:
        """As `contract.Workspace.files`."""
        with self.pin.reader() as reader:
            return await reader.files(max_entries)

    async def crosses_link(self, relative: str) -> bool:
        """As `contract.Workspace.crosses_link`."""
        with self.pin.reader() as reader:
            return reader.crosses_link(relative)

    async def digest(self) -> str:
        """As `contract.Workspace.digest`."""
        with self.pin.reader() as reader:
            return await reader.digest()

    async def snapshot(self) -> Snapshot:
        """As `contract.Workspace.snapshot`."""
        return await self._driver.snapshot(self)

    async def aclose(self) -> None:
        """End the sandboxes over it and drop the files."""
        await self._driver.forget(self)
        self.pin.close()


class BubblewrapSnapshot:
    """Frozen files in memory, with the number of their entries. Use `aclose`."""

    def __init__(
        self, fds: tuple[int, int], entries: int, on_close: Callable[[BubblewrapSnapshot], None]
    ) -> None:
        self.pin = Pin("snapshot", "starts no workspace", fds)
        self.entries = entries
        self.digest = ""
        self._on_close = on_close

    async def aclose(self) -> None:
        """As `contract.Snapshot.aclose`."""
        self._on_close(self)
        self.pin.close()


class BubblewrapSandbox(PipedSandbox):
    """One program below `bwrap`."""

    def __init__(self, driver: Keeper, number: int, name: str, pipes: Pipes) -> None:
        super().__init__(name, pipes)
        self.number, self._driver = number, driver
        self._folders: dict[str, str] = {}
        self._own = 0
        self.noticing = Noticing()

    def started(self, folders: dict[str, str], own: int) -> None:
        """Note the folders of its control groups, and how many processes in them are not the program's."""
        self._folders, self._own = folders, own

    def notice(self, tell: Callable[[Attempt], None]) -> None:
        """As `contract.Sandbox.notice`."""
        self.noticing.notice(tell)

    def stats(self) -> SandboxStats:
        """As `contract.Sandbox.stats`."""
        return read_stats(self._folders, self._own)

    async def kill(self) -> None:
        """As `contract.Sandbox.kill`."""
        with anyio.CancelScope(shield=True):
            if self._exit is None:
                await self._driver.kill(self.number)
            with anyio.move_on_after(KILL_SECONDS):
                await self._ended.wait()
            self.ended(Exit(-9, "killed by the gateway; its end was not confirmed within a second"))
            self.noticing.dismiss()
            self._pipes.close()
