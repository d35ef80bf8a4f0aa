"""What an installed wheel brings: one package, typed, with the packs, policies and examples, and it works."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gateway import __version__

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the `bin` of an environment with the wheel, and our environment's other packages behind it."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    packages = next(folder.glob("lib/python3*/site-packages"))
    install = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(packages),
        str(wheel),
    ]
    subprocess.run([sys.executable, *install], check=True, timeout=120)
    dependencies = [path for path in site.getsitepackages() if Path(path).is_dir()]
    # Only the folders, not what their own .pth files add: the checkout is installed editable there.
    (packages / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    return folder / "bin"


def run(installed: Path, *args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environ = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}  # noqa: TID251
    command = [str(installed / "python"), "-m", "gateway.cli", *args]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=cwd, env=environ
    )


def test_it_has_one_top_level_package_and_is_typed(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {"gateway", f"sandgate-{__version__}.dist-info"}
    assert "gateway/py.typed" in names
    assert f"sandgate-{__version__}.dist-info/licenses/LICENSE" in names


def test_it_holds_every_data_file_of_the_checkout_and_nothing_else(wheel: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "toolpacks", "policies", "sandboxes", "examples"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("this is no git checkout: nothing says which files belong to it")
    names = {
        name.removeprefix("gateway/_data/") for name in zipfile.ZipFile(wheel).namelist() if "/_data/" in name
    }
    assert {name for name in listed.stdout.split() if (ROOT / name).exists()} - names == set()
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def test_the_bundled_packs_and_policies_are_usable_from_it(installed: Path, tmp_path: Path) -> None:
    shown = run(installed, "toolpack", "show", "files", "--format", "json", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    document = json.loads(shown.stdout)
    assert Path(document["folder"]).is_relative_to(installed.parent)
    tested = run(installed, "policy", "test", document["policy"], "--format", "json", cwd=tmp_path)
    assert tested.returncode == 0, tested.stderr
    assert json.loads(tested.stdout)["passed"] > 0


def test_a_call_goes_through_a_sandbox_from_it(installed: Path, tmp_path: Path) -> None:
    pack = ROOT / "tests" / "packs" / "echo"
    args = ("--args", '{"text": "hi"}', "--state", str(tmp_path / "state"), "--format", "json")
    called = run(installed, "call", str(pack), "echo", *args, cwd=tmp_path)
    assert called.returncode == 0, called.stderr
    assert json.loads(called.stdout)["text"] == "hi"
