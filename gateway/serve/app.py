"""The HTTP application: which route leads where, and what stands around all of them.

Border (hosts, origins) -> identity (401) -> role (403) -> a front. Translates and never decides on
a call.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Lifespan

from gateway.core.calls import Role
from gateway.runtime.episodes import Episodes
from gateway.runtime.gateway import Gateway
from gateway.serve.endings import Interruptible, OpenRequests
from gateway.serve.gate import GateLimits
from gateway.serve.identity import Identity, RequireIdentity, RequireRole
from gateway.serve.mcp.endpoint import McpEndpoint
from gateway.serve.openenv import env_routes
from gateway.serve.operations import OPEN_PATHS, operation_routes
from gateway.serve.security import HttpBorder, HttpSecurity

__all__ = ["GatewayApp", "build_app"]


class GatewayApp(Starlette):
    """The application, and the requests it is answering."""

    def __init__(
        self, routes: list[BaseRoute], middleware: list[Middleware], lifespan: Lifespan[Starlette]
    ) -> None:
        self._listening, self._asking = OpenRequests(), OpenRequests()
        interruptible = Middleware(Interruptible, listening=self._listening, asking=self._asking)
        super().__init__(routes=routes, middleware=[interruptible, *middleware], lifespan=lifespan)

    async def settle(self, seconds: float) -> None:
        """Let what is being answered get out, for so long at most."""
        with anyio.move_on_after(seconds):
            await self._asking.answered()

    def end_requests(self) -> None:
        """End every request that is still open: listeners, and calls that outlasted the drain."""
        self._listening.end()
        self._asking.end()


def build_app(
    gateway: Gateway,
    *,
    identity: Identity,
    security: HttpSecurity,
    episodes: Episodes | None = None,
    limits: GateLimits | None = None,
) -> GatewayApp:
    """Return the application that serves `gateway`.

    `episodes` adds the training routes, under `/packs/<pack>` and at the root where one pack is
    served; without it they do not exist.
    """
    limits = limits or GateLimits()
    mcp = {"/mcp": McpEndpoint(gateway, tuple(gateway.packs), limits)}
    mcp |= {f"/packs/{pack}/mcp": McpEndpoint(gateway, (pack,), limits) for pack in gateway.packs}

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            for endpoint in mcp.values():
                await stack.enter_async_context(endpoint.run())
            yield

    return GatewayApp(
        routes=[
            *operation_routes(gateway.readiness),
            *(Route(path, _agents_only(endpoint)) for path, endpoint in mcp.items()),
            *([] if episodes is None else [_training(episodes, limits)]),
        ],
        middleware=[
            Middleware(HttpBorder, security=security),
            Middleware(RequireIdentity, identity=identity, open_paths=OPEN_PATHS),
        ],
        lifespan=lifespan,
    )


def _agents_only(endpoint: McpEndpoint) -> ASGIApp:
    return RequireRole(endpoint, Role.AGENT)


def _training(episodes: Episodes, limits: GateLimits) -> BaseRoute:
    packs = tuple(episodes.gateway.packs)
    routes: list[BaseRoute] = []
    for pack in packs:
        routes += env_routes(episodes, pack=pack, prefix=f"/packs/{pack}", limits=limits)
    if len(packs) == 1:
        routes += env_routes(episodes, pack=packs[0], prefix="", limits=limits)
    return Mount("", routes=routes, middleware=[Middleware(RequireRole, role=Role.ORCHESTRATOR)])
