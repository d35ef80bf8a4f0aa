"""The table of `policy_meaning.yaml`: what policies mean, through the real gateway, sandbox and server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from gateway.core.calls import LOCAL, Answered, Front, Principal, Role, ToolCall
from gateway.core.policy import compile_policy, load_policy
from gateway.core.policy.model import Matchers
from gateway.runtime.audit import verify
from gateway.runtime.gateway import Gateway, GatewaySettings
from gateway.runtime.sessions import new_call_id
from tests.support.gateways import served

TABLE: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("policy_meaning.yaml").read_text())
NOT_POLICY = {"says", "mode", "prompt", "who", "lists", "calls"}


def policy_of(entry: dict[str, Any], number: int) -> Any:
    parts = {key: value for key, value in entry.items() if key not in NOT_POLICY}
    text = yaml.safe_dump({"version": 1, **parts}, sort_keys=False, allow_unicode=True)
    return compile_policy(load_policy(text, f"entry-{number}.yaml"))


def principal_of(entry: dict[str, Any]) -> Principal:
    who = entry.get("who")
    if who is None:
        return LOCAL
    roles = frozenset({Role.AGENT})
    return Principal(who["name"], user=who["user"], groups=frozenset(who["groups"]), roles=roles)


async def approve(gateway: Gateway) -> None:
    (waiting,) = gateway.approvals.listed(LOCAL)
    await gateway.approvals.answer(str(waiting["id"]), LOCAL, approve=True)


def differences(step: list[Any], outcome: Any) -> Iterator[str]:
    expected: str = step[2]
    more: dict[str, Any] = step[3] if len(step) > 3 else {}
    code = outcome.decision.code.value
    if code != expected:
        yield f"{step[:2]}: expected {expected}, got {code}: {outcome.decision.reason}"
    result: Any = outcome.result if isinstance(outcome, Answered) else None
    if expected in ("rule_allow", "approved") and result is None and "saw" not in more:
        yield f"{step[:2]}: allowed, and never answered: {outcome}"
    if "got" in more and (got := result and result["structuredContent"]["got"]) != more["got"]:
        yield f"{step[:2]}: the server got {got}"
    if "saw" in more and (saw := result and result["content"][0]["text"]) != more["saw"]:
        yield f"{step[:2]}: the caller saw {saw!r}"


async def played(gateway: Gateway, entry: dict[str, Any], number: int) -> list[str]:
    in_force = gateway.packs["box"].in_force
    in_force.swap(policy_of(entry, number))
    session = await gateway.open_session("box", principal_of(entry), prompt=entry.get("prompt", ""))
    found: list[str] = []
    listed = [tool["name"] for tool in session.tools()]
    if "lists" in entry and listed != entry["lists"]:
        found.append(f"lists {listed}")
    for step in entry["calls"]:
        if step == "approve":
            await approve(gateway)
        elif step == "reload":
            in_force.swap(policy_of(entry, number))
        else:
            call = ToolCall(new_call_id(), step[0], step[1], Front.CLI)
            found += differences(step, await gateway.call(session, call))
    for waiting in gateway.approvals.listed(LOCAL):
        await gateway.approvals.answer(str(waiting["id"]), LOCAL, approve=False)
    await gateway.close_session(session)
    return found


@pytest.mark.parametrize("mode", ["deployment", "training"])
async def test_every_sentence_and_matcher_means_what_the_table_says(tmp_path: Path, mode: Any) -> None:
    entries = [entry for entry in TABLE if entry.get("mode", "deployment") == mode]
    failed: dict[str, list[str]] = {}
    settings = GatewaySettings(mode=mode, max_sessions_per_principal=len(TABLE))
    async with served(tmp_path, pack="box", policy="version: 1\nrules: []\n", settings=settings) as gateway:
        gateway.approvals.expect_answers()
        for number, entry in enumerate(entries):
            if found := await played(gateway, entry, number):
                failed[entry["says"]] = found
    assert failed == {}
    assert verify(tmp_path / "state").ok


def test_the_table_has_every_sentence_of_the_meaning() -> None:
    numbered = {entry["says"].partition(".")[0] for entry in TABLE}
    assert [number for number in range(1, 13) if str(number) not in numbered] == []


def test_the_table_has_every_matcher_each_way() -> None:
    known = {field.alias or name for name, field in Matchers.model_fields.items()}
    codes: dict[str, set[bool]] = {}
    for entry in TABLE:
        steps: list[Any] = [step for step in entry["calls"] if step not in ("approve", "reload")]
        ways = {bool(step[2] == "rule_allow") for step in steps}
        for rule in entry["rules"]:
            for matcher in _written(rule.get("args", {})) & known:
                codes.setdefault(matcher, set()).update(ways)
    assert {matcher for matcher in known if codes.get(matcher) != {True, False}} == set()


def _written(value: Any) -> set[str]:
    if not isinstance(value, dict):
        return set()
    parts = cast("dict[str, Any]", value)
    return {name for part in parts.values() for name in _written(part)} | parts.keys()
