"""Installing servers: real pip and npm, wheels made on the spot, programs run in real sandboxes."""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import anyio
import pytest

from gateway.config import installer_environment
from gateway.core.lock import Lock, NpmLock, PypiLock, ServerLock, launch_of
from gateway.core.manifest import ServerSpec
from gateway.errors import UsageError
from gateway.runtime.packages import Installer, Program
from gateway.runtime.pypi import environment_tag
from tests.support.packages import network_installer, run_program
from tests.support.sandboxes import bubblewrap
from tests.support.wheels import make_sdist, make_wheel, offline_environ

SERVER = """
import json, sys
import demo_server, demo_dep
def main():
    import colorsys
    print(json.dumps({
        "argv": sys.argv, "path": sys.path, "server": demo_server.__file__, "dep": demo_dep.__file__,
        "stdlib": colorsys.__file__, "seed": hash("a") == hash("a"), "cached": demo_dep.__cached__,
    }))
"""


def demo_wheels(folder: Path, dep: str = "VALUE = 1\n") -> Path:
    make_wheel(
        folder,
        "Demo_Server",
        "1.0",
        {"demo_server/__init__.py": SERVER},
        scripts={"demo-server": "demo_server:main"},
        requires=["demo-dep>=1"],
    )
    make_wheel(folder, "demo-dep", "1.2", {"demo_dep.py": dep})
    return folder


def installer(cache: Path, wheels: Path, said: list[str] | None = None, *, relock: bool = False) -> Installer:
    say = [] if said is None else said
    return Installer(cache, environ=offline_environ(wheels), say=say.append, relock=relock)


def locked(server: ServerSpec, program: Program) -> Lock:
    return Lock(servers={"s": ServerLock(launch=launch_of(server), package=program.package, tools={})})


def entries(cache: Path) -> list[str]:
    return sorted(p.name for p in (cache / "packages" / "entries").iterdir())


def unfinished(cache: Path) -> list[str]:
    return sorted(p.name for p in (cache / "packages" / "building").iterdir())


async def refused(cache: Path, wheels: Path, server: ServerSpec, lock: Lock | None = None) -> str:
    with pytest.raises(UsageError) as error:
        await installer(cache, wheels).ensure("s", server, cache, lock)
    return str(error.value)


PROTOCOL = "import mcp.types\nfrom importlib.metadata import version\nprint(version('mcp'))\n"
IMPORTS_IN_A_CHILD = """
import demo_dep, subprocess, sys
print(demo_dep.VALUE, flush=True)
subprocess.run([sys.executable, '-c', 'import demo_dep; print(2)'], check=True)
"""
WRITES_TO_ITSELF = """
import helper, sys
print(__name__, __file__, helper.__file__, sys.argv[1:])
try:
    open(__file__, 'a')
except OSError as error:
    print(type(error).__name__, error.errno in (1, 13, 30))
"""
DEMO = ServerSpec(pypi="demo-server==1.0")


# -- pypi


async def test_a_wheel_is_installed_once_with_everything_it_needs_recorded(tmp_path: Path):
    said: list[str] = []
    wheels = demo_wheels(tmp_path / "wheels")
    first = await installer(tmp_path, wheels, said).ensure("s", DEMO, tmp_path, None)
    again = await installer(tmp_path, wheels, said).ensure("s", DEMO, tmp_path, None)
    assert again == first
    assert len(said) == 1
    assert isinstance(first.package, PypiLock)
    assert (first.package.name, first.package.version) == ("demo-server", "1.0")
    assert first.package.versions() == {"demo-server": "1.0", "demo-dep": "1.2"}
    assert list(first.package.environments) == [environment_tag()]
    assert unfinished(tmp_path) == []


async def test_a_locked_server_uses_what_was_installed_to_make_the_lock(tmp_path: Path):
    said: list[str] = []
    wheels = demo_wheels(tmp_path / "wheels")
    first = await installer(tmp_path, wheels, said).ensure("s", DEMO, tmp_path, None)
    again = await installer(tmp_path, wheels, said).ensure("s", DEMO, tmp_path, locked(DEMO, first))
    assert again == first
    assert len(said) == 1


async def test_inside_nothing_but_the_server_and_the_standard_library_is_importable(tmp_path: Path):
    wheels = demo_wheels(tmp_path / "wheels")
    workspace = tmp_path / "seed"
    for name in ("colorsys.py", "demo_dep.py", "demo_server.py", "json.py", "sitecustomize.py", "site.py"):
        workspace.mkdir(exist_ok=True)
        (workspace / name).write_text("raise SystemExit('the workspace was imported')\n")
    program = await installer(tmp_path, wheels).ensure("s", DEMO, tmp_path, None)
    async with bubblewrap(tmp_path) as driver:
        told = json.loads(await run_program(driver, program, "--x", "1", seed=workspace))
    assert told["argv"] == ["demo-server", "--x", "1"]
    assert told["server"] == "/opt/server/site/demo_server/__init__.py"
    assert told["dep"] == "/opt/server/site/demo_dep.py"
    assert told["path"][-1] == "/opt/server/site"
    assert not any(path.startswith("/workspace") or path in ("", ".") for path in told["path"])
    assert not any("site-packages" in path for path in told["path"])
    assert str(tmp_path) not in json.dumps(told)


async def test_bytecode_is_compiled_for_the_place_inside_and_never_checked_against_times(tmp_path: Path):
    program = await installer(tmp_path, demo_wheels(tmp_path / "wheels")).ensure("s", DEMO, tmp_path, None)
    site = next(mount.source for mount in program.mounts if mount.target == "/opt/server") / "site"
    (compiled,) = site.glob("__pycache__/demo_dep.*.pyc")
    data = compiled.read_bytes()
    assert struct.unpack("<I", data[4:8]) == (0b01,)
    assert b"/opt/server/site/demo_dep.py" in data
    assert str(tmp_path).encode() not in data


async def test_installed_files_are_readable_for_anybody_under_any_umask(tmp_path: Path):
    wheels = demo_wheels(tmp_path / "wheels")
    before = os.umask(0o077)
    try:
        program = await installer(tmp_path, wheels).ensure("s", DEMO, tmp_path, None)
    finally:
        os.umask(before)
    root = next(mount.source for mount in program.mounts if mount.target == "/opt/server")
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in (root, *root.rglob("*")))
    assert all(path.stat().st_mode & 0o111 == 0o111 for path in (root, *root.rglob("*")) if path.is_dir())


async def test_a_range_without_a_lock_is_refused(tmp_path: Path):
    wheels = demo_wheels(tmp_path / "wheels")
    for text in ("demo-server", "demo-server>=1", "demo-server==1.*", "demo-server==1.0,<2"):
        message = await refused(tmp_path, wheels, ServerSpec(pypi=text))
        assert "no lock pins it: write demo-server==VERSION" in message


async def test_a_range_is_resolved_to_make_a_lock_and_then_pinned_by_it(tmp_path: Path):
    server = ServerSpec(pypi="demo-server>=1")
    wheels = demo_wheels(tmp_path / "wheels")
    first = await installer(tmp_path, wheels, relock=True).ensure("s", server, tmp_path, None)
    make_wheel(wheels, "demo-dep", "1.3", {"demo_dep.py": ""})
    again = await installer(tmp_path / "new", wheels).ensure("s", server, tmp_path, locked(server, first))
    assert again.package == first.package


async def test_a_file_that_is_not_the_locked_one_is_refused(tmp_path: Path):
    wheels = demo_wheels(tmp_path / "wheels")
    first = await installer(tmp_path, wheels).ensure("s", DEMO, tmp_path, None)
    demo_wheels(wheels, dep="import os  # not what was reviewed\n")
    message = await refused(tmp_path / "new", wheels, DEMO, locked(DEMO, first))
    assert "DO NOT MATCH THE HASHES" in message
    assert entries(tmp_path / "new") == []
    assert unfinished(tmp_path / "new") == []


def for_another_environment(lock: Lock) -> Lock:
    text = lock.model_dump_json(by_alias=True).replace(environment_tag(), "cpython-399-plan9")
    return Lock.model_validate_json(text)


async def test_a_lock_of_another_environment_pins_versions_and_says_that_hashes_are_missing(tmp_path: Path):
    said: list[str] = []
    wheels = demo_wheels(tmp_path / "wheels")
    first = await installer(tmp_path, wheels).ensure("s", DEMO, tmp_path, None)
    make_wheel(wheels, "demo-dep", "1.3", {"demo_dep.py": ""})
    lock = for_another_environment(locked(DEMO, first))
    again = await installer(tmp_path / "new", wheels, said).ensure("s", DEMO, tmp_path, lock)
    assert again.package == first.package
    assert any("has no hashes for" in line for line in said)


@pytest.mark.parametrize("pypi", ["demo-server==2.0", "other==1.0"])
async def test_a_lock_for_something_else_is_refused(tmp_path: Path, pypi: str):
    wheels = demo_wheels(tmp_path / "wheels")
    first = await installer(tmp_path, wheels).ensure("s", DEMO, tmp_path, None)
    server = ServerSpec(pypi=pypi)
    assert "the lock is not for" in await refused(tmp_path, wheels, server, locked(server, first))
    message = await refused(tmp_path, wheels, server, locked(DEMO, first))
    assert "is started differently than its lock says" in message


async def test_a_source_distribution_is_never_built(tmp_path: Path):
    mark = tmp_path / "ran"
    make_sdist(tmp_path / "wheels", "evil", "1.0", f"open({str(mark)!r}, 'w')\n")
    message = await refused(tmp_path, tmp_path / "wheels", ServerSpec(pypi="evil==1.0"))
    assert "installing evil==1.0 failed" in message
    assert "without a wheel" in message
    assert not mark.exists()


async def test_a_failure_shows_what_pip_said_and_what_to_do(tmp_path: Path):
    message = await refused(tmp_path, tmp_path, ServerSpec(pypi="nothing-of-the-kind==1.0"))
    assert "No matching distribution found for nothing-of-the-kind==1.0" in message
    assert "PIP_FIND_LINKS" in message
    assert unfinished(tmp_path) == []


async def test_pip_runs_nothing_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "pip.py").write_text("raise SystemExit('shadowed')\n")
    monkeypatch.chdir(tmp_path / "here")
    program = await installer(tmp_path, demo_wheels(tmp_path / "wheels")).ensure("s", DEMO, tmp_path, None)
    assert program.package is not None


@pytest.mark.parametrize(
    ("scripts", "entry", "expected"),
    [
        (
            {"a": "m:a", "b": "m:b"},
            None,
            "not exactly one console script: set 'entry' to one of its scripts (a, b)",
        ),
        ({"a": "m:a"}, "b", "no console script 'b': set 'entry' to one of its scripts (a)"),
        ({}, None, "not exactly one console script: set 'entry' to one of its scripts (none)"),
    ],
)
async def test_a_missing_console_script_is_answered_with_the_candidates(
    tmp_path: Path, scripts: Mapping[str, str], entry: str | None, expected: str
):
    make_wheel(tmp_path / "wheels", "many", "1.0", {"m.py": ""}, scripts=scripts)
    assert expected in await refused(tmp_path, tmp_path / "wheels", ServerSpec(pypi="many==1.0", entry=entry))


async def test_two_that_want_the_same_install_it_once(tmp_path: Path):
    said: list[str] = []
    wheels = demo_wheels(tmp_path / "wheels")
    programs: list[Program] = []

    async def want() -> None:
        programs.append(await installer(tmp_path, wheels, said).ensure("s", DEMO, tmp_path, None))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(want)
        tasks.start_soon(want)
    assert programs[0] == programs[1]
    assert sorted(line.split()[0] for line in said) == ["another", "installing"]
    assert len(entries(tmp_path)) == 1


async def test_a_cancelled_installation_leaves_nothing(tmp_path: Path):
    wheels = demo_wheels(tmp_path / "wheels")
    with anyio.CancelScope() as scope:
        doomed = Installer(tmp_path, environ=offline_environ(wheels), say=lambda _: scope.cancel())
        await doomed.ensure("s", DEMO, tmp_path, None)
    assert scope.cancelled_caught
    assert (entries(tmp_path), unfinished(tmp_path)) == ([], [])


KILLED = """
import anyio, sys
from pathlib import Path
from gateway.core.manifest import ServerSpec
from gateway.runtime.packages import Installer
from tests.support.wheels import offline_environ

async def main(cache, wheels):
    installer = Installer(cache, environ=offline_environ(wheels), say=lambda line: print(line, flush=True))
    await installer.ensure("s", ServerSpec(pypi="demo-server==1.0"), cache, None)

anyio.run(main, Path(sys.argv[1]), Path(sys.argv[2]))
"""


async def test_a_gateway_killed_while_installing_leaves_no_half_environment(tmp_path: Path):
    wheels = demo_wheels(tmp_path / "wheels")
    argv = [sys.executable, "-c", KILLED, str(tmp_path), str(wheels)]
    async with await anyio.open_process(argv, cwd=Path(__file__).parents[2], stderr=None) as doomed:
        assert doomed.stdout is not None
        assert b"installing" in await doomed.stdout.receive()
        doomed.send_signal(signal.SIGKILL)
    assert entries(tmp_path) == []
    program = await installer(tmp_path, wheels).ensure("s", DEMO, tmp_path, None)
    assert len(entries(tmp_path)) == 1
    assert unfinished(tmp_path) == []
    async with bubblewrap(tmp_path) as driver:
        assert json.loads(await run_program(driver, program))["argv"] == ["demo-server"]


# -- command


def pack_with(folder: Path, **files: str) -> Path:
    (folder / "servers").mkdir(parents=True)
    for name, text in files.items():
        (folder / "servers" / name.replace("_DOT_", ".")).write_text(text)
    return folder


async def output(tmp_path: Path, server: ServerSpec, pack: Path, *args: str) -> str:
    program = await installer(tmp_path, demo_wheels(tmp_path / "wheels")).ensure("s", server, pack, None)
    async with bubblewrap(tmp_path) as driver:
        return await run_program(driver, program, *args)


async def test_a_packs_own_server_runs_from_its_read_only_folder(tmp_path: Path):
    pack = pack_with(tmp_path / "pack", s_DOT_py=WRITES_TO_ITSELF, helper_DOT_py="")
    server = ServerSpec(command=("python", "-u", "servers/s.py", "a"), requirements=())
    first, second = (await output(tmp_path, server, pack, "b")).splitlines()
    assert first == "__main__ /opt/pack/servers/s.py /opt/pack/servers/helper.py ['a', 'b']"
    assert second.endswith("Error True")


async def test_a_server_sees_nothing_of_its_pack_but_its_servers(tmp_path: Path):
    pack = pack_with(tmp_path / "pack", s_DOT_py="import os\nprint(os.listdir('/opt/pack'), os.getcwd())\n")
    (pack / "checks").mkdir()
    server = ServerSpec(command=("python", "servers/s.py"), requirements=())
    assert (await output(tmp_path, server, pack)).strip() == "['servers'] /workspace"


async def test_a_server_with_requirements_has_an_environment_of_its_own(tmp_path: Path):
    pack = pack_with(tmp_path / "pack", s_DOT_py=IMPORTS_IN_A_CHILD)
    server = ServerSpec(command=("python", "servers/s.py"), requirements=("demo-dep==1.2",))
    assert (await output(tmp_path, server, pack)).split() == ["1", "2"]


async def test_a_module_can_be_a_server(tmp_path: Path):
    wheels = tmp_path / "wheels"
    code = "import sys\nprint(sys.argv[1:], __name__)\n"
    make_wheel(wheels, "mod", "1.0", {"mod/__main__.py": code, "mod/__init__.py": ""})
    server = ServerSpec(command=("python", "-m", "mod", "a"), requirements=("mod==1.0",))
    program = await installer(tmp_path, wheels).ensure("s", server, tmp_path, None)
    async with bubblewrap(tmp_path) as driver:
        assert (await run_program(driver, program)).strip() == "['a'] __main__"


async def test_another_program_of_the_pack_or_the_system_can_be_a_server(tmp_path: Path):
    pack = pack_with(tmp_path / "pack", s_DOT_sh='echo "$0" "$@"\n')
    server = ServerSpec(command=("sh", "servers/s.sh", "a"))
    assert (await output(tmp_path, server, pack)).strip() == "/opt/pack/servers/s.sh a"
    (pack / "servers" / "run").write_text("#!/bin/sh\necho ran\n")
    (pack / "servers" / "run").chmod(0o755)
    assert (await output(tmp_path, ServerSpec(command=("servers/run",)), pack)).strip() == "ran"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("python", "servers/none.py"), "does not exist, and a server's command names it"),
        (("python", "-c", "pass"), "python -c cannot start a server"),
        (("python",), "a command 'python' needs a file"),
        (("python", "-m"), "a command 'python' needs a file"),
    ],
)
async def test_a_command_that_cannot_be_started_is_refused(
    tmp_path: Path, command: tuple[str, ...], expected: str
):
    pack = pack_with(tmp_path / "pack")
    server = ServerSpec(command=command, requirements=())
    with pytest.raises(UsageError, match=expected):
        await installer(tmp_path, tmp_path).ensure("s", server, pack, None)


async def test_a_python_server_without_requirements_has_the_protocols_package(tmp_path: Path):
    pack = pack_with(tmp_path / "pack", s_DOT_py=PROTOCOL)
    server = ServerSpec(command=("python", "servers/s.py"))
    program = await network_installer().ensure("s", server, pack, None)
    async with bubblewrap(tmp_path) as driver:
        assert (await run_program(driver, program)).startswith("2.")


@pytest.mark.parametrize("server", [ServerSpec(image="busybox"), ServerSpec(url="https://tools.invalid/mcp")])
async def test_what_this_build_cannot_run_is_refused(tmp_path: Path, server: ServerSpec):
    assert "command, pypi and npm servers only" in await refused(tmp_path, tmp_path, server)


# -- npm

SMALL = ServerSpec(npm="semver@7.7.2")


async def test_an_npm_package_runs_by_its_script(tmp_path: Path):
    program = await network_installer().ensure("s", SMALL, tmp_path, None)
    assert isinstance(program.package, NpmLock)
    assert list(program.package.packages) == ["node_modules/semver"]
    async with bubblewrap(tmp_path) as driver:
        assert (await run_program(driver, program, "1.2.3", "-i", "minor")).strip() == "1.3.0"


async def test_a_locked_npm_package_is_installed_as_locked(tmp_path: Path):
    first = await network_installer().ensure("s", SMALL, tmp_path, None)
    again = await Installer(tmp_path, environ=installer_environment()).ensure(
        "s", SMALL, tmp_path, locked(SMALL, first)
    )
    assert again.package == first.package
    assert sorted(p.name for p in again.mounts[-1].source.iterdir()) == ["installed.json", "node_modules"]


async def test_an_npm_package_that_is_not_the_locked_one_is_refused(tmp_path: Path):
    first = await network_installer().ensure("s", SMALL, tmp_path, None)
    package = cast("NpmLock", first.package)
    forged = "sha512-" + "A" * 86 + "=="
    other = {p: e.model_copy(update={"integrity": forged}) for p, e in package.packages.items()}
    lock = locked(SMALL, Program((), {}, (), package.model_copy(update={"packages": other})))
    with pytest.raises(UsageError, match=r"(?s)EINTEGRITY.*sandgate toolpack lock"):
        await Installer(tmp_path, environ=installer_environment()).ensure("s", SMALL, tmp_path, lock)
    assert (entries(tmp_path), unfinished(tmp_path)) == ([], [])


@pytest.mark.parametrize("npm", ["semver", "semver@^7.0.0", "semver@latest"])
async def test_an_npm_range_without_a_lock_is_refused(tmp_path: Path, npm: str):
    message = await refused(tmp_path, tmp_path, ServerSpec(npm=npm))
    assert "no lock pins it: write semver@VERSION" in message


async def test_a_machine_without_npm_is_told_what_to_install(tmp_path: Path):
    with pytest.raises(UsageError, match="needs npm: install Node"):
        await Installer(tmp_path, environ={"PATH": str(tmp_path)}).ensure("s", SMALL, tmp_path, None)
