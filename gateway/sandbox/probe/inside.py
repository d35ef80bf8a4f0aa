"""Runs inside a sandbox: attacks it and prints what held, as one JSON list. Standard library only.

Never imported by the gateway: mounted into sandboxes as `/opt/probe`, and it refuses to run anywhere
else, because outside its attacks would work. `inside.py FACTS` where FACTS is a JSON object of things
to look for (see `run.py`). Each attack returns "" if it failed, which is what we want, or what it
managed to do.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Facts = dict[str, Any]
Attack = Callable[[Facts], str]

# x86_64, aarch64
NUMBERS = {
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "ptrace": (101, 117), "keyctl": (250, 219),
    "bpf": (321, 280), "io_uring_setup": (425, 425), "fsopen": (430, 430), "open_tree": (428, 428),
    "userfaultfd": (323, 282), "perf_event_open": (298, 241), "syslog": (103, 116), "clone3": (435, 435),
    "open_by_handle_at": (304, 265), "personality": (135, 92), "clone": (56, 220), "getpid": (39, 172),
    "process_vm_readv": (310, 270), "reboot": (169, 142), "init_module": (175, 105), "chroot": (161, 51),
}  # fmt: skip
PR_GET_NO_NEW_PRIVS = 39
CLONE_NEWUSER, SIGCHLD = 0x10000000, 17
AF_PACKET, AF_ALG, AF_VSOCK, AF_NETLINK, NETLINK_AUDIT = 17, 38, 40, 16, 9
NULL = os.makedev(1, 3)
WRITABLE = ("/workspace", "/tmp", "/dev/shm")  # noqa: S108


def call(name: str, *arguments: Any) -> int:
    """Make a system call; return 0 or more if it worked, minus the errno if it did not."""
    number = NUMBERS[name][platform.machine() == "aarch64"]
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(
        ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
    )
    return int(result) if result >= 0 else -ctypes.get_errno()


def refused(name: str, *arguments: Any) -> str:
    """Say if a system call got past the filter: it must fail with EPERM or ENOSYS, not for its arguments."""
    result = call(name, *arguments)
    return "" if result in (-errno.EPERM, -errno.ENOSYS) else f"{name} answered {result}"


def status(field: str) -> str:
    """Return a line of /proc/self/status; "0" where this kernel has none."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field + ":")), "0")


def interfaces(_: Facts) -> str:
    """No network interface but its own loopback."""
    return "".join(name for _, name in socket.if_nameindex() if name != "lo")


def connects(facts: Facts) -> str:
    """No connection to the internet, to metadata services or to the host's loopback."""
    targets = [("1.1.1.1", 53), ("169.254.169.254", 80), ("127.0.0.1", facts["port"])]
    return ", ".join(f"connected to {host}" for host, port in targets if _connected((host, port)))


def _connected(address: tuple[str, int]) -> bool:
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex(address) == 0


def resolves(_: Facts) -> str:
    """No name resolves: a query would carry data out."""
    try:
        return f"resolved to {socket.gethostbyname('example.com')}"
    except OSError:
        return ""


def abstract_socket(facts: Facts) -> str:
    """No abstract unix socket of the host."""
    with socket.socket(socket.AF_UNIX) as sock:
        return "connected" if sock.connect_ex("\0" + facts["abstract"]) == 0 else ""


def families(_: Facts) -> str:
    """No vsock, packet, crypto or audit sockets."""
    wanted = [(AF_VSOCK, 0), (AF_PACKET, 0), (AF_ALG, 0), (AF_NETLINK, NETLINK_AUDIT)]
    return ", ".join(f"family {family} opened" for family, protocol in wanted if _opened(family, protocol))


def _opened(family: int, protocol: int) -> bool:
    kind = socket.SOCK_SEQPACKET if family == AF_ALG else socket.SOCK_RAW
    for one in (kind, socket.SOCK_STREAM):
        try:
            socket.socket(family, one, protocol).close()
        except OSError:
            continue
        return True
    return False


def host_files(facts: Facts) -> str:
    """No file of the host but the read-only runtime, nor of the gateway."""
    paths = [
        "/etc/shadow",
        "/root",
        "/home",
        "/var",
        "/boot",
        "/sys",
        "/run",
        "/srv",
        "/mnt",
        *facts["hidden"],
    ]
    return ", ".join(path for path in paths if _shows(path))


def _shows(path: str) -> bool:
    """Say whether a path is there and more than empty folders, which tell nothing."""
    try:
        return any(map(_shows, (os.path.join(path, name) for name in os.listdir(path))))
    except (NotADirectoryError, PermissionError):
        return True
    except FileNotFoundError:
        return os.path.islink(path)


def other_workspace(facts: Facts) -> str:
    """No file of another session, by any path or any process."""
    found = [str(path) for top in WRITABLE for path in Path(top).rglob("*") if path.name == facts["secret"]]
    found += map(str, Path("/proc").glob("[0-9]*/root/workspace/" + facts["secret"]))
    return ", ".join(found)


def processes(_: Facts) -> str:
    """No process but its own."""
    pids = sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return "" if set(pids) <= {1, os.getppid(), os.getpid()} else f"sees processes {pids}"


def signals(facts: Facts) -> str:
    """No signal reaches the gateway."""
    pid = facts["gateway_pid"]
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return ""
    # In a container the gateway's number is a small one, and a process in here may have the same.
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except OSError as error:
        return f"process {pid} can be signalled, and may be the gateway: {error}"
    started = line.rpartition(")")[2].split()[19]
    return "the gateway can be signalled" if started == facts["gateway_started"] else ""


def init_environment(_: Facts) -> str:
    """The environment of pid 1 is empty or unreadable; a kernel of its own may put a home there."""
    try:
        words = Path("/proc/1/environ").read_bytes().decode(errors="replace").split("\0")
    except PermissionError:
        return ""
    return ", ".join(word for word in words if word not in ("", "HOME=/tmp/home"))


def environment(facts: Facts) -> str:
    """Only the variables it was given."""
    words = Path("/proc/self/environ").read_text().split("\0")
    return ", ".join(sorted({word.partition("=")[0] for word in words if word} - set(facts["environment"])))


def descriptors(_: Facts) -> str:
    """No descriptor but stdin, stdout and stderr."""
    found = {int(name): _link(name) for name in os.listdir("/proc/self/fd")}
    return ", ".join(f"{number} -> {to}" for number, to in found.items() if number > 2 and to)


def _link(name: str) -> str:
    try:
        to = os.readlink(f"/proc/self/fd/{name}")
    except FileNotFoundError:  # the listing's own
        return ""
    return "" if to.startswith("/proc/") else to


def uid(_: Facts) -> str:
    """An unprivileged uid that cannot become another."""
    if 0 in os.getresuid() + os.getresgid():
        return "is root"
    for become in (os.setuid, os.setgid):
        try:
            become(0)
        except OSError:
            continue
        return "became root"
    return ""


def capabilities(_: Facts) -> str:
    """No capability, not even to be gained."""
    sets = {name: status(name) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    return ", ".join(f"{name} {value}" for name, value in sets.items() if int(value, 16))


def privileges(_: Facts) -> str:
    """No new privileges are given: no set-uid program works."""
    # Asked of the kernel: not every one tells it in /proc.
    return "" if ctypes.CDLL(None).prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 else "NoNewPrivs is 0"


def seccomp(_: Facts) -> str:
    """A system call filter is active, also for calls it has not heard of and for x32."""
    if status("Seccomp") != "2":
        return "no filter"
    odd = [number for number in (1000, 0x40000027) if _works(number)]
    return f"calls {odd} worked" if odd else ""


def _works(number: int) -> bool:
    """Say whether a system call works, from a child: a filter may also kill for it."""
    child = os.fork()
    if child == 0:
        os._exit(ctypes.CDLL(None).syscall(ctypes.c_long(number)) == -1)
    return os.waitpid(child, 0)[1] == 0


def tool_code(facts: Facts) -> str:
    """Its own code is read-only."""
    return ", ".join(path for path in facts["code"] if _wrote(path))


def writes(_: Facts) -> str:
    """Writes only in the workspace and the scratch folders."""
    return ", ".join(path for path in _folders() if not path.startswith(WRITABLE) and _wrote(path))


def _folders() -> Iterator[str]:
    """Yield every mount point and the folders two levels down."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        yield line.split()[4]
    for top in Path("/").iterdir():
        if top.is_dir() and not top.is_symlink():
            yield from (str(path) for path in (top, *top.iterdir()) if top.name != "proc" and path.is_dir())
    yield from ("/proc/sys/kernel", "/proc/sys/net", "/proc/self")


def _wrote(path: str) -> bool:
    if not os.path.exists(path):  # a mount that another one hides
        return False
    if not os.path.isdir(path):
        return not stat.S_ISCHR(os.stat(path).st_mode) and _opens_for_writing(path)
    made = os.path.join(path, f".probe{os.getpid()}")
    try:
        os.close(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except OSError:
        return False
    os.unlink(made)
    return True


def _opens_for_writing(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY))
    except OSError:
        return False
    return True


def kernel_files(_: Facts) -> str:
    """No knob or memory of the kernel through /proc or /dev."""
    paths = [
        "/proc/sysrq-trigger",
        "/proc/kcore",
        "/proc/kmsg",
        "/dev/mem",
        "/dev/kmsg",
    ]
    knobs = (os.path.join(folder, name) for folder, _, names in os.walk("/proc/sys") for name in names)
    found = [path for path in paths if _opens(path)] + [path for path in knobs if _opens(path)]
    return ", ".join(found[:5])


def _opens(path: str) -> bool:
    for flags in (os.O_RDONLY, os.O_WRONLY) if "sys/" not in path else (os.O_WRONLY,):
        try:
            fd = os.open(path, flags | os.O_NONBLOCK)
        except OSError:
            continue
        with open(fd, "rb"):
            return os.fstat(fd).st_rdev != NULL  # a mask, as containers have
    return False


def user_namespaces(_: Facts) -> str:
    """No namespace can be made or entered."""
    tries = [refused("unshare", CLONE_NEWUSER), refused("setns", 0, 0), refused("clone3", 0, 0)]
    child = call("clone", CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0)
    if child == 0:  # it worked, and this is the child
        os._exit(0)
    return ", ".join(filter(None, [*tries, f"clone answered {child}" if child > 0 else ""]))


def device_nodes(_: Facts) -> str:
    """No device node can be made."""
    try:
        os.mknod("/tmp/device", stat.S_IFBLK | 0o600, os.makedev(254, 0))  # noqa: S108
    except OSError:
        return ""
    return "made one"


def tracing(_: Facts) -> str:
    """No other process can be traced or read."""
    return ", ".join(
        filter(None, [refused("ptrace", 0, 0, 0, 0), refused("process_vm_readv", 1, 0, 0, 0, 0, 0)])
    )


def mounts(_: Facts) -> str:
    """Nothing can be mounted, the old way or the new."""
    tries = [refused("mount", b"x", b"/tmp", b"tmpfs", 0, 0), refused("fsopen", b"tmpfs", 0)]
    return ", ".join(
        filter(None, [*tries, refused("open_tree", -100, b"/tmp", 1), refused("chroot", b"/tmp")])
    )


def refusing(name: str, *arguments: Any) -> Attack:
    """Return an attack that is one system call."""
    return lambda _: refused(name, *arguments)


ATTACKS: dict[str, Attack] = {
    "no_network_interface": interfaces,
    "no_connection": connects,
    "no_name_resolution": resolves,
    "no_host_abstract_socket": abstract_socket,
    "no_unusual_socket": families,
    "no_host_files": host_files,
    "no_other_workspace": other_workspace,
    "no_other_process": processes,
    "no_signal_out": signals,
    "no_init_environment": init_environment,
    "no_foreign_environment": environment,
    "no_foreign_descriptor": descriptors,
    "unprivileged_uid": uid,
    "no_capabilities": capabilities,
    "no_new_privileges": privileges,
    "system_call_filter": seccomp,
    "tool_code_read_only": tool_code,
    "writes_only_where_allowed": writes,
    "no_kernel_files": kernel_files,
    "no_namespaces": user_namespaces,
    "no_device_nodes": device_nodes,
    "no_tracing": tracing,
    "no_mounts": mounts,
    "no_keyctl": refusing("keyctl", 0, -3, 0, 0, 0),
    "no_bpf": refusing("bpf", 0, 0, 0),
    "no_io_uring": refusing("io_uring_setup", 1, 0),
    "no_userfaultfd": refusing("userfaultfd", 0),
    "no_perf_events": refusing("perf_event_open", 0, 0, 0, 0, 0),
    "no_files_by_handle": refusing("open_by_handle_at", 0, 0, 0),
    "no_kernel_log": refusing("syslog", 3, 0, 0),
    "no_modules": refusing("init_module", 0, 0, 0),
    "no_reboot": refusing("reboot", 0, 0, 0, 0),
    "no_personality": refusing("personality", 0xFFFFFFFF),
}


def main() -> None:
    """Run every attack and print `[[name, what it managed], ...]`."""
    if Path(__file__).parent != Path("/opt/probe"):
        raise SystemExit("this program attacks the machine it runs on: use `sandgate doctor`")
    facts = json.loads(sys.argv[1])
    print(json.dumps([[name, attack(facts)] for name, attack in ATTACKS.items()]))


if __name__ == "__main__":
    main()
