"""A gateway whose policy asks, served over HTTP on loopback."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.runtime.gateway import Gateway
from gateway.serve.app import build_app
from gateway.serve.identity import LOCAL_IDENTITY, Identity
from gateway.serve.security import HttpSecurity
from tests.support.gateways import served
from tests.support.http_serving import running

__all__ = ["ASKS", "asking"]

ASKS = """\
version: 1
principals:
  lead: {user: lead}
rules:
  - id: talk
    ask: echo.echo
    why: words are looked at
    approve: {wait: 20s}
  - id: structured
    ask: echo.structured
    approve: {by: lead, wait: 20s}
  - id: files
    ask: echo.write
    approve: {wait: 0s}
"""


@asynccontextmanager
async def asking(
    tmp_path: Path, *, policy: str = ASKS, identity: Identity = LOCAL_IDENTITY
) -> AsyncGenerator[tuple[str, Gateway]]:
    """Serve the echo pack under a policy that asks; yields the URL and the gateway."""
    async with served(tmp_path, policy=policy) as gateway:
        security = HttpSecurity.bound_to("127.0.0.1")
        app = build_app(gateway, identity=identity, security=security)
        async with running(app, gateway) as url:
            yield url, gateway
