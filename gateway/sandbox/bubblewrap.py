"""The default driver: `bwrap` below a launcher process, no daemon. Decides nothing about calls.

The gateway pins a workspace by two descriptors (its mount namespace and its top folder), so that
nothing of it survives the gateway. Root gives each workspace a uid of its own; without root all
sandboxes share the gateway's uid and are kept apart by their namespaces alone.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import anyio

from gateway.core.json_types import JsonObject
from gateway.errors import SandboxError, UsageError

from .contract import Exit, Sandbox, SandboxSpec, Snapshot, Workspace, WorkspaceSpec
from .egress.inside import to_fork
from .fork_server import LET_THROUGH, Forking
from .handles import BubblewrapSandbox, BubblewrapSnapshot, BubblewrapWorkspace
from .launcher_client import Launcher, LauncherGone, Reply, TemplateEnded
from .noticing import attempt_of
from .pipes import Pipes
from .seccomp import assemble, profile_file, read_profile
from .start_request import FORK_PROCESSES, OWN_PROCESSES, check_target, fork_request, start_request
from .usage import exit_of

__all__ = ["BubblewrapDriver"]

COPY_BELOW = 128
"""Seeds with fewer entries are copied; larger ones become the lower layer of an overlay, where one can."""
NOT_OPEN = "the sandbox driver is not open: use `async with`"
INSTALL = "bubblewrap is not installed: run `apt-get install bubblewrap`"


@dataclass(frozen=True, slots=True)
class _Machine:
    """What the launcher found out: if it is root, its first of `uids` user ids, what control groups limit,
    and if a large seed can be the lower layer of an overlay."""

    root: bool
    uid: int
    uids: int
    groups: tuple[str, ...]
    overlays: bool


class BubblewrapDriver:
    """As `contract.SandboxDriver`. `cache_dir` gets one empty folder to mount on."""

    name = "bubblewrap"

    def __init__(self, cache_dir: Path, *, profile: str = "default") -> None:
        self._stage = cache_dir / "stage"
        self._profile = profile
        self._seeds: dict[Path, tuple[int, int, int]] = {}
        self._seeding = anyio.Lock()
        self._sandboxes: dict[int, tuple[BubblewrapSandbox, BubblewrapWorkspace]] = {}
        self._workspaces: set[BubblewrapWorkspace] = set()
        self._snapshots: set[BubblewrapSnapshot] = set()
        self._uids: list[int] = []
        self._bwrap = ""
        self._opened: Launcher | None = None
        self._found: _Machine | None = None

    @property
    def can_fork(self) -> bool:
        """Whether preloaded servers are forked here: that takes control groups."""
        return "pids" in self._machine.groups

    @property
    def limited_by(self) -> str:
        """As `contract.SandboxDriver.limited_by`."""
        if self._machine.groups:
            return f"control groups ({', '.join(self._machine.groups)}) and resource limits"
        return (
            "resource limits of each process alone: no control groups for memory and pids can be written "
            "here, so CPU time is not limited, memory is counted per process, and what processes share is not"
        )

    async def __aenter__(self) -> BubblewrapDriver:
        """As `contract.SandboxDriver.__aenter__`; also runs `/bin/true` in a sandbox once."""
        self._bwrap = _find_bwrap()
        profile, machine = read_profile(profile_file(self._profile)), os.uname().machine
        program, looser = assemble(profile, machine), assemble(profile.without(*LET_THROUGH), machine)
        self._stage.mkdir(parents=True, exist_ok=True)
        self._opened = Launcher(program, self._stage.resolve(), self._exited, self._attempted, self._lost)
        self._tasks = await anyio.create_task_group().__aenter__()
        self._forks = Forking(self._opened, looser, self._tasks, self._take_uid, self._give_uid)
        try:
            self._found = _machine(await self._launcher.start(self._tasks))
            self._uids = list(range(self._found.uid, self._found.uid + self._found.uids))[::-1]
            await self._try_out()
        except BaseException:
            await self._close()
            self._tasks.cancel_scope.cancel()
            await self._tasks.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """As `contract.SandboxDriver.__aexit__`."""
        await self._close()
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def _close(self) -> None:
        with anyio.CancelScope(shield=True):
            for sandbox, _ in list(self._sandboxes.values()):
                await sandbox.kill()
            for workspace in list(self._workspaces):
                await workspace.aclose()
            for snapshot in list(self._snapshots):
                await snapshot.aclose()
            await self._launcher.aclose()
            self._drop_seeds()

    def _drop_seeds(self) -> None:
        for namespace, folder, _ in self._seeds.values():
            os.close(namespace)
            os.close(folder)
        self._seeds.clear()

    async def _try_out(self) -> None:
        workspace = await self.open_workspace(WorkspaceSpec(disk=2**20, inodes=16))
        sandbox = await self.acquire(SandboxSpec("try-out", ("/bin/sh", "-c", "exit 0")), workspace)
        exit_ = await sandbox.wait()
        await sandbox.kill()
        await workspace.aclose()
        if exit_.code != 0:
            raise UsageError(
                f"bubblewrap cannot isolate here ({exit_.reason}; {sandbox.stderr_tail().strip()}): "
                "allow user namespaces (`sysctl -w user.max_user_namespaces=10000`) and an unmasked /proc"
            )

    @property
    def _launcher(self) -> Launcher:
        if self._opened is None:
            raise SandboxError(NOT_OPEN)
        return self._opened

    @property
    def _machine(self) -> _Machine:
        if self._found is None:
            raise SandboxError(NOT_OPEN)
        return self._found

    async def open_workspace(self, spec: WorkspaceSpec) -> Workspace:
        """As `contract.SandboxDriver.open_workspace`; a seed is read once per driver and frozen then."""
        check_target(spec.path)
        uid = self._take_uid()
        try:
            try:
                reply = await self._pin(spec, uid)
            except LauncherGone:
                reply = await self._pin(spec, uid)  # the seed anew as well, where it ended with its launcher
        except BaseException:
            self._give_uid(uid)
            raise
        workspace = BubblewrapWorkspace(self, spec, uid, cast(tuple[int, int], reply.fds))
        self._workspaces.add(workspace)
        return workspace

    async def _pin(self, spec: WorkspaceSpec, uid: int) -> Reply:
        start = await self._start_of(spec)
        overlay = start is not None and self._machine.overlays and start[1] >= COPY_BELOW
        request: JsonObject = {"op": "workspace", "uid": uid, "disk": spec.disk, "inodes": spec.inodes}
        return await self._launcher.ask(request | {"overlay": overlay}, start[:1] if start else ())

    async def _start_of(self, spec: WorkspaceSpec) -> tuple[int, int] | None:
        """Return what a workspace starts as: the namespace of a pin, and how many entries it has."""
        if spec.snapshot is not None:
            assert isinstance(spec.snapshot, BubblewrapSnapshot)
            return spec.snapshot.pin.namespace, spec.snapshot.entries
        if spec.seed is not None:
            namespace, _, entries = await self._seed(spec.seed)
            return namespace, entries
        return None

    async def _seed(self, source: Path) -> tuple[int, int, int]:
        async with self._seeding:
            if source not in self._seeds:
                reply = await self._launcher.ask({"op": "seed", "source": _real(source)})
                self._seeds[source] = (*cast(tuple[int, int], reply.fds), cast(int, reply.body["entries"]))
            return self._seeds[source]

    async def snapshot(self, workspace: BubblewrapWorkspace) -> Snapshot:
        """As `contract.Workspace.snapshot`; it is a copy in memory, counted nowhere but there."""
        try:
            reply = await self._copy(workspace)
        except LauncherGone:
            reply = await self._copy(workspace)
        fds, entries = cast(tuple[int, int], reply.fds), cast(int, reply.body["entries"])
        snapshot = BubblewrapSnapshot(fds, entries, self._snapshots.discard)
        self._snapshots.add(snapshot)
        try:
            with snapshot.pin.reader() as reader:
                snapshot.digest = await reader.digest()
        except BaseException:
            await snapshot.aclose()
            raise
        return snapshot

    async def _copy(self, workspace: BubblewrapWorkspace) -> Reply:
        request: JsonObject = {"op": "snapshot", "disk": workspace.spec.disk, "inodes": workspace.spec.inodes}
        return await self._launcher.ask(request, (workspace.pin.namespace,))

    def _take_uid(self) -> int:
        if not self._machine.root:
            return self._machine.uid
        if not self._uids:
            raise SandboxError(f"all {self._machine.uids} user ids are in use: close a session")
        return self._uids.pop()

    def _give_uid(self, uid: int) -> None:
        if self._machine.root:
            self._uids.insert(0, uid)

    async def acquire(self, spec: SandboxSpec, workspace: Workspace) -> Sandbox:
        """As `contract.SandboxDriver.acquire`."""
        assert isinstance(workspace, BubblewrapWorkspace)
        if sandbox := await self._forked(spec, workspace):
            return sandbox
        request = self._request(spec, workspace, workspace.uid)
        try:
            return await self._started(spec, request, workspace)
        except LauncherGone:
            return await self._started(spec, request, workspace)

    async def _forked(self, spec: SandboxSpec, workspace: BubblewrapWorkspace) -> BubblewrapSandbox | None:
        """Start it as a fork of its template; `None` where there is none, or it cannot be forked now."""
        if spec.egress is not None:
            spec = to_fork(spec)
        template = await self._forks.template(
            spec, workspace.spec, lambda uid: self._request(spec, workspace, uid)
        )
        if template is None:
            return None
        number = template.number
        asked = fork_request(self._request(spec, workspace, workspace.uid), spec, number)
        try:
            sandbox = await self._started(spec, asked, workspace, FORK_PROCESSES)
        except SandboxError as error:
            self._forks.failed(template, str(error), ended=number if isinstance(error, TemplateEnded) else 0)
            return None
        while template.attempts:  # it tried before anybody's session, as a server that starts cold may
            sandbox.noticing.attempted(template.attempts.pop(0))
        return sandbox

    async def fork(self, spec: SandboxSpec, workspace: Workspace) -> Sandbox:
        """As `acquire`, but never cold. Raises `SandboxError` with the reason where it cannot be forked."""
        assert isinstance(workspace, BubblewrapWorkspace)
        sandbox = await self._forked(spec, workspace)
        if sandbox is None:
            raise SandboxError(f"{spec.name} cannot be forked: {self._forks.reason or 'it has no template'}")
        return sandbox

    async def _started(
        self, spec: SandboxSpec, request: JsonObject, workspace: BubblewrapWorkspace, own: int = OWN_PROCESSES
    ) -> BubblewrapSandbox:
        number = self._launcher.next_id()
        pipes = Pipes((workspace.uid, workspace.uid) if self._machine.root else None)
        sandbox = BubblewrapSandbox(self, number, spec.name, pipes)
        self._sandboxes[number] = (sandbox, workspace)
        try:
            reply = await self._launcher.ask(
                request | {"id": number}, (*pipes.theirs, workspace.pin.namespace)
            )
        except SandboxError:
            self._sandboxes.pop(number, None)
            pipes.close()
            raise
        except BaseException:
            await sandbox.kill()
            self._sandboxes.pop(number, None)  # it may never have been asked for, and then no end is told
            raise
        pipes.handed_over()
        sandbox.started(cast(dict[str, str], reply.body["folders"]), own)
        self._tasks.start_soon(pipes.drain_stderr)
        return sandbox

    def _request(self, spec: SandboxSpec, workspace: BubblewrapWorkspace, uid: int) -> JsonObject:
        gid = uid if self._machine.root else os.getegid()
        disk, path = workspace.spec.disk, workspace.path
        return start_request(spec, bwrap=self._bwrap, uid=uid, gid=gid, workspace=path, disk=disk)

    async def kill(self, number: int) -> None:
        """Ask the launcher to end a sandbox; a launcher that is gone has ended it already."""
        try:
            await self._launcher.tell({"op": "kill", "id": 0, "target": number})
        except SandboxError:
            self._lost()

    async def forget(self, workspace: BubblewrapWorkspace) -> None:
        """End the sandboxes over a workspace and take its uid back."""
        for sandbox, over in list(self._sandboxes.values()):
            if over is workspace:
                await sandbox.kill()
        if workspace in self._workspaces:
            self._workspaces.discard(workspace)
            self._give_uid(workspace.uid)

    def _attempted(self, message: JsonObject) -> None:
        number, attempt = cast(int, message["attempt"]), attempt_of(message)
        found = self._sandboxes.get(number)
        if found is not None:
            found[0].noticing.attempted(attempt)
        else:
            self._forks.attempted(number, attempt)

    def _exited(self, message: JsonObject) -> None:
        number = cast(int, message["exit"])
        found = self._sandboxes.pop(number, None)
        if found is not None:
            found[0].ended(exit_of(message))
        else:
            self._forks.ended(number)

    def _lost(self) -> None:
        """Report every sandbox dead. Trees outlive their launcher, unless its user namespace owned them."""
        for sandbox, _ in self._sandboxes.values():
            sandbox.ended(Exit(-9, "the sandbox launcher ended, and every sandbox with it"))
        self._sandboxes.clear()
        self._forks.lost()
        if self._found is not None and not self._found.root:
            self._drop_seeds()
            for held in (*self._workspaces, *self._snapshots):
                held.pin.strand()


def _find_bwrap() -> str:
    found = shutil.which("bwrap")
    if found is None:
        raise UsageError(INSTALL)
    return os.path.realpath(found)


def _real(path: Path) -> str:
    return str(path.resolve())


def _machine(hello: JsonObject) -> _Machine:
    groups = tuple(cast(list[str], hello["groups"]))
    uids = cast(int, hello["uid"]), cast(int, hello["uids"])
    return _Machine(bool(hello["root"]), *uids, groups, bool(hello["overlays"]))
