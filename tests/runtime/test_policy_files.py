"""Policies about a session's files and about what is recorded, through the real gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.core.calls import LOCAL, Answered, Front, ToolCall
from gateway.runtime import audit
from gateway.runtime.gateway import Gateway, GatewaySettings
from gateway.runtime.sessions import Session, new_call_id
from tests.support.gateways import served

LINKS = """\
version: 1
rules:
  - {id: make, allow: echo.link}
  - {id: write, allow: echo.write, args: {path: {under: /workspace}}}
  - {id: read, allow: echo.read, args: {path: {under: /workspace, symlinks: deny}}}
"""


async def call(gateway: Gateway, session: Session, tool: str, **arguments: Any) -> Any:
    return await gateway.call(session, ToolCall(new_call_id(), tool, arguments, Front.CLI))


def code(outcome: Any) -> str:
    return outcome.decision.code.value


async def test_a_link_that_the_tool_itself_made_is_seen_before_the_next_call(tmp_path: Path) -> None:
    async with served(tmp_path, policy=LINKS) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        await call(gateway, session, "write", path="docs/a.txt", content="x")
        assert code(await call(gateway, session, "read", path="docs/a.txt")) == "rule_allow"
        assert code(await call(gateway, session, "read", path="docs/new.txt")) == "rule_allow"
        for target, path in (("/etc", "etc"), ("docs", "inner"), ("a.txt", "docs/b.txt"), ("gone", "gone")):
            made = await call(gateway, session, "link", path=path, target=target)
            assert isinstance(made, Answered), made
        for path in ("etc/passwd", "inner/a.txt", "docs/b.txt", "gone", "/workspace/etc"):
            denied = await call(gateway, session, "read", path=path)
            assert (code(denied), "symlinks" in denied.decision.reason) == ("no_match", True), path
        assert code(await call(gateway, session, "read", path="docs/a.txt")) == "rule_allow"
    assert audit.verify(tmp_path / "state").ok


AUDIT = """\
version: 1
rules: [{id: all, allow: "echo.*"}]
audit: {arguments: plain, tool: [echo.write]}
"""
SECRET = "the-operators-own"


async def test_the_ledger_shows_the_arguments_a_policy_names_and_never_the_operators_secrets(
    tmp_path: Path,
) -> None:
    async with served(tmp_path, policy=AUDIT, secrets={"TOKEN": SECRET}) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        await call(gateway, session, "write", path="a.txt", content=f"key={SECRET}")
        await call(gateway, session, "echo", text="not shown")
    records = {str(r["tool"]): r for r in audit.query(tmp_path / "state") if r["event"] == "decision"}
    shown: Any = records["write"]["arguments"]
    assert shown["plain"] == {"path": "/workspace/a.txt", "content": "key=[secret]"}
    hidden: Any = records["echo"]["arguments"]
    assert hidden.keys() == {"shape", "hmac"}
    assert SECRET not in "".join(file.read_text() for file in (tmp_path / "state" / "audit").glob("*"))


DICE = """\
version: 1
rules: [{id: look, ask: echo.echo}]
modes: {training: {ask: {approver: {probability: 0.5, seed: 3}}}}
"""


async def _played(gateway: Gateway, seed: int, calls: int = 12) -> list[str]:
    session = await gateway.open_session("echo", LOCAL, episode_seed=seed)
    codes = [code(await call(gateway, session, "echo", text="x")) for _ in range(calls)]
    await gateway.close_session(session)
    return codes


async def test_dice_answer_the_asks_of_training_alike_for_the_same_episode(tmp_path: Path) -> None:
    async with served(tmp_path, policy=DICE, settings=GatewaySettings(mode="training")) as gateway:
        first, other, again = [await _played(gateway, seed) for seed in (1, 2, 1)]
        assert first == again
        assert first != other
        assert set(first) == {"approved", "approval_denied"}
        session = await gateway.open_session("echo", LOCAL, episode_seed=1)
        reasons = [(await call(gateway, session, "echo", text="x")).decision.reason for _ in range(2)]
        assert all("'seeded approver'" in r or "the seeded approver denied" in r for r in reasons)
    records = [r for r in audit.query(tmp_path / "state") if r["call_id"]]
    assert [r["event"] for r in records[:4]] == ["decision", "approval", "decision", "outcome"]
    assert audit.verify(tmp_path / "state").ok


CLEARS = """\
version: 1
rules:
  - {id: use, allow: ["echo.*"]}
  - {id: no-send, deny: echo.write, if_labels: {any: [untrusted]}}
  - {id: review, ask: echo.log, approve: {clears: [untrusted]}}
labels: [{tool: echo.echo, adds: [untrusted, seen]}]
modes: {training: {ask: {approver: {probability: 1}}}}
"""


async def test_an_approval_clears_the_labels_its_rule_names_and_no_others(tmp_path: Path) -> None:
    async with served(tmp_path, policy=CLEARS, settings=GatewaySettings(mode="training")) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        await call(gateway, session, "echo", text="from outside")
        assert code(await call(gateway, session, "write", path="a", content="")) == "label_deny"
        assert code(await call(gateway, session, "log")) == "approved"
        assert session.machine.state.labels == {"seen"}
        assert code(await call(gateway, session, "write", path="a", content="")) == "rule_allow"
        await call(gateway, session, "echo", text="once more")
        assert code(await call(gateway, session, "write", path="a", content="")) == "label_deny"
