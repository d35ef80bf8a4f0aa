"""A gateway that a trainer starts for itself."""

from __future__ import annotations

import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import anyio
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


KILLED = """
import os, signal, sys
from gateway.training.own_gateway import OwnGateway

gateway = OwnGateway(sys.argv[1])
print(gateway.url, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


async def test_it_ends_with_an_owner_that_is_killed() -> None:
    owner = await anyio.run_process([sys.executable, "-c", KILLED, str(PACKS / "echo")], check=False)
    assert owner.returncode == -signal.SIGKILL
    url = urlsplit(owner.stdout.decode().strip())
    with anyio.move_on_after(120):
        while is_open(url.hostname or "", url.port or 0):  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.1)
    assert not is_open(url.hostname or "", url.port or 0)


def is_open(host: str, port: int) -> bool:
    with suppress(ConnectionRefusedError), socket.create_connection((host, port)):
        return True
    return False
