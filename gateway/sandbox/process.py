"""Runs servers as plain processes: NO isolation, no limits. For debugging a server only.

The workspace is a temporary folder; where argv, environment and working directory name a path
inside the sandbox, they get the host's path instead.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import anyio.to_thread

from gateway.errors import SandboxError

from .contract import (
    Attempt,
    Exit,
    FileEntry,
    Sandbox,
    SandboxSpec,
    SandboxStats,
    Snapshot,
    Workspace,
    WorkspaceSpec,
)
from .piped import PipedSandbox
from .pipes import Pipes
from .reading import TreeReader

__all__ = ["ProcessDriver"]


class ProcessWorkspace:
    """A temporary folder, shown at `path` in name only."""

    def __init__(self, path: str, made: list[ProcessWorkspace]) -> None:
        self.path = path
        self.sandboxes: list[ProcessSandbox] = []
        self._made = made
        made.append(self)
        self.folder = Path(tempfile.mkdtemp(prefix="sandgate-"))

    async def fill(self, source: Path) -> None:
        """Copy files in."""
        await anyio.to_thread.run_sync(_copy_tree, source, self.folder)

    async def read(self, relative: str, *, max_bytes: int) -> bytes:
        """As `contract.Workspace.read`."""
        with self._reader() as reader:
            return await reader.read(relative, max_bytes)

    async def files(self, *, max_entries: int = 10_000) -> tuple[FileEntry, ...]:
        """As `contract.Workspace.files`."""
        with self._reader() as reader:
            return await reader.files(max_entries)

    async def crosses_link(self, relative: str) -> bool:
        """As `contract.Workspace.crosses_link`."""
        with self._reader() as reader:
            return reader.crosses_link(relative)

    async def digest(self) -> str:
        """As `contract.Workspace.digest`."""
        with self._reader() as reader:
            return await reader.digest()

    async def snapshot(self) -> Snapshot:
        """As `contract.Workspace.snapshot`."""
        copy = ProcessWorkspace(self.path, self._made)
        try:
            await copy.fill(self.folder)
            return ProcessSnapshot(copy, await copy.digest())
        except BaseException:
            await copy.aclose()
            raise

    async def aclose(self) -> None:
        """As `contract.Workspace.aclose`."""
        for sandbox in self.sandboxes:
            await sandbox.kill()
        if self.folder.exists():
            await anyio.to_thread.run_sync(shutil.rmtree, self.folder)

    @contextmanager
    def _reader(self) -> Generator[TreeReader]:
        folder = os.open(self.folder, os.O_PATH | os.O_DIRECTORY)
        try:
            yield TreeReader(folder)
        finally:
            os.close(folder)


class ProcessSnapshot:
    """A folder of its own, until it is closed or its driver is left."""

    def __init__(self, kept: ProcessWorkspace, digest: str) -> None:
        self.folder, self.digest = kept.folder, digest
        self._kept = kept

    async def aclose(self) -> None:
        """As `contract.Snapshot.aclose`."""
        await self._kept.aclose()


class ProcessSandbox(PipedSandbox):
    """One child process and its process group."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], pipes: Pipes) -> None:
        super().__init__(name, pipes)
        self._process = process

    async def watch(self) -> None:
        """Wait for its end; run as a task by the driver."""
        # Shielded: `kill`, which ends this, waits for it, also while everything around is cancelled.
        with anyio.CancelScope(shield=True):
            self.ended(_exit(await anyio.to_thread.run_sync(self._process.wait)))

    def notice(self, tell: Callable[[Attempt], None]) -> str | None:
        """As `contract.Sandbox.notice`."""
        return "nothing is refused, so nothing is told"

    def stats(self) -> SandboxStats:
        """Nothing is known."""
        return SandboxStats(None, None, None)

    async def kill(self) -> None:
        """As `contract.Sandbox.kill`, for the process group."""
        with anyio.CancelScope(shield=True):
            if self._exit is None:
                with suppress(ProcessLookupError):  # it ended just now
                    os.killpg(self._process.pid, signal.SIGKILL)
            await self._ended.wait()
            self._pipes.close()


def _exit(code: int) -> Exit:
    return Exit(code, f"exited with code {code}" if code >= 0 else f"ended by signal {-code}")


class ProcessDriver:
    """As `contract.SandboxDriver`, without any isolation."""

    name = "process"

    def __init__(self) -> None:
        self._workspaces: list[ProcessWorkspace] = []

    @property
    def limited_by(self) -> str:
        """As `contract.SandboxDriver.limited_by`."""
        return "nothing"

    async def __aenter__(self) -> ProcessDriver:
        """Nothing to prepare."""
        self._tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """As `contract.SandboxDriver.__aexit__`."""
        with anyio.CancelScope(shield=True):
            for workspace in self._workspaces:
                await workspace.aclose()
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def open_workspace(self, spec: WorkspaceSpec) -> Workspace:
        """As `contract.SandboxDriver.open_workspace`; `disk` and `inodes` hold nothing back."""
        workspace = ProcessWorkspace(spec.path, self._workspaces)
        if isinstance(spec.snapshot, ProcessSnapshot):
            await workspace.fill(spec.snapshot.folder)
        elif spec.seed is not None:
            await workspace.fill(spec.seed)
        return workspace

    async def acquire(self, spec: SandboxSpec, workspace: Workspace) -> Sandbox:
        """As `contract.SandboxDriver.acquire`; limits hold nothing back."""
        assert isinstance(workspace, ProcessWorkspace)
        places = {workspace.path: str(workspace.folder)} | {m.target: str(m.source) for m in spec.mounts}
        pipes = Pipes()
        try:
            process = await anyio.to_thread.run_sync(_spawn, spec, places, pipes.theirs)
        except OSError as error:
            pipes.close()
            raise SandboxError(f"{spec.name} could not be started: {error}") from error
        pipes.handed_over()
        sandbox = ProcessSandbox(spec.name, process, pipes)
        workspace.sandboxes.append(sandbox)
        self._tasks.start_soon(sandbox.watch)
        self._tasks.start_soon(pipes.drain_stderr)
        return sandbox


def _copy_tree(source: Path, target: Path) -> None:
    """Copy with links as links and fifos as fifos; sockets, which nobody listens at, are left out."""
    try:
        shutil.copytree(
            source, target, symlinks=True, ignore=_sockets, copy_function=_copy_file, dirs_exist_ok=True
        )
    except (OSError, shutil.Error) as error:
        raise SandboxError(f"{source} cannot be copied into a workspace: {error}") from error


def _sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_socket()]


def _copy_file(source: str, target: str) -> None:
    if Path(source).is_fifo():
        os.mkfifo(target)
        shutil.copystat(source, target)
    else:
        shutil.copy2(source, target)


def _spawn(spec: SandboxSpec, places: dict[str, str], ends: tuple[int, ...]) -> subprocess.Popen[bytes]:
    defaults = {"PATH": os.defpath, "HOME": places[next(iter(places))], "LANG": "C.UTF-8"}
    stdin, stdout, stderr = ends
    return subprocess.Popen(
        [_outside(word, places) for word in spec.argv],
        env=defaults | {name: _outside(value, places) for name, value in spec.env.items()},
        cwd=_outside(spec.cwd, places),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


def _outside(text: str, places: dict[str, str]) -> str:
    """Replace the paths of the inside in `text`, be it one path or several joined by colons."""
    parts = text.split(":")
    for inside, outside in sorted(places.items(), key=lambda place: -len(place[0])):
        parts = [
            outside + p[len(inside) :] if p == inside or p.startswith(inside + "/") else p for p in parts
        ]
    return ":".join(parts)
