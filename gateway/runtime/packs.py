"""Loads toolpacks from disk: manifest, tasks, lock and where the policy is. Runs nothing of theirs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gateway.core.documents import Document
from gateway.core.json_types import JsonObject
from gateway.core.lock import (
    LOCK_FILE,
    Lock,
    NpmLock,
    PypiLock,
    ServerLock,
    dump_lock,
    launch_of,
    lockable,
    lockable_arguments,
    parse_lock,
)
from gateway.core.manifest import Manifest, read_manifest, unsupported
from gateway.core.tasks import Gate, PythonCheck, RubricNode, Scored, Task, read_task
from gateway.data import data_folder
from gateway.errors import ConfigError, Problem, UsageError
from gateway.runtime import npm, pypi
from gateway.runtime.seeds import ARCHIVE_SUFFIX, seed_folder

__all__ = ["MANIFEST_FILE", "Pack", "bundled_packs", "load_pack", "prepare_seed", "write_lock"]

MANIFEST_FILE = "toolpack.yaml"
_MAX_FILE = 4_000_000
_CODE = "servers"
"""Where a pack's own code stands, the only folder of it that sandboxes show."""


@dataclass(frozen=True, slots=True)
class Pack:
    """A toolpack as it stands on disk. `tasks` are by id, in the order of their files' names."""

    name: str
    folder: Path
    manifest: Manifest
    tasks: Mapping[str, Task]
    lock: Lock | None
    policy_file: Path | None


def bundled_packs() -> dict[str, Path]:
    """Return the folders of the toolpacks that come with the program, by name."""
    folders = sorted(data_folder("toolpacks").iterdir())
    return {folder.name: folder for folder in folders if (folder / MANIFEST_FILE).is_file()}


def load_pack(name_or_path: str, *, to_serve: bool = True) -> Pack:
    """Load a bundled pack by its name, or any pack by its folder.

    `to_serve` also refuses what this build cannot run, and a lock made for other launch commands;
    the commands that show, check and re-lock a pack turn it off. Raises `ConfigError` with
    `file:line:col` for each fault, `UsageError` if there is no such pack.
    """
    folder = _find(name_or_path)
    file = folder / MANIFEST_FILE
    manifest, document = read_manifest(_read(file), str(file))
    problems = [*_missing_files(folder, manifest, document)]
    tasks, task_problems = _load_tasks(folder, manifest, document)
    problems += task_problems
    lock = _load_lock(folder)
    if to_serve:
        problems += [*unsupported(manifest, document), *_stale_lock(manifest, document, lock)]
        problems += _unpinned(manifest, document, lock)
    if problems:
        raise ConfigError(problems)
    return Pack(manifest.name, folder, manifest, tasks, lock, _policy_file(folder, manifest))


def _find(name_or_path: str) -> Path:
    bundled = bundled_packs()
    if name_or_path in bundled:
        return bundled[name_or_path]
    folder = Path(name_or_path)
    if (folder / MANIFEST_FILE).is_file():
        return folder
    if folder.is_dir():
        raise UsageError(f"{name_or_path!r} is no toolpack: it has no {MANIFEST_FILE}")
    names = ", ".join(bundled) or "none"
    raise UsageError(
        f"no toolpack {name_or_path!r}: give a bundled name ({names}) or a folder that has a {MANIFEST_FILE}"
    )


def _read(file: Path) -> str:
    try:
        data = file.read_bytes()
        if len(data) > _MAX_FILE:
            raise ConfigError([Problem(str(file), 0, 0, "too_large", f"larger than {_MAX_FILE} bytes")])
        return data.decode()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError([Problem(str(file), line, 1, "encoding", "the file is not UTF-8")]) from None


def _missing_files(folder: Path, manifest: Manifest, document: Document) -> Iterator[Problem]:
    seed = manifest.workspace.seed
    if seed is not None and not _is_seed(folder, seed):
        yield document.problem(("workspace", "seed"), "missing_file", _no_seed(seed))
    if manifest.policy is not None and _policy_file(folder, manifest) is None:
        message = f"no policy {manifest.policy!r} beside the manifest or among the bundled policies"
        yield document.problem(("policy",), "missing_file", message)
    if manifest.env.tasks is not None and not _inside(folder, manifest.env.tasks).is_dir():
        yield document.problem(
            ("env", "tasks"), "missing_file", f"no folder {manifest.env.tasks!r} in the pack"
        )

    for server_id, server in manifest.servers.items():
        stand_in = server.training.command if server.training else None
        for place, words in (("command",), server.command), (("training", "command"), stand_in):
            for message in _missing_words(folder, words or ()):
                yield document.problem(("servers", server_id, *place), "missing_file", message)


def _missing_words(folder: Path, command: Sequence[str]) -> Iterator[str]:
    """Say what is wrong with a command's words that name files of the pack."""
    for word in command:
        path = PurePosixPath(word)
        if path.parts[:1] == (_CODE,) and not _inside(folder, word).exists():
            yield f"no file {word!r} in the pack"
    script = PurePosixPath(next((word for word in command[1:] if word.endswith(".py")), _CODE))
    if command[:1] == ("python",) and not script.is_absolute() and script.parts[:1] != (_CODE,):
        yield f"'{script}' is not there in a sandbox: a pack's own code stands in {_CODE}/"


def _inside(folder: Path, relative: str) -> Path:
    """Return a path of the pack; one that a link leads out of it names nothing."""
    path = (folder / relative).resolve()
    return path if path.is_relative_to(folder.resolve()) else Path(os.devnull) / relative


def _is_seed(folder: Path, seed: str) -> bool:
    path = _inside(folder, seed)
    return path.is_dir() or (path.is_file() and path.name.endswith(ARCHIVE_SUFFIX))


def _no_seed(seed: str) -> str:
    return f"no folder or {ARCHIVE_SUFFIX} archive {seed!r} in the pack"


def _policy_file(folder: Path, manifest: Manifest) -> Path | None:
    if manifest.policy is None:
        return None
    candidates = (folder / manifest.policy, data_folder("policies") / manifest.policy)
    return next((file for file in candidates if file.is_file()), None)


def _load_tasks(
    folder: Path, manifest: Manifest, document: Document
) -> tuple[dict[str, Task], list[Problem]]:
    tasks: dict[str, Task] = {}
    problems: list[Problem] = []
    for file in _task_files(folder, manifest):
        try:
            task, task_document = read_task(_read(file), str(file))
        except ConfigError as error:
            problems += error.problems
            continue
        problems += _task_problems(folder, task, task_document)
        if task.id in tasks:
            problems.append(
                task_document.problem(("id",), "duplicate_task", f"another task is {task.id!r} too")
            )
        tasks.setdefault(task.id, task)
    return tasks, problems


def _task_files(folder: Path, manifest: Manifest) -> list[Path]:
    if manifest.env.tasks is None:
        return []
    # The manifest's own spelling of the folder stays in messages; a link out of the pack names nothing.
    inside = _inside(folder, manifest.env.tasks)
    return sorted((folder / manifest.env.tasks).glob("*.yaml")) if inside.is_dir() else []


def _task_problems(folder: Path, task: Task, document: Document) -> Iterator[Problem]:
    if task.workspace is not None and not _is_seed(folder, task.workspace):
        yield document.problem(("workspace",), "missing_file", _no_seed(task.workspace))
    for number, event in enumerate(task.events):
        if event.copy_in is not None and not _inside(folder, event.copy_in.source).exists():
            message = f"no file or folder {event.copy_in.source!r} in the pack"
            yield document.problem(("events", number, "copy"), "missing_file", message)
    paid = [entry.check.script for entry in task.step_rewards if isinstance(entry.check, PythonCheck)]
    for place, scripts in (("rubric", [*_scripts(task.rubric)]), ("step_rewards", paid)):
        for script in scripts:
            if not _inside(folder, script).is_file():
                yield document.problem((place,), "missing_file", f"no check script {script!r} in the pack")


def _scripts(nodes: Iterable[RubricNode]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, Gate | Scored):
            if isinstance(node.check, PythonCheck):
                yield node.check.script
        else:
            yield from _scripts(node.parts)


def _load_lock(folder: Path) -> Lock | None:
    file = folder / LOCK_FILE
    return parse_lock(_read(file), str(file)) if file.exists() else None


def _unpinned(manifest: Manifest, document: Document, lock: Lock | None) -> Iterator[Problem]:
    """Yield the packages of which the manifest names a range and no lock one version."""
    for server_id, server in manifest.servers.items():
        if lock is not None and server_id in lock.servers:
            continue
        for source, requirements, exact in (
            ("pypi", (server.pypi,), pypi.is_one_version),
            ("npm", (server.npm,), npm.is_one_version),
            ("requirements", server.requirements or (), pypi.is_one_version),
        ):
            for text in requirements:
                if text is not None and not exact(text):
                    message = f"{text!r} is not one version and no lock pins it: run 'sandgate toolpack lock'"
                    yield document.problem(("servers", server_id, source), "unpinned", message)


def _stale_lock(manifest: Manifest, document: Document, lock: Lock | None) -> Iterator[Problem]:
    for server_id, server in manifest.servers.items():
        if lock is None or (
            server_id in lock.servers and lock.servers[server_id].launch == launch_of(server)
        ):
            continue
        how = "is started differently than" if server_id in lock.servers else "is not in"
        message = (
            f"server {server_id!r} {how} {LOCK_FILE}: review the change, then run 'sandgate toolpack lock'"
        )
        yield document.problem(("servers", server_id), "stale_lock", message)


async def prepare_seed(pack: Pack, seed: str | None, cache_dir: Path) -> Path | None:
    """Return the folder a workspace starts as, unpacked if the seed is an archive; `None` for an empty one.

    `seed` is relative to the pack: the manifest's or a task's. Raises `UsageError`.
    """
    return None if seed is None else await seed_folder(_inside(pack.folder, seed), cache_dir)


def write_lock(
    pack: Pack, listings: Mapping[str, Iterable[JsonObject]], packages: Mapping[str, PypiLock | NpmLock]
) -> Lock:
    """Write `tools.lock.json` from what the servers list and what is installed for them, and return it.

    Hashes that the pack's lock has for other environments are kept where the versions are the same.
    """
    listed = {server_id: list(definitions) for server_id, definitions in listings.items()}
    servers = {
        server_id: ServerLock(
            launch=launch_of(server),
            package=_with_other_environments(pack.lock, server_id, packages.get(server_id)),
            tools=lockable(listed[server_id]),
            arguments=lockable_arguments(listed[server_id]),
        )
        for server_id, server in pack.manifest.servers.items()
    }
    lock = Lock(servers=servers)
    _write(pack.folder / LOCK_FILE, dump_lock(lock))
    return lock


def _with_other_environments(
    lock: Lock | None, server_id: str, package: PypiLock | NpmLock | None
) -> PypiLock | NpmLock | None:
    old = lock.package_of(server_id) if lock is not None else None
    if not isinstance(package, PypiLock) or not isinstance(old, PypiLock):
        return package
    versions = package.versions()
    kept = {
        tag: dists
        for tag, dists in old.environments.items()
        if all(versions.get(name, dist.version) == dist.version for name, dist in dists.items())
    }
    return package.model_copy(update={"environments": {**kept, **package.environments}})


def _write(file: Path, text: str) -> None:
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        aside.write_text(text)
        aside.replace(file)
    except OSError as error:
        raise UsageError(
            f"{file} cannot be written ({error.strerror}): copy the pack to a folder of yours and serve that"
        ) from None
    finally:
        aside.unlink(missing_ok=True)
