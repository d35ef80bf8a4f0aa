"""Loading toolpacks: what is found, what is missing and where that is said, what a lock is held against."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.json_types import JsonObject
from gateway.core.lock import Dist, Lock, PypiLock, ServerLock, dump_lock, parse_lock
from gateway.errors import ConfigError, UsageError
from gateway.runtime.packs import Pack, bundled_packs, load_pack, prepare_seed, write_lock

MANIFEST = """\
apiVersion: sandgate/v1
name: demo
version: 1.0.0
description: A pack.
servers:
  s: {command: [sh, servers/s.sh]}
workspace: {seed: fixtures/start}
policy: mine.yaml
env: {tasks: tasks/}
"""
TASK = "id: t\nsplit: train\nprompt: Do it.\nrubric:\n  - check: no_denials\n"


def make_pack(folder: Path, **files: str) -> Path:
    """Write a sound pack; `files` replace or add files (`__` for `/`, `_DOT_` for `.`)."""
    content = {
        "toolpack.yaml": MANIFEST,
        "mine.yaml": "version: 1\n",
        "servers/s.sh": "",
        "fixtures/start/a.txt": "a",
        "tasks/t.yaml": TASK,
        **{name.replace("__", "/").replace("_DOT_", "."): text for name, text in files.items()},
    }
    for name, text in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def faults(folder: Path, *, to_serve: bool = True) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_pack(str(folder), to_serve=to_serve)
    return [str(problem).removeprefix(f"{folder}/") for problem in error.value.problems]


def test_a_folder_is_loaded_with_its_tasks_and_its_policy(tmp_path: Path):
    pack = load_pack(str(make_pack(tmp_path)))
    assert (pack.name, pack.folder, pack.lock) == ("demo", tmp_path, None)
    assert list(pack.tasks) == ["t"]
    assert pack.policy_file == tmp_path / "mine.yaml"


def test_a_policy_may_be_a_bundled_one(tmp_path: Path):
    bundled = load_pack("files").policy_file
    assert bundled is not None
    text = MANIFEST.replace("mine.yaml", bundled.name)
    assert load_pack(str(make_pack(tmp_path, toolpack_DOT_yaml=text))).policy_file == bundled


def test_a_policy_beside_the_manifest_goes_before_a_bundled_one(tmp_path: Path):
    text = MANIFEST.replace("mine.yaml", "files.yaml")
    make_pack(tmp_path, toolpack_DOT_yaml=text, files_DOT_yaml="version: 1\n")
    assert load_pack(str(tmp_path)).policy_file == tmp_path / "files.yaml"


def test_a_pack_may_have_no_policy_and_no_tasks(tmp_path: Path):
    text = "".join(MANIFEST.splitlines(keepends=True)[:6])
    pack = load_pack(str(make_pack(tmp_path, toolpack_DOT_yaml=text)))
    assert (pack.policy_file, pack.tasks) == (None, {})


def test_an_unknown_pack_is_answered_with_the_bundled_names_and_the_rule():
    with pytest.raises(UsageError, match=r"'nope': give a bundled name \(fetch, files, git\) or a folder"):
        load_pack("nope")


def test_a_folder_without_a_manifest_is_no_pack(tmp_path: Path):
    with pytest.raises(UsageError, match=r"is no toolpack: it has no toolpack\.yaml"):
        load_pack(str(tmp_path))


def test_everything_missing_is_named_at_once_with_its_place(tmp_path: Path):
    text = MANIFEST.replace("start", "none").replace("mine", "none").replace("tasks/", "none/")
    assert faults(make_pack(tmp_path, toolpack_DOT_yaml=text)) == [
        "toolpack.yaml:7:13: no folder or .tar.gz archive 'fixtures/none' in the pack",
        "toolpack.yaml:8:1: no policy 'none.yaml' beside the manifest or among the bundled policies",
        "toolpack.yaml:9:7: no folder 'none' in the pack",
    ]


def test_faults_of_tasks_are_named_with_their_place(tmp_path: Path):
    make_pack(
        tmp_path,
        tasks__a_DOT_yaml=TASK,
        tasks__b_DOT_yaml=TASK.replace("id: t", "id: b\nworkspace: fixtures/none"),
        tasks__c_DOT_yaml=TASK.replace("id: t", "id: c").replace("no_denials", "{python: checks/none.py}"),
        tasks__d_DOT_yaml="id: d\nsplit: dev\n",
    )
    assert faults(tmp_path) == [
        "tasks/b.yaml:2:1: no folder or .tar.gz archive 'fixtures/none' in the pack",
        "tasks/c.yaml:4:1: no check script 'checks/none.py' in the pack",
        "tasks/d.yaml:2:1: split: Input should be 'train' or 'test'",
        "tasks/d.yaml:1:1: missing key 'prompt'",
        "tasks/d.yaml:1:1: missing key 'rubric'",
        "tasks/t.yaml:1:1: another task is 't' too",
    ]


@pytest.mark.parametrize(("link", "place"), [("fixtures/start", "7:13"), ("tasks", "9:7")])
def test_a_link_does_not_lead_out_of_the_pack(tmp_path: Path, link: str, place: str):
    folder, outside = make_pack(tmp_path / "pack"), make_pack(tmp_path / "outside")
    (folder / link).rename(tmp_path / "moved")
    (folder / link).symlink_to(outside / link)
    assert faults(folder)[0].startswith(f"toolpack.yaml:{place}: no folder")


def test_a_manifest_that_is_no_text_is_refused(tmp_path: Path):
    make_pack(tmp_path)
    (tmp_path / "toolpack.yaml").write_bytes(b"apiVersion: sandgate/v1\nname: \xff\n")
    assert faults(tmp_path) == ["toolpack.yaml:2:1: the file is not UTF-8"]


def test_a_server_this_build_cannot_run_is_shown_but_not_served(tmp_path: Path):
    text = MANIFEST.replace("command: [sh, servers/s.sh]", "image: busybox")
    folder = make_pack(tmp_path, toolpack_DOT_yaml=text)
    assert load_pack(str(folder), to_serve=False).manifest.servers["s"].image == "busybox"
    assert faults(folder) == [
        "toolpack.yaml:6:7: this build runs command, pypi, npm and url servers, not 'image'"
    ]


@pytest.mark.parametrize(
    ("server", "fault"),
    [
        ("command: [sh, servers/none.sh]", "6:7: no file 'servers/none.sh' in the pack"),
        ("command: [sh, servers/../../none.sh]", "6:7: no file 'servers/../../none.sh' in the pack"),
        (
            "command: [python, src/s.py]",
            "6:7: 'src/s.py' is not there in a sandbox: a pack's own code stands in servers/",
        ),
        (
            "command: [sh, servers/s.sh], training: {command: [sh, servers/none.sh]}",
            "6:47: no file 'servers/none.sh' in the pack",
        ),
        (
            "pypi: a>=1",
            "6:7: 'a>=1' is not one version and no lock pins it: run 'sandgate toolpack lock'",
        ),
        (
            "npm: a@^1",
            "6:7: 'a@^1' is not one version and no lock pins it: run 'sandgate toolpack lock'",
        ),
        (
            "command: [python, servers/s.sh], requirements: [a]",
            "6:40: 'a' is not one version and no lock pins it: run 'sandgate toolpack lock'",
        ),
    ],
)
def test_what_a_server_is_started_with_is_looked_for(tmp_path: Path, server: str, fault: str):
    text = MANIFEST.replace("command: [sh, servers/s.sh]", server)
    assert faults(make_pack(tmp_path, toolpack_DOT_yaml=text)) == [f"toolpack.yaml:{fault}"]


def lock_text(*launch: str, server: str = "s") -> str:
    return dump_lock(Lock(servers={server: ServerLock(launch=launch, tools={})}))


@pytest.mark.parametrize(
    ("lock", "fault"),
    [
        (lock_text("sh", "servers/evil.sh"), "server 's' is started differently than tools.lock.json"),
        (lock_text("sh", "servers/s.sh", server="t"), "server 's' is not in tools.lock.json"),
    ],
)
def test_a_launch_command_that_is_not_the_locked_one_is_refused(tmp_path: Path, lock: str, fault: str):
    folder = make_pack(tmp_path, tools_DOT_lock_DOT_json=lock)
    assert faults(folder)[0].startswith(f"toolpack.yaml:6:3: {fault}: review the change")
    assert load_pack(str(folder), to_serve=False).lock is not None


def test_a_pack_with_its_own_launch_commands_locked_is_served(tmp_path: Path):
    folder = make_pack(tmp_path, tools_DOT_lock_DOT_json=lock_text("sh", "servers/s.sh"))
    assert load_pack(str(folder)).lock is not None


def test_a_broken_lock_is_named_with_its_place(tmp_path: Path):
    (fault,) = faults(make_pack(tmp_path, tools_DOT_lock_DOT_json='{"lockVersion": 1}'))
    assert fault == "tools.lock.json:1:1: missing key 'servers'"


def test_a_written_lock_is_what_is_loaded_next(tmp_path: Path):
    pack = load_pack(str(make_pack(tmp_path)))
    tool: JsonObject = {"name": "read", "inputSchema": {}}
    lock = write_lock(pack, {"s": [tool, {"name": "bad\nname"}]}, {})
    assert load_pack(str(tmp_path)).lock == lock
    assert lock.tools_of("s").keys() == {"read"}


def pypi(version: str, *tags: str) -> PypiLock:
    return PypiLock(
        name="a",
        version=version,
        environments={tag: {"a": Dist(version=version, sha256="0" * 64)} for tag in tags},
    )


@pytest.mark.parametrize(("version", "kept"), [("1", ["other", "this"]), ("2", ["this"])])
def test_hashes_for_other_environments_are_kept_while_the_versions_stand(
    tmp_path: Path, version: str, kept: list[str]
):
    pack = load_pack(str(make_pack(tmp_path)))
    first = write_lock(pack, {"s": []}, {"s": pypi("1", "other")})
    again = Pack(pack.name, pack.folder, pack.manifest, {}, first, None)
    package = write_lock(again, {"s": []}, {"s": pypi(version, "this")}).package_of("s")
    assert isinstance(package, PypiLock)
    assert sorted(package.environments) == kept


def test_a_lock_that_cannot_be_written_says_what_to_do(tmp_path: Path):
    pack = load_pack(str(make_pack(tmp_path / "pack")))
    (tmp_path / "pack" / "tools.lock.json").mkdir()
    with pytest.raises(UsageError, match="copy the pack to a folder of yours"):
        write_lock(pack, {"s": []}, {})
    assert not list((tmp_path / "pack").glob(".*"))


async def test_no_seed_is_an_empty_workspace(tmp_path: Path):
    pack = load_pack(str(make_pack(tmp_path)))
    assert await prepare_seed(pack, None, tmp_path / "cache") is None
    assert await prepare_seed(pack, "fixtures/start", tmp_path / "cache") == tmp_path / "fixtures/start"


@pytest.mark.parametrize("name", sorted(bundled_packs()))
def test_a_bundled_pack_is_complete(name: str):
    pack = load_pack(name)
    assert pack.name == name
    assert pack.lock is not None
    assert pack.policy_file is not None
    assert not pack.tasks or {task.split for task in pack.tasks.values()} == {"train", "test"}
    assert (pack.folder / "README.md").is_file()
    text = (pack.folder / "tools.lock.json").read_text()
    assert "://" not in text
    assert dump_lock(parse_lock(text, name)) == text
