"""The lane of `tools/call` beside the road that everything else takes: the same answers, only sooner."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from gateway.runtime.gateway import Gateway, GatewaySettings
from gateway.serve.app import build_app
from gateway.serve.gate import GateLimits
from gateway.serve.identity import LOCAL_IDENTITY
from gateway.serve.mcp.quick import QuickCalls
from gateway.serve.security import HttpSecurity
from tests.support.http_serving import open_echo_packs, running
from tests.support.mcp_http import LEGACY, MODERN, RawMcp, modern_meta

ERAS = [LEGACY, MODERN]
OWN = {"date", "mcp-session-id", "content-length"}


@dataclass
class Roads:
    """One gateway behind two servers: `lane` has the lane, `road` has not. `taken` are the lane's calls."""

    lane: RawMcp
    road: RawMcp
    gateway: Gateway
    taken: list[str]

    async def warm(self, era: str) -> None:
        """Have a session open on both, so that the lane may take calls."""
        for mcp in (self.lane, self.road):
            await mcp.call(era, "echo", text="first")
        self.taken.clear()


@asynccontextmanager
async def both_roads(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *packs: str,
    settings: GatewaySettings | None = None,
    limits: GateLimits | None = None,
) -> AsyncGenerator[Roads]:
    taken: list[str] = []
    answer = QuickCalls.answer

    async def noted(self: QuickCalls, quick: Any, stream: Any) -> Any:
        taken.append(quick.name)
        return await answer(self, quick, stream)

    monkeypatch.setattr(QuickCalls, "answer", noted)
    async with open_echo_packs(tmp_path, *(packs or ("echo",)), settings=settings) as gateway:
        security = HttpSecurity.bound_to("127.0.0.1")
        apps = [
            build_app(gateway, identity=LOCAL_IDENTITY, security=security, limits=limits, lane=lane)
            for lane in (True, False)
        ]
        async with (
            running(apps[0], gateway) as fast,
            running(apps[1], gateway) as slow,
            httpx2.AsyncClient(timeout=10) as http,
        ):
            yield Roads(RawMcp(http, fast + "/mcp"), RawMcp(http, slow + "/mcp"), gateway, taken)


def shown(answer: httpx2.Response) -> Any:
    """Return all of an answer that does not differ from call to call."""
    body = answer.json() if answer.content else None
    text = json.dumps(body, sort_keys=True)
    for decision in _decisions(body):
        text = text.replace(decision["call_id"], "call")
    return answer.status_code, {k: v for k, v in answer.headers.items() if k not in OWN}, json.loads(text)


def _decisions(value: Any) -> list[Any]:
    if isinstance(value, dict):
        items: list[Any] = list(value.values())  # pyright: ignore[reportUnknownArgumentType]
        return [value] if "call_id" in value else [found for item in items for found in _decisions(item)]
    if isinstance(value, list):
        entries: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
        return [found for item in entries for found in _decisions(item)]
    return []


async def in_flight(gateway: Gateway, number: int) -> None:
    """Return once so many calls are on their way."""
    with anyio.fail_after(5):
        while gateway.in_flight != number:  # noqa: ASYNC110  nothing announces it
            await anyio.sleep(0.01)


def call_of(tool: str, arguments: Any, meta: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    params: dict[str, Any] = {"name": tool, "arguments": arguments, **more}
    return params if meta is None else {**params, "_meta": dict(meta)}


PLAIN: list[tuple[str, Any]] = [
    ("echo", {"text": "hello"}),
    ("echo", {"text": "naïve 🙂 \u2028 \u0000"}),
    ("echo", {"text": "x" * 70_000}),
    ("structured", {"value": 123456789012345678901}),
    ("write", {"path": "a/../b.txt", "content": "x"}),
    ("read", {"path": "/workspace/../etc/passwd"}),
    ("echo", {"text": "x", "sudo": True}),
    ("echo", {"text": "a forbidden word"}),
    ("echo", None),
    ("hidden", {"text": "x"}),
    ("no_such_tool", {}),
    ("fail", {"message": "as asked"}),
    ("rpc_error", {"code": -32077}),
    ("rpc_error", {"code": -32602}),
]


@pytest.mark.parametrize("era", ERAS)
async def test_plain_calls_are_taken_and_answered_as_on_the_road(
    era: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with both_roads(tmp_path, monkeypatch) as roads:
        await roads.warm(era)
        for tool, arguments in PLAIN:
            params = call_of(tool, arguments)
            fast = await roads.lane.send(era, "tools/call", params)
            slow = await roads.road.send(era, "tools/call", params)
            assert shown(fast) == shown(slow), tool
    assert roads.taken == [tool for tool, _ in PLAIN]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("what", "params"),
    [
        ("arguments of another shape", call_of("echo", [1])),
        ("a name that is no text", {"name": 1, "arguments": {}}),
        ("a progress token that is none", call_of("echo", {"text": "x"}, {"progressToken": [7]})),
        ("an answer to a question", call_of("echo", {"text": "x"}, inputResponses={}, requestState="s")),
    ],
)
async def test_calls_out_of_the_ordinary_are_left_to_the_road(
    era: str, what: str, params: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with both_roads(tmp_path, monkeypatch) as roads:
        await roads.warm(era)
        fast, slow = [await mcp.send(era, "tools/call", params) for mcp in (roads.lane, roads.road)]
        assert shown(fast) == shown(slow), what
    assert roads.taken == []


BODY = {"jsonrpc": "2.0", "id": 5, "method": "tools/call"}
GOOD = {"name": "echo", "arguments": {"text": "x"}, "_meta": modern_meta()}
OTHER = modern_meta(**{"io.modelcontextprotocol/protocolVersion": "x"})
ODD: dict[str, tuple[dict[str, str], bytes]] = {
    "another host": ({"host": "evil.example"}, b""),
    "another page": ({"origin": "https://evil.example"}, b""),
    "no JSON": ({"content-type": "text/plain"}, b""),
    "compressed": ({"content-encoding": "gzip"}, b""),
    "nothing accepted": ({"accept": "text/html"}, b""),
    "another method in the header": ({"mcp-method": "tools/list"}, b""),
    "another name in the header": ({"mcp-name": "write"}, b""),
    "another version in the header": ({"mcp-protocol-version": "2027-01-01"}, b""),
    "a name that is no name": ({"sandgate-session": "a b"}, b""),
    "an argument in a header": ({"mcp-param-text": "y"}, b""),
    "a duplicate key": ({}, b'{"jsonrpc":"2.0","id":5,"id":6,"method":"tools/call"}'),
    "a batch": ({}, json.dumps([{**BODY, "params": GOOD}]).encode()),
    "no params": ({}, json.dumps(BODY).encode()),
    "a boolean for an id": ({}, json.dumps({**BODY, "id": True, "params": GOOD}).encode()),
    "another JSON-RPC": ({}, json.dumps({**BODY, "jsonrpc": "1.0", "params": GOOD}).encode()),
    "no envelope": ({}, json.dumps({**BODY, "params": {"name": "echo"}}).encode()),
    "an envelope of another version": (
        {},
        json.dumps(
            {
                **BODY,
                "params": {
                    **GOOD,
                    "_meta": {**modern_meta(), "io.modelcontextprotocol/protocolVersion": "x"},
                },
            }
        ).encode(),
    ),
}


async def test_what_is_refused_is_refused_in_the_roads_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with both_roads(tmp_path, monkeypatch) as roads:
        await roads.warm(MODERN)
        for what, (headers, body) in ODD.items():
            answers: list[Any] = []
            for mcp in (roads.lane, roads.road):
                mirror = {**mcp.modern_headers("tools/call", GOOD), **headers}
                answers.append(
                    shown(await mcp.post(body or json.dumps({**BODY, "params": GOOD}).encode(), mirror))
                )
            assert answers[0] == answers[1], what
            assert answers[0][0] >= 400 or what == "an argument in a header", what
    assert roads.taken == []


async def test_an_oversize_body_gets_its_413(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with both_roads(tmp_path, monkeypatch, limits=GateLimits(max_body=50_000)) as roads:
        await roads.warm(MODERN)
        fast, slow = [await mcp.call(MODERN, "echo", text="x" * 60_000) for mcp in (roads.lane, roads.road)]
        assert fast.status_code == slow.status_code == 413
    assert roads.taken == []


async def test_a_session_that_is_not_ones_own_is_unknown_in_the_lane_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with both_roads(tmp_path, monkeypatch) as roads:
        await roads.warm(LEGACY)
        roads.lane.session_id = "0" * 32
        assert (await roads.lane.call(LEGACY, "echo", text="x")).status_code == 404
        roads.lane.session_id = "local:0:x"
        assert (await roads.lane.call(LEGACY, "echo", text="x")).status_code == 404
    assert roads.taken == []


async def test_names_lead_to_their_packs_in_the_lane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with both_roads(tmp_path, monkeypatch, "one", "two") as roads:
        for mcp in (roads.lane, roads.road):
            for pack in ("one", "two"):
                await mcp.call(MODERN, f"{pack}__echo", text="first")
        for name in ("one__echo", "two__echo", "echo"):
            fast, slow = [await mcp.call(MODERN, name, text=name) for mcp in (roads.lane, roads.road)]
            assert shown(fast) == shown(slow), name
    assert roads.taken[-3:] == ["one__echo", "two__echo", "echo"]


async def test_a_caller_that_leaves_cancels_its_modern_call_and_not_its_legacy_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with both_roads(tmp_path, monkeypatch) as roads:
        for era in ERAS:
            await roads.warm(era)
            async with httpx2.AsyncClient(timeout=0.3) as hasty:
                mcp = RawMcp(hasty, roads.lane.url, session_id=roads.lane.session_id)
                with pytest.raises(httpx2.ReadTimeout):
                    await mcp.call(era, "sleep", seconds=1.5)
            assert roads.taken == ["sleep"]
            await in_flight(roads.gateway, 0)
    outcomes = [
        json.loads(line)["outcome"]["kind"]
        for file in sorted((tmp_path / "state" / "audit").glob("*.jsonl"))
        for line in file.read_text().splitlines()
        if '"event":"outcome"' in line and '"sleep"' in line
    ]
    assert outcomes == ["answered", "failed"]


async def test_a_cancelled_legacy_call_is_answered_as_on_the_road(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with both_roads(tmp_path, monkeypatch) as roads:
        await roads.warm(LEGACY)
        body = {**BODY, "id": 99, "params": {"name": "sleep", "arguments": {"seconds": 4}}}
        note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99}}
        answers: list[Any] = []

        async def ask(mcp: RawMcp) -> None:
            answers.append(shown(await mcp.post(json.dumps(body).encode(), mcp.legacy_headers())))

        with anyio.fail_after(3):
            async with anyio.create_task_group() as tasks:
                for mcp in (roads.lane, roads.road):
                    tasks.start_soon(ask, mcp)
                await in_flight(roads.gateway, 2)
                for mcp in (roads.lane, roads.road):
                    await mcp.post(json.dumps(note).encode(), mcp.legacy_headers())
        assert answers[0] == answers[1]
        assert "error" in answers[0][2]
    assert roads.taken == ["sleep"]


async def test_the_sdk_hears_of_a_busy_session_often_enough_to_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = GatewaySettings(session_idle=1.2)
    async with both_roads(tmp_path, monkeypatch, settings=settings) as roads:
        await roads.lane.call(LEGACY, "echo", text="first")
        with anyio.move_on_after(3):
            while True:
                assert (await roads.lane.call(LEGACY, "echo", text="x")).status_code == 200
                await anyio.sleep(0.05)
    assert len(roads.taken) > 10
