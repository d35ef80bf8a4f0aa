"""What a sandbox driver must offer. Drivers import this and nothing of the runtime.

A *workspace* is the writable folder of one session; a *sandbox* is one tool server of that
session, running over the workspace. Reset is never a clean-up: it is a new workspace and new
sandboxes (a new generation). A *snapshot* is what a workspace held at one moment, frozen, for others
to start from. Dropping the last reference to any of them leaves nothing behind, also when the gateway
is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

__all__ = [
    "Attempt",
    "Exit",
    "FileEntry",
    "Limits",
    "Mount",
    "Preload",
    "Sandbox",
    "SandboxDriver",
    "SandboxSpec",
    "SandboxStats",
    "Snapshot",
    "Workspace",
    "WorkspaceSpec",
]


@dataclass(frozen=True, slots=True)
class Limits:
    """Hard limits of one sandbox. Sizes in bytes, `cpu` in cores."""

    memory: int = 512 * 2**20
    cpu: float = 1.0
    pids: int = 64
    disk: int = 256 * 2**20
    inodes: int = 65_536
    open_files: int = 1024


@dataclass(frozen=True, slots=True)
class Mount:
    """A host folder or file shown read-only at `target` inside."""

    source: Path
    target: str


@dataclass(frozen=True, slots=True)
class Preload:
    """The program to preload once and to fork per session, where a driver can: `sandboxes/fork_server.py`.

    Nothing of a session is in it, and no secret. The sandbox's own `argv` is as long as this one, and
    then come the arguments that the forked server gets.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """One program to isolate: fixed for a server, the same for all sessions.

    `env` may hold secrets: drivers never put it in an argv. `writable` says whether the
    workspace is mounted writable (check sandboxes see it read-only). `egress` is the host's path of
    the socket that is this sandbox's only way out; it is among the mounts already, and the program
    is started by the shim that serves it (`gateway.sandbox.egress.inside`). With `preload` a driver may
    fork the program from a template; that isolates the same.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    mounts: tuple[Mount, ...] = ()
    cwd: str = "/workspace"
    limits: Limits = Limits()
    writable: bool = True
    egress: Path | None = None
    preload: Preload | None = None


class Snapshot(Protocol):
    """What a workspace held at one moment. Any number of workspaces of the same driver can start as it.

    `digest` is what `Workspace.digest` of each of them says before anything runs over it.
    """

    digest: str

    async def aclose(self) -> None:
        """Let go of it; workspaces that started from it keep their files. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class WorkspaceSpec:
    """Where a session's files stand inside (`path`), what they start as, how large they may grow.

    They start as `snapshot` where one is given, else as `seed`, else as nothing. `disk` and `inodes`
    hold what a session adds; what it starts as is not counted where it is not copied.
    """

    path: str = "/workspace"
    seed: Path | None = None
    snapshot: Snapshot | None = None
    disk: int = 256 * 2**20
    inodes: int = 65_536


@dataclass(frozen=True, slots=True)
class Exit:
    """How a sandbox's program ended; `code` is negative for a signal. `reason` is for people."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """Tries to reach the network past the proxy, all of which the sandbox's own kernel refused.

    `protocol` is `tcp` or `udp`, `name` what a DNS query asked for. `count` tries are told at once. The
    last of a sandbox may tell only how many more there were: its `protocol` is empty then.
    """

    protocol: str
    address: str
    port: int
    name: str
    count: int


@dataclass(frozen=True, slots=True)
class SandboxStats:
    """What a sandbox uses now; `None` where the machine offers no way to know."""

    memory: int | None
    processes: int | None
    oom_kills: int | None
    cpu_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One entry of a workspace. `path` is relative; a name that is no UTF-8 is as `os.fsdecode` gives it.

    `size` is in bytes, 0 for all but files; `mode` the permission bits.
    """

    path: str
    kind: Literal["file", "folder", "link", "special"]
    size: int
    mode: int


class Workspace(Protocol):
    """The files of one session. Reading them follows no link and runs nothing of the session's."""

    path: str

    async def read(self, relative: str, *, max_bytes: int) -> bytes:
        """Return a regular file's bytes; no symlink is followed, wherever it leads.

        Raises `FileNotFoundError`, `IsADirectoryError`, `PermissionError` (a link or special file)
        or `ValueError` (larger than `max_bytes`).
        """
        ...

    async def files(self, *, max_entries: int = 10_000) -> tuple[FileEntry, ...]:
        """Return everything in it, by path, a folder before what is in it.

        Raises `ValueError` where there is more than `max_entries`, `SandboxError` where folders are
        nested too deeply.
        """
        ...

    async def crosses_link(self, relative: str) -> bool:
        """Say whether the way to `relative` leads over a symlink now, or cannot be told.

        What does not exist leads nowhere: False. A path that leaves the workspace cannot be told: True.
        """
        ...

    async def digest(self) -> str:
        """Return the SHA-256 (hex) over names, kinds, modes and contents, independent of order and times.

        Raises `SandboxError` where folders are nested too deeply.
        """
        ...

    async def snapshot(self) -> Snapshot:
        """Freeze what it holds now. Raises `SandboxError`.

        What runs over it meanwhile may be caught between two writes: wait for its answer first.
        """
        ...

    async def aclose(self) -> None:
        """Drop the files. Idempotent."""
        ...


class Sandbox(Protocol):
    """One running program. Its pipes are raw; framing is the caller's."""

    id: str

    def send_now(self, data: bytes) -> bool:
        """Write to its stdin without waiting, all or nothing; whether it was done."""
        ...

    async def send(self, data: bytes) -> None:
        """Write to its stdin, waiting while the pipe is full.

        Raises `anyio.BrokenResourceError` once the program no longer reads.
        """
        ...

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """Return the next bytes of its stdout; raises `anyio.EndOfStream` at its end."""
        ...

    def stderr_tail(self) -> str:
        """Return the last few KiB of stderr; the rest was drained, counted and dropped."""
        ...

    def notice(self, tell: Callable[[Attempt], None]) -> str | None:
        """Have `tell` called for each attempt to reach the network directly, the earlier ones at once.

        Returns why, for people, where the driver never learns of any: they are refused all the same, but
        not told.
        """
        ...

    async def wait(self) -> Exit:
        """Return how it ended, once it has."""
        ...

    def stats(self) -> SandboxStats:
        """Return what it uses now."""
        ...

    async def kill(self) -> None:
        """End it and everything in it, within a second. Idempotent; never raises for a dead one."""
        ...


class SandboxDriver(Protocol):
    """A way to isolate programs. Use as an async context manager; leaving it kills what is left."""

    name: str

    @property
    def limited_by(self) -> str:
        """Say for people what holds sandboxes to their limits on this machine, once it is open."""
        ...

    async def __aenter__(self) -> SandboxDriver:
        """Start helpers, sweep what a dead gateway left.

        Raises `gateway.errors.UsageError` naming the next step where the machine cannot isolate.
        """
        ...

    async def __aexit__(self, *exc_info: object) -> None:
        """Kill every sandbox and drop every workspace."""
        ...

    async def open_workspace(self, spec: WorkspaceSpec) -> Workspace:
        """Return a pristine workspace. Raises `SandboxError`."""
        ...

    async def acquire(self, spec: SandboxSpec, workspace: Workspace) -> Sandbox:
        """Start the program over the workspace. Raises `SandboxError` if the sandbox cannot be made."""
        ...
