"""Workspaces, prepared seeds and snapshots: file trees in memory that only descriptors hold.

Runs in a forked child of the launcher. It makes a mount namespace whose root is a sized tmpfs,
hands out its descriptors and ends; nothing is ever mounted where another process could see it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from . import kernel
from .copying import copy_into

__all__ = ["TREE", "Pin", "make_workspace", "prepare_seed", "take", "take_snapshot", "try_overlay"]

TREE, LOWER = "/tree", "/lower"
"""Where the files stand inside a pin's namespace, and what they are an overlay of, if of anything."""
PLAIN_FOLDERS, OVERLAY_FOLDERS = 2, 6
"""Inodes that the tree needs beside the session's own."""


@dataclass(frozen=True)
class Pin:
    """Descriptors of a tree: its mount namespace and its top folder, with the number of its entries."""

    namespace: int
    folder: int
    entries: int = 0


def make_workspace(
    stage: str, *, uid: int, disk: int, inodes: int, seed: int | None, overlay: bool, home: int
) -> Pin:
    """Return a fresh workspace of `uid`, `disk` bytes and `inodes` files at most.

    `seed` is the namespace of a prepared seed; `home` the launcher's own, to come back to.
    """
    lower = None if seed is None else take(seed, home)
    if lower is not None and overlay and uid:
        kernel.idmap(lower, _owner_map(uid))
    if lower is not None and overlay:
        return _pin(stage, _options(disk, inodes + OVERLAY_FOLDERS), lambda: _overlay(lower, uid))
    return _pin(stage, _options(disk, inodes + PLAIN_FOLDERS), lambda: _copied(lower, uid))


def _options(disk: int, inodes: int) -> str:
    return f"size={disk},nr_inodes={inodes},mode=0755"


def prepare_seed(stage: str, source: str) -> Pin:
    """Return a pinned copy of the folder `source`, owned by this process's user, frozen from now on."""
    folder = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    return _pin(stage, "mode=0755", lambda: _new_tree(os.geteuid(), folder, plain=True))


def take_snapshot(stage: str, *, workspace: int, disk: int, inodes: int, home: int) -> Pin:
    """Return a pinned copy of what the workspace behind the namespace `workspace` holds now.

    It may take what the workspace may (`disk`, `inodes`) and, where that lies over a seed, the seed's size.
    """
    tree = take(workspace, home)
    lower = _lower_use(workspace, home)
    options = _options(disk + lower[0], inodes + lower[1] + PLAIN_FOLDERS)
    return _pin(stage, options, lambda: _copied(tree, os.geteuid()))


def _lower_use(workspace: int, home: int) -> tuple[int, int]:
    """Return bytes and inodes of what a workspace is an overlay of; nothing for a plain one."""
    kernel.setns(workspace, kernel.CLONE_NEWNS)
    try:
        used = os.statvfs(LOWER)
    except FileNotFoundError:
        return 0, 0
    finally:
        kernel.setns(home, kernel.CLONE_NEWNS)
    return (used.f_blocks - used.f_bfree) * used.f_frsize, used.f_files - used.f_ffree


def try_overlay(stage: str, home: int, uid: int) -> None:
    """Lay a workspace of `uid` over an empty seed; raises `OSError` where the kernel cannot (before 6.3)."""
    seed = prepare_seed(stage, stage)
    make_workspace(stage, uid=uid, disk=2**20, inodes=16, seed=seed.namespace, overlay=True, home=home)


def take(namespace: int, home: int) -> int:
    """Return a detached mount of the tree that `namespace` pins; `home` is where this process belongs."""
    kernel.setns(namespace, kernel.CLONE_NEWNS)
    tree = kernel.detached_copy(TREE)
    kernel.setns(home, kernel.CLONE_NEWNS)
    return tree


def _pin(stage: str, options: str, fill: Callable[[], int]) -> Pin:
    kernel.unshare(kernel.CLONE_NEWNS)
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    kernel.mount("tmpfs", stage, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
    kernel.enter_root(stage)
    entries = fill()
    return Pin(namespace, os.open(TREE, os.O_PATH | os.O_DIRECTORY), entries)


def _copied(lower: int | None, uid: int) -> int:
    if lower is None:
        return _new_tree(uid, None)
    os.mkdir("/source", 0o700)
    kernel.attach(lower, "/source")
    entries = _new_tree(uid, os.open("/source", os.O_RDONLY | os.O_DIRECTORY))
    kernel.unmount("/source")
    return entries


def _new_tree(uid: int, source: int | None, *, plain: bool = False) -> int:
    os.mkdir(TREE, 0o700)
    os.chown(TREE, uid, uid if os.geteuid() == 0 else -1)
    if source is None:
        return 0
    return copy_into(source, os.open(TREE, os.O_RDONLY | os.O_DIRECTORY), uid, plain=plain)


def _overlay(lower: int, uid: int) -> int:
    for name in (LOWER, "/upper", "/work", TREE):
        os.mkdir(name, 0o700)
    os.chown("/upper", uid, uid)
    kernel.attach(lower, LOWER)
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    # redirect_dir: without it the rename of a seeded folder fails with EXDEV, which git and Node report.
    kernel.mount(
        "overlay", TREE, "overlay", flags, "lowerdir=/lower,upperdir=/upper,workdir=/work,redirect_dir=on"
    )
    return 0


def _owner_map(uid: int) -> int:
    """Return a user namespace that shows files of root as files of `uid`."""
    ready, told = os.pipe()
    helper = os.fork()
    if helper == 0:
        _hold_user_namespace(ready, told)
    os.close(told)
    try:
        if not os.read(ready, 1):
            raise OSError("no user namespace for the owners of the seed")
        for kind in ("uid_map", "gid_map"):
            with open(f"/proc/{helper}/{kind}", "w") as file:
                file.write(f"0 {uid} 1")
        return os.open(f"/proc/{helper}/ns/user", os.O_RDONLY)
    finally:
        os.close(ready)
        os.kill(helper, signal.SIGKILL)
        os.waitpid(helper, 0)


def _hold_user_namespace(ready: int, told: int) -> None:
    """Enter a new user namespace, say so, and wait to be killed."""
    try:
        os.close(ready)
        kernel.unshare(kernel.CLONE_NEWUSER)
        os.write(told, b"1")
        signal.pause()
    finally:
        os._exit(1)
