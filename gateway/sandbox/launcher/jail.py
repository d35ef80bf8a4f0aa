"""One sandbox: its tree, its limits, its uid, its `bwrap` command line.

Runs in a forked child of the launcher, which `start` turns into `bwrap`. The tree is assembled
before the uid is dropped, because runtimes may live below folders that only root may enter; then it
becomes the root, so that even `bwrap` itself no longer sees the host's files.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterable
from typing import Any

from . import kernel, pins

__all__ = [
    "ENVIRONMENT",
    "INSIDE_UID",
    "SCRATCH",
    "assemble",
    "become",
    "drop",
    "etc",
    "execute",
    "host_folders",
    "keep_only",
    "limit",
    "scratch",
    "show",
]

HOST_FOLDERS = ("usr", "bin", "sbin", "lib", "lib64", "lib32", "libx32")
HOST_ETC = (
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "ssl/certs",
    "ssl/openssl.cnf",
    "mime.types",
)
INSIDE_UID = 1000
ETC = {
    "passwd": "root:x:0:0:root:/:/usr/sbin/nologin\nagent:x:1000:1000:agent:/tmp/home:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
    "group": "root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "hostname": "sandbox\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "resolv.conf": "",
}
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/tmp/home",  # noqa: S108
    "USER": "agent",
    "LANG": "C.UTF-8",
}
SCRATCH, SHM = "/tmp", "/shm"  # noqa: S108 - inside, where both are new and empty


def host_folders() -> list[tuple[str, str | None]]:
    """Return the host's runtime folders: absolute path and, for a link, what it points to."""
    paths = [f"/{name}" for name in HOST_FOLDERS]
    return [
        (path, os.readlink(path) if os.path.islink(path) else None) for path in paths if os.path.isdir(path)
    ]


def assemble(stage: str, home: int, workspace: int, request: dict[str, Any]) -> None:
    """Build the tree of `request` on `stage` and make it the root of a new mount namespace."""
    tree = pins.take(workspace, home)
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount(
        "tmpfs", stage, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,nr_inodes=1024,mode=0755"
    )
    for path in ("/proc", "/dev"):
        show(stage, path, path)
    for path, link in host_folders():
        if link is None:
            show(stage, path, path)
        else:
            os.symlink(link, stage + path)
    etc(stage)
    owner = f"mode=0700,uid={request['uid']},gid={request['gid']}"
    scratch(stage + SCRATCH, f"size={request['scratch']},nr_inodes={request['scratch_inodes']},{owner}")
    scratch(stage + SHM, f"size={request['shm']},nr_inodes=256,{owner}")
    for source, target in request["mounts"]:
        show(stage, source, target)
    os.makedirs(stage + request["workspace"], exist_ok=True)
    kernel.attach(tree, stage + request["workspace"])
    kernel.enter_root(stage)


def show(stage: str, source: str, target: str) -> None:
    """Bind `source` at `target` of the tree; a file on a file, a folder on a folder."""
    place = stage + target
    if os.path.isdir(source):
        os.makedirs(place, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.close(os.open(place, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o644))
    kernel.bind(source, place)


def etc(stage: str) -> None:
    """Make the few files of /etc that programs look for."""
    os.mkdir(stage + "/etc")
    for name, text in ETC.items():
        with open(f"{stage}/etc/{name}", "w") as file:
            file.write(text)
    for name in HOST_ETC:
        if os.path.exists(f"/etc/{name}"):
            show(stage, f"/etc/{name}", f"/etc/{name}")


def scratch(place: str, options: str) -> None:
    """Mount an empty file system in memory."""
    os.mkdir(place)
    kernel.mount("tmpfs", place, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)


def keep_only(*fds: int) -> None:
    """Close every descriptor but these."""
    first = 0
    for fd in (*sorted(fds), os.sysconf("SC_OPEN_MAX")):
        if first < fd:  # Python 3.11 takes (0, 0) for everything
            os.closerange(first, fd)
        first = fd + 1


def drop(request: dict[str, Any], *, root: bool, grouped: bool) -> None:
    """Set the resource limits and become the sandbox's own unprivileged user for good."""
    limit(request, grouped=grouped)
    become(request, root=root)
    if not grouped:
        _count_processes_apart(request)


def limit(request: dict[str, Any], *, grouped: bool) -> None:
    """Set the resource limits, and be what the kernel ends first where memory is short."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, request["open_files"])
    _limit(resource.RLIMIT_FSIZE, max(request["disk"], request["scratch"]))
    if not grouped:
        _limit(resource.RLIMIT_DATA, request["data"])
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")
    os.umask(0o022)


def become(request: dict[str, Any], *, root: bool) -> None:
    """Become the sandbox's own unprivileged user for good."""
    kernel.no_new_privileges()
    if root:
        os.setgroups([])
        os.setresgid(request["gid"], request["gid"], request["gid"])
        os.setresuid(request["uid"], request["uid"], request["uid"])


def _limit(what: int, value: int) -> None:
    hard = resource.getrlimit(what)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (value, value))


def _count_processes_apart(request: dict[str, Any]) -> None:
    """Count processes in a user namespace of their own: the kernel counts per uid and namespace."""
    uid, gid = os.geteuid(), os.getegid()
    kernel.dumpable()
    kernel.unshare(kernel.CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    _limit(resource.RLIMIT_NPROC, request["pids"])


def execute(request: dict[str, Any], program: bytes, status: int) -> None:
    """Become `bwrap`. Its environment is empty, because that of pid 1 can be read from inside."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    filters = _memory_file(program)
    arguments = _arguments(request, filters, status)
    listed = _memory_file(b"".join(os.fsencode(word) + b"\0" for word in arguments))
    for fd in (filters, listed, status):
        os.set_inheritable(fd, True)
    os.execve(request["bwrap"], ["bwrap", "--args", str(listed), "--", *request["argv"]], {})  # noqa: S606


def _memory_file(data: bytes) -> int:
    fd = os.memfd_create("sandbox", os.MFD_CLOEXEC)
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _arguments(request: dict[str, Any], filters: int, status: int) -> Iterable[str]:
    yield from ("--unshare-all", "--share-net", "--unshare-user", "--disable-userns", "--cap-drop", "ALL")
    yield from ("--new-session", "--die-with-parent", "--uid", str(INSIDE_UID), "--gid", str(INSIDE_UID))
    yield from ("--hostname", "sandbox", "--seccomp", str(filters), "--json-status-fd", str(status))
    for path, link in host_folders():
        yield from ("--ro-bind", path, path) if link is None else ("--symlink", link, path)
    yield from ("--ro-bind", "/etc", "/etc", "--proc", "/proc", "--dev", "/dev")
    # Some knobs belong to the sandbox's own namespaces, and so to its user: they are nobody's to turn.
    yield from ("--ro-bind", "/proc/sys", "/proc/sys")
    yield from ("--bind", SHM, "/dev" + SHM, "--remount-ro", "/dev", "--bind", SCRATCH, SCRATCH)
    yield from ("--dir", ENVIRONMENT["HOME"])
    for _, target in request["mounts"]:
        yield from ("--ro-bind", target, target)
    yield from ("--bind" if request["writable"] else "--ro-bind", request["workspace"], request["workspace"])
    yield from ("--remount-ro", "/", "--chdir", request["cwd"], "--clearenv")
    for name, value in (ENVIRONMENT | request["env"]).items():
        yield from ("--setenv", name, value)
