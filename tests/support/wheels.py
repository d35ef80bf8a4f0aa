"""Makes small wheels and source distributions, so that pip runs for real and needs no network."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["make_sdist", "make_wheel", "offline_environ"]


def offline_environ(wheels: Path) -> dict[str, str]:
    """Return an environment in which pip sees the wheels of one folder and nothing else."""
    return {
        "PATH": os.environ["PATH"],  # noqa: TID251 - test helper
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
    }


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    files: Mapping[str, str],
    *,
    scripts: Mapping[str, str] = {},
    requires: Sequence[str] = (),
) -> Path:
    """Write a pure wheel; `scripts` are console scripts by name, as `module:attribute`."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {text}\n" for text in requires)
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if scripts:
        lines = "".join(f"{script} = {target}\n" for script, target in scripts.items())
        content[f"{info}/entry_points.txt"] = f"[console_scripts]\n{lines}"
    content[f"{info}/RECORD"] = _record(content, f"{info}/RECORD")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in content.items():
            archive.writestr(zipfile.ZipInfo(file), text)
    return path


def make_sdist(folder: Path, name: str, version: str, setup: str) -> Path:
    """Write a source distribution whose `setup.py` is `setup`."""
    top = f"{name}-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{top}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for file, text in {
            f"{top}/setup.py": setup,
            f"{top}/PKG-INFO": f"Metadata-Version: 1.0\nName: {name}\nVersion: {version}\n",
        }.items():
            member = tarfile.TarInfo(file)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def _record(content: Mapping[str, str], own: str) -> str:
    lines = [f"{file},sha256={_digest(text)},{len(text.encode())}" for file, text in content.items()]
    return "\n".join([*lines, f"{own},,"]) + "\n"


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
