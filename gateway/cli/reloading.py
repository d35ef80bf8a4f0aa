"""Reload of policies while `serve` runs: at SIGHUP, and with `--watch` when a file changes.

A file is read, checked, compiled and its tests are run aside, as at the start; then one reference is
swapped. A file that does not pass changes nothing but what the log and `/ready` say.
"""

from __future__ import annotations

import hashlib
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import anyio
import anyio.to_thread

from gateway.cli.policies import policies_of
from gateway.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

    from gateway.core.policy import CompiledPolicy
    from gateway.runtime.gateway import Gateway
    from gateway.runtime.packs import Pack

__all__ = ["WATCH_SECONDS", "Reloader"]

logger = logging.getLogger(__name__)

WATCH_SECONDS = 0.5
"""How often the files are looked at. One that changed counts once it has stood still for as long."""

_Stamp: TypeAlias = tuple[int, int, int] | None


@dataclass(slots=True)
class Reloader:
    """Brings the policy files of a gateway's packs into force again; `override` is that of all packs."""

    gateway: Gateway
    override: Path | None
    say: Callable[[str], None]
    _one_at_a_time: anyio.Lock = field(default_factory=anyio.Lock)

    async def on_hangup(self, *, task_status: TaskStatus[None]) -> None:
        """Reload at each SIGHUP, from when the task has started."""
        with anyio.open_signal_receiver(signal.SIGHUP) as hangups:
            task_status.started()
            async for _ in hangups:
                await self.reload()

    async def on_change(self, *, task_status: TaskStatus[None]) -> None:
        """Reload whatever file changed since it was read, as soon as it stands still."""
        before = await self._stamps()
        loaded = {
            file: before[file] if await self._in_force(file, packs) else None
            for file, packs in self._sources()
        }
        task_status.started()
        while True:
            await anyio.sleep(WATCH_SECONDS)
            now = await self._stamps()
            # Half a file may well be a policy: one without its last rules.
            changed = {file for file in now if now[file] == before[file] != loaded[file]}
            before = now
            if changed:
                await self.reload(changed)
                loaded = {file: now[file] if file in changed else loaded[file] for file in loaded}

    async def reload(self, files: set[Path] | None = None) -> None:
        """Read `files` again (all of them, by default) and put in force what passes."""
        async with self._one_at_a_time:
            for file, packs in self._sources():
                if files is None or file in files:
                    await self._reload(file, packs)

    async def _reload(self, file: Path, packs: list[Pack]) -> None:
        try:
            compiled = await anyio.to_thread.run_sync(policies_of, packs, file)
            self._refuse_other_grants(file, compiled[0][1])
        except (ConfigError, UsageError) as error:
            for pack in packs:
                self.gateway.packs[pack.name].in_force.refuse(str(error))
            logger.warning("policy not reloaded, the one before stays in force: %s", error)
            return
        for pack, policy in compiled:
            self._swap(pack, policy)

    def _refuse_other_grants(self, file: Path, policy: CompiledPolicy) -> None:
        """Raise `UsageError` where the file grants sandboxes something else than those that were made."""
        for served in self.gateway.packs.values():
            judged_by_it = self.override is not None or served.pack.policy_file == file
            if judged_by_it and served.policy.model.grants != policy.model.grants:
                message = (
                    "'grants' changed, and the sandboxes are made with the old ones: restart to apply it"
                )
                raise UsageError(f"{file}: {message}")

    def _swap(self, pack: Pack, policy: CompiledPolicy) -> None:
        self.gateway.packs[pack.name].in_force.swap(policy, self.gateway.clock.now())
        self.say(f"pack {pack.name!r}: policy {policy.file} is in force, sha256 {policy.sha256}")

    def _sources(self) -> Iterator[tuple[Path, list[Pack]]]:
        """Yield each policy file with the packs it judges."""
        packs = [served.pack for served in self.gateway.packs.values()]
        if self.override is not None:
            yield self.override, packs
            return
        for pack in packs:
            if pack.policy_file is not None:
                yield pack.policy_file, [pack]

    async def _in_force(self, file: Path, packs: list[Pack]) -> bool:
        """Whether what judges is what the file says: it may have changed while servers started."""
        try:
            data = await anyio.Path(file).read_bytes()
        except OSError:
            return False
        return self.gateway.packs[packs[0].name].policy.sha256 == hashlib.sha256(data).hexdigest()

    async def _stamps(self) -> Mapping[Path, _Stamp]:
        return {file: await _stamp(file) for file, _ in self._sources()}


async def _stamp(file: Path) -> _Stamp:
    try:
        stat = await anyio.Path(file).stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
