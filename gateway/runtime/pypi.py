"""Python environments for tool servers, made by pip: wheels only, exact versions, hashes kept.

Building a source distribution would run its code here, outside any sandbox, so none is ever built.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from gateway.core.lock import Dist, PypiLock
from gateway.errors import UsageError
from gateway.runtime.install_process import run_installer
from gateway.runtime.package_cache import BuildSite, PackageCache, cache_key

__all__ = [
    "SITE_INSIDE",
    "PythonEnvironment",
    "PythonEnvironments",
    "environment_tag",
    "is_one_version",
    "normalised",
]

SITE_INSIDE = "/opt/server/site"
"""Where an environment's packages stand inside a sandbox; tracebacks name files below it."""

_RECIPE = "pypi 1"
"""Changes when environments are made differently, so that older ones are not taken for new ones."""

_EXACT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*={2,3}\s*(?P<version>[^\s,*]+)")
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_RECORD = "installed.json"
_REQUIREMENTS = "requirements.txt"
_PIP_HINT = (
    "Check the network and pip's own configuration (`pip config list`); without a network, put the wheels "
    "in a folder and set PIP_FIND_LINKS to it. Packages without a wheel for this Python cannot be used."
)


def is_one_version(requirement: str) -> bool:
    """Whether a requirement names exactly one version."""
    return _EXACT.fullmatch(requirement) is not None


@dataclass(frozen=True, slots=True)
class PythonEnvironment:
    """One finished environment: its `site` folder on this machine, and what is in it."""

    site: Path
    package: PypiLock

    def entry_point(self, script: str | None) -> tuple[str, str]:
        """Return the name and `module:attribute` of a console script of the main distribution.

        `None` asks for the only one it has. Raises `UsageError` naming the candidates.
        """
        scripts = _console_scripts(self._main())
        if script is None and len(scripts) == 1:
            return next(iter(scripts.items()))
        if script is not None and script in scripts:
            return script, scripts[script]
        names = ", ".join(sorted(scripts)) or "none"
        asked = f"no console script {script!r}" if script else "not exactly one console script"
        raise UsageError(f"{self.package.name} has {asked}: set 'entry' to one of its scripts ({names})")

    def _main(self) -> Distribution:
        for distribution in distributions(path=[str(self.site)]):
            if normalised(distribution.name) == self.package.name:
                return distribution
        raise UsageError(
            f"the installation of {self.package.name} in {self.site} is damaged: remove that folder"
        )


def _console_scripts(distribution: Distribution) -> dict[str, str]:
    return {e.name: e.value for e in distribution.entry_points if e.group == "console_scripts"}


class PythonEnvironments:
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

    async def ensure(self, requirements: Sequence[str], locked: PypiLock | None) -> PythonEnvironment:
        """Return an environment with `requirements`; the first names the main distribution.

        Raises `UsageError` for a range without a lock, a lock that is not for these requirements, a
        hash that differs from the lock's, and whatever pip fails with.
        """
        plan = _Plan.of(tuple(requirements), None if self._relock else locked, exact=not self._relock)
        entry = self._find(plan)
        if entry is None:
            async with self._cache.building(plan.key, self._say) as site:
                entry = self._find(plan) or await self._build(plan, site)
        return PythonEnvironment(entry / "site", _recorded(entry, plan))

    def _find(self, plan: _Plan) -> Path | None:
        return self._cache.entry(plan.key) if plan.hashed else self._cache.resolved(plan.key)

    async def _build(self, plan: _Plan, site: BuildSite) -> Path:
        self._say(
            f"installing {', '.join(plan.requirements)} for its sandbox, once (into {self._cache.folder})"
        )
        if plan.pins and not plan.hashed:
            self._say(f"the lock has no hashes for {environment_tag()}: versions are pinned, hashes are not")
        report = site.folder / "report.json"
        await self._run(site, plan.pip_arguments(site.folder, report), f"installing {plan.requirements[0]}")
        package = _package(plan, report)
        report.unlink()
        (site.folder / _REQUIREMENTS).unlink()
        await self._compile(site)
        (site.folder / _RECORD).write_text(package.model_dump_json(exclude_defaults=True))
        dists = package.environments[environment_tag()]
        return self._cache.publish(site, _content_key(dists), None if plan.hashed else plan.key)

    async def _run(self, site: BuildSite, arguments: Sequence[str], doing: str) -> None:
        if importlib.util.find_spec("pip") is None:
            raise UsageError(
                f"{doing} needs pip, which this Python has not: run '{sys.executable} -m ensurepip', or "
                f"'uv pip install --python {sys.executable} pip'"
            )
        argv = [sys.executable, "-I", "-m", "pip", "install", *arguments]
        await run_installer(argv, site=site, environ=self._environ, doing=doing, hint=_PIP_HINT)

    async def _compile(self, site: BuildSite) -> None:
        """Compile to bytecode that ignores the files' times; what does not compile stays as it is."""
        packages = str(site.folder / "site")
        options = [
            "-qq",
            "-j",
            "2",
            "--invalidation-mode",
            "unchecked-hash",
            "-s",
            packages,
            "-p",
            SITE_INSIDE,
        ]
        argv = [sys.executable, "-I", "-m", "compileall", *options, packages]
        await run_installer(argv, site=site, environ=self._environ, doing="compiling", hint="", check=False)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to install: requirements, and exact versions with or without hashes if a lock gives them."""

    requirements: tuple[str, ...]
    pins: Mapping[str, str]
    hashes: Mapping[str, Dist]

    @classmethod
    def of(cls, requirements: tuple[str, ...], locked: PypiLock | None, *, exact: bool) -> _Plan:
        if locked is None:
            ranges = [text for text in requirements if not is_one_version(text)]
            if ranges and exact:
                name = _name(ranges[0])
                raise UsageError(
                    f"{ranges[0]!r} is not one version and no lock pins it: write {name}==VERSION, or run "
                    "'sandgate toolpack lock'"
                )
            return cls(requirements, {}, {})
        _check_lock(requirements, locked)
        return cls(requirements, locked.versions(), locked.environments.get(environment_tag(), {}))

    @property
    def main(self) -> str:
        """The name of the main distribution."""
        return _name(self.requirements[0])

    @property
    def hashed(self) -> bool:
        """Whether every file to install is known by its hash."""
        return bool(self.hashes)

    @property
    def key(self) -> str:
        """The content's key where it is known, else the request's."""
        if self.hashed:
            return _content_key(self.hashes)
        pins = (f"{name}=={version}" for name, version in sorted(self.pins.items()))
        return cache_key(_RECIPE, environment_tag(), *sorted(self.requirements), "pins", *pins)

    def pip_arguments(self, folder: Path, report: Path) -> list[str]:
        """Return pip's arguments, having written the files they name."""
        common = [
            *("--target", str(folder / "site"), "--report", str(report)),
            *("--only-binary", ":all:", "--no-compile", "--no-user"),
            *("--no-input", "--disable-pip-version-check", "--no-warn-script-location", "--quiet"),
        ]
        wanted = folder / _REQUIREMENTS
        if self.hashed:
            lines = [f"{name}=={d.version} --hash=sha256:{d.sha256}" for name, d in self.hashes.items()]
            wanted.write_text("\n".join(lines) + "\n")
            return [*common, "--no-deps", "--require-hashes", "-r", str(wanted)]
        wanted.write_text("".join(f"{name}=={version}\n" for name, version in self.pins.items()))
        return [*common, "-c", str(wanted), *self.requirements]


def _check_lock(requirements: Sequence[str], locked: PypiLock) -> None:
    """Refuse a lock that was made for something else."""
    versions = locked.versions()
    for text in requirements:
        name = _name(text)
        exact = _EXACT.fullmatch(text)
        if versions.get(name) is None or (exact and versions[name] != exact["version"]):
            found = f"{name}=={versions[name]}" if name in versions else "nothing of that name"
            raise UsageError(
                f"the lock is not for {text!r} (it has {found}): review it, then run 'sandgate toolpack lock'"
            )


def _name(requirement: str) -> str:
    match = _NAME.match(requirement)
    assert match is not None, "requirements are checked by the manifest"
    return normalised(match[0])


def normalised(name: str) -> str:
    """Return a distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def environment_tag() -> str:
    """Return what decides which files fit: interpreter and platform, such as `cpython-311-linux-x86_64`."""
    return f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}"


def _content_key(dists: Mapping[str, Dist]) -> str:
    files = (f"{name} {dist.version} {dist.sha256}" for name, dist in sorted(dists.items()))
    return cache_key(_RECIPE, environment_tag(), *files)


def _recorded(entry: Path, plan: _Plan) -> PypiLock:
    """Return what an entry holds, told as what was asked for: two requests may come to one content."""
    record = PypiLock.model_validate_json((entry / _RECORD).read_bytes())
    name = plan.main
    return record.model_copy(update={"name": name, "version": record.versions()[name]})


class _Lax(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Metadata(_Lax):
    name: str
    version: str


class _ArchiveInfo(_Lax):
    hashes: dict[str, str] = {}


class _DownloadInfo(_Lax):
    archive_info: _ArchiveInfo = _ArchiveInfo()


class _Installed(_Lax):
    metadata: _Metadata
    download_info: _DownloadInfo


class _Report(_Lax):
    """The parts of `pip install --report` that are read."""

    install: list[_Installed]


def _package(plan: _Plan, report: Path) -> PypiLock:
    dists = {
        normalised(item.metadata.name): Dist(version=item.metadata.version, sha256=_sha256(item))
        for item in _Report.model_validate_json(report.read_bytes()).install
    }
    main = dists[plan.main]
    return PypiLock(name=plan.main, version=main.version, environments={environment_tag(): dists})


def _sha256(item: _Installed) -> str:
    sha256 = item.download_info.archive_info.hashes.get("sha256")
    if sha256 is None:
        raise UsageError(
            f"{item.metadata.name} did not come as a file with a SHA-256: only wheels are installed"
        )
    return sha256
