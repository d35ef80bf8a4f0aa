"""The outer sandbox of a *template*: a Python server preloaded once, that forks and sees no session.

Runs in a forked child of the launcher, which stays as the template's *monitor*. Below it stands the
*init* of a process namespace, and below that the template, an unprivileged user without capabilities
over a read-only tree. Its filter leaves it what its forks need before they load the sessions' own:
new namespaces and mounts in them. /proc is kept from it, though it has to be somewhere in the tree for
its forks to mount their own: what is below /.covered is covered.
"""

from __future__ import annotations

import os
import signal
import socket
from typing import Any

from . import jail, kernel

__all__ = ["run"]

COVERED = "/.covered"
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
DEV_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
NAMESPACES = kernel.CLONE_NEWPID | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWCGROUP
"""Its own, beside those for mounts and for the network, which it is in already."""
HANDLED = (signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)


def run(stage: str, request: dict[str, Any], control: int, errors: int, *, root: bool) -> None:
    """Start the template of `request` and wait for its end; never returns.

    `control` becomes its standard input, `errors` takes what it prints.
    """
    jail.keep_only(control, errors)
    signal.set_wakeup_fd(-1)
    for number in HANDLED:
        signal.signal(number, signal.SIG_DFL)
    try:
        _monitor(stage, request, control, errors, root=root)
    except (OSError, ValueError) as error:
        os.write(errors, f"the outer sandbox could not be made: {error}\n".encode())
    finally:
        os._exit(1)


def _monitor(stage: str, request: dict[str, Any], control: int, errors: int, *, root: bool) -> None:
    """Make the tree and the namespaces, start the init and wait for it."""
    jail.limit(request, grouped=True)
    _assemble(stage, request, root=root)
    kernel.unshare(NAMESPACES)
    socket.sethostname("sandbox")
    alive, held = os.pipe()
    init = os.fork()
    if init == 0:
        os.close(held)
        _be_init(request, control, errors, alive, root=root)
    for fd in (control, errors, alive):
        os.close(fd)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(init, 0)[1]) & 0xFF)


def _assemble(stage: str, request: dict[str, Any], *, root: bool) -> None:
    """Build the read-only tree that every session of the template sees, and make it the root."""
    kernel.unshare(kernel.CLONE_NEWNS)
    plain = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("tmpfs", stage, "tmpfs", plain, "size=1m,nr_inodes=1024,mode=0755")
    for path, link in jail.host_folders():
        if link is None:
            jail.show(stage, path, path)
        else:
            os.symlink(link, stage + path)
    jail.etc(stage)
    for source, target in request["mounts"]:
        jail.show(stage, source, target)
    for folder in ("/dev", "/proc", "/tmp", COVERED, f"{COVERED}/own", request["workspace"]):  # noqa: S108
        os.makedirs(stage + folder, exist_ok=True)
    if not root:  # only who sees a whole /proc already may mount another
        jail.show(stage, "/proc", f"{COVERED}/host")
    kernel.read_only_below(stage)
    _devices(stage)
    owner = f"mode=0700,uid={request['uid']},gid={request['gid']}"
    kernel.mount("tmpfs", stage + jail.SCRATCH, "tmpfs", plain, f"size={request['scratch']},{owner}")
    os.mkdir(stage + jail.ENVIRONMENT["HOME"])
    os.chown(stage + jail.ENVIRONMENT["HOME"], request["uid"], request["gid"] if root else -1)
    kernel.enter_root(stage)


def _devices(stage: str) -> None:
    dev = stage + "/dev"
    kernel.mount("tmpfs", dev, "tmpfs", kernel.MS_NOSUID, "size=64k,nr_inodes=64,mode=0755")
    for name in DEVICES:
        if os.path.exists(f"/dev/{name}"):
            jail.show(stage, f"/dev/{name}", f"/dev/{name}")
    for name, to in DEV_LINKS.items():
        os.symlink(to, f"{dev}/{name}")
    for name in ("shm", "pts"):
        os.mkdir(f"{dev}/{name}")
    flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID
    kernel.mount("tmpfs", dev, flags=flags)


def _be_init(request: dict[str, Any], control: int, errors: int, alive: int, *, root: bool) -> None:
    """Be the first process of the namespace: cover /proc, start the template, reap; never returns."""
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("proc", f"{COVERED}/own", "proc", flags)
    kernel.mount("tmpfs", COVERED, "tmpfs", flags | kernel.MS_RDONLY, "size=4k,nr_inodes=2,mode=0555")
    template = os.fork()
    if template == 0:
        _be_template(request, control, errors, root=root)
    for fd in (control, errors):
        os.close(fd)
    kernel.no_capabilities()
    jail.become(request, root=root)
    kernel.die_with(alive)
    while True:
        pid, status = os.wait()
        if pid == template:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _be_template(request: dict[str, Any], control: int, errors: int, *, root: bool) -> None:
    """Become the preloading interpreter; never returns."""
    try:
        for number, fd in enumerate((control, errors, errors)):
            os.dup2(fd, number)
        kernel.no_capabilities()
        jail.become(request, root=root)
        kernel.filter_calls(bytes.fromhex(request["filter"]))
        env = jail.ENVIRONMENT | request["env"]
        os.execve(request["argv"][0], request["argv"], env)  # noqa: S606 - this is what it is for
    except OSError as error:
        os.write(2, f"the template could not be started: {error}\n".encode())
    finally:
        os._exit(1)
