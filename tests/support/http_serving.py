"""Real gateways served over HTTP on loopback, in the test's own process."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from gateway.core.policy import compile_policy, load_policy
from gateway.runtime.clock import SystemClock
from gateway.runtime.gateway import Gateway, GatewaySettings, open_gateway
from gateway.runtime.ledger import open_ledger
from gateway.runtime.packs import load_pack
from gateway.serve.app import GatewayApp
from gateway.serve.server import serve_http
from tests.support.gateways import PACKS, copy_pack, installer
from tests.support.sandboxes import bubblewrap

__all__ = ["open_echo_packs", "rule_line", "running"]


def rule_line(rule: str) -> int:
    """Return the line of a rule in the echo pack's policy."""
    lines = (PACKS / "echo" / "policy.yaml").read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.strip() == f"- id: {rule}")


@asynccontextmanager
async def open_echo_packs(
    tmp_path: Path, *names: str, settings: GatewaySettings | None = None
) -> AsyncGenerator[Gateway]:
    """Open a gateway on copies of the echo pack, by other names, under its own policy."""
    packs = [load_pack(str(_renamed(tmp_path / name, name))) for name in names]
    clock = SystemClock()
    async with (
        open_ledger(tmp_path / "state", clock) as ledger,
        bubblewrap(tmp_path) as driver,
        open_gateway(
            [
                (pack, compile_policy(load_policy(file.read_text(encoding="utf-8"), file.name)))
                for pack in packs
                if (file := pack.policy_file)
            ],
            driver=driver,
            ledger=ledger,
            installer=installer(),
            clock=clock,
            settings=settings or GatewaySettings(),
        ) as gateway,
    ):
        yield gateway


def _renamed(folder: Path, name: str) -> Path:
    pack = copy_pack("echo", folder).folder
    manifest = pack / "toolpack.yaml"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(re.sub(r"^name: .*$", f"name: {name}", text, flags=re.MULTILINE), encoding="utf-8")
    return pack


@asynccontextmanager
async def running(app: GatewayApp, gateway: Gateway) -> AsyncGenerator[str]:
    """Serve `app` on a free port; yields its URL."""
    ready = anyio.Event()
    urls: list[str] = []

    def on_ready(url: str) -> None:
        urls.append(url)
        ready.set()

    async def run() -> None:
        await serve_http(app, gateway, port=0, on_ready=on_ready)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        with anyio.fail_after(10):
            await ready.wait()
        yield urls[0]
        tasks.cancel_scope.cancel()
