"""Real MCP servers over HTTP on loopback, and packs that name them by URL."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import uvicorn
import yaml
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.runtime.gateway import Gateway, GatewaySettings
from gateway.runtime.packs import load_pack
from gateway.sandbox.egress import EgressSettings
from tests.support.gateways import PACKS, served

__all__ = ["LOOPBACK", "Remote", "everything_app", "remote_gateway", "remote_pack", "served_at"]

LOOPBACK = GatewaySettings(egress=EgressSettings(networks=(ip_network("127.0.0.0/8"),)))
"""An operator who lets servers reach this machine."""


@dataclass
class Remote:
    """A server that runs: where, and the headers of what it was asked, in lower case."""

    url: str = ""
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list[tuple[str, dict[str, str]]])


def everything_app() -> ASGIApp:
    """Return the reference server as an ASGI application of its own."""
    file = PACKS / "everything" / "servers" / "everything.py"
    spec = importlib.util.spec_from_file_location("everything_for_tests", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build().streamable_http_app()


@asynccontextmanager
async def served_at(app: ASGIApp) -> AsyncGenerator[Remote]:
    """Serve an application on a free port of loopback."""
    remote = Remote()

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
            remote.asked.append((f"{scope['method']} {scope['path']}", headers))
        await app(scope, receive, send)

    config = uvicorn.Config(noting, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        remote.url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [bound])
            try:
                with anyio.fail_after(10):
                    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                        await anyio.sleep(0.01)
                yield remote
            finally:
                server.should_exit = True


def remote_pack(folder: Path, server: dict[str, Any], **more: Any) -> Path:
    """Write a pack with one server, `far`, and a policy that allows all of it."""
    folder.mkdir(parents=True)
    manifest = {
        "apiVersion": "sandgate/v1",
        "name": "remote",
        "version": "1.0.0",
        "description": "A server elsewhere.",
        "servers": {"far": {"startup_timeout": "10s", "call_timeout": "10s", **server}},
        "policy": "policy.yaml",
        **more,
    }
    rules = [
        {"id": "all", "allow": "*"},
        {"id": "resources", "allow": "resource:test://**"},
        {"id": "prompts", "allow": "prompt:*"},
    ]
    (folder / "toolpack.yaml").write_text(yaml.safe_dump(manifest))
    grant: dict[str, Any] = {"egress": [urlsplit(str(server["url"])).netloc]}
    if "secrets" in server:
        grant["secrets"] = server["secrets"]
    grants = {"far": grant}
    policy = {"version": 1, "rules": rules, "grants": grants}
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy))
    return folder


def remote_gateway(
    tmp_path: Path, pack: Path, settings: GatewaySettings = LOOPBACK
) -> AbstractAsyncContextManager[Gateway]:
    """Open a gateway on a pack of `remote_pack`."""
    return served(tmp_path, pack=load_pack(str(pack)), settings=settings)
