"""Node environments for tool servers, made by npm: exact versions, integrity kept, no install scripts run."""

from __future__ import annotations

import json
import re
import shutil
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, Field

from gateway.core.lock import NpmEntry, NpmLock
from gateway.errors import UsageError
from gateway.runtime.install_process import run_installer
from gateway.runtime.package_cache import BuildSite, PackageCache, cache_key

__all__ = ["NodeEnvironment", "NodeEnvironments", "is_one_version"]

_RECIPE = "npm 1"
"""Changes when environments are made differently, so that older ones are not taken for new ones."""

_SPEC = re.compile(r"(?P<name>@?[^@]+)(?:@(?P<version>.+))?")
_EXACT = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(?:[-+][A-Za-z0-9.+-]+)?")
_RECORD = "installed.json"
_ROOT = "sandgate-server"
_FLAGS = (
    *("--ignore-scripts", "--no-audit", "--no-fund", "--no-bin-links", "--no-update-notifier"),
    *("--package-lock", "--no-progress", "--loglevel=error"),
)
_NPM_HINT = "Check the network and npm's own configuration (`npm config list`)."
_RELOCK = "If versions the lock names are gone or changed, review that and run 'sandgate toolpack lock'."
_LOCK_HINT = f"{_RELOCK} {_NPM_HINT}"


@dataclass(frozen=True, slots=True)
class NodeEnvironment:
    """One finished environment: the folder that holds `node_modules`, and what is in it."""

    folder: Path
    package: NpmLock

    def entry_point(self, script: str | None) -> PurePosixPath:
        """Return a console script's file, relative to the folder; `None` asks for the only one.

        Raises `UsageError` naming the candidates.
        """
        top = f"node_modules/{self.package.name}"
        scripts = self.package.packages[top].bin
        names = ", ".join(sorted(scripts)) or "none"
        if script is None and len(scripts) != 1:
            raise UsageError(
                f"{self.package.name} has not exactly one script: set 'entry' to one of: {names}"
            )
        file = scripts.get(script or next(iter(scripts)))
        if file is None:
            raise UsageError(f"{self.package.name} has no script {script!r}: set 'entry' to one of: {names}")
        path = PurePosixPath(file)
        if path.is_absolute() or ".." in path.parts:
            raise UsageError(f"{self.package.name} names a script outside of itself: {file!r}")
        return PurePosixPath(top) / path


class NodeEnvironments:
    """Makes environments once and finds them again.

    With `relock`, version ranges are resolved and what a lock says is not looked at.
    """

    def __init__(
        self, cache: PackageCache, *, environ: Mapping[str, str], say: Callable[[str], None], relock: bool
    ) -> None:
        self._cache = cache
        self._environ = environ
        self._say = say
        self._relock = relock

    async def ensure(self, spec: str, locked: NpmLock | None) -> NodeEnvironment:
        """Return an environment with the package `spec` (`name@version`).

        Raises `UsageError` for a range without a lock, a lock that is not for this package, contents
        that differ from the lock's, and whatever npm fails with.
        """
        lock = None if self._relock else locked
        name, version = _split(spec)
        _check(spec, name, version, lock, exact=not self._relock)
        key = _content_key(lock) if lock is not None else cache_key(_RECIPE, sysconfig.get_platform(), spec)
        entry = self._find(key, lock)
        if entry is None:
            async with self._cache.building(key, self._say) as site:
                entry = self._find(key, lock) or await self._build(spec, name, lock, key, site)
        return NodeEnvironment(entry, _recorded(entry, name))

    def _find(self, key: str, lock: NpmLock | None) -> Path | None:
        return self._cache.entry(key) if lock is not None else self._cache.resolved(key)

    async def _build(self, spec: str, name: str, lock: NpmLock | None, key: str, site: BuildSite) -> Path:
        self._say(f"installing {spec} for its sandbox, once (into {self._cache.folder})")
        if lock is None:
            (site.folder / "package.json").write_text(json.dumps({"name": _ROOT, "private": True}))
            await self._run(site, ["install", "--save-exact", spec], spec, _NPM_HINT)
        else:
            _write_lock(site.folder, lock)
            await self._run(site, ["ci"], spec, _LOCK_HINT)
        package = _installed(site.folder, name)
        if lock is not None and package != lock:
            raise UsageError(f"what npm installed for {spec} is not what the lock says. {_LOCK_HINT}")
        for file in ("package.json", "package-lock.json"):
            (site.folder / file).unlink()
        (site.folder / _RECORD).write_text(package.model_dump_json(by_alias=True, exclude_defaults=True))
        return self._cache.publish(site, _content_key(package), key if lock is None else None)

    async def _run(self, site: BuildSite, command: Sequence[str], spec: str, hint: str) -> None:
        npm = shutil.which("npm", path=self._environ.get("PATH"))
        if npm is None:
            raise UsageError(
                f"installing {spec} needs npm: install Node.js (on Debian: apt install nodejs npm)"
            )
        argv = [npm, *command, *_FLAGS, "--prefix", str(site.folder)]
        await run_installer(argv, site=site, environ=self._environ, doing=f"installing {spec}", hint=hint)


def is_one_version(spec: str) -> bool:
    """Whether a package is named with exactly one version."""
    _, version = _split(spec)
    return version is not None and _EXACT.fullmatch(version) is not None


def _split(spec: str) -> tuple[str, str | None]:
    match = _SPEC.fullmatch(spec)
    assert match is not None, "package names are checked by the manifest"
    return match["name"], match["version"]


def _check(spec: str, name: str, version: str | None, lock: NpmLock | None, *, exact: bool) -> None:
    is_exact = is_one_version(spec)
    if lock is None:
        if exact and not is_exact:
            raise UsageError(
                f"{spec!r} is not one version and no lock pins it: write {name}@VERSION, "
                "or run 'sandgate toolpack lock'"
            )
        return
    top = lock.packages.get(f"node_modules/{name}")
    if lock.name != name or top is None or (is_exact and top.version != version):
        raise UsageError(
            f"the lock is not for {spec!r} (it has {lock.name}@{lock.version}): review the change, then run "
            "'sandgate toolpack lock'"
        )


def _content_key(package: NpmLock) -> str:
    packages = (
        f"{path} {entry.version} {entry.integrity}" for path, entry in sorted(package.packages.items())
    )
    return cache_key(_RECIPE, sysconfig.get_platform(), *packages)


def _write_lock(folder: Path, lock: NpmLock) -> None:
    """Write the two files from which `npm ci` installs exactly what is locked."""
    root = {"name": _ROOT, "dependencies": {lock.name: lock.version}}
    packages = {
        path: entry.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        for path, entry in lock.packages.items()
    }
    (folder / "package.json").write_text(json.dumps({**root, "private": True}))
    whole = {"name": _ROOT, "lockfileVersion": 3, "requires": True, "packages": {"": root, **packages}}
    (folder / "package-lock.json").write_text(json.dumps(whole))


def _recorded(entry: Path, name: str) -> NpmLock:
    """Return what an entry holds, told as what was asked for: two requests may come to one content."""
    record = NpmLock.model_validate_json((entry / _RECORD).read_bytes())
    version = record.packages[f"node_modules/{name}"].version
    return record.model_copy(update={"name": name, "version": version})


class _LockedPackage(BaseModel):
    """The parts of an entry of npm's lock that are kept."""

    model_config = ConfigDict(extra="ignore")

    version: str | None = None
    integrity: str | None = None
    dependencies: dict[str, str] | None = None
    optional_dependencies: dict[str, str] | None = Field(default=None, alias="optionalDependencies")
    peer_dependencies: dict[str, str] | None = Field(default=None, alias="peerDependencies")
    peer_dependencies_meta: dict[str, dict[str, bool]] | None = Field(
        default=None, alias="peerDependenciesMeta"
    )
    bin: dict[str, str] | None = None
    os: list[str] | None = None
    cpu: list[str] | None = None
    libc: list[str] | None = None
    optional: bool | None = None
    peer: bool | None = None


class _NpmLockFile(BaseModel):
    model_config = ConfigDict(extra="ignore")

    packages: dict[str, _LockedPackage]


def _installed(folder: Path, name: str) -> NpmLock:
    """Return what npm says it installed; anything without a version and an integrity is refused."""
    read = _NpmLockFile.model_validate_json((folder / "package-lock.json").read_bytes())
    packages: dict[str, NpmEntry] = {}
    for path, entry in read.packages.items():
        if not path:
            continue
        if entry.version is None or entry.integrity is None:
            raise UsageError(
                f"{path.removeprefix('node_modules/')} did not come from a registry: it has no integrity"
            )
        packages[path] = NpmEntry.model_validate(entry.model_dump(by_alias=True, exclude_none=True))
    return NpmLock(name=name, version=packages[f"node_modules/{name}"].version, packages=packages)
