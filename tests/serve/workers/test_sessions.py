"""Two workers, real processes, real connections: whichever one a request reaches, its session answers it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.runtime.audit import query, verify
from gateway.runtime.ledger_chains import chains
from tests.support.gateways import copy_pack
from tests.support.mcp_http import RawMcp, texts
from tests.support.processes import Served, serving

POLICY = """
version: 1
rules:
  - {id: few, allow: echo.echo, limit: {calls: 3, per: session}}
  - {id: files, allow: [echo.read, echo.write]}
"""


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def served(state: Path) -> Iterator[Served]:
    (state / "policy.yaml").write_text(POLICY)
    pack = str(copy_pack("echo", state).folder)
    with serving(
        pack, "--workers", "2", "--state", str(state / "state"), "--policy", str(state / "policy.yaml")
    ) as running:
        yield running


@asynccontextmanager
async def connections(count: int) -> AsyncGenerator[list[httpx2.AsyncClient]]:
    """Give so many clients with one connection each: they are spread over the workers as they connect."""
    async with AsyncExitStack() as stack:
        one = httpx2.Limits(max_connections=1)
        yield [
            await stack.enter_async_context(httpx2.AsyncClient(limits=one, timeout=30)) for _ in range(count)
        ]


def said(text: str) -> dict[str, Any]:
    return {"name": "echo", "arguments": {"text": text}}


def code(answer: httpx2.Response) -> str:
    return answer.json()["result"]["_meta"]["sandgate/decision"]["code"]


def chains_of(state: Path, text: str) -> set[str]:
    """Return the workers whose chain has calls of the session `text`."""
    return {
        audit.parent.name
        for audit in chains(state / "state")
        if any(text in json.dumps(record) for record in query(audit))
    }


async def test_a_session_with_an_id_is_reached_by_every_connection(served: Served, state: Path) -> None:
    async with connections(4) as https:
        clients = [RawMcp(http, f"{served.url}/mcp") for http in https]
        await asyncio.gather(*(client.initialize() for client in clients))
        ids = [client.session_id for client in clients]
        for session_id in ids:
            for client in clients:
                client.session_id = session_id
            codes = [code(await client.legacy("tools/call", said("hello"))) for client in clients]
            # Counted in one place: the fourth connection's call is the session's fourth.
            assert codes == ["rule_allow"] * 3 + ["limit_exceeded"]
        owners = [chains_of(state, str(session_id)) for session_id in ids]
    assert all(len(owner) == 1 for owner in owners)
    assert set[str]().union(*owners) == {"1", "2"}


async def test_a_named_session_is_the_same_one_for_every_connection(served: Served, state: Path) -> None:
    names = [f"name-{number}" for number in range(4)]
    async with connections(4) as https:
        clients = [RawMcp(http, f"{served.url}/mcp") for http in https]
        # All at once, so that workers race for a name that nobody has yet.
        for name in names:
            answers = await asyncio.gather(
                *(client.modern("tools/call", said(name), {"sandgate-session": name}) for client in clients)
            )
            assert sorted(map(code, answers)) == ["limit_exceeded"] + ["rule_allow"] * 3
    owners = [chains_of(state, f':{name}"') for name in names]
    assert all(len(owner) == 1 for owner in owners)


async def test_a_name_belongs_to_the_worker_that_its_first_connection_came_to(
    served: Served, state: Path
) -> None:
    async with connections(4) as https:
        clients = [RawMcp(http, f"{served.url}/mcp") for http in https]
        named = [{"sandgate-session": f"own-{number}"} for number in range(4)]
        calls = [
            client.modern("tools/call", said("x"), name) for client, name in zip(clients, named, strict=True)
        ]
        assert [code(answer) for answer in await asyncio.gather(*calls)] == ["rule_allow"] * 4
    assert set[str]().union(*(chains_of(state, f':own-{number}"') for number in range(4))) == {"1", "2"}


async def test_a_large_body_moves_with_its_connection(served: Served) -> None:
    async with connections(4) as https:
        clients = [RawMcp(http, f"{served.url}/mcp") for http in https]
        text = "long " * 180_000
        await clients[0].initialize()
        for client in clients:
            client.session_id = clients[0].session_id
            wrote = await client.legacy(
                "tools/call", {"name": "write", "arguments": {"path": "long.txt", "content": text}}
            )
            assert wrote.status_code == 200
            assert not wrote.json()["result"].get("isError"), wrote.text[:300]
        read = await clients[-1].legacy("tools/call", {"name": "read", "arguments": {"path": "long.txt"}})
        assert texts(read) == text


async def test_an_id_that_nobody_has_is_unknown_everywhere(served: Served) -> None:
    async with connections(4) as https:
        for http in https:
            client = RawMcp(http, f"{served.url}/mcp", session_id="f" * 32)
            assert (await client.legacy("tools/list")).status_code == 404


async def test_a_session_ends_by_any_connection(served: Served) -> None:
    async with connections(4) as https:
        clients = [RawMcp(http, f"{served.url}/mcp") for http in https]
        for client in clients:
            await clients[0].initialize()
            client.session_id = clients[0].session_id
            ended = await client.http.delete(client.url, headers=client.legacy_headers())
            assert ended.status_code == 200
            assert (await clients[0].legacy("tools/list")).status_code == 404


def test_every_chain_verifies_while_they_are_written_and_after(served: Served, state: Path) -> None:
    report = verify(state / "state")
    assert report.ok, report.problems
    assert [Path(chain.folder).parent.name for chain in report.chains] == ["1", "2"]
    times = [float(str(record["ts"])) for record in query(state / "state")]
    assert times == sorted(times)
