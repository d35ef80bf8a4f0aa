"""A real gateway for tests: real sandboxes, real servers, a real ledger on disk."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from gateway.config import installer_environment
from gateway.core.policy import CompiledPolicy, compile_policy, load_policy
from gateway.runtime.clock import SystemClock
from gateway.runtime.gateway import Gateway, GatewaySettings, open_gateway
from gateway.runtime.ledger import open_ledger
from gateway.runtime.packages import Installer
from gateway.runtime.packs import Pack, load_pack
from gateway.sandbox.contract import SandboxDriver
from gateway.sandbox.egress import EgressGate
from tests.support.sandboxes import bubblewrap

__all__ = ["PACKS", "copy_pack", "discreet_pack", "served"]

PACKS = Path(__file__).parent.parent / "packs"


def copy_pack(name: str, tmp_path: Path) -> Pack:
    """Return a copy of a test pack, so that what serving writes beside it stays out of the checkout."""
    folder = tmp_path / "packs" / name
    if not folder.exists():
        shutil.copytree(PACKS / name, folder)
    return load_pack(str(folder))


def discreet_pack(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    """Copy the echo pack with a server that logs outside its workspace, so that its start leaves no trace.

    `changes` are made to its code, each an old text and a new one; returns the server's file.
    """
    server = copy_pack("echo", tmp_path).folder / "servers" / "echo.py"
    text = server.read_text()
    for old, new in (('Path(".echo-log.jsonl")', 'Path("/tmp/log")'), *changes):
        assert old in text
        text = text.replace(old, new)
    server.write_text(text)
    return server


@asynccontextmanager
async def served(
    tmp_path: Path,
    *,
    pack: str | Pack = "echo",
    policy: str | None = None,
    settings: GatewaySettings | None = None,
    secrets: dict[str, str] | None = None,
    gate: EgressGate | None = None,
    sandbox: SandboxDriver | None = None,
) -> AsyncGenerator[Gateway]:
    """Serve a pack, a test pack by its name, with its own policy or with the text given.

    In bubblewrap by default.
    """
    loaded = copy_pack(pack, tmp_path) if isinstance(pack, str) else pack
    settings = settings or GatewaySettings()
    if secrets is not None:
        settings = replace(settings, secrets=secrets)
    clock = SystemClock()
    async with (
        open_ledger(tmp_path / "state", clock) as ledger,
        sandbox or bubblewrap(tmp_path) as driver,
        open_gateway(
            [(loaded, _policy(loaded, policy))],
            driver=driver,
            ledger=ledger,
            installer=installer(),
            clock=clock,
            settings=settings,
            gate=gate,
        ) as gateway,
    ):
        yield gateway


def installer() -> Installer:
    """Return an installer on the user's own cache, so that packages are installed once for all tests."""
    cache = Path.home() / ".cache" / "sandgate"
    return Installer(cache, environ=installer_environment())


def _policy(pack: Pack, text: str | None) -> CompiledPolicy:
    if text is not None:
        return compile_policy(load_policy(text, "test.yaml"), None)
    assert pack.policy_file is not None
    return compile_policy(load_policy(pack.policy_file.read_text(), pack.policy_file.name), None)
