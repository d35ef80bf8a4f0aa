"""The parts of the docker driver that need no engine: settings, frames, recipes."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UsageError
from gateway.sandbox import images
from gateway.sandbox.contract import Limits, Mount, SandboxSpec, WorkspaceSpec
from gateway.sandbox.docker import Image
from gateway.sandbox.docker_container import Place, container_config, first_words, volume_config
from gateway.sandbox.docker_streams import STDERR, STDOUT, FrameReader
from gateway.sandbox.images import check_image, ensure_image, read_recipe
from gateway.sandbox.runtimes import Runtime

PLACE = Place("image", "{}", {"label": "x"}, "volume", "/workspace", 8 * 2**20)
SPEC = SandboxSpec(
    "server",
    ("/usr/bin/python3", "-m", "server"),
    {"TOKEN": "hush"},
    (Mount(Path("/"), "/opt/a/b"), Mount(Path("/"), "/opt/a")),
    limits=Limits(memory=100 * 2**20, cpu=0.5, pids=40, disk=4 * 2**20, inodes=100, open_files=50),
)


def host_config(spec: SandboxSpec = SPEC, place: Place = PLACE) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], container_config(spec, place)["HostConfig"])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("CapDrop", ["ALL"]),
        ("ReadonlyRootfs", True),
        ("NetworkMode", "none"),
        ("IpcMode", "private"),
        ("Init", True),
        ("LogConfig", {"Type": "none"}),
        ("RestartPolicy", {"Name": "no"}),
        ("NanoCpus", 500_000_000),
        ("PidsLimit", 41),
        ("SecurityOpt", ["no-new-privileges", "seccomp={}"]),
    ],
)
def test_a_container_is_hardened(setting: str, value: object) -> None:
    assert host_config()[setting] == value


def test_memory_counts_the_files_that_are_kept_in_it_and_there_is_no_swap() -> None:
    config = host_config()
    assert config["Memory"] == config["MemorySwap"] == (100 + 4 + 16 + 8) * 2**20


def test_scratch_and_workspace_are_limited_in_bytes_and_inodes_and_belong_to_the_user() -> None:
    assert host_config()["Tmpfs"] == {"/tmp": "size=4194304,nr_inodes=100,uid=1000,gid=1000,mode=0700,exec"}
    options = volume_config(WorkspaceSpec(disk=1000, inodes=10))["o"]
    assert options == "size=1000,nr_inodes=11,uid=1000,gid=1000,mode=0700,nosuid,nodev"


def test_every_mount_but_the_workspace_is_read_only_and_outer_ones_come_first() -> None:
    mounts = host_config()["Mounts"]
    assert [one["Target"] for one in mounts][-3:] == ["/opt/a", "/opt/a/b", "/workspace"]
    assert [one["Target"] for one in mounts if not one["ReadOnly"]] == ["/workspace"]
    frozen = SandboxSpec("check", ("x",), writable=False)
    assert all(one["ReadOnly"] for one in host_config(frozen)["Mounts"])


def test_neither_words_nor_environment_are_told_to_the_engine_but_come_first_on_stdin() -> None:
    assert "hush" not in json.dumps(container_config(SPEC, PLACE))
    words = first_words(SPEC)
    program = json.loads(words[8:])
    assert int(words[:8], 16) == len(words) - 8
    assert program["argv"] == list(SPEC.argv)
    assert program["env"]["TOKEN"] == "hush"


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(data)) + data


@given(
    parts=st.lists(st.binary(max_size=20), max_size=8),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8),
)
async def test_frames_are_put_together_however_they_arrive(parts: list[bytes], sizes: list[int]) -> None:
    wire = b"".join(frame(STDOUT, part) for part in parts)
    turns = 0

    async def receive(most: int) -> bytes:
        nonlocal wire, turns
        size = min(most, sizes[turns % len(sizes)])
        turns += 1
        data, wire = wire[:size], wire[size:]
        return data

    reader, kept = FrameReader(receive, STDOUT), b""
    while data := await reader.read(7):
        assert len(data) <= 7
        kept += data
    assert kept == b"".join(parts)


@pytest.mark.parametrize("wire", [frame(STDERR, b"x"), b"\1\0\0", b"HTTP/1.1 500 no", b""])
async def test_a_cut_or_foreign_frame_is_the_end(wire: bytes) -> None:
    rest = wire

    async def receive(most: int) -> bytes:
        nonlocal rest
        data, rest = rest[:most], rest[most:]
        return data

    assert await FrameReader(receive, STDOUT).read(10) == b""


class NoImages:
    """An engine without images."""

    def image(self, tag: str) -> Image | None:
        return None

    def import_image(self, archive: Path, tag: str, changes: list[str]) -> None:
        raise AssertionError(f"nobody asked to import {archive} as {tag} {changes}")

    def image_tags(self, label: str) -> list[str]:
        return []

    def remove_image(self, tag: str) -> bool:
        raise AssertionError(f"nobody asked to remove {tag}")


def test_a_missing_image_is_told_with_the_command_that_builds_it() -> None:
    with pytest.raises(UsageError, match=r"python -m gateway\.sandbox\.images base"):
        ensure_image(NoImages(), read_recipe("base"))


def test_an_unknown_recipe_is_told_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="use one of base"):
        read_recipe("../base")


def test_an_image_for_another_python_than_the_systems_is_refused_where_it_would_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, other = read_recipe("base"), Image("id", {"sandgate.python": "3.2"})
    monkeypatch.setattr(images, "python_runtime", lambda: Runtime("/usr/bin/python3"))
    with pytest.raises(UsageError, match=r"system's Python 3\.\d+ and sandgate/base:\w+ has 3\.2"):
        check_image(recipe, other)
    same = Image("id", {"sandgate.python": f"{sys.version_info.major}.{sys.version_info.minor}"})
    assert check_image(recipe, same) is same
    mounted = Runtime("/opt/python/bin/python3", (Mount(Path("/"), "/opt/python"),))
    monkeypatch.setattr(images, "python_runtime", lambda: mounted)
    assert check_image(recipe, other) is other
