"""Preloads a Python tool server and forks it per session. Runs in sandboxes only, never in the gateway.

    fork_server.py SITE HOW NAME [TARGET]     as run_server.py, without the server's own arguments

Standard input is a socket to the launcher. The *template* (this process, once its imports are done) never
sees a session's input: each time it is told to it forks and forgets. The child begins in namespaces of its
own: it is the *init* of one, and forks the server there. Both drop every right, load their filter and are
looked at from outside; only then the server receives its pipes, its arguments and its environment.

The init lives as long as its session, and each page that it writes to is memory of the session; a Python
object writes where it is only looked at. So it is born by the bare system call, without what Python does
after a fork, does next to nothing, and that by calls of the C library; the rest is left to the server.

HOW may be `exec` (NAME `-`) besides: nothing is preloaded, the session's program replaces the child.
With SANDGATE_REHEARSE in its environment (a JSON list of arguments) the server is rehearsed (rehearsal.py).
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
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, SECCOMP_MODE_FILTER = 4, 22, 24, 2
SYS_MOVE_MOUNT, AT_FDCWD, MOVE_MOUNT_F_EMPTY_PATH = 429, -100, 4
NO_CAPABILITY = struct.pack("Ii", 0x20080522, 0)
RIGHTS = (int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS))
INSIDE_UID = 1000
HOME = "/tmp/home"  # noqa: S108 - its own
MAX_MESSAGE, FREE, MOST_FILES = 1 << 16, 8, os.sysconf("SC_OPEN_MAX")
SIGNALLED = 128
SIGCHLD, SIG_IGN, SIG_BLOCK = int(signal.SIGCHLD), 1, 0
USR1 = (1 << (signal.SIGUSR1 - 1)).to_bytes(128, "little")
REHEARSE = "SANDGATE_REHEARSE"
POOL, POOL_HEAD, POOL_STEP, POOL_LARGEST, MOST_HOLES = 1 << 14, 48, 16, 512, 1 << 14
"""Python's allocator: a pool's size and own part, the sizes that it knows, and where to stop in another."""
BYTES_HEAD, BIG = 33, 1 << 40
HUGE_BITS, MADV_COLLAPSE, RESERVED = 21, 25, 24 << 20
"""Huge pages: their size and how memory is made one; how much memory is to lie side by side for them."""
SYS_PIDFD_OPEN, SYS_PROCESS_MADVISE, MADV_POPULATE_WRITE, RUN, MOST_RUNS = 434, 440, 23, 16, 1024
"""How many runs of pages are taken at once: the most that the kernel takes, and the size of each in bytes."""
LAZY = ("asyncio", "anyio._backends._asyncio", "mcp.server.stdio")
"""What servers import only when they run; taken along where its package is loaded already."""

libc = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock, so that a call may fork
ZERO = ctypes.c_ulong(0)
filling = []


class Filter(ctypes.Structure):
    """The kernel's `struct sock_fprog`."""

    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def checked(result, what):
    """Raise `OSError` for a call that failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def sibling(name):
    """Return the module that stands beside this file; nothing beside it is on the path."""
    return module_at(name, os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py"))


def module_at(name, place):
    """Return the module that the file `place` is."""
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
    rehearsed = own.pop(REHEARSE, None)
    given = dict(own)
    reserved = reserve()
    starter = sibling("run_server")
    preload(starter, site, how, name, target)
    rehearsal, written = None, []
    if rehearsed is not None:
        arguments = json.loads(rehearsed)
        rehearsal = sibling("rehearsal")
        rehearsal.rehearse(lambda: serve(starter, how, name, target, arguments), tell_forked)
    before = dict(own)
    changed = {key: value for key, value in before.items() if given.get(key) != value}
    handled = [int(number) for number in signal.valid_signals() if callable(signal.getsignal(number))]
    if signal.getsignal(SIGCHLD) == signal.SIG_IGN:
        handled.append(SIGCHLD)
    libc.signal(SIGCHLD, ctypes.c_void_p(SIG_IGN))  # sessions are not waited for here
    reserved.clear()
    settle()
    if rehearsal is not None:
        trial = rehearsal.written(
            lambda: serve(starter, how, name, target, arguments), fork_apart, begin_trial
        )
        parts = [trial[at : at + MOST_RUNS * RUN] for at in range(0, len(trial), MOST_RUNS * RUN)]
        written.extend((part, ctypes.c_size_t(len(part) // RUN)) for part in parts)
    control = socket.socket(fileno=0)
    control.send(b"ready")
    while True:
        word, (door,) = received(control, 1)
        if not word:
            os._exit(0)
        if fork_apart() == 0:
            argv, env, egress = become_session(control, door, handled, written)
            become_environment(own, before, changed | env | way_out(egress))
            return serve(starter, how, name, target, argv[len(sys.orig_argv) :])
        os.close(door)
        control.send(b"forked")


def reserve():
    """Have the arenas of Python's allocator lie side by side, for huge pages; return what keeps them."""
    some = [b""] * (RESERVED // POOL_LARGEST)  # a list that grew would be moved, and leave gaps between them
    for number in range(len(some)):
        some[number] = bytes(POOL_LARGEST - BYTES_HEAD)
    return some[::POOL_LARGEST]  # a few of each arena


def settle():
    """Leave nothing to tidy up in memory, and no holes: forks would write there, on pages they share."""
    gc.collect()
    fill_pools()
    frames = {id(one) >> HUGE_BITS for one in gc.get_objects()}
    gc.freeze()
    if hasattr(libc, "malloc_trim"):  # merges what is free; a large piece has it sorted
        libc.malloc_trim(0)
        bytes(MAX_MESSAGE)
    for frame in frames:  # forks copy and drop a huge page as one, up to the first time that they write there
        libc.madvise(ctypes.c_void_p(frame << HUGE_BITS), ctypes.c_size_t(1 << HUGE_BITS), MADV_COLLAPSE)


def fill_pools():
    """Have the objects of forks begin on pages of their own: fill pools of each size until one is begun."""
    for size in range(POOL_STEP, POOL_LARGEST + 1, POOL_STEP):
        for number in range(MOST_HOLES):
            one = bytes(size - BYTES_HEAD) if size > BYTES_HEAD else object() if size == 16 else BIG + number
            filling.append(one)
            if id(one) % POOL == POOL_HEAD:
                break


def fork_apart():
    """Fork into new namespaces; where that fails now, whoever waits for the child finds its socket closed."""
    flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    number, word = SYS_CLONE[os.uname().machine], ctypes.c_ulong
    pid = libc.syscall(ctypes.c_long(number), word(flags | signal.SIGCHLD), *(word(0) for _ in range(4)))
    if pid < 0:
        sys.stderr.write(f"could not fork: {os.strerror(ctypes.get_errno())}\n")
    return pid


def received(channel, most):
    """Return the next message and its descriptors, as `socket.recv_fds` does at more expense."""
    data, extra, _, _ = channel.recvmsg(MAX_MESSAGE, socket.CMSG_LEN(4 * most))
    fds = b"".join(part for level, kind, part in extra if (level, kind) == RIGHTS)
    return data, struct.unpack(f"{len(fds) // 4}i", fds)


def begin_trial():
    """Go on as a session's server would, with a /proc of one's own."""
    libc.signal(SIGCHLD, None)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "")
    tell_forked()


def have_pages(written):
    """Take the pages that are going to be written at once, where the kernel does that (since 6.13): they cost
    more one by one."""
    me = libc.syscall(ctypes.c_long(SYS_PIDFD_OPEN), ctypes.c_int(os.getpid()), ctypes.c_uint(0))
    for part, number in written:
        words = (ctypes.c_int(me), part, number, MADV_POPULATE_WRITE, ctypes.c_uint(0))
        libc.syscall(ctypes.c_long(SYS_PROCESS_MADVISE), *words)
    libc.close(me)


def way_out(egress):
    """Serve the session's proxy, where it has one, on its loopback; return what tells the server of it."""
    if egress is None:
        return {}
    shim = module_at("egress_shim", egress["shim"])
    return shim.environment(shim.serve_in_child(egress["socket"]))


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


def become_session(channel, door, handled, written):
    """Turn this fork into a session's server: return what it is given. Anything else ends it.

    `channel` is the socket on descriptor 0, which becomes `door`; `handled` are signals the imports changed,
    `written` is where the server is going to write.
    """
    try:
        os.dup2(door, 0)
        os.closerange(1, MOST_FILES)
        libc.signal(SIGCHLD, None)
        become_user()
        program = os.read(0, MAX_MESSAGE)
        server = libc.fork()
        checked(server, "fork")
        if server:
            drop_rights(program)
            be_init(server, handled)
        have_pages(written)
        return be_server(channel, program, handled)
    except BaseException as error:  # noqa: BLE001 - nothing of the template may run on in a half-made child
        os.write(0, f"failed: {type(error).__name__}: {error}".encode()[:1000])
        os._exit(1)


def become_user():
    """Become the session's user, in a control group namespace that begins at the session's own groups."""
    os.write(0, b"apart")
    if os.read(0, 16) != b"mapped":
        os._exit(1)
    os.setresgid(INSIDE_UID, INSIDE_UID, INSIDE_UID)
    os.setresuid(INSIDE_UID, INSIDE_UID, INSIDE_UID)
    checked(libc.unshare(CLONE_NEWCGROUP), "unshare")
    os.setsid()
    for number in range(64):
        if libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(number), ZERO, ZERO, ZERO) < 0:
            break


def be_init(server, handled):
    """Wait for the server and for orphans, say how the server ended, and end all with it."""
    for number in handled:
        libc.signal(number, None)
    libc.sigprocmask(SIG_BLOCK, USR1, None)
    os.write(0, b"init")
    libc.sigwait(USR1, ctypes.byref(ctypes.c_int()))
    # It was looked at and need not be again: out of the server's reach, memory and all.
    checked(libc.prctl(PR_SET_DUMPABLE, ZERO, ZERO, ZERO, ZERO), "prctl")
    os.write(0, b"hidden")
    while True:
        pid, status = os.wait()
        if pid == server:
            code = os.waitstatus_to_exitcode(status)
            os.write(0, str(code if code >= 0 else SIGNALLED - code).encode())
            os._exit(0)


def be_server(door, program, handled):
    """Mount the session's files, drop every right, be looked at, and take what the session is given."""
    tell_forked()
    data, trees = received(door, 2)
    rooms = json.loads(data)
    mount_rooms(rooms)
    for target, tree in zip(rooms["trees"], trees, strict=True):
        attach(tree, target)
        os.close(tree)
    no_user_namespaces()
    no_knobs()
    drop_rights(program)
    if SIGCHLD in handled:
        signal.signal(SIGCHLD, signal.getsignal(SIGCHLD))
    # Not dumpable since its user changed, it was out of its own reach as well.
    checked(libc.prctl(PR_SET_DUMPABLE, ctypes.c_ulong(1), ZERO, ZERO, ZERO), "prctl")
    os.chdir(rooms["cwd"])
    door.send(b"server")
    word, fds = received(door, 4)
    if word != b"go":
        os._exit(1)
    return take_pipes(door, fds)


def tell_forked():
    """Have Python and the server's packages take note of a fork, as `os.fork` does before and after one."""
    ctypes.pythonapi.PyOS_BeforeFork()
    ctypes.pythonapi.PyOS_AfterFork_Child()


def mount_rooms(rooms):
    """Mount the session's scratch, /proc and terminals over the template's own."""
    plain = MS_NOSUID | MS_NODEV
    mount("tmpfs", "/tmp", "tmpfs", plain, rooms["tmp"])  # noqa: S108
    mount("tmpfs", "/dev/shm", "tmpfs", plain, rooms["shm"])  # noqa: S108
    mount("proc", "/proc", "proc", plain | MS_NOEXEC, "")
    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    os.mkdir(HOME, 0o755)


def attach(tree, target):
    """Mount what the launcher opened for the session: its workspace, or the socket of its proxy."""
    to = (ctypes.c_int(AT_FDCWD), os.fsencode(target), ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH))
    moved = libc.syscall(ctypes.c_long(SYS_MOVE_MOUNT), ctypes.c_int(tree), b"", *to)
    checked(moved, f"move_mount to {target}")


def mount(source, target, kind, flags, options):
    """Mount; errors name the target."""
    words = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode() or None)
    checked(libc.mount(*words), f"mount on {target}")


def no_user_namespaces():
    """Let nothing below make one."""
    fd = os.open("/proc/sys/user/max_user_namespaces", os.O_WRONLY)
    os.write(fd, b"0")
    os.close(fd)


def no_knobs():
    """Let nothing of the kernel be set, not even what is of the session's own namespaces."""
    knobs = "/proc/sys"
    mount(knobs, knobs, "", MS_BIND, "")
    mount(knobs, knobs, "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "")


def drop_rights(program):
    """Give up every capability for good and load the filter, last."""
    checked(libc.capset(NO_CAPABILITY, b"\0" * 24), "capset")
    what = ctypes.byref(Filter(len(program) // 8, program))
    mode = ctypes.c_ulong(SECCOMP_MODE_FILTER)
    checked(libc.prctl(PR_SET_SECCOMP, mode, what, ZERO, ZERO), "seccomp")


def take_pipes(door, fds):
    """Put the session's pipes in place and return its arguments, its environment and its way out."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, FREE) for fd in fds]
    door.detach()
    for number, fd in enumerate(high[:3]):
        os.dup2(fd, number)
    words = json.loads(os.pread(high[3], os.fstat(high[3]).st_size, 0))
    os.closerange(3, MOST_FILES)
    return words["argv"], words["env"], words["egress"]


def become_environment(own, before, env):
    """Make the environment `own`, which is as `before`, what `env` is; write only what is not yet so."""
    for key in before:
        if key not in env:
            del own[key]
    for key, value in env.items():
        if before.get(key) != value:
            own[key] = value


if __name__ == "__main__":
    sys.exit(main())
