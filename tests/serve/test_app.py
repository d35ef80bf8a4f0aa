"""Which routes there are, in which mode, and what stands around them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2

from gateway.runtime.episodes import Episodes
from gateway.runtime.gateway import Gateway, GatewaySettings
from gateway.serve.app import build_app
from gateway.serve.identity import LOCAL_IDENTITY, Identity, load_identity
from gateway.serve.security import HttpSecurity
from tests.support.http_serving import open_echo_packs, running


def people(**roles: str) -> Identity:
    """Return identities whose token is their name."""
    lines = [
        f'  - {{sha256: "{hashlib.sha256(name.encode()).hexdigest()}", principal: {name}, roles: [{role}]}}'
        for name, role in roles.items()
    ]
    return load_identity("version: 1\ntokens:\n" + "\n".join(lines) + "\n", "auth.yaml")


@asynccontextmanager
async def http_of(
    tmp_path: Path, *packs: str, training: bool, identity: Identity = LOCAL_IDENTITY
) -> AsyncGenerator[tuple[httpx2.AsyncClient, Gateway]]:
    settings = GatewaySettings(mode="training" if training else "deployment")
    async with open_echo_packs(tmp_path, *packs, settings=settings) as gateway:
        app = build_app(
            gateway,
            identity=identity,
            security=HttpSecurity.bound_to("127.0.0.1"),
            episodes=Episodes(gateway, cache_dir=tmp_path / "cache") if training else None,
        )
        async with (
            running(app, gateway) as url,
            httpx2.AsyncClient(base_url=url, timeout=10) as http,
        ):
            yield http, gateway


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


async def test_in_deployment_there_is_no_training_route_by_any_name(tmp_path: Path) -> None:
    async with http_of(tmp_path, "echo", training=False) as (http, _):
        for prefix in ("", "/packs/echo"):
            for route in ("reset", "step"):
                assert (await http.post(f"{prefix}/{route}", json={})).status_code == 404
            for route in ("state", "ws", "list_environments", "echo/splits"):
                assert (await http.get(f"{prefix}/{route}")).status_code == 404


async def test_in_training_one_pack_is_an_environment_at_the_root_and_under_its_name(tmp_path: Path) -> None:
    async with http_of(tmp_path, "echo", training=True) as (http, _):
        for prefix in ("", "/packs/echo"):
            answer = await http.post(f"{prefix}/reset", json={})
            assert (answer.status_code, answer.json()["done"]) == (200, False)


async def test_in_training_several_packs_are_environments_under_their_names_only(tmp_path: Path) -> None:
    async with http_of(tmp_path, "one", "two", training=True) as (http, _):
        statuses = [
            (await http.post(f"{prefix}/reset", json={})).status_code
            for prefix in ("", "/packs/one", "/packs/two", "/packs/three")
        ]
    assert statuses == [404, 200, 200, 404]


async def test_training_needs_the_role_of_an_orchestrator_and_mcp_that_of_an_agent(tmp_path: Path) -> None:
    identity = people(trainer="orchestrator", bot="agent")
    async with http_of(tmp_path, "echo", training=True, identity=identity) as (http, _):
        asked = [
            (await http.post(path, json={"jsonrpc": "2.0"}, headers=headers)).status_code
            for path in ("/reset", "/mcp")
            for headers in ({}, bearer("bot"), bearer("trainer"))
        ]
    assert asked[:3] == [401, 403, 200]
    assert (asked[3], asked[5], asked[4] not in {401, 403}) == (401, 403, True)


async def test_strangers_learn_whether_it_is_ready_and_callers_why(tmp_path: Path) -> None:
    identity = people(bot="agent")
    async with http_of(tmp_path, "echo", training=False, identity=identity) as (http, gateway):
        assert (await http.get("/health")).json() == {"status": "healthy"}
        assert (await http.get("/ready")).json() == {"ready": True}
        detail = (await http.get("/ready", headers=bearer("bot"))).json()
        assert (detail["ready"], detail["mode"], list(detail["packs"])) == (True, "deployment", ["echo"])
        await gateway.drain()
        red = await http.get("/ready")
    assert (red.status_code, red.json(), red.headers["retry-after"]) == (503, {"ready": False}, "5")


async def test_an_unknown_path_is_404(tmp_path: Path) -> None:
    async with http_of(tmp_path, "echo", training=False) as (http, _):
        assert (await http.get("/nope")).status_code == 404
        assert (await http.post("/packs/nope/mcp", json={})).status_code == 404
