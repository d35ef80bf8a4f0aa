"""Runs a server in its template as each of its sessions will begin. Runs in sandboxes only.

Python code is slow the first times it runs, and every object that a fork touches is a page of memory that
it no longer shares. So the template goes through the beginning of a session (`initialize`, `tools/list`,
the end of the input) ahead of all of them, with messages that are the same for each server. What is called
on the way is learnt, and moved together in memory; what was scattered over thousands of pages is then on
hundreds. At last a fork goes through it, and tells which pages it wrote to: sessions take those at once.
"""

import _thread
import array
import contextlib
import fcntl
import gc
import json
import os
import select
import sys
import threading
import types

ROUNDS = 8
"""Rehearsals after the first one, with the moved code: CPython changes a function up to its eighth call."""
SECONDS, ENDING = 10.0, 5.0
"""How long an answer may take, and the end of the server once its input ended."""
PIPE_SIZE = 1 << 20
BEGINNING = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "rehearsal", "version": "1"},
}
QUESTIONS = (
    ({"id": 1, "method": "initialize", "params": BEGINNING},),
    ({"method": "notifications/initialized"}, {"id": 2, "method": "tools/list", "params": {}}),
)
"""What is sent at once, each time once the last of it before was answered."""

OWN_PAGE = 1 << 63 | 1 << 56
"""What the kernel says in /proc/self/pagemap of a page in memory that nobody else has."""

kept = []
"""Code that was moved: freed, it would leave holes, which forks would fill page by page."""


def rehearse(run, tell_forked):
    """Go through the beginning of a session a few times; `run` is the server's main program.

    Before that a session is told that it was forked; a process of one thread may be told so at any time.
    Raises `RuntimeError` where the server does not answer as it should, or leaves a thread.
    """
    called = set()

    def note(frame, event, _):
        if event == "call":
            called.add(frame.f_code)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        tell_forked()
        once(run)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    move_together(called)
    for _ in range(ROUNDS):
        tell_forked()
        once(run)


def written(run, fork, begin):
    """Return where a session writes until it has answered: an array of address and length, for each run of
    pages. It is empty where that cannot be told.

    It is found out as for a session: in a fork, which `fork` makes, `begin` mounts a /proc of its own; a fork
    of that is the server.
    """
    found, telling = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            begin()
            tell(run, telling)
        except Exception as error:  # noqa: BLE001 - a fork of the template must not go on as it
            sys.stderr.write(f"where it writes is not known: {error}\n")
        finally:
            os._exit(0)
    os.close(telling)
    with open(found, "rb") as file:
        data = file.read()
    with contextlib.suppress(ChildProcessError):  # the kernel may have waited for it already
        os.waitpid(pid, 0)
    return data


def tell(run, telling):
    """Start the server, ask it what each session asks first, and write what `written` returns."""
    client = Client()
    pid = os.fork()
    if pid == 0:
        try:
            Surroundings().enter(client.stdin, client.stdout)
            run()
        finally:
            os._exit(1)
    os.close(client.stdout)
    if client.ask():
        os.write(telling, runs(pid))


def runs(pid):
    """Return the pages that a fork of this process alone has, of those that both have, as `written` does."""
    with open("/proc/self/maps") as file:
        lines = [line for line in file if " rw-p " in line and not line.endswith("[stack]\n")]
    size, found = os.sysconf("SC_PAGE_SIZE"), array.array("Q")
    with open(f"/proc/{pid}/pagemap", "rb", 0) as file:
        for line in lines:
            start, end = (int(word, 16) for word in line.split()[0].split("-"))
            facts = os.pread(file.fileno(), (end - start) // size * 8, start // size * 8)
            for number, fact in enumerate(array.array("Q", facts)):
                place = start + number * size
                if fact & OWN_PAGE != OWN_PAGE:
                    continue
                if found and found[-2] + found[-1] == place:
                    found[-1] += size
                else:
                    found.extend((place, size))
    return found.tobytes()


def once(run):
    """Run the server over pipes of our own until it has answered and found the end of its input."""
    client, session = Client(), Surroundings()
    session.enter(client.stdin, client.stdout)
    client.start()
    try:
        code = run()
    except SystemExit as ended:
        code = ended.code
    finally:
        session.leave()
        client.hang_up()
        client.join()
        join_others()
        gc.collect()
        client.close()
    if code or not client.answered:
        raise RuntimeError(f"its rehearsal ended with {code!r}, before tools/list was answered")


class Surroundings:
    """What a server's main program finds and may change; it is put back."""

    def __init__(self):
        self.own = os.environ  # noqa: TID251 - the server's, inside its sandbox
        self.environment, self.argv, self.path = dict(self.own), sys.argv, list(sys.path)
        self.folder, self.streams = os.getcwd(), (sys.stdin, sys.stdout)
        self.descriptors = os.dup(0), os.dup(1)

    def enter(self, stdin, stdout):
        """Let the standard streams be these two descriptors."""
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115

    def leave(self):
        """Put everything back."""
        for number, fd in enumerate(self.descriptors):
            os.dup2(fd, number)
            os.close(fd)
        sys.stdin, sys.stdout = self.streams
        sys.argv, sys.path[:] = self.argv, self.path
        os.chdir(self.folder)
        self.own.clear()
        self.own.update(self.environment)


class Client(threading.Thread):
    """Asks what each session asks first, then ends the input."""

    def __init__(self):
        super().__init__(daemon=True)
        self.stdin, self.asking = os.pipe()
        self.hearing, self.stdout = os.pipe()
        fcntl.fcntl(self.stdout, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self.stopped, self.stopping = os.pipe()
        self.files = {file_of(self.stdin), file_of(self.stdout)}
        self.heard = b""
        self.answered = False

    def run(self):
        """Ask, wait for each answer, and see that the server ends with its input."""
        try:
            self.answered = self.ask()
        finally:
            os.close(self.asking)
        if not select.select((self.stopped,), (), (), ENDING)[0]:
            sys.stderr.write("its rehearsal did not end with its input\n")
            os._exit(1)

    def ask(self):
        """Ask and wait for each answer; say if all came."""
        for messages in QUESTIONS:
            lines = (json.dumps({"jsonrpc": "2.0"} | message).encode() + b"\n" for message in messages)
            os.write(self.asking, b"".join(lines))
            if not self.hears(messages[-1]["id"]):
                return False
        return True

    def hears(self, number):
        """Wait for the answer of that number; False where it does not come, or is an error."""
        while True:
            line, found, rest = self.heard.partition(b"\n")
            if found:
                self.heard, message = rest, json.loads(line)
                if message.get("id") == number and "method" not in message:
                    return "result" in message
                continue
            ready = select.select((self.hearing, self.stopped), (), (), SECONDS)[0]
            if self.hearing not in ready:
                return False
            more = os.read(self.hearing, PIPE_SIZE)
            if not more:
                return False
            self.heard += more

    def hang_up(self):
        """Wait for no answer any more: the server has ended."""
        os.close(self.stopping)

    def close(self):
        """Close the pipes, with what the server kept of them; some keep theirs on purpose."""
        ours = (self.stdin, self.stdout, self.hearing, self.stopped)
        for fd in range(3, os.sysconf("SC_OPEN_MAX")):
            if fd in ours or file_of(fd) in self.files:
                os.close(fd)


def file_of(fd):
    """Return what tells an open file from another; nothing where none is open."""
    try:
        facts = os.fstat(fd)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def join_others():
    """Wait for the threads that a server started: they end with it, or it cannot be forked."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(ENDING)
    if left := _thread._count():  # also those that `threading` knows nothing of
        raise RuntimeError(f"its rehearsal left {left} threads")


def move_together(called):
    """Give the functions that were called, or hold one that was, copies of their code, one after another."""
    numbers, copies = {id(code) for code in called}, {}

    def wanted(code):
        inner = (one for one in code.co_consts if isinstance(one, types.CodeType))
        return id(code) in numbers or any(wanted(one) for one in inner)

    def moved(code):
        if not isinstance(code, types.CodeType) or not wanted(code):
            return code
        if id(code) not in copies:
            kept.append(code)
            copies[id(code)] = code.replace(co_consts=tuple(moved(one) for one in code.co_consts))
        return copies[id(code)]

    for function in [one for one in gc.get_objects() if isinstance(one, types.FunctionType)]:
        code = moved(function.__code__)
        if code is not function.__code__:
            function.__code__ = code
