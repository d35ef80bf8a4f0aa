"""The Linux calls that Python 3.11 has no wrapper for. Nothing here decides anything."""

from __future__ import annotations

import ctypes
import os
from functools import cache

__all__ = [
    "CLONE_NEWCGROUP",
    "CLONE_NEWIPC",
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "CLONE_NEWPID",
    "CLONE_NEWUSER",
    "CLONE_NEWUTS",
    "MNT_DETACH",
    "MS_BIND",
    "MS_NODEV",
    "MS_NOEXEC",
    "MS_NOSUID",
    "MS_RDONLY",
    "MS_REC",
    "MS_REMOUNT",
    "MS_SLAVE",
    "attach",
    "bind",
    "detached_copy",
    "die_with",
    "die_with_parent",
    "dumpable",
    "enter_root",
    "filter_calls",
    "idmap",
    "mount",
    "no_capabilities",
    "no_new_privileges",
    "read_only",
    "read_only_below",
    "setns",
    "subreaper",
    "unmount",
    "unshare",
]

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_SLAVE = 4096, 16384, 1 << 19
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
PR_SET_SECCOMP, PR_CAPBSET_DROP, SECCOMP_MODE_FILTER = 22, 24, 2
SIGKILL = 9
# One number on every architecture: they came after the tables were unified.
SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_MOUNT_SETATTR = 428, 429, 442
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
OPEN_TREE_CLONE, O_CLOEXEC = 1, os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 4
AT_RECURSIVE = 0x8000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_IDMAP = 1, 2, 4, 0x00100000
LAST_CAPABILITY = 63


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(number: int, what: str, *arguments: object) -> int:
    return _checked(_libc().syscall(ctypes.c_long(number), *arguments), what)


def unshare(flags: int) -> None:
    """Leave the namespaces of `flags` for new ones."""
    _checked(_libc().unshare(ctypes.c_int(flags)), f"unshare({flags:#x})")


def setns(fd: int, flags: int) -> None:
    """Enter the namespace behind `fd`."""
    _checked(_libc().setns(ctypes.c_int(fd), ctypes.c_int(flags)), "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount; errors name the target."""
    result = _libc().mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode(),
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    _checked(result, f"mount {kind or source} on {target}")


def bind(source: str, target: str) -> None:
    """Show `source` with everything mounted below it at `target`."""
    mount(source, target, flags=MS_BIND | MS_REC)


def enter_root(folder: str) -> None:
    """Make `folder` the root and drop the old tree."""
    os.chdir(folder)
    _checked(_libc().pivot_root(b".", b"."), f"pivot_root {folder}")
    _checked(_libc().umount2(b".", ctypes.c_int(MNT_DETACH)), "umount of the old root")
    os.chdir("/")


def unmount(folder: str) -> None:
    """Let go of what is mounted on `folder`, now or when its last user is gone."""
    _checked(_libc().umount2(os.fsencode(folder), ctypes.c_int(MNT_DETACH)), f"umount {folder}")


def detached_copy(path: str) -> int:
    """Return a descriptor of a mount of `path` that belongs to no namespace yet."""
    flags = ctypes.c_uint(OPEN_TREE_CLONE | O_CLOEXEC)
    return _syscall(SYS_OPEN_TREE, f"open_tree {path}", ctypes.c_int(AT_FDCWD), os.fsencode(path), flags)


def attach(tree: int, target: str) -> None:
    """Mount what `detached_copy` returned at `target`."""
    to = (ctypes.c_int(AT_FDCWD), os.fsencode(target), ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH))
    _syscall(SYS_MOVE_MOUNT, f"move_mount to {target}", ctypes.c_int(tree), b"", *to)


def read_only(tree: int) -> None:
    """Let nothing be written through a detached mount."""
    _set_attributes(tree, b"", AT_EMPTY_PATH, MOUNT_ATTR_RDONLY, 0)


def read_only_below(path: str) -> None:
    """Let no file be written, no device opened and no set-uid work, on and below the mount at `path`."""
    plain = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
    _set_attributes(AT_FDCWD, os.fsencode(path), AT_RECURSIVE, plain, 0)


def _set_attributes(at: int, path: bytes, flags: int, attributes: int, namespace: int) -> None:
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, 0, namespace)
    size = ctypes.c_size_t(ctypes.sizeof(wanted))
    place = (ctypes.c_int(at), path, ctypes.c_uint(flags))
    _syscall(SYS_MOUNT_SETATTR, "mount_setattr", *place, ctypes.byref(wanted), size)


def idmap(tree: int, user_namespace: int) -> None:
    """Show the owners of a detached mount as `user_namespace` maps them. Linux 5.12, on tmpfs 6.3."""
    _set_attributes(tree, b"", AT_EMPTY_PATH, MOUNT_ATTR_IDMAP, user_namespace)


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    _checked(_libc().prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero), f"prctl({option})")


def die_with_parent(parent: int) -> None:
    """Be killed when `parent` (the process that forked this one) is gone, also if it went just now."""
    _prctl(PR_SET_PDEATHSIG, SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def die_with(pipe: int) -> None:
    """Be killed when the parent is gone, where its number is not to be had: it holds `pipe`'s other end."""
    _prctl(PR_SET_PDEATHSIG, SIGKILL)
    os.set_blocking(pipe, False)
    try:
        os.read(pipe, 1)
    except BlockingIOError:
        return
    os._exit(1)


def no_new_privileges() -> None:
    """Give up set-uid programs and file capabilities for good."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def dumpable() -> None:
    """Own one's files in /proc again, which a change of uid takes away."""
    _prctl(PR_SET_DUMPABLE, 1)


def no_capabilities() -> None:
    """Empty the bounding set, so that no program gains a capability either; needs CAP_SETPCAP."""
    for number in range(LAST_CAPABILITY + 1):
        try:
            _prctl(PR_CAPBSET_DROP, number)
        except OSError:  # beyond the last one this kernel knows
            return


class _Filter(ctypes.Structure):
    """The kernel's `struct sock_fprog`."""

    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def filter_calls(program: bytes) -> None:
    """Judge every system call from now on by a seccomp program; needs no new privileges."""
    what = _Filter(len(program) // 8, program)
    zero = ctypes.c_ulong(0)
    words = (ctypes.c_int(PR_SET_SECCOMP), ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(what))
    _checked(_libc().prctl(*words, zero, zero), "prctl(PR_SET_SECCOMP)")


def subreaper() -> None:
    """Become the parent of orphans below this process, so that none escapes the count."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
