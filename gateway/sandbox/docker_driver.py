"""The driver `docker`: one hardened container per sandbox, made by the engine on this machine.

A workspace is a volume in memory that lives as long as a container of ours holds it. The reaper ends
everything when the gateway ends, however it does; the next start sweeps what even that left.
Decides nothing about calls; blocking calls to the engine are made in threads.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import anyio
import anyio.from_thread
import anyio.to_thread

from gateway.core.json_types import JsonObject
from gateway.errors import SandboxError

from .contract import Exit, Sandbox, SandboxSpec, Snapshot, Workspace, WorkspaceSpec
from .docker import Ended, Engine
from .docker_container import Place, container_config, control_groups, first_words, volume_config
from .docker_gvisor import NO_SOCKETS, RUNTIME, UNHEARD, check_runtime, filter_for
from .docker_handles import KILLED, DockerSandbox, DockerSnapshot, DockerWorkspace
from .docker_hearing import ContainerHearing
from .docker_keeper import keeper_spec
from .docker_network import Unheard, furnish
from .docker_owner import DRIVER, OWNER, is_dead, owner
from .docker_reaper import remove_all
from .docker_reaping import Reaper
from .docker_seeds import FrozenSeed, Packed
from .docker_streams import AttachedStreams
from .images import ensure_image, read_recipe, remove_old_images
from .seccomp import profile_file
from .start_request import check_spec, check_target
from .usage import exit_of

__all__ = ["DockerDriver"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

CALLS = 8
"""Calls to the engine at once; it does little more in parallel, and the client keeps ten connections."""
GONE = Exit(-9, "the engine ended or restarted, and this program with it")


class DockerDriver:
    """As `contract.SandboxDriver`. `image` names a recipe.

    With `gvisor` the engine runs containers with gVisor's `runsc`: each has a kernel of its own.
    """

    def __init__(self, *, image: str = "base", gvisor: bool = False) -> None:
        self.name = "gvisor" if gvisor else "docker"
        self._recipe = image
        self._runtime = RUNTIME if gvisor else None
        self._sockets = True
        self.label = secrets.token_hex(8)
        self._labels = {OWNER: owner(os.getpid()), DRIVER: self.label}
        self._calls = anyio.CapacityLimiter(CALLS)
        self._seeds: dict[Path, FrozenSeed] = {}
        self._seeding = anyio.Lock()
        self._sandboxes: dict[str, DockerSandbox] = {}
        self._workspaces: set[DockerWorkspace] = set()
        self._snapshots: set[DockerSnapshot] = set()
        self._opened: Engine | None = None
        self._image = ""
        self._deaf = False

    @property
    def limited_by(self) -> str:
        """As `contract.SandboxDriver.limited_by`."""
        return "the engine's control groups" + (", and gVisor's kernel" if self._runtime else "")

    async def __aenter__(self) -> DockerDriver:
        """As `contract.SandboxDriver.__aenter__`."""
        profile = profile_file().read_text()
        self._seccomp = profile if self._runtime is None else filter_for(profile)
        self._opened = await anyio.to_thread.run_sync(Engine)
        self._tasks = await anyio.create_task_group().__aenter__()
        try:
            await self._call(self._look)
            await self._call(self._sweep)
            label = f"{DRIVER}={self.label}"
            self._reaper = Reaper(self._engine.socket, label)
            await self._tasks.start(self._reaper.run)
            await self._tasks.start(self._listen, label)
            self._hearing = ContainerHearing()
            self._tasks.start_soon(self._hearing.run)
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """As `contract.SandboxDriver.__aexit__`."""
        await self._leave()

    async def _leave(self) -> None:
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as closing:
                for workspace in list(self._workspaces):
                    closing.start_soon(workspace.aclose)
            for snapshot in list(self._snapshots):
                await snapshot.aclose()
            for seed in self._seeds.values():
                seed.close()
            self._seeds.clear()
        self._tasks.cancel_scope.cancel()
        try:
            await self._tasks.__aexit__(None, None, None)
        finally:
            engine, self._opened = self._engine, None
            engine.close()

    @property
    def _engine(self) -> Engine:
        if self._opened is None:
            raise SandboxError("the sandbox driver is not open: use `async with`")
        return self._opened

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        """Make a blocking call to its end: a container must not be left half made."""
        return await anyio.to_thread.run_sync(functools.partial(function, *arguments), limiter=self._calls)

    def _look(self) -> None:
        """Find the image, and the runtime. Raises `UsageError`."""
        if self._runtime is not None:
            self._sockets = check_runtime(self._engine.runtime_arguments(self._runtime))
        self._image = ensure_image(self._engine, read_recipe(self._recipe)).id

    def _sweep(self) -> None:
        alone = True
        for left in self._engine.labels_in_use(OWNER):
            if is_dead(left):
                remove_all(self._engine.socket, f"{OWNER}={left}")
            else:
                alone = False
        if alone:  # another gateway may be of another version and use the image that is old to this one
            self._sweep_images()

    def _sweep_images(self) -> None:
        try:
            for tag in remove_old_images(self._engine, read_recipe(self._recipe)):
                logger.info("removed the image %s: it was made of an earlier recipe", tag)
        except SandboxError as error:
            logger.warning("images of earlier recipes could not be removed: %s", error)

    async def _listen(self, label: str, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Hear of containers that ended until the driver is left; an engine that hangs up has ended all."""
        ends, stop = await self._call(self._engine.ends, label)
        task_status.started()

        def hear() -> None:
            for one in ends:
                anyio.from_thread.run_sync(self._ended, one)

        async with anyio.create_task_group() as hearing:
            hearing.start_soon(self._hang_up_when_left, stop)
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(hear, limiter=anyio.CapacityLimiter(1))
            for sandbox in self._sandboxes.values():
                sandbox.ended(GONE)
            hearing.cancel_scope.cancel()

    async def _hang_up_when_left(self, stop: Callable[[], None]) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stop()

    def _ended(self, one: Ended) -> None:
        sandbox = self._sandboxes.get(one.container)
        if sandbox is None:
            return
        if sandbox.killed:
            sandbox.ended(KILLED)
        else:
            self._tasks.start_soon(self._explain, sandbox, one.code)

    async def _explain(self, sandbox: DockerSandbox, code: int) -> None:
        """Find out whether memory was the reason, and tell."""
        out = code != 0 and await self._was_out_of_memory(sandbox.container)
        sandbox.ended(exit_of({"code": code, "status": 0, "killed": False, "oom_kills": int(out)}))

    async def _was_out_of_memory(self, container: str) -> bool:
        try:
            return await self._call(self._engine.was_out_of_memory, container)
        except SandboxError:  # an engine that does not answer leaves only the exit code to go by
            return False

    async def open_workspace(self, spec: WorkspaceSpec) -> Workspace:
        """As `contract.SandboxDriver.open_workspace`; a seed is read once per driver and frozen then."""
        check_target(spec.path)
        seed = await self._start_of(spec)
        volume = await self._call(self._engine.create_volume, volume_config(spec), self._labels)
        workspace = DockerWorkspace(self, spec, volume)
        self._workspaces.add(workspace)
        try:
            keeper = workspace.held_by(await self._run(keeper_spec(spec.path), workspace, listen=False))
            if seed:
                await keeper.seed(seed)
        except BaseException:
            await workspace.aclose()
            raise
        return workspace

    async def _start_of(self, spec: WorkspaceSpec) -> Packed | None:
        if spec.snapshot is not None:
            assert isinstance(spec.snapshot, DockerSnapshot)
            return spec.snapshot.packed
        return await self._seed(spec.seed) if spec.seed else None

    async def snapshot(self, workspace: DockerWorkspace) -> Snapshot:
        """As `contract.Workspace.snapshot`; it is kept in a file without a name."""
        snapshot = DockerSnapshot(self._snapshots.discard)
        self._snapshots.add(snapshot)
        try:
            await workspace.open().snapshot(snapshot.packed.add, workspace.spec.disk)
            snapshot.packed.finish()
            snapshot.digest = await workspace.digest()
        except BaseException:
            await snapshot.aclose()
            raise
        return snapshot

    async def _seed(self, source: Path) -> FrozenSeed:
        async with self._seeding:
            if source not in self._seeds:
                self._seeds[source] = await self._call(FrozenSeed, source)
            return self._seeds[source]

    async def acquire(self, spec: SandboxSpec, workspace: Workspace) -> Sandbox:
        """As `contract.SandboxDriver.acquire`."""
        assert isinstance(workspace, DockerWorkspace)
        check_spec(spec)
        if spec.egress is not None and not self._sockets:
            raise SandboxError(f"{spec.name} was granted egress: {NO_SOCKETS}")
        workspace.open()
        return await self._run(spec, workspace, listen=True)

    async def _listen_to(self, sandbox: DockerSandbox) -> None:
        """Have what a container tries to reach told, before its program runs. Raises `SandboxError`."""
        if self._runtime is not None:
            sandbox.unheard = UNHEARD
            return
        with anyio.CancelScope(shield=True):  # or nobody would close what comes back
            try:
                listeners = await self._call(self._furnish, sandbox.container)
            except Unheard as why:
                if not self._deaf:
                    logger.warning("what containers try past the proxy is refused, but not recorded: %s", why)
                self._deaf = True
                sandbox.unheard = str(why)
            except OSError as error:
                raise SandboxError(f"furnishing the network of {sandbox.id}: {error}") from error
            else:
                sandbox.heard(self._hearing.begin(listeners, sandbox.noticing.attempted))

    def _furnish(self, container: str) -> list[socket.socket]:
        pid = cast(int, cast(JsonObject, self._engine.inspect(container)["State"])["Pid"])
        return furnish(container, pid) if pid else []  # it has ended already, which is told elsewhere

    async def _run(self, spec: SandboxSpec, workspace: DockerWorkspace, *, listen: bool) -> DockerSandbox:
        config = container_config(spec, self._place(workspace))
        container, main, errors = await self._call(self._engine.create, config)
        sandbox = DockerSandbox(self, container, spec.name, AttachedStreams(main, errors))
        self._sandboxes[container] = sandbox
        workspace.sandboxes.append(sandbox)
        try:
            await self._call(self._engine.start, container)
            if listen:  # it waits for its first words, and has tried nothing yet
                await self._listen_to(sandbox)
            await sandbox.send(first_words(spec))
        except anyio.BrokenResourceError:
            await sandbox.kill()
            raise SandboxError(f"{spec.name} ended while it was started: {sandbox.stderr_tail()}") from None
        except BaseException:
            await sandbox.kill()
            raise
        sandbox.started(control_groups(container))
        self._tasks.start_soon(sandbox.streams.drain_stderr)
        return sandbox

    def _place(self, workspace: DockerWorkspace) -> Place:
        return Place(
            image=self._image,
            seccomp=self._seccomp,
            labels=self._labels,
            volume=workspace.volume,
            workspace=workspace.path,
            disk=workspace.spec.disk,
            own_kernel=self._runtime,
        )

    async def kill(self, container: str) -> None:
        """End a container. Where the engine cannot, the sandbox says that its end was not confirmed."""
        try:
            await anyio.to_thread.run_sync(self._engine.kill, container, abandon_on_cancel=True)
        except SandboxError:
            return

    async def forget(self, workspace: DockerWorkspace) -> None:
        """End the sandboxes over a workspace, remove them and its volume."""
        if workspace not in self._workspaces:
            return
        self._workspaces.discard(workspace)
        async with anyio.create_task_group() as ending:
            for sandbox in workspace.sandboxes:
                ending.start_soon(self._remove, sandbox)
        await self._tidy(self._engine.remove_volume, workspace.volume)

    async def _remove(self, sandbox: DockerSandbox) -> None:
        await sandbox.kill()
        self._sandboxes.pop(sandbox.container, None)
        await self._tidy(self._engine.remove, sandbox.container)

    async def _tidy(self, remove: Callable[[str], None], name: str) -> None:
        """Remove something; what the engine does not remove now is left to the reaper."""
        try:
            await self._call(remove, name)
        except SandboxError:
            self._reaper.left_over = True
