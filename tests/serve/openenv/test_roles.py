"""Who may play: every route of the environment interface, taken from the application's own table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.runtime.gateway import GatewaySettings
from gateway.serve.app import build_app
from gateway.serve.identity import LOCAL_IDENTITY
from gateway.serve.security import HttpSecurity
from tests.support.env_serving import EnvServer, env_server, people

DEPLOYMENT = GatewaySettings(mode="deployment")
PEOPLE = {"bot": "agent", "boss": "admin", "trainer": "orchestrator"}
JSON = {"Content-Type": "application/json"}
DIALECT: list[dict[str, Any]] = [
    {},
    {"jsonrpc": "2.0", "id": 1, "method": "openenv/session/create"},
    {"jsonrpc": "2.0", "id": 1, "method": "openenv/session/close", "params": {"session_id": "x"}},
    {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"session_id": "x"}},
    {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"session_id": "x", "name": "echo"}},
]


def leaves(routes: list[BaseRoute]) -> Iterator[Route | WebSocketRoute]:
    for route in routes:
        if isinstance(route, Mount):
            yield from leaves(list(route.routes))
        elif isinstance(route, Route | WebSocketRoute):
            yield route


def playing_routes(server: EnvServer) -> tuple[set[tuple[str, str]], set[str]]:
    """Return (method, path) and socket paths that training adds to what a gateway serves."""
    security = HttpSecurity.bound_to("127.0.0.1")

    def table(**more: Any) -> list[Route | WebSocketRoute]:
        app = build_app(server.gateway, identity=LOCAL_IDENTITY, security=security, **more)
        return list(leaves(list(app.routes)))

    without = {(type(route), route.path) for route in table()}
    added = [r for r in table(episodes=server.episodes) if (type(r), r.path) not in without]
    requests = {
        (method, route.path.replace("{env}", "echo"))
        for route in added
        if isinstance(route, Route)
        for method in sorted((route.methods or set()) - {"HEAD"})
    }
    return requests, {route.path for route in added if isinstance(route, WebSocketRoute)}


async def statuses(server: EnvServer, token: str | None, requests: set[tuple[str, str]]) -> dict[str, int]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    found: dict[str, int] = {}
    async with httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=30) as http:
        for method, path in sorted(requests):
            body = b"{}" if method == "POST" else None
            answer = await http.request(method, path, content=body, headers=JSON if body else None)
            found[f"{method} {path}"] = answer.status_code
    return found


async def socket_statuses(server: EnvServer, token: str | None, paths: set[str]) -> set[int]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    found: set[int] = set()
    for path in paths:
        with pytest.raises(InvalidStatus) as refused:
            await connect(server.socket_url + path, additional_headers=headers, proxy=None)
        found.add(refused.value.response.status_code)
    return found


async def dialect_effects(server: EnvServer, token: str) -> list[Any]:
    """Return what a POST of the JSON-RPC dialect brings a caller: results, never errors."""
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json, text/event-stream"}
    found: list[Any] = []
    async with httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=30) as http:
        for path in ("/mcp", "/packs/echo/mcp"):
            for body in DIALECT:
                answer = await http.post(
                    path, content=json.dumps(body), headers={"Content-Type": "application/json"}
                )
                found += [told["result"] for told in [_json(answer)] if "result" in told]
    return found


def _json(answer: Any) -> dict[str, Any]:
    try:
        told = answer.json()
    except ValueError:
        return {}
    return cast("dict[str, Any]", told) if isinstance(told, dict) else {}


async def test_with_orchestration_only_the_orchestrator_plays_by_any_route(tmp_path: Path) -> None:
    async with env_server(
        tmp_path, identity=people(**PEOPLE), settings=DEPLOYMENT, orchestration=True
    ) as server:
        requests, sockets = playing_routes(server)
        assert {("POST", "/reset"), ("POST", "/packs/echo/batch/step"), ("GET", "/echo/splits")} <= requests
        assert sockets == {"/ws", "/mcp", "/packs/echo/ws", "/packs/echo/mcp"}
        for token, status in (("bot", 403), ("boss", 403), (None, 401), ("nobody", 401)):
            assert set((await statuses(server, token, requests)).values()) == {status}
            assert await socket_statuses(server, token, sockets) == {status}
        for token in ("bot", "boss"):
            assert await dialect_effects(server, token) == []
        assert server.gateway.readiness().detail["sessions"] == 0
        allowed = await statuses(server, "trainer", requests)
        assert {401, 403, 404}.isdisjoint(allowed.values()), allowed


async def test_without_orchestration_nobody_plays_by_any_route(tmp_path: Path) -> None:
    async with env_server(
        tmp_path / "a", identity=people(**PEOPLE), settings=DEPLOYMENT, orchestration=True
    ) as playable:
        requests, sockets = playing_routes(playable)
    async with env_server(tmp_path / "b", identity=people(**PEOPLE), settings=DEPLOYMENT) as server:
        for token in PEOPLE:
            found = await statuses(server, token, requests)
            assert set(found.values()) <= {403, 404}, found
            assert await socket_statuses(server, token, sockets) <= {403, 404}
            assert await dialect_effects(server, token) == []
        assert server.gateway.readiness().detail["sessions"] == 0
