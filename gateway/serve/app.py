"""The HTTP application: which route leads where, and what stands around all of them.

Border (hosts, origins) -> identity (401) -> role (403) -> a front. Translates and never decides on
a call.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from gateway.core.calls import Role
from gateway.runtime.episodes import Episodes
from gateway.runtime.gateway import Gateway
from gateway.serve.admin import admin_routes
from gateway.serve.approvals import approval_routes
from gateway.serve.endings import Interruptible, OpenRequests
from gateway.serve.gate import GateLimits
from gateway.serve.identity import Identity, RequireIdentity, RequireRole
from gateway.serve.lane import Lane
from gateway.serve.mcp.endpoint import McpEndpoint
from gateway.serve.metrics import metrics_route
from gateway.serve.oauth.resource import ProtectedResource
from gateway.serve.openenv import McpOrDialect, ProbeAnswered, about_routes, env_routes, task_routes
from gateway.serve.operations import OPEN_PATHS, operation_routes
from gateway.serve.security import HttpBorder, HttpSecurity

if TYPE_CHECKING:
    from gateway.runtime.tracing import CallTracing

__all__ = ["GatewayApp", "build_app"]


class GatewayApp(Starlette):
    """The application, and the requests it is answering; a server may ask `lane` to take some ahead of it."""

    def __init__(
        self,
        routes: list[BaseRoute],
        middleware: list[Middleware],
        lifespan: Lifespan[Starlette],
        *,
        asking: OpenRequests,
        lane: Lane | None,
        tracing: CallTracing | None = None,
    ) -> None:
        self._listening, self._asking = OpenRequests(), asking
        self.lane = lane
        self._tracing = tracing
        interruptible = Middleware(Interruptible, listening=self._listening, asking=self._asking)
        super().__init__(routes=routes, middleware=[interruptible, *middleware], lifespan=lifespan)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request through all layers, as part of its caller's trace."""
        if self._tracing is None or scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        with self._tracing.arriving(Headers(scope=scope)):
            await super().__call__(scope, receive, send)

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
    public_url: str | None = None,
    lane: bool = True,
) -> GatewayApp:
    """Return the application that serves `gateway`.

    `lane`: plain tool calls are answered ahead of all layers, which must make no difference but in time.
    `episodes` adds the training routes, under `/packs/<pack>` and at the root where one pack is
    served; without it they do not exist, and an environment only says what it is. `public_url` is what
    callers reach the gateway by, where its Host header does not say it.
    """
    limits = limits or GateLimits()
    prefixes = _prefixes(gateway)
    mcp = {"/mcp": McpEndpoint(gateway, tuple(gateway.packs), limits)}
    mcp |= {f"/packs/{pack}/mcp": McpEndpoint(gateway, (pack,), limits) for pack in gateway.packs}

    issuers = () if identity.issuers is None else identity.issuers.settings.values()
    resource = ProtectedResource(issuers, mcp, public_url)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            for endpoint in mcp.values():
                await stack.enter_async_context(endpoint.run())
            if episodes is not None:
                await stack.enter_async_context(episodes.sweeping())
            yield

    asking = OpenRequests()
    quick = {path: endpoint.quick for path, endpoint in mcp.items()}
    front = Lane(
        quick, identity=identity, security=security, limits=limits, asking=asking, tracing=gateway.tracing
    )

    return GatewayApp(
        routes=[
            *operation_routes(gateway.readiness),
            metrics_route(gateway, identity),
            *resource.routes(),
            *approval_routes(gateway.approvals),
            *admin_routes(gateway),
            *(Route(path, _mcp(face, path, prefixes, episodes, limits)) for path, face in mcp.items()),
            *_about(gateway, prefixes, playable=episodes is not None),
            *([] if episodes is None else [_training(episodes, prefixes, limits)]),
        ],
        middleware=[
            Middleware(HttpBorder, security=security),
            Middleware(RequireIdentity, identity=identity, open_paths=OPEN_PATHS, resource=resource),
        ],
        lifespan=lifespan,
        asking=asking,
        lane=front if lane else None,
        tracing=gateway.tracing,
    )


def _prefixes(gateway: Gateway) -> dict[str, str]:
    """Return where each environment stands: below its pack's path, and at the root if it is the only one."""
    prefixes = {f"/packs/{pack}": pack for pack in gateway.packs}
    return prefixes if len(gateway.packs) != 1 else {**prefixes, "": next(iter(gateway.packs))}


def _mcp(
    endpoint: McpEndpoint, path: str, prefixes: dict[str, str], episodes: Episodes | None, limits: GateLimits
) -> ASGIApp:
    mcp = RequireRole(ProbeAnswered(endpoint, limits), Role.AGENT)
    pack = prefixes.get(path.removesuffix("/mcp"))
    return mcp if episodes is None or pack is None else McpOrDialect(mcp, episodes, pack, limits)


def _about(gateway: Gateway, prefixes: dict[str, str], *, playable: bool) -> list[BaseRoute]:
    routes: list[BaseRoute] = []
    for prefix, pack in prefixes.items():
        routes += about_routes(gateway.packs[pack].pack, prefix, playable=playable)
    return routes


def _training(episodes: Episodes, prefixes: dict[str, str], limits: GateLimits) -> BaseRoute:
    routes: list[BaseRoute] = []
    for prefix, pack in prefixes.items():
        routes += env_routes(episodes, pack=pack, prefix=prefix, limits=limits)
    if "" not in prefixes:
        routes += task_routes(episodes.gateway, tuple(episodes.gateway.packs), "", limits)
    return Mount("", routes=routes, middleware=[Middleware(RequireRole, Role.ORCHESTRATOR)])
