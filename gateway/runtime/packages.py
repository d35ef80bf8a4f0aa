"""Makes a toolpack's servers ready to run: what to install, and the program to start in a sandbox.

Nothing of a server runs here. Installations are read-only inside, at names that say nothing of
this machine: `/opt/server` the installed packages, `/opt/pack/servers` the pack's own code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TypeVar

from gateway.core.lock import Lock, NpmLock, PypiLock, launch_of
from gateway.core.manifest import ServerSpec
from gateway.data import data_folder
from gateway.errors import UsageError
from gateway.runtime.npm import NodeEnvironments
from gateway.runtime.package_cache import PackageCache
from gateway.runtime.pypi import SITE_INSIDE, PythonEnvironment, PythonEnvironments
from gateway.sandbox.contract import Mount
from gateway.sandbox.runtimes import node_runtime, python_runtime

__all__ = ["Installer", "Program"]

_SERVER = "/opt/server"
_PACK_SERVERS = "/opt/pack/servers"
_STARTER, _FORKER, _REHEARSAL = "/opt/run_server.py", "/opt/fork_server.py", "/opt/rehearsal.py"
_NAMING = {"entry": 3, "script": 2, "module": 2}
"""How many words say what to run; the program's own arguments follow."""
_ISOLATED = ("-P", "-s", "-S")
"""Neither the working folder, nor a user's, nor the interpreter's own packages are importable."""
_Package = TypeVar("_Package", PypiLock, NpmLock)
_FLAGS_WITH_VALUE = ("-X", "-W")
_PLAIN_FLAG = re.compile(r"-[BbdEiIOqRsSuvx]+")


@dataclass(frozen=True, slots=True)
class Program:
    """How to start one server in a sandbox, before the manifest's `args` and `env`.

    `package` is what is installed for it, as a lock records it; `None` where nothing is. `preload` is
    the command that a driver may run once and fork; empty where the manifest does not allow it.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    mounts: tuple[Mount, ...]
    package: PypiLock | NpmLock | None = None
    preload: tuple[str, ...] = ()


class Installer:
    """Installs servers into a content-addressed cache and says how to run them.

    `environ` is the whole environment pip and npm get. `say` is told of everything that takes
    time. `relock` resolves version ranges and pays no heed to a lock: what `toolpack lock` wants.
    """

    def __init__(
        self,
        cache_dir: Path,
        *,
        environ: Mapping[str, str],
        say: Callable[[str], None] = lambda _: None,
        relock: bool = False,
    ) -> None:
        self.cache_dir = cache_dir
        self._relock = relock
        cache = PackageCache(cache_dir / "packages")
        self._python = PythonEnvironments(cache, environ=environ, say=say, relock=relock)
        self._node = NodeEnvironments(cache, environ=environ, say=say, relock=relock)

    async def ensure(
        self, server_id: str, server: ServerSpec, pack_folder: Path, lock: Lock | None
    ) -> Program:
        """Return how to run a server, installing what it needs; raises `UsageError` saying what to do."""
        locked = None if self._relock else lock
        if locked is not None:
            _check_launch(server_id, server, locked)
        package = locked.package_of(server_id) if locked is not None else None
        if server.pypi is not None:
            return await self._pypi(server, server.pypi, _of(PypiLock, package, server_id))
        if server.npm is not None:
            return await self._npm(server.npm, server.entry, _of(NpmLock, package, server_id))
        if server.command is not None:
            return await self._command(server, pack_folder, _of(PypiLock, package, server_id))
        raise UsageError(f"server {server_id!r}: this build runs command, pypi and npm servers only")

    async def _pypi(self, server: ServerSpec, requirement: str, locked: PypiLock | None) -> Program:
        environment = await self._python.ensure((requirement,), locked)
        how = ("entry", *environment.entry_point(server.entry))
        return _python_program(environment, how, forks=server.fork_server)

    async def _npm(self, spec: str, entry: str | None, locked: NpmLock | None) -> Program:
        environment = await self._node.ensure(spec, locked)
        runtime = node_runtime()
        return Program(
            argv=(runtime.argv0, str(PurePosixPath(_SERVER) / environment.entry_point(entry))),
            env=dict(runtime.env),
            mounts=(*runtime.mounts, Mount(environment.folder, _SERVER)),
            package=environment.package,
        )

    async def _command(self, server: ServerSpec, pack_folder: Path, locked: PypiLock | None) -> Program:
        assert server.command is not None
        own = _own_code(pack_folder)
        program, *rest = (_inside(word, pack_folder) for word in server.command)
        if program == "python":
            flags, how = _python_arguments(rest)
            environment = await self._own_environment(server, locked)
            return _python_program(environment, how, flags, own, forks=server.fork_server)
        if program == "node":
            runtime = node_runtime()
            return Program((runtime.argv0, *rest), dict(runtime.env), (*runtime.mounts, *own))
        return Program((program, *rest), {}, own)

    async def _own_environment(self, server: ServerSpec, locked: PypiLock | None) -> PythonEnvironment | None:
        """Return the environment of the pack's own Python server: what it asks for, by default `mcp`."""
        requirements = server.requirements
        if requirements is None:
            # The version this gateway is tested with; a lock keeps the one it was made with.
            requirements = (f"mcp=={locked.version if locked and locked.name == 'mcp' else version('mcp')}",)
        return await self._python.ensure(requirements, locked) if requirements else None


def _check_launch(server_id: str, server: ServerSpec, lock: Lock) -> None:
    if server_id in lock.servers and lock.servers[server_id].launch != launch_of(server):
        raise UsageError(
            f"server {server_id!r} is started differently than its lock says: review the change, then run "
            "'sandgate toolpack lock'"
        )


def _of(kind: type[_Package], package: PypiLock | NpmLock | None, server_id: str) -> _Package | None:
    if package is None or isinstance(package, kind):
        return package
    raise UsageError(
        f"the lock of server {server_id!r} is for another kind of package: run 'sandgate toolpack lock'"
    )


def _python_program(
    environment: PythonEnvironment | None,
    how: Sequence[str],
    flags: Sequence[str] = (),
    mounts: tuple[Mount, ...] = (),
    *,
    forks: bool,
) -> Program:
    runtime = python_runtime()
    interpreter = (runtime.argv0, *_ISOLATED, *flags)
    folder = SITE_INSIDE if environment else "-"
    starters = (_STARTER, _FORKER, _REHEARSAL) if forks else (_STARTER,)
    helpers = (Mount(data_folder("sandboxes") / PurePosixPath(place).name, place) for place in starters)
    site = (Mount(environment.site.parent, _SERVER),) if environment else ()
    return Program(
        argv=(*interpreter, _STARTER, folder, *how),
        # One hash seed for all: the same actions give the same observations. Nothing is written to /opt.
        env={**runtime.env, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
        mounts=(*runtime.mounts, *site, *helpers, *mounts),
        package=environment.package if environment else None,
        preload=(*interpreter, _FORKER, folder, *how[: _NAMING[how[0]]]) if forks else (),
    )


def _own_code(pack_folder: Path) -> tuple[Mount, ...]:
    servers = pack_folder.resolve() / "servers"
    return (Mount(servers, _PACK_SERVERS),) if servers.is_dir() else ()


def _inside(word: str, pack_folder: Path) -> str:
    """Return a word of a command with the pack's own files named as they are inside."""
    path = PurePosixPath(word)
    if path.parts[:1] != ("servers",) or ".." in path.parts:
        return word
    if not (pack_folder / path).exists():
        raise UsageError(f"{pack_folder / path} does not exist, and a server's command names it")
    return str(PurePosixPath(_PACK_SERVERS, *path.parts[1:]))


def _python_arguments(words: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split what follows `python` into interpreter flags and what to run."""
    flags: list[str] = []
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-m":
        if rest[0] not in _FLAGS_WITH_VALUE and not _PLAIN_FLAG.fullmatch(rest[0]):
            raise UsageError(
                f"python {rest[0]} cannot start a server: use 'python servers/FILE.py' or 'python -m NAME'"
            )
        count = 2 if rest[0] in _FLAGS_WITH_VALUE else 1
        flags += rest[:count]
        rest = rest[count:]
    module = bool(rest) and rest[0] == "-m"
    rest = rest[1:] if module else rest
    if not rest:
        raise UsageError("a command 'python' needs a file or '-m NAME' to run")
    return tuple(flags), ("module" if module else "script", *rest)
