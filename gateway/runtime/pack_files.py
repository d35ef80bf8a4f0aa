"""Which files make a toolpack up: what its manifest and tasks name, and nothing that stands beside them.

So a state folder, an auth file, caches or somebody's `.env` in the same folder never travel with a pack.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from gateway.core.lock import LOCK_FILE
from gateway.core.policy import cases_file_name
from gateway.core.tasks import Check, Gate, PythonCheck, RubricNode, Scored, Task
from gateway.errors import UsageError
from gateway.runtime.packs import MANIFEST_FILE, Pack

__all__ = ["pack_files"]

_CODE = ("servers", "checks")


def pack_files(pack: Pack) -> dict[str, Path]:
    """Return where each file of a pack stands on disk, by its path in the pack, in order.

    The policy is beside the manifest, wherever it came from. Raises `UsageError` for a link or a special
    file: a copy of those would be something else.
    """
    found: dict[str, Path] = {}
    for name in (MANIFEST_FILE, LOCK_FILE, "README.md"):
        if (pack.folder / name).is_file():
            found[name] = _plain(pack.folder / name)
    if pack.policy_file is not None:
        found[pack.policy_file.name] = _plain(pack.policy_file)
        cases = pack.policy_file.with_name(cases_file_name(pack.policy_file.name))
        if cases.is_file():
            found[cases.name] = _plain(cases)
    for folder in _CODE:
        if (pack.folder / folder).is_dir():
            found.update(_code(pack.folder, folder))
    if pack.manifest.env.tasks is not None:
        tasks = PurePosixPath(pack.manifest.env.tasks)
        files = sorted((pack.folder / tasks).glob("*.yaml"))
        found.update({str(tasks / file.name): _plain(file) for file in files})
    for named in dict.fromkeys(_named(pack)):
        found.update(_tree(pack.folder, PurePosixPath(named)))
    return dict(sorted(found.items()))


def _named(pack: Pack) -> Iterator[str]:
    """Yield the paths that the manifest and the tasks name, other than code and tasks."""
    if pack.manifest.workspace.seed is not None:
        yield pack.manifest.workspace.seed
    for task in pack.tasks.values():
        if task.workspace is not None:
            yield task.workspace
        yield from (event.copy_in.source for event in task.events if event.copy_in is not None)
        yield from (check.script for check in _checks(task) if isinstance(check, PythonCheck))


def _checks(task: Task) -> Iterator[Check]:
    yield from (entry.check for entry in task.step_rewards)
    nodes: list[RubricNode] = list(task.rubric)
    while nodes:
        node = nodes.pop()
        if isinstance(node, Gate | Scored):
            yield node.check
        else:
            nodes.extend(node.parts)


def _code(root: Path, folder: str) -> Iterator[tuple[str, Path]]:
    """Yield a folder of code without what is hidden or made from it."""
    for name, file in _tree(root, PurePosixPath(folder)):
        parts = PurePosixPath(name).parts
        if not any(part == "__pycache__" or part.startswith(".") or part.endswith(".pyc") for part in parts):
            yield name, file


def _tree(root: Path, place: PurePosixPath) -> Iterator[tuple[str, Path]]:
    """Yield a file, or all files of a folder, hidden ones too: a workspace starts as it is."""
    top = root / place
    if not top.is_dir():
        yield str(place), _plain(top)
        return
    _plain_folder(top)
    for folder, folders, names in os.walk(top):
        for name in sorted(folders):
            _plain_folder(Path(folder) / name)
        for name in sorted(names):
            file = Path(folder) / name
            yield file.relative_to(root).as_posix(), _plain(file)


def _plain(file: Path) -> Path:
    if file.is_symlink() or not file.is_file():
        raise UsageError(f"{file} is no plain file, and only those can be copied: put the file itself there")
    return file


def _plain_folder(folder: Path) -> None:
    if folder.is_symlink():
        raise UsageError(f"{folder} is a link, and only folders can be copied: put the folder itself there")
