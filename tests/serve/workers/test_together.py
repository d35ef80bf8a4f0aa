"""What a gateway of two workers says of itself as a whole, whichever of them is asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Receive, Scope, Send

from gateway.core.json_types import JsonObject
from gateway.serve.workers.asking import Colleagues
from tests.serve.workers.test_sessions import connections, said
from tests.support.gateways import copy_pack
from tests.support.mcp_http import RawMcp, texts
from tests.support.processes import Served, serving

POLICY = """
version: 1
principals: {me: {user: local}}
rules:
  - {id: together, allow: echo.echo, limit: {calls: 8, per: tool}}
  - {id: asked, ask: echo.write, approve: {wait: 20s, by: [me]}}
  - {id: files, allow: echo.read}
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "policy.yaml").write_text(POLICY)
    pack = str(copy_pack("echo", tmp_path).folder)
    config = tmp_path / "gateway.yaml"
    config.write_text("workers: 2\nlimits: {max_sessions: 6, max_sessions_per_principal: 5}\n")
    with serving(
        *(pack, "--config", str(config), "--state", str(tmp_path / "state")),
        *("--policy", str(tmp_path / "policy.yaml")),
    ) as running:
        yield running


async def opened(stack: AsyncExitStack, served: Served, count: int) -> list[RawMcp]:
    """Return so many clients, each with a connection of its own and a session that made a call."""
    https = await stack.enter_async_context(connections(count))
    clients = [RawMcp(http, f"{served.url}/mcp") for http in https]
    await asyncio.gather(*(client.initialize() for client in clients))
    await asyncio.gather(*(client.legacy("tools/call", said("hello")) for client in clients))
    return clients


def metric(page: str, name: str, **labels: str) -> float:
    """Return the sum of the samples of that name with these labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def test_every_worker_speaks_for_all(served: Served) -> None:
    async with AsyncExitStack() as stack:
        clients = await opened(stack, served, 4)
        pages = [(await client.http.get(f"{served.url}/metrics")).text for client in clients]
        for page in pages:
            assert metric(page, "sandgate_calls_total", outcome="answered") == 4
            assert metric(page, "sandgate_call_duration_seconds_count") == 4
            assert metric(page, "sandgate_call_duration_seconds_bucket", le="+Inf") == 4
            assert metric(page, "sandgate_sessions") == 4
            assert metric(page, "sandgate_sessions_limit") == 6
            assert metric(page, "sandgate_build_info") == 1
            assert metric(page, "sandgate_ready") == 1
        for client in clients:
            ready = (await client.http.get(f"{served.url}/ready")).json()
            assert (ready["ready"], ready["sessions"], len(ready["workers"])) == (True, 4, 2)
            assert sorted(entry["sessions"] for entry in ready["workers"]) == [2, 2]
            listed = (await client.http.get(f"{served.url}/api/sessions")).json()
            assert {entry["id"] for entry in listed} == {other.session_id for other in clients}
            assert len((await client.http.get(f"{served.url}/api/sandboxes")).json()) == 4
            assert len((await client.http.get(f"{served.url}/api/calls")).json()) == 4


async def test_limits_of_sessions_hold_over_all_workers(served: Served) -> None:
    async with AsyncExitStack() as stack:
        clients = await opened(stack, served, 5)
        async with connections(4) as https:
            for http in https:
                refused = await RawMcp(http, f"{served.url}/mcp").initialize()
                assert refused.status_code == 503
                assert "principal 'local' already has 5 sessions" in refused.text
            await clients[0].http.delete(clients[0].url, headers=clients[0].legacy_headers())
            assert (await RawMcp(https[0], f"{served.url}/mcp").initialize()).status_code == 200


async def test_limits_of_calls_hold_over_all_workers(served: Served) -> None:
    async with AsyncExitStack() as stack:
        clients = await opened(stack, served, 4)
        answers = await asyncio.gather(
            *(client.legacy("tools/call", said("more")) for client in clients for _ in range(3))
        )
        codes = [answer.json()["result"]["_meta"]["sandgate/decision"]["code"] for answer in answers]
        assert (codes.count("rule_allow"), codes.count("limit_exceeded")) == (4, 8)


async def test_an_approval_is_listed_and_answered_by_any_worker(served: Served) -> None:
    async with AsyncExitStack() as stack:
        clients = await opened(stack, served, 4)
        writing = [
            asyncio.create_task(  # noqa: TID251 - calls that wait while others answer
                client.legacy("tools/call", {"name": "write", "arguments": {"path": f"{n}", "content": "x"}})
            )
            for n, client in enumerate(clients)
        ]
        url = f"{served.url}/api/approvals"
        other = await stack.enter_async_context(httpx2.AsyncClient())
        listed: list[dict[str, object]] = []
        while len(listed) < 4:
            listed = (await other.get(url)).json()
        assert [entry["created"] for entry in listed] == sorted(
            float(str(entry["created"])) for entry in listed
        )
        for number, entry in enumerate(listed):
            decided = {"decision": "deny" if number == 0 else "approve"}
            answer = await other.post(f"{url}/{entry['id']}", json=decided)
            assert answer.status_code == 200, answer.text
        assert (await other.post(f"{url}/appr_none", json={"decision": "deny"})).status_code == 404
        assert (await other.get(url)).json() == []
        results = [(await call).json()["result"] for call in writing]
        assert [bool(result.get("isError")) for result in results].count(True) == 1
        assert texts(await clients[0].legacy("tools/call", said("still here")))


async def test_a_session_is_ended_by_an_admin_at_any_worker(served: Served) -> None:
    async with AsyncExitStack() as stack:
        clients = await opened(stack, served, 4)
        for client in clients:
            ended = await clients[0].http.delete(f"{served.url}/api/sessions/{client.session_id}")
            assert (ended.status_code, ended.json()) == (200, {"ended": 1})
        assert (await clients[0].http.get(f"{served.url}/api/sessions")).json() == []
        gone = await clients[0].http.delete(f"{served.url}/api/sessions/{clients[0].session_id}")
        assert gone.status_code == 404


async def test_a_fault_in_what_another_worker_asks_is_answered() -> None:
    said: list[JsonObject] = []
    colleagues = Colleagues(1, 2, lambda message, _: said.append(message))

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("a fault")

    scope: JsonObject = {"path": "/ready", "raw_path": "/ready", "query_string": "", "headers": []}
    await colleagues.answer(broken, {"do": "ask", "from": 2, "id": 5, "scope": scope}, b"")
    assert said == [{"do": "reply", "to": 2, "id": 5, "status": 500}]


async def test_ready_says_nothing_but_the_verdict_to_strangers(tmp_path: Path) -> None:
    (tmp_path / "auth.yaml").write_text(
        f'version: 1\ntokens:\n  - {{sha256: "{"0" * 64}", principal: ann, roles: [admin]}}\n'
    )
    pack = str(copy_pack("echo", tmp_path).folder)
    options = ("--workers", "2", "--state", str(tmp_path / "state"), "--auth", str(tmp_path / "auth.yaml"))
    with serving(pack, *options) as served:
        async with connections(2) as https:
            for http in https:
                assert json.loads((await http.get(f"{served.url}/ready")).text) == {"ready": True}
                for route in ("metrics", "api/sessions", "api/approvals"):
                    assert (await http.get(f"{served.url}/{route}")).status_code == 401
