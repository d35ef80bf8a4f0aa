"""A gateway that a trainer starts for itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.errors import UsageError
from gateway.training import ConnectionLost, Env
from gateway.training.own_gateway import OwnGateway
from tests.support.gateways import PACKS


def test_it_serves_until_it_is_closed_and_leaves_its_ledger_where_it_was_told_to(tmp_path: Path) -> None:
    gateway = OwnGateway(str(PACKS / "echo"), state=tmp_path / "state")
    with Env(gateway.url, timeout=10) as env:
        assert env.reset().task == "be-good"
        assert env.call("echo", {"text": "hi"}).text == "hi"
        gateway.close()
        gateway.close()
        with pytest.raises(ConnectionLost):
            env.reset()
    assert any((tmp_path / "state").iterdir())


def test_what_keeps_it_from_starting_is_shown() -> None:
    with pytest.raises(UsageError, match="no-such-pack"):
        OwnGateway("no-such-pack")
