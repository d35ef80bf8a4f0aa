"""Where the data folders are found: in a checkout, and inside an installed package."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import data
from gateway.data import data_folder
from gateway.errors import UsageError


def test_a_checkout_has_its_data_beside_the_package():
    assert (data_folder("toolpacks") / "git" / "toolpack.yaml").is_file()
    assert (data_folder("policies") / "git.yaml").is_file()
    assert (data_folder("sandboxes") / "run_server.py").is_file()


def test_an_installed_package_has_its_data_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    inside = tmp_path / "gateway" / "_data" / "policies"
    inside.mkdir(parents=True)
    (tmp_path / "policies").mkdir()
    monkeypatch.setattr(data, "__file__", str(tmp_path / "gateway" / "data.py"))
    assert data_folder("policies") == inside


def test_an_installation_without_its_data_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "toolpacks").mkdir()  # somebody else's folder, beside an installed package
    monkeypatch.setattr(data, "__file__", str(tmp_path / "gateway" / "data.py"))
    with pytest.raises(UsageError, match="no folder 'toolpacks': install sandgate again"):
        data_folder("toolpacks")
