"""What the docker driver hands out: workspaces, snapshots and sandboxes. All work is the driver's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import anyio

from gateway.errors import SandboxError

from .contract import Attempt, Exit, FileEntry, SandboxStats, Snapshot, WorkspaceSpec
from .docker_container import INIT_PROCESSES
from .docker_keeper import Keeper
from .docker_seeds import Packed
from .docker_streams import AttachedStreams
from .noticing import Noticing
from .usage import read_stats

__all__ = ["DockerSandbox", "DockerSnapshot", "DockerWorkspace"]

KILL_SECONDS = 1.0
NAMED = 12
"""Digits of a container's id that name it."""
KILLED = Exit(-9, "killed by the gateway")


class Driver(Protocol):
    """What a handle asks of its driver."""

    async def kill(self, container: str) -> None:
        """Ask the engine to end a container; never raises."""
        ...

    async def forget(self, workspace: DockerWorkspace) -> None:
        """End the sandboxes over a workspace and drop its files."""
        ...

    async def snapshot(self, workspace: DockerWorkspace) -> Snapshot:
        """Freeze what a workspace holds."""
        ...


class DockerSandbox:
    """One program in a container of its own."""

    def __init__(self, driver: Driver, container: str, name: str, streams: AttachedStreams) -> None:
        self.id = f"{name}-{container[:NAMED]}"
        self.container, self.streams = container, streams
        self.killed = False
        self._driver = driver
        self._exit: Exit | None = None
        self._ended = anyio.Event()
        self._folders: Mapping[str, str] = {}
        self.noticing = Noticing()
        self.unheard: str | None = None
        self._unhear: Callable[[], None] | None = None

    def heard(self, end: Callable[[], None]) -> None:
        """Note what is to be called once it has ended: the last that it tried is told then."""
        self._unhear = end
        if self._exit is not None:
            self._hear_the_rest()

    def _hear_the_rest(self) -> None:
        end, self._unhear = self._unhear, None
        if end is not None:
            end()

    def started(self, folders: Mapping[str, str]) -> None:
        """Note the folders of its control groups."""
        self._folders = folders

    def ended(self, exit_: Exit) -> None:
        """Note how it ended; only the first report counts."""
        if self._exit is None:
            self._exit = exit_
            self._hear_the_rest()
            self.streams.close_stdin()
            self._ended.set()

    def send_now(self, data: bytes) -> bool:
        """As `contract.Sandbox.send_now`: the engine's stream never takes anything at once."""
        return False

    async def send(self, data: bytes) -> None:
        """As `contract.Sandbox.send`; a send that was cancelled half-way breaks the stream."""
        await self.streams.send(data)

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """As `contract.Sandbox.receive`."""
        return await self.streams.receive(max_bytes)

    def stderr_tail(self) -> str:
        """As `contract.Sandbox.stderr_tail`."""
        return self.streams.stderr.text()

    def notice(self, tell: Callable[[Attempt], None]) -> str | None:
        """As `contract.Sandbox.notice`; `unheard` says why nobody listens in its network."""
        self.noticing.notice(tell)
        return self.unheard

    async def wait(self) -> Exit:
        """As `contract.Sandbox.wait`."""
        await self._ended.wait()
        assert self._exit is not None
        return self._exit

    def stats(self) -> SandboxStats:
        """As `contract.Sandbox.stats`."""
        return read_stats(self._folders, INIT_PROCESSES)

    async def kill(self) -> None:
        """As `contract.Sandbox.kill`."""
        with anyio.CancelScope(shield=True):
            self.streams.close()  # first: the engine sees no end of a container whose output nobody takes
            if self._exit is None:
                self.killed = True
                with anyio.move_on_after(KILL_SECONDS):
                    await self._driver.kill(self.container)
                    await self._ended.wait()
            self.ended(Exit(KILLED.code, f"{KILLED.reason}; its end was not confirmed within a second"))
            self.noticing.dismiss()


class DockerWorkspace:
    """A volume in memory, and the container that holds it. Use `aclose`."""

    def __init__(self, driver: Driver, spec: WorkspaceSpec, volume: str) -> None:
        self.path, self.spec, self.volume = spec.path, spec, volume
        self.sandboxes: list[DockerSandbox] = []
        self._driver = driver
        self._keeper: Keeper | None = None

    def held_by(self, keeper: DockerSandbox) -> Keeper:
        """Note the container that holds the volume, and return the way to talk to it."""
        self._keeper = Keeper(keeper)
        return self._keeper

    def open(self) -> Keeper:
        """Return what reads the files. Raises `SandboxError` once closed."""
        if self._keeper is None:
            raise SandboxError("this workspace is closed: open a new one")
        return self._keeper

    async def read(self, relative: str, *, max_bytes: int) -> bytes:
        """As `contract.Workspace.read`."""
        return await self.open().read(relative, max_bytes)

    async def files(self, *, max_entries: int = 10_000) -> tuple[FileEntry, ...]:
        """As `contract.Workspace.files`."""
        return await self.open().files(max_entries)

    async def crosses_link(self, relative: str) -> bool:
        """As `contract.Workspace.crosses_link`."""
        return await self.open().crosses_link(relative)

    async def digest(self) -> str:
        """As `contract.Workspace.digest`."""
        return await self.open().digest()

    async def snapshot(self) -> Snapshot:
        """As `contract.Workspace.snapshot`."""
        return await self._driver.snapshot(self)

    async def aclose(self) -> None:
        """End the sandboxes over it and drop the files."""
        self._keeper = None
        with anyio.CancelScope(shield=True):
            await self._driver.forget(self)


class DockerSnapshot:
    """Frozen files, packed in a nameless file of the gateway's. Use `aclose`."""

    def __init__(self, on_close: Callable[[DockerSnapshot], None]) -> None:
        self.packed = Packed("the snapshot")
        self.digest = ""
        self._on_close = on_close

    async def aclose(self) -> None:
        """As `contract.Snapshot.aclose`."""
        self._on_close(self)
        self.packed.close()
