"""Finds the data folders: at the top of a checkout, or inside the package of an installed wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from gateway.errors import UsageError

__all__ = ["DataFolder", "data_folder"]

DataFolder = Literal["toolpacks", "policies", "sandboxes", "examples"]


def data_folder(name: DataFolder) -> Path:
    """Return a data folder's path; raises `UsageError` if the installation lacks it."""
    package = Path(__file__).resolve().parent
    inside, checkout = package / "_data" / name, package.parent
    if inside.is_dir():
        return inside
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    raise UsageError(
        f"this installation has no folder {name!r}: install sandgate again from its wheel or sdist"
    )
