"""Folders that hold all of some paths: few, small, and never as wide as the whole file system. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

__all__ = ["common_roots"]

_MOST_ROOTS = 5
_SIBLINGS = 3
"""Folders in one folder that are taken for a habit of using that folder."""
_FLOOR = 2
"""Fewest segments of a root that is made by widening."""


def common_roots(paths: Sequence[str], workspace: str) -> list[tuple[str, int]]:
    """Return the roots in order, and how many of the canonical `paths` are under each.

    A path counts with the folder that holds it, or is a root itself if it looks like a folder. No
    root is widened beyond the workspace, or to fewer than two segments.
    """
    every = frozenset(paths)
    roots = _outermost({_folder_of(path, every, workspace) for path in every})
    while wider := _wider(roots, workspace):
        roots = _outermost({*roots, wider})
    counts = Counter(next(root for root in roots if _within(path, root)) for path in paths)
    return [(root, counts[root]) for root in roots]


def _folder_of(path: str, every: frozenset[str], workspace: str) -> str:
    """Return the folder that a path stands for; its own if it is one, as far as names tell."""
    last = path.rpartition("/")[2]
    holds_others = any(_within(other, path) for other in every if other != path)
    if path == workspace or "." not in last.lstrip(".") or holds_others:
        return path
    return path.rpartition("/")[0] or "/"


def _outermost(roots: set[str]) -> list[str]:
    return sorted(root for root in roots if not any(_within(root, other) for other in roots if other != root))


def _wider(roots: Sequence[str], workspace: str) -> str | None:
    """Return the folder that takes the place of several: of three siblings, or where there are too many."""
    parents = Counter(root.rpartition("/")[0] for root in roots)
    fitting = {parent: count for parent, count in parents.items() if _may_be_root(parent, workspace)}
    if not fitting:
        return None
    deepest = max(fitting, key=lambda parent: (fitting[parent], parent.count("/"), parent))
    return deepest if fitting[deepest] >= _SIBLINGS or len(roots) > _MOST_ROOTS else None


def _may_be_root(folder: str, workspace: str) -> bool:
    if workspace != "/" and _within(workspace, folder) and folder != workspace:
        return False
    return folder == workspace or folder.count("/") >= _FLOOR


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")
