"""Preloads a Python tool server and forks it per session. Runs in sandboxes only, never in the gateway.

    fork_server.py SITE HOW NAME [TARGET]     as run_server.py, without the server's own arguments

Standard input is a socket to the launcher. The *template* (this process, once its imports are done) never
sees a session's input: each time it is told to it forks and forgets. The child begins in namespaces of its
own: it is the *init* of one, and forks the server there. Both drop every right, load their filter and are
looked at from outside; only then the server receives its pipes, its arguments and its environment.

The init lives as long as its session, and each page that it writes to is memory of the session. It is born
by the bare system call, without what Python does after a fork, and does next to nothing; the rest is left to
the server.

HOW may be `exec` (NAME `-`) besides: nothing is preloaded, the session's program replaces the child.
"""

import ast
import ctypes
import fcntl
import gc
import importlib.util
import json
import os
import signal
import socket
import struct
import sys

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
SYS_CLONE = {"x86_64": 56, "aarch64": 220}
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, SECCOMP_MODE_FILTER = 4, 22, 24, 2
SYS_MOVE_MOUNT, AT_FDCWD, MOVE_MOUNT_F_EMPTY_PATH = 429, -100, 4
CAPABILITY_VERSION = 0x20080522
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
INSIDE_UID = 1000
HOME = "/tmp/home"  # noqa: S108 - its own
MAX_MESSAGE, FREE = 1 << 16, 8
SIGNALLED = 128
LAZY = ("asyncio", "anyio._backends._asyncio", "mcp.server.stdio")
"""What servers import only when they run; taken along where its package is loaded already."""

libc = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock, so that a call may fork


def checked(result, what):
    """Raise `OSError` for a call that failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def sibling(name):
    """Return the module that stands beside this file; nothing beside it is on the path."""
    place = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- the template


def preload(starter, site, how, name, target):
    """Import what the server imports, and run nothing of what it does."""
    starter.prepare(site)
    if how == "entry":
        importlib.import_module(target.partition(":")[0])
    elif how == "script":
        sys.path.insert(0, os.path.dirname(name))
        import_named_in(name)
    elif how == "module":
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
        if spec is not None and spec.origin is not None:
            import_named_in(spec.origin)
    for module in LAZY:
        if module.partition(".")[0] in sys.modules:
            try:
                importlib.import_module(module)
            except ImportError:
                continue


def import_named_in(path):
    """Import what the file's own import statements name."""
    with open(path, "rb") as file:
        body = ast.parse(file.read(), path).body
    for node in body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            __import__(node.module, fromlist=[alias.name for alias in node.names])


def main():
    """Preload, then fork at each message; only a session's server returns, with its exit code."""
    site, how, name, *rest = sys.argv[1:]
    target = rest[0] if rest else ""
    own = os.environ  # noqa: TID251 - the server's, inside its sandbox
    given = dict(own)
    starter = sibling("run_server")
    preload(starter, site, how, name, target)
    changed = {key: value for key, value in own.items() if given.get(key) != value}
    handler = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children that only made way are not waited for
    gc.collect()
    gc.freeze()
    control = socket.socket(fileno=0)
    control.send(b"ready")
    while True:
        word, doors, _, _ = socket.recv_fds(control, 16, 1)
        if not word:
            os._exit(0)
        if fork_apart() == 0:
            control.detach()
            argv, env = become_session(doors[0], handler)
            own.clear()
            own.update(changed | env)
            return serve(starter, how, name, target, argv[len(sys.orig_argv) :])
        os.close(doors[0])
        control.send(b"forked")


def fork_apart():
    """Fork into new namespaces; where that fails now, whoever waits for the child finds its socket closed."""
    flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    number, word = SYS_CLONE[os.uname().machine], ctypes.c_ulong
    pid = libc.syscall(ctypes.c_long(number), word(flags | signal.SIGCHLD), *(word(0) for _ in range(4)))
    if pid < 0:
        sys.stderr.write(f"could not fork: {os.strerror(ctypes.get_errno())}\n")
    return pid


def serve(starter, how, name, target, arguments):
    """Be the session's server."""
    if how == "exec":
        try:
            os.execvp(arguments[0], arguments)  # noqa: S606 - this is what it is for
        except OSError as error:
            sys.stderr.write(f"{arguments[0]} could not be started: {error}\n")
            return 127
    return starter.run(how, name, *([target] if how == "entry" else []), *arguments)


# -- the child


def become_session(door, handler):
    """Turn this fork into a session's server: return its arguments and environment. Anything else ends it."""
    try:
        os.dup2(door, 0)
        os.closerange(1, os.sysconf("SC_OPEN_MAX"))
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        door = socket.socket(fileno=0)
        become_user(door)
        program = door.recv(MAX_MESSAGE)
        server = libc.fork()
        checked(server, "fork")
        if server:
            drop_rights(program)
            be_init(door, server)
        return be_server(door, program, handler)
    except BaseException as error:  # noqa: BLE001 - nothing of the template may run on in a half-made child
        os.write(0, f"failed: {type(error).__name__}: {error}".encode()[:1000])
        os._exit(1)


def become_user(door):
    """Become the session's user, in a control group namespace that begins at the session's own groups."""
    door.send(b"apart")
    if door.recv(16) != b"mapped":
        os._exit(1)
    os.setresgid(INSIDE_UID, INSIDE_UID, INSIDE_UID)
    os.setresuid(INSIDE_UID, INSIDE_UID, INSIDE_UID)
    checked(libc.unshare(ctypes.c_int(CLONE_NEWCGROUP)), "unshare")
    os.setsid()


def be_server(door, program, handler):
    """Mount the session's files, drop every right, be looked at, and take what the session is given."""
    ctypes.pythonapi.PyOS_BeforeFork()  # both belong to the fork above: what was registered runs here alone
    ctypes.pythonapi.PyOS_AfterFork_Child()
    data, fds, _, _ = socket.recv_fds(door, MAX_MESSAGE, 1)
    rooms = json.loads(data)
    mount_rooms(rooms, fds[0])
    os.close(fds[0])
    loopback_up()
    with open("/proc/sys/user/max_user_namespaces", "w") as file:
        file.write("0")
    drop_rights(program)
    signal.signal(signal.SIGCHLD, handler if handler is not None else signal.SIG_DFL)
    # Not dumpable since its user changed, it was out of its own reach as well.
    checked(libc.prctl(PR_SET_DUMPABLE, ctypes.c_ulong(1), 0, 0, 0), "prctl")
    os.chdir(rooms["cwd"])
    door.send(b"server")
    word, fds, _, _ = socket.recv_fds(door, 16, 4)
    if word != b"go":
        os._exit(1)
    return take_pipes(door, fds)


def mount_rooms(rooms, workspace):
    """Mount the session's scratch, /proc, terminals and workspace over the template's own."""
    plain = MS_NOSUID | MS_NODEV
    mount("tmpfs", "/tmp", "tmpfs", plain, rooms["tmp"])  # noqa: S108
    mount("tmpfs", "/dev/shm", "tmpfs", plain, rooms["shm"])  # noqa: S108
    mount("proc", "/proc", "proc", plain | MS_NOEXEC, "")
    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    os.mkdir(HOME, 0o755)
    target = os.fsencode(rooms["workspace"])
    flags = ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH)
    moved = libc.syscall(
        ctypes.c_long(SYS_MOVE_MOUNT), ctypes.c_int(workspace), b"", ctypes.c_int(AT_FDCWD), target, flags
    )
    checked(moved, "move_mount")


def mount(source, target, kind, flags, options):
    """Mount; errors name the target."""
    words = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode() or None)
    checked(libc.mount(*words), f"mount on {target}")


def loopback_up():
    """Let 127.0.0.1 of this network namespace, which has nothing else, answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack("16sh22x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))


def drop_rights(program):
    """Give up every capability for good and load the filter, last."""
    for number in range(64):
        if libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0) < 0:
            break
    header = struct.pack("Ii", CAPABILITY_VERSION, 0)
    checked(libc.capset(header, b"\0" * 24), "capset")
    kept = ctypes.create_string_buffer(program, len(program))

    class Filter(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    what = Filter(len(program) // 8, ctypes.cast(kept, ctypes.c_void_p))
    checked(
        libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(what), 0, 0), "seccomp"
    )


def be_init(door, server):
    """Wait for the server and for orphans, say how the server ended, and end all with it."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1,))
    door.send(b"init")
    signal.sigwait((signal.SIGUSR1,))
    # It was looked at and need not be again: out of the server's reach, memory and all.
    checked(libc.prctl(PR_SET_DUMPABLE, ctypes.c_ulong(0), 0, 0, 0), "prctl")
    door.send(b"hidden")
    while True:
        pid, status = os.wait()
        if pid == server:
            code = os.waitstatus_to_exitcode(status)
            os.write(0, str(code if code >= 0 else SIGNALLED - code).encode())
            os._exit(0)


def take_pipes(door, fds):
    """Put the session's pipes in place and return its arguments and environment."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, FREE) for fd in fds]
    door.close()
    for number, fd in enumerate(high[:3]):
        os.dup2(fd, number)
    with open(high[3], "rb") as file:
        file.seek(0)
        words = json.load(file)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    return words["argv"], words["env"]


if __name__ == "__main__":
    sys.exit(main())
