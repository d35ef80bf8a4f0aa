"""`/health` and `/ready`: whether the process lives, and whether a call would be answered now."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.runtime.gateway import Readiness
from gateway.serve.identity import known_principal

__all__ = ["OPEN_PATHS", "operation_routes"]

OPEN_PATHS = frozenset({"/health", "/ready"})
"""Paths that anybody may ask: probes have no token. Strangers are shown the verdict only."""


def operation_routes(readiness: Callable[[], Readiness]) -> list[Route]:
    """Return the routes; `readiness` is asked at each request."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "healthy"})

    async def ready(request: Request) -> Response:
        now = readiness()
        detail = {} if known_principal(request.scope) is None else now.detail
        # Whoever asks with a token sees more than others: no cache may mix them up.
        headers = {"Cache-Control": "no-store"} | ({} if now.ready else {"Retry-After": "5"})
        return JSONResponse({"ready": now.ready, **detail}, 200 if now.ready else 503, headers)

    return [Route("/health", health), Route("/ready", ready)]
