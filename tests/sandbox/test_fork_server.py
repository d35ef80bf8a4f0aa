"""Sandboxes that are forks of a preloaded server: what a fork gets, what it can share, what is not forked."""

from __future__ import annotations

import json
import logging
import os
import signal
from dataclasses import replace
from pathlib import Path
from textwrap import indent
from typing import Any

import anyio
import pytest

from gateway.data import data_folder
from gateway.errors import SandboxError
from gateway.sandbox.bubblewrap import BubblewrapDriver
from gateway.sandbox.contract import Limits, Mount, Preload, Sandbox, SandboxSpec, WorkspaceSpec
from gateway.sandbox.runtimes import python_runtime

MAIN = f"main{os.getpid()}.py"
"""Found in /proc, where the templates of other runs stand as well."""
PLAIN = WorkspaceSpec(disk=4 * 2**20, inodes=200)
REPORT = """
import json, os, sys
import helper
line = sys.stdin.readline()
print(json.dumps(helper.report(line)), flush=True)
sys.stdin.readline()
"""


def server(folder: Path, helper: str, *, main: str = REPORT, **env: str) -> SandboxSpec:
    """Return a Python server of two files: `main`, which runs, and `helper`, which it imports."""
    code = folder / "servers"
    code.mkdir(exist_ok=True)
    (code / MAIN).write_text(main)
    (code / "helper.py").write_text(helper)
    runtime, boxes = python_runtime(), data_folder("sandboxes")
    start = (runtime.argv0, "-P", "-s", "-S")
    what = ("-", "script", f"/opt/pack/servers/{MAIN}")
    names = ("run_server", "fork_server", "rehearsal")
    helpers = (Mount(boxes / f"{name}.py", f"/opt/{name}.py") for name in names)
    return SandboxSpec(
        "forked",
        (*start, "/opt/run_server.py", *what, "word"),
        {**runtime.env, **env},
        (*runtime.mounts, *helpers, Mount(code, "/opt/pack/servers")),
        limits=Limits(pids=16, disk=4 * 2**20),
        preload=Preload((*start, "/opt/fork_server.py", *what), dict(runtime.env)),
    )


async def lines(sandbox: Sandbox) -> bytes:
    """Return what it prints up to the end of a line, or to the end."""
    kept = b""
    with anyio.fail_after(20):
        while not kept.endswith(b"\n"):
            try:
                kept += await sandbox.receive()
            except anyio.EndOfStream:
                break
    return kept


async def reported(driver: BubblewrapDriver, spec: SandboxSpec, line: str = "x") -> Any:
    """Fork a server over a workspace of its own, give it a line, and return what it reports."""
    sandbox = await driver.fork(spec, await driver.open_workspace(PLAIN))
    await sandbox.send(line.encode() + b"\n")
    return json.loads(await lines(sandbox))


FACTS = """
import os, random, sys
imported_by = random.random()
def report(line):
    me = {"pid": os.getpid(), "argv": sys.argv, "cwd": os.getcwd(), "line": line, "imported_by": imported_by}
    return me | {"token": os.environ.get("TOKEN"), "home": os.environ["HOME"], "path": sys.path[0]}
"""


async def test_a_fork_gets_its_own_arguments_environment_and_pipes_and_imports_nothing(
    tmp_path: Path,
) -> None:
    imported_by = 0
    async with BubblewrapDriver(tmp_path / "cache") as driver:
        for token in ("first", "second"):
            found = await reported(driver, server(tmp_path, FACTS, TOKEN=token), f"for {token}")
            assert found["token"] == token
            assert found["line"] == f"for {token}\n"
            assert found["argv"] == [f"/opt/pack/servers/{MAIN}", "word"]
            assert found["cwd"] == "/workspace"
            assert found["home"] == "/tmp/home"
            assert found["path"] == "/opt/pack/servers"
            assert found["pid"] == 2
            assert found["imported_by"] == imported_by or not imported_by
            imported_by = found["imported_by"]


async def test_a_template_is_started_once_and_holds_no_secret(tmp_path: Path) -> None:
    spec = server(tmp_path, FACTS, TOKEN="a secret of one session")
    async with BubblewrapDriver(tmp_path / "cache") as driver:
        for _ in range(2):
            await reported(driver, spec)
        assert len([path for path in Path("/proc").glob("[0-9]*") if is_lone_template(path)]) == 1
        environments = [
            path.read_bytes() for path in Path("/proc").glob("[0-9]*/environ") if is_template(path.parent)
        ]
    assert environments
    assert not any(b"a secret" in environment for environment in environments)


def is_template(process: Path) -> bool:
    try:
        return MAIN.encode() in (process / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


CHILDREN = """
import os, signal
seen = []
signal.signal(signal.SIGCHLD, HANDLER)
def report(line):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        seen.append("nobody to wait for")
    return seen
"""


@pytest.mark.parametrize(
    ("handler", "found"),
    [
        ("lambda *_: seen.append('handled')", ["handled"]),
        ("signal.SIG_IGN", ["nobody to wait for"]),
        ("signal.SIG_DFL", []),
    ],
)
async def test_what_imports_say_of_ended_children_holds_in_a_fork(
    tmp_path: Path, handler: str, found: list[str]
) -> None:
    async with BubblewrapDriver(tmp_path / "cache") as driver:
        assert await reported(driver, server(tmp_path, CHILDREN.replace("HANDLER", handler))) == found


NOTHING_LEFT = """
import ctypes, json, os, socket, sys
seen = []
libc = ctypes.CDLL(None, use_errno=True)
def report(line):
    found = {"module": list(seen), "environment": os.environ.get("LEFT"), "tmp": sorted(os.listdir("/tmp"))}
    found["shm"] = os.listdir("/dev/shm")
    found["workspace"] = os.listdir("/workspace")
    found["sysv"] = libc.shmget(4242, 4096, 0)
    found["semaphore"] = libc.semget(4242, 1, 0)
    found["queue"] = libc.msgget(4242, 0)
    found["mqueue"] = libc.mq_open(b"/left", os.O_RDONLY, 0, None)
    found["abstract"] = attempt(socket.AF_UNIX, "\\0left")
    found["tcp"] = attempt(socket.AF_INET, ("127.0.0.1", 4242))
    found["processes"] = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    seen.append(line)
    os.environ["LEFT"] = line
    for folder in ("/tmp", "/dev/shm", "/workspace"):
        open(folder + "/left", "w").write(line)
    libc.shmget(4242, 4096, 0o1666)
    libc.semget(4242, 1, 0o1666)
    libc.msgget(4242, 0o1666)
    libc.mq_open(b"/left", os.O_RDWR | os.O_CREAT, 0o666, None)
    report.kept = [listening(socket.AF_UNIX, "\\0left"), listening(socket.AF_INET, ("127.0.0.1", 4242))]
    return found
def attempt(family, address):
    with socket.socket(family) as one:
        return one.connect_ex(address) == 0
def listening(family, address):
    one = socket.socket(family)
    one.bind(address)
    one.listen()
    return one
"""


@pytest.mark.parametrize("forks", [True, False])
async def test_nothing_a_session_leaves_is_there_for_the_next_or_for_one_beside_it(
    tmp_path: Path, forks: bool
) -> None:
    spec = server(tmp_path, NOTHING_LEFT)
    clean = {
        **{"module": [], "environment": None, "tmp": ["home"], "shm": [], "workspace": []},
        **{"sysv": -1, "semaphore": -1, "queue": -1, "mqueue": -1, "abstract": False, "tcp": False},
        "processes": [1, 2],
    }
    async with BubblewrapDriver(tmp_path / "cache") as driver:
        for _ in range(2):  # the first one is alive while the second one looks
            workspace = await driver.open_workspace(PLAIN)
            sandbox = await (driver.fork if forks else driver.acquire)(
                spec if forks else replace(spec, preload=None), workspace
            )
            await sandbox.send(b"session\n")
            assert json.loads(await lines(sandbox)) == clean


BAD = {
    "runs 2 threads": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    ),
    "/opt/run_server.py open": "kept = open('/opt/run_server.py')",
    "it has socket:": "import socket\nkept = socket.socketpair()",
    "1 processes that still run": "import subprocess\nkept = subprocess.Popen(['/bin/sleep', '60'])",
    "it shares memory": "import mmap\nkept = mmap.mmap(-1, 4096)",
    "/tmp/left": "open('/tmp/left', 'w').close()",
    "~/.left": "import os\nopen(os.path.expanduser('~/.left'), 'w').close()",
    "changed the working folder": "import os\nos.chdir('/tmp')",
    "its preloading failed": "import os\nif os.getcwd() != '/workspace': raise OSError('only at home')",
}


@pytest.mark.parametrize(("reason", "code"), BAD.items(), ids=range(len(BAD)))
async def test_what_cannot_be_forked_is_told_once_with_the_reason_and_starts_cold(
    reason: str, code: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    helper = f"{code}\ndef report(line):\n    return 'cold ' + line"
    spec = server(tmp_path, helper)
    with caplog.at_level(logging.WARNING):
        async with BubblewrapDriver(tmp_path / "cache") as driver:
            for _ in range(2):
                sandbox = await driver.acquire(spec, await driver.open_workspace(PLAIN))
                await sandbox.send(b"start\n")
                assert json.loads(await lines(sandbox)) == "cold start\n"
            with pytest.raises(SandboxError, match="cannot be forked"):
                await driver.fork(spec, await driver.open_workspace(PLAIN))
    told = [record.getMessage() for record in caplog.records if "cold from now on" in record.getMessage()]
    assert len(told) == 1
    assert reason in told[0]


HOSTILE = {
    "a fork shares memory: /dev/zero": (
        "import mmap, os\nos.register_at_fork(after_in_child=lambda: kept.append(mmap.mmap(-1, 4096)))"
    ),
    "a fork shares memory": (
        "import mmap, os\nos.register_at_fork(before=lambda: kept.append(mmap.mmap(-1, 4096)))"
    ),
    "a fork has socket:": (
        "import os, socket\nos.register_at_fork(before=lambda: kept.extend(socket.socketpair()))"
    ),
    "kept a capability": "main.drop_rights = lambda program: None",
    "did not load its session's filter": (
        "libc = main.libc\n"
        "class Libc:\n"
        "    def __getattr__(self, name): return getattr(libc, name)\n"
        "    def prctl(self, what, *more): return 0 if what == 22 else libc.prctl(what, *more)\n"
        "main.libc = Libc()"
    ),
    "made no network of its own": "main.CLONE_NEWNET = 0",
    "left the network that it was given": (
        "real = main.be_server\n"
        "def be_server(*more):\n"
        "    main.libc.unshare(0x40000000)\n"
        "    return real(*more)\n"
        "main.be_server = be_server"
    ),
    "still in its template's namespaces (ipc": "main.CLONE_NEWIPC = 0",
    "processes of its own": (
        "import os, time\nreal = main.drop_rights\n"
        "def drop(program):\n"
        "    if os.fork() == 0: time.sleep(60)\n"
        "    real(program)\n"
        "main.drop_rights = drop"
    ),
}


@pytest.mark.parametrize(("reason", "code"), HOSTILE.items(), ids=range(len(HOSTILE)))
async def test_a_fork_that_could_share_or_kept_a_right_gets_nothing_of_its_session(
    reason: str, code: str, tmp_path: Path
) -> None:
    head = "import sys\nkept, main = [], sys.modules['__main__']\nif hasattr(main, 'drop_rights'):\n"
    helper = head + indent(code, "    ") + "\ndef report(line):\n    return 'cold ' + line"
    async with BubblewrapDriver(tmp_path / "cache") as driver:
        workspace = await driver.open_workspace(PLAIN)
        with pytest.raises(SandboxError) as refused:
            await driver.fork(server(tmp_path, helper), workspace)
        assert reason in str(refused.value)
        sandbox = await driver.acquire(server(tmp_path, helper), workspace)
        await sandbox.send(b"start\n")
        assert json.loads(await lines(sandbox)) == "cold start\n"


REACH = """
import ctypes, os
def report(line):
    libc = ctypes.CDLL(None, use_errno=True)
    mine = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    def refused(call):
        try:
            call()
        except OSError:
            return True
        return False
    return {
        "others": sorted(mine - {1, 2}),
        "init": refused(lambda: open("/proc/1/mem", "rb")) and refused(lambda: open("/proc/1/environ", "rb")),
        "covered": os.listdir("/.covered"),
        "parent": os.getppid(),
    }
"""


async def test_a_fork_reaches_neither_its_init_nor_its_template_nor_another_fork(tmp_path: Path) -> None:
    spec = server(tmp_path, REACH)
    async with BubblewrapDriver(tmp_path / "cache") as driver:
        beside = await driver.fork(spec, await driver.open_workspace(PLAIN))
        found = await reported(driver, spec)
        assert found == {"others": [], "init": True, "covered": [], "parent": 1}
        await beside.send(b"still there?\n")
        assert json.loads(await lines(beside))["others"] == []


async def test_a_template_that_was_killed_takes_its_forks_along_and_is_started_again(tmp_path: Path) -> None:
    spec = server(tmp_path, FACTS)
    async with BubblewrapDriver(tmp_path / "cache") as driver:
        sandbox = await driver.fork(spec, await driver.open_workspace(PLAIN))
        (pid,) = (int(path.name) for path in Path("/proc").glob("[0-9]*") if is_lone_template(path))
        os.kill(pid, signal.SIGKILL)
        with anyio.fail_after(2):
            assert (await sandbox.wait()).code != 0
        with anyio.fail_after(10):
            assert (await restarted(driver, spec))["line"] == "x\n"


async def restarted(driver: BubblewrapDriver, spec: SandboxSpec) -> Any:
    """Fork again once the driver has heard that the template ended; until then it would start cold."""
    while True:
        try:
            return await reported(driver, spec)
        except SandboxError as error:
            assert "its template has ended" in str(error)  # noqa: PT017 - any other would be told for ever


def is_lone_template(process: Path) -> bool:
    """Whether this is the template itself: in its own process namespace it is the second one."""
    try:
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        return is_template(process) and status["NSpid"].split()[1:] == ["2"]
    except (FileNotFoundError, ProcessLookupError):
        return False


WRITES = """
def report(line):
    try:
        open("/workspace/new", "w").close()
    except OSError as error:
        return str(error)
    return "wrote"
"""


async def test_a_workspace_that_may_only_be_read_is_read_only_in_a_fork_as_well(tmp_path: Path) -> None:
    spec = server(tmp_path, WRITES)
    async with BubblewrapDriver(tmp_path / "cache") as driver:
        assert "Read-only" in await reported(driver, replace(spec, writable=False))
        assert await reported(driver, spec) == "wrote"


async def test_forks_that_are_given_up_at_any_moment_cost_the_template_and_the_others_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = server(tmp_path, FACTS)
    async with BubblewrapDriver(tmp_path / "cache") as driver:

        async def give_up(after: float) -> None:
            workspace = await driver.open_workspace(PLAIN)
            with anyio.move_on_after(after):
                await driver.fork(spec, workspace)
            await workspace.aclose()

        async with anyio.create_task_group() as tasks:  # the first ones while the template is brought up
            for number in range(24):
                tasks.start_soon(give_up, 0.005 * number)
        await reported(driver, spec)
        before = len(list(Path("/proc/self/fd").iterdir()))
        async with anyio.create_task_group() as tasks:
            for number in range(24):
                tasks.start_soon(give_up, 0.005 * number)
        assert (await reported(driver, spec))["line"] == "x\n"
        assert (
            len(list(Path("/proc/self/fd").iterdir())) <= before + 5
        )  # of the one that runs: its pipes and its files
    assert "cold from now on" not in caplog.text


REHEARSED = """
import json, os, sys
import helper
helper.runs += 1
try:
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message:
            answer = {"jsonrpc": "2.0", "id": message["id"], "result": helper.report(message)}
            print(json.dumps(answer), flush=True)
finally:
    helper.ended()
"""
RUNS = """
import os, signal, sys, threading
runs, heard = 0, []
os.register_at_fork(before=lambda: told.append("before"), after_in_child=lambda: told.append("child"))
told = []
def report(message):
    heard.append(message["method"])
    changed = {"runs": runs, "heard": len(heard), "argv": sys.argv[1:], "left": os.environ.get("LEFT")}
    changed |= {"cwd": os.getcwd(), "path": sys.path.count("/opt/pack/servers"), "told": told[-2:]}
    changed |= {"threads": threading.active_count(), "interrupt": signal.getsignal(signal.SIGINT).__name__}
    if os.environ.get("TOKEN") != "of a session":
        os.environ["LEFT"] = "by a rehearsal"
        os.chdir("/tmp")
        sys.argv.append("left")
        threading.Thread(target=lambda: None).start()
    return changed
def ended():
    pass
"""


def rehearsed(spec: SandboxSpec, *arguments: str) -> SandboxSpec:
    """Return a spec whose template rehearses it with these arguments."""
    assert spec.preload is not None
    env = {**spec.preload.env, "SANDGATE_REHEARSE": json.dumps(arguments)}
    return replace(spec, preload=replace(spec.preload, env=env))


async def asked(driver: BubblewrapDriver, spec: SandboxSpec, *, forks: bool = True) -> Any:
    """Start a rehearsed server over a workspace of its own, ask it once, and return the answer."""
    workspace = await driver.open_workspace(PLAIN)
    sandbox = await (driver.fork if forks else driver.acquire)(spec, workspace)
    await sandbox.send(b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}\n')
    return json.loads(await lines(sandbox))["result"]


async def test_a_rehearsed_server_begins_each_session_as_if_it_had_not_been(tmp_path: Path) -> None:
    spec = rehearsed(server(tmp_path, RUNS, main=REHEARSED, TOKEN="of a session"), "rehearsed")
    async with BubblewrapDriver(tmp_path / "cache") as driver:
        first, second = [await asked(driver, spec) for _ in range(2)]
    assert first == second
    before = first.pop("runs") - 1
    assert before > 1  # the runs in the template, of which a session knows nothing else
    assert first == {
        "heard": before * 2 + 1,
        "argv": ["word"],
        "left": None,
        "cwd": "/workspace",
        "path": 2,  # the template's own, and the server's
        "told": ["before", "child"],
        "threads": 1,
        "interrupt": "default_int_handler",
    }


BAD_REHEARSALS = {
    "did not end with its input": (
        "import time\n"
        "def report(message):\n    globals().update(ended=lambda: time.sleep(60))\n    return 'cold'"
    ),
    "before tools/list was answered": "def report(message):\n    return sys.exit()",
    "ended with 3": "def report(message):\n    return sys.exit(3)",
    "no repository": "def report(message):\n    raise OSError('no repository')",
    "its rehearsal left ": (  # one thread or two: it depends on how far the first has come
        "import _thread, time\n"
        "def report(message):\n    _thread.start_new_thread(time.sleep, (60,))\n    return 'cold'"
    ),
    "/opt/rehearsal.py open": (
        "kept = []\ndef report(message):\n    kept.append(open('/opt/rehearsal.py'))\n    return 'cold'"
    ),
    "/tmp/left": "def report(message):\n    open('/tmp/left', 'w').close()\n    return 'cold'",
}


@pytest.mark.parametrize(("reason", "code"), BAD_REHEARSALS.items(), ids=range(len(BAD_REHEARSALS)))
async def test_a_server_whose_rehearsal_went_wrong_starts_cold_and_the_reason_is_told(
    reason: str, code: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    helper = f"import os, sys\nruns = 0\ndef ended(): pass\n{code}\n"
    helper += "if os.environ.get('TOKEN'):\n    report = lambda message: 'cold'\n"
    spec = rehearsed(server(tmp_path, helper, main=REHEARSED, TOKEN="of a session"))
    with caplog.at_level(logging.WARNING):
        async with BubblewrapDriver(tmp_path / "cache") as driver:
            assert await asked(driver, spec, forks=False) == "cold"
            with pytest.raises(SandboxError, match="cannot be forked"):
                await driver.fork(spec, await driver.open_workspace(PLAIN))
    told = [record.getMessage() for record in caplog.records if "cold from now on" in record.getMessage()]
    assert len(told) == 1
    assert reason in told[0]
