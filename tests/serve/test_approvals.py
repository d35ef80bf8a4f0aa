"""`/api/approvals` at a real gateway: what waits, who may answer, what an answer does; and the commands."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import pytest

from gateway.core.calls import LOCAL
from gateway.runtime.audit import query, verify
from gateway.serve.identity import LOCAL_IDENTITY, Identity, load_identity
from tests.support.asking import asking
from tests.support.mcp_http import LEGACY, MODERN, RawMcp, texts
from tests.support.people import token_entry
from tests.support.processes import run_sandgate

WRITE: dict[str, Any] = {"path": "a.txt", "content": "x"}


def people() -> Identity:
    entries = [
        token_entry("bot", "agent"),
        token_entry("lead", "agent"),
        token_entry("root", "admin"),
        token_entry("trainer", "orchestrator"),
    ]
    return load_identity("version: 1\ntokens:\n" + "".join(entries), "auth.yaml")


@asynccontextmanager
async def desk(
    tmp_path: Path, identity: Identity = LOCAL_IDENTITY
) -> AsyncGenerator[tuple[RawMcp, httpx2.AsyncClient]]:
    """Serve a gateway that asks; yields the caller and a client without a token."""
    async with (
        asking(tmp_path, identity=identity) as (url, _),
        httpx2.AsyncClient(base_url=url, timeout=15) as http,
    ):
        yield RawMcp(http, f"{url}/mcp", token=None if identity is LOCAL_IDENTITY else "bot"), http


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


def code(answer: httpx2.Response) -> str:
    return answer.json()["result"]["_meta"]["sandgate/decision"]["code"]


@pytest.mark.parametrize("era", [LEGACY, MODERN])
async def test_a_pending_call_passes_once_when_it_is_made_again_after_approval(
    tmp_path: Path, era: str
) -> None:
    async with desk(tmp_path) as (caller, http):
        first = await caller.call(era, "write", **WRITE)
        (waiting,) = (await http.get("/api/approvals")).json()
        assert (code(first), waiting["id"] in texts(first)) == ("approval_pending", True)
        assert (waiting["tool"], waiting["arguments"]["path"]) == ("echo.write", "/workspace/a.txt")
        said = await http.post(f"/api/approvals/{waiting['id']}", json={"decision": "approve"})
        assert (said.status_code, said.json()["state"]) == (200, "approved")
        other = await caller.call(era, "write", path="b.txt", content="x")
        # The same canonical arguments, spelled in another way.
        second = await caller.call(era, "write", path="/workspace/c/../a.txt", content="x")
        third = await caller.call(era, "write", **WRITE)
    assert [code(answer) for answer in (other, second, third)] == [
        "approval_pending",
        "approved",
        "approval_pending",
    ]
    assert second.json()["result"].get("isError", False) is False
    assert verify(tmp_path / "state").ok
    records = list(query(tmp_path / "state"))
    assert [record["event"] for record in records].count("approval") == 1
    told = [record["decision"] for record in records if record["event"] != "outcome"]
    assert [(d["effect"], d["code"]) for d in told if isinstance(d, dict)][:3] == [
        ("ask", "approval_pending"),
        ("deny", "approval_pending"),
        ("allow", "approved"),
    ]


async def test_a_waiting_call_is_answered_while_it_waits(tmp_path: Path) -> None:
    async with desk(tmp_path) as (caller, http):
        answers: list[str] = []

        async def call(text: str) -> None:
            answers.append(code(await caller.call(MODERN, "echo", text=text)))

        for text, decision in (("a", "approve"), ("b", "deny")):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call, text)
                waiting = await shown(http)
                await http.post(f"/api/approvals/{waiting['id']}", json={"decision": decision})
        assert answers == ["approved", "approval_denied"]


async def test_a_gateway_that_drains_does_not_wait_for_approvals(tmp_path: Path) -> None:
    async with asking(tmp_path) as (url, gateway), httpx2.AsyncClient(timeout=15) as http:
        caller, answers = RawMcp(http, f"{url}/mcp"), list[str]()

        async def call() -> None:
            answers.append(code(await caller.call(MODERN, "echo", text="x")))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            with anyio.fail_after(10):
                while not gateway.approvals.listed(LOCAL):
                    await anyio.lowlevel.checkpoint()
                await gateway.drain()
    assert answers == ["approval_expired"]


async def shown(http: httpx2.AsyncClient) -> dict[str, Any]:
    """Return the one approval that waits, as soon as it does."""
    with anyio.fail_after(10):
        while not (waiting := (await http.get("/api/approvals")).json()):
            continue
    return waiting[0]


async def test_who_sees_and_who_may_answer(tmp_path: Path) -> None:
    async with desk(tmp_path, people()) as (caller, http):
        await caller.call(MODERN, "write", **WRITE)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: caller.call(MODERN, "structured", value=1))
            with anyio.fail_after(10):
                while len((await http.get("/api/approvals", headers=bearer("root"))).json()) < 2:
                    continue
            seen = {
                name: [w["rule"] for w in (await http.get("/api/approvals", headers=bearer(name))).json()]
                for name in ("root", "lead", "bot", "trainer")
            }
            assert seen == {
                "root": ["files", "structured"],
                "lead": ["structured"],
                "bot": [],
                "trainer": [],
            }
            assert (await http.get("/api/approvals")).status_code == 401
            files, structured = (
                f"/api/approvals/{w['id']}"
                for w in (await http.get("/api/approvals", headers=bearer("root"))).json()
            )
            yes = {"decision": "approve"}
            for path, name in ((files, "lead"), (files, "bot"), (structured, "bot"), (files, "trainer")):
                assert (await http.post(path, json=yes, headers=bearer(name))).status_code == 404
            assert (await http.post(structured, json=yes, headers=bearer("lead"))).status_code == 200
            assert (await http.post(files, json=yes, headers=bearer("root"))).status_code == 200
            assert (await http.post(files, json=yes, headers=bearer("root"))).status_code == 409


async def test_an_answer_is_json_from_this_origin_and_says_one_of_two_words(tmp_path: Path) -> None:
    async with desk(tmp_path) as (caller, http):
        await caller.call(MODERN, "write", **WRITE)
        path = f"/api/approvals/{(await shown(http))['id']}"
        yes = {"decision": "approve"}
        statuses = [
            (await http.post(path, json=yes, headers={"origin": "http://evil.example"})).status_code,
            (await http.post(path, json=yes, headers={"host": "evil.example"})).status_code,
            (await http.post(path, data=yes)).status_code,
            (
                await http.post(path, content=json.dumps(yes), headers={"content-type": "text/plain"})
            ).status_code,
            (await http.post(path, json={"decision": "maybe"})).status_code,
            (await http.post(path, json={"decision": True})).status_code,
            (await http.post(path, json={**yes, "arguments": {}})).status_code,
            (await http.post(path, json=["approve"])).status_code,
            (await http.get(path)).status_code,
            (await http.post("/api/approvals/appr_nope", json=yes)).status_code,
        ]
        assert statuses == [403, 403, 415, 415, 400, 400, 400, 400, 405, 404]
        assert (await shown(http))["state"] == "pending"


async def test_the_commands_list_approve_and_deny(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("root\n")

    async def approvals(*args: str) -> tuple[int, str, str]:
        ran = await anyio.to_thread.run_sync(
            lambda: run_sandgate("approvals", *args, "--url", url, "--token-file", str(token))
        )
        return ran.returncode, ran.stdout, ran.stderr

    async with desk(tmp_path, people()) as (caller, http):
        url = str(http.base_url).rstrip("/")
        assert await approvals("list") == (0, "nothing waits for an approval\n", "")
        await caller.call(MODERN, "write", **WRITE)
        await caller.call(MODERN, "write", path="b", content="\x1b[2J")
        status, out, _ = await approvals("list")
        assert (status, "bot calls echo echo.write, rule files" in out, "\x1b" in out) == (0, True, False)
        first, second = json.loads((await approvals("list", "--format", "json"))[1])
        status, out, _ = await approvals("approve", first["id"])
        assert (status, out.startswith(f"approved: {first['id']}")) == (0, True)
        assert (await approvals("deny", second["id"]))[0] == 0
        assert code(await caller.call(MODERN, "write", **WRITE)) == "approved"
        denied = await caller.call(MODERN, "write", path="b", content="\x1b[2J")
        assert code(denied) == "approval_denied"
        status, _, err = await approvals("approve", "appr_nope")
        assert (status, "no approval 'appr_nope' waits here" in err) == (1, True)
        token.write_text("who")
        status, _, err = await approvals("list")
        assert (status, "this token is not known here" in err) == (2, True)


def test_the_commands_say_where_no_gateway_answers() -> None:
    ran = run_sandgate("approvals", "list", "--url", "http://127.0.0.1:1")
    assert (ran.returncode, "no gateway answers here" in ran.stderr, "Traceback" in ran.stderr) == (
        2,
        True,
        False,
    )
    assert run_sandgate("approvals", "list", "--url", "file:///etc/passwd").returncode == 2
