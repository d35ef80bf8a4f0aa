"""Control groups of every version: what a machine offers is found, and limits are written where they hold.

The kernel of this machine offers one arrangement; the others are told by files as the kernel writes them.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.sandbox.launcher import groups
from gateway.sandbox.launcher.groups import Group, Groups

V2_FILES = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max")
V1_FILES = {
    "memory": ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    "pids": ("pids.max",),
    "cpu": ("cpu.cfs_quota_us",),
}
Machine = Callable[[str], Path]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Return what makes a machine of a kind: its /proc files, its hierarchies, and its kernel's files."""
    real = os.mkdir

    def mkdir(path: str, mode: int = 0o777) -> None:
        real(path, mode)
        for name in kernel_files(Path(path).relative_to(tmp_path).parts[0]):
            (Path(path) / name).touch()

    def make(kind: str) -> Path:
        own, mounts = ["0::/own"], list[str]()
        if kind in ("v2", "v2 with processes in the way"):
            folder(tmp_path / "unified", "memory pids cpu")
            mounts.append(f"30 1 0:26 / {tmp_path}/unified rw - cgroup2 cgroup2 rw,nsdelegate")
        if kind in ("v1", "hybrid"):
            for number, name in enumerate(V1_FILES):
                (tmp_path / name / "own").mkdir(parents=True)
                own.append(f"{number + 2}:{name}:/own")
                mounts.append(f"3{number} 1 0:2{number} / {tmp_path}/{name} rw - cgroup cgroup rw,{name}")
        if kind == "hybrid":
            folder(tmp_path / "unified", "")
            mounts.append(f"40 1 0:30 / {tmp_path}/unified rw - cgroup2 cgroup2 rw")
        if kind == "v2 with processes in the way":  # as the kernel does, an attempt to enable fails
            (tmp_path / "unified/own/cgroup.subtree_control").unlink()
            (tmp_path / "unified/own/cgroup.subtree_control").symlink_to("/proc/version")
        (tmp_path / "cgroup").write_text("\n".join(own) + "\n")
        (tmp_path / "mountinfo").write_text("\n".join(mounts) + "\n" if mounts else "")
        monkeypatch.setattr(groups, "OWN", str(tmp_path / "cgroup"))
        monkeypatch.setattr(groups, "MOUNTS", str(tmp_path / "mountinfo"))
        monkeypatch.setattr(os, "mkdir", mkdir)
        return tmp_path

    return make


def folder(top: Path, controllers: str) -> None:
    for place in (top, top / "own"):
        place.mkdir()
        for name in ("cgroup.controllers", "cgroup.subtree_control"):
            (place / name).write_text(controllers if "controllers" in name else "")


def kernel_files(hierarchy: str) -> tuple[str, ...]:
    return ("cgroup.subtree_control", *V2_FILES) if hierarchy == "unified" else V1_FILES[hierarchy]


def made(found: Groups) -> Group:
    return found.make("7", memory=96 * 2**20, pids=24, cpu=0.25)


@pytest.mark.parametrize("kind", ["v2", "v2 with processes in the way"])
def test_version_two_holds_all_limits_in_one_folder(kind: str, machine: Machine) -> None:
    top = machine(kind)
    group = made(Groups("tag"))
    parent = top / "unified" / ("own" if kind == "v2" else "")
    assert set(group.folders.values()) == {str(parent / "sandgate-tag/7")}
    assert {"memory", "pids", "cpu", "kill"} == set(group.folders)
    written = {name: (parent / "sandgate-tag/7" / name).read_text() for name in V2_FILES}
    assert written == {
        "memory.max": str(96 * 2**20),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "24",
        "cpu.max": "25000 100000",
    }
    assert (parent / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"


@pytest.mark.parametrize("kind", ["v1", "hybrid"])
def test_version_one_holds_each_limit_in_its_own_hierarchy_also_beside_an_empty_version_two(
    kind: str, machine: Machine
) -> None:
    top = machine(kind)
    group = made(Groups("tag"))
    for name in V1_FILES:
        assert group.folders[name] == str(top / name / "own/sandgate-tag/7")
    written = {
        name: (Path(group.folders[controller]) / name).read_text()
        for controller, names in V1_FILES.items()
        for name in names
    }
    assert written == {
        "memory.limit_in_bytes": str(96 * 2**20),
        "memory.memsw.limit_in_bytes": str(96 * 2**20),
        "pids.max": "24",
        "cpu.cfs_quota_us": "25000",
    }
    assert ("kill" in group.folders) == (kind == "hybrid")


def test_where_nothing_is_writable_there_are_no_groups_and_the_caller_can_tell(machine: Machine) -> None:
    machine("none")
    found = Groups("tag")
    assert found.base == {}
    assert made(found).folders == {}


def test_a_group_of_version_two_is_killed_by_the_kernel_all_at_once() -> None:
    with Path("/proc/self/mountinfo").open() as file:
        tops = [Path(line.split()[4]) for line in file if " - cgroup2 " in line]
    place = next((top / f"sandgate-test-{os.getpid()}" for top in tops if os.access(top, os.W_OK)), None)
    if place is None or not (place.parent / "cgroup.procs").exists():
        pytest.skip("no writable cgroup2 hierarchy is mounted here")
    place.mkdir()
    group = Group({"kill": str(place)})
    with subprocess.Popen(["/bin/sleep", "60"]) as sleeper:
        group.take(sleeper.pid)
        assert str(sleeper.pid) in (place / "cgroup.procs").read_text().split()
        group.kill()
        assert sleeper.wait(5) == -signal.SIGKILL
    assert group.remove()
