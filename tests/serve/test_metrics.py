"""`/metrics`: what a scrape tells after real calls, and what it never tells."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gateway.cli.reloading import Reloader
from gateway.core.calls import LOCAL, Front, ToolCall
from gateway.runtime.gateway import Gateway
from gateway.runtime.sessions import Session, new_call_id
from gateway.serve.app import build_app
from gateway.serve.identity import LOCAL_IDENTITY, Identity, load_identity
from gateway.serve.security import HttpSecurity
from tests.support.http_serving import open_echo_packs, running

parse_openmetrics: Callable[[str], Iterable[Metric]] = vars(openmetrics)["text_string_to_metric_families"]
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@asynccontextmanager
async def scraped(
    tmp_path: Path, identity: Identity = LOCAL_IDENTITY
) -> AsyncGenerator[tuple[httpx2.AsyncClient, Gateway]]:
    async with open_echo_packs(tmp_path, "echo", "twin") as gateway:
        app = build_app(gateway, identity=identity, security=HttpSecurity.bound_to("127.0.0.1"))
        async with running(app, gateway) as url, httpx2.AsyncClient(base_url=url, timeout=10) as http:
            yield http, gateway


async def call(gateway: Gateway, session: Session, tool: str, **arguments: Any) -> None:
    await gateway.call(session, ToolCall(new_call_id(), tool, arguments, Front.CLI))


async def samples(http: httpx2.AsyncClient) -> dict[tuple[str, ...], float]:
    """Return each sample by its name and its labels' values, in the order of the labels' names."""
    answer = await http.get("/metrics")
    assert answer.status_code == 200
    families = parse_text(answer.text)
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


async def test_calls_are_counted_by_what_was_called_and_how_it_ended(tmp_path: Path) -> None:
    async with scraped(tmp_path) as (http, gateway):
        session = await gateway.open_session("echo", LOCAL)
        for tool, arguments in [
            ("echo", {"text": "hi"}),
            ("echo", {"text": "again"}),
            ("echo", {}),
            ("crash", {}),
            ("made-up-by-a-caller", {}),
        ]:
            await call(gateway, session, tool, **arguments)
        told = await samples(http)
    calls = {name[1:]: value for name, value in told.items() if name[0] == "sandgate_calls_total"}
    assert calls == {
        ("rule_allow", "", "cli", "tools/call", "answered", "echo", "echo", "echo"): 2,
        ("invalid_arguments", "", "cli", "tools/call", "denied", "echo", "echo", "echo"): 1,
        ("rule_allow", "crashed", "cli", "tools/call", "failed", "echo", "echo", "crash"): 1,
        ("unknown_tool", "", "cli", "tools/call", "denied", "echo", "", ""): 1,
    }
    assert told["sandgate_call_duration_seconds_count", "denied", "echo"] == 2
    assert told["sandgate_upstream_duration_seconds_count", "echo", "echo"] == 3
    assert told["sandgate_ledger_records_total",] == 10


async def test_a_refused_policy_is_told_until_a_sound_one_takes_its_place(tmp_path: Path) -> None:
    file = tmp_path / "new.yaml"
    async with scraped(tmp_path) as (http, gateway):
        reloader = Reloader(gateway, file, list[str]().append)
        before = await samples(http)
        file.write_text("version: 1\nrulez: []\n")
        await reloader.reload()
        refused = await samples(http)
        file.write_text("version: 1\nrules: []\n")
        await reloader.reload()
        after = await samples(http)
    for told, wrong, counts in ((before, 0, (0, 0)), (refused, 1, (0, 1)), (after, 0, (1, 1))):
        assert told["sandgate_policy_refused", "echo"] == wrong
        reloads = [told["sandgate_policy_reloads_total", "echo", how] for how in ("in_force", "refused")]
        assert tuple(reloads) == counts
    since = [told["sandgate_policy_since_timestamp_seconds", "echo"] for told in (before, refused, after)]
    assert 1_700_000_000 < since[0] == since[1] < since[2]


async def test_sessions_sandboxes_and_the_ledger_are_told_as_they_are_now(tmp_path: Path) -> None:
    async with scraped(tmp_path) as (http, gateway):
        session = await gateway.open_session("twin", LOCAL)
        before = await samples(http)
        await call(gateway, session, "echo", text="hi")
        during = await samples(http)
        await gateway.close_session(session)
        after = await samples(http)
        await gateway.drain()
        drained = await samples(http)
    assert [told["sandgate_sessions", "twin"] for told in (before, during, after)] == [1, 1, 0]
    assert ("sandgate_sandboxes", "twin", "echo") not in before
    assert during["sandgate_sandboxes", "twin", "echo"] == 1
    assert ("sandgate_sandboxes", "twin", "echo") not in after
    assert (before["sandgate_sessions", "echo"], before["sandgate_warm_leases", "echo"]) == (0, 0)
    assert (after["sandgate_ledger_healthy",], after["sandgate_draining",]) == (1, 0)
    assert (drained["sandgate_ready",], drained["sandgate_draining",]) == (0, 1)


@pytest.mark.parametrize("accept", ["", "text/plain; version=0.0.4", OPENMETRICS])
async def test_both_formats_of_prometheus_are_spoken(tmp_path: Path, accept: str) -> None:
    async with scraped(tmp_path) as (http, gateway):
        session = await gateway.open_session("echo", LOCAL)
        await call(gateway, session, "echo", text="hi")
        answer = await http.get("/metrics", headers={"accept": accept})
    parse = parse_openmetrics if accept == OPENMETRICS else parse_text
    families: dict[str, Metric] = {family.name: family for family in parse(answer.text)}
    buckets = [sample.value for sample in families["sandgate_call_duration_seconds"].samples[:-2]]
    assert (buckets == sorted(buckets), buckets[-1]) == (True, 1)
    assert answer.headers["content-type"].startswith(accept.partition(";")[0] or "text/plain")
    assert "process_resident_memory_bytes" in families


async def test_nothing_of_a_caller_is_in_it(tmp_path: Path) -> None:
    async with scraped(tmp_path) as (http, gateway):
        session = await gateway.open_session("echo", LOCAL)
        await call(gateway, session, "echo", text="s3cret-argument")
        await call(gateway, session, "s3cret-tool\x1b[31m", text="x")
        text = (await http.get("/metrics")).text
    assert "s3cret" not in text
    assert session.id not in text


async def test_it_needs_the_role_of_a_monitor_or_an_admin(tmp_path: Path) -> None:
    roles = ("agent", "orchestrator", "monitor", "admin")
    lines = [
        f'  - {{sha256: "{hashlib.sha256(role.encode()).hexdigest()}", principal: {role}, roles: [{role}]}}'
        for role in roles
    ]
    identity = load_identity("version: 1\ntokens:\n" + "\n".join(lines) + "\n", "auth.yaml")
    async with scraped(tmp_path, identity) as (http, _):
        answers = [
            (await http.get("/metrics", headers={"authorization": f"Bearer {role}"})).status_code
            for role in roles
        ]
        stranger = await http.get("/metrics")
        monitor = {"authorization": "Bearer monitor"}
        elsewhere = [
            (await http.get("/api/approvals", headers=monitor)).json(),
            (await http.post("/mcp", json={}, headers=monitor)).status_code,
        ]
    assert (answers, stranger.status_code) == ([403, 403, 200, 200], 401)
    assert elsewhere == [[], 403]
