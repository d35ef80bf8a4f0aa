"""What policies do beyond one call, through the real gateway: sandboxes, server and ledger included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.core.calls import LOCAL, Answered, Denied, Failed, FailureKind, Front, ToolCall
from gateway.errors import UsageError
from gateway.runtime.audit import verify
from gateway.runtime.gateway import Gateway, GatewaySettings
from gateway.runtime.sessions import Session, new_call_id
from tests.support.gateways import copy_pack, served

SECRET = "AKIA" + "IOSFODNN7EXAMPLE"


async def call(gateway: Gateway, session: Session, tool: str, **arguments: Any) -> Any:
    return await gateway.call(session, ToolCall(new_call_id(), tool, arguments, Front.CLI))


def text(outcome: Any) -> str:
    assert isinstance(outcome, Answered), outcome
    content: Any = outcome.result["content"]
    return content[0]["text"]


def code(outcome: Any) -> str:
    return outcome.decision.code.value


LABELS_AND_RESULTS = """\
version: 1
rules:
  - {id: all, allow: "echo.*"}
  - {id: no-send, deny: echo.write, if_labels: {all: [untrusted]}}
labels:
  - {tool: echo.echo, args: {text: {glob: "*page*"}}, adds: [untrusted]}
  - {tool: echo.rpc_error, adds: [failed]}
results:
  - {tool: "*", redact: [aws_key], max_bytes: 2KB}
"""


async def test_labels_and_result_rules_hold_on_the_one_path(tmp_path: Path) -> None:
    async with served(tmp_path, policy=LABELS_AND_RESULTS) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        other = await gateway.open_session("echo", LOCAL)
        assert code(await call(gateway, session, "write", path="a", content="x")) == "rule_allow"
        assert text(await call(gateway, session, "echo", text=f"a page with {SECRET}")) == (
            "a page with [redacted:aws_key]"
        )
        denied = await call(gateway, session, "write", path="a", content="x")
        assert isinstance(denied, Denied)
        assert (code(denied), denied.decision.rule) == ("label_deny", "no-send")
        assert code(await call(gateway, other, "write", path="a", content="x")) == "rule_allow"
        kept = await call(gateway, session, "echo", text="x" * 3000)
        assert isinstance(kept, Failed)
        assert (kept.kind, "2000 (test.yaml:" in kept.message) == (FailureKind.TOO_LARGE, True)
        failed = await call(gateway, session, "fail", message=SECRET)
        assert isinstance(failed, Answered)
        assert SECRET not in json.dumps(failed.result)
        await call(gateway, session, "rpc_error", code=-32099)
        assert session.machine.state.labels == {"untrusted", "failed"}
    assert verify(tmp_path / "state").ok


LIMITS = """\
version: 1
rules:
  - {id: few, allow: echo.echo, limit: {calls: 2}}
  - {id: paced, allow: echo.read, args: {path: {under: /workspace}}, limit: {rate: 1/h, per: principal}}
"""


async def test_limits_hold_in_a_session_and_across_the_gateway(tmp_path: Path) -> None:
    async with served(tmp_path, policy=LIMITS) as gateway:
        one, two = [await gateway.open_session("echo", LOCAL) for _ in range(2)]
        codes = [code(await call(gateway, one, "echo", text="x")) for _ in range(3)]
        assert codes == ["rule_allow", "rule_allow", "limit_exceeded"]
        assert code(await call(gateway, two, "echo", text="x")) == "rule_allow"
        assert code(await call(gateway, one, "read", path="/etc/passwd")) == "no_match"
        assert code(await call(gateway, one, "read", path="nothing-there")) == "rule_allow"
        spent = await call(gateway, two, "read", path="nothing-there")
        assert (code(spent), spent.decision.rule) == ("limit_exceeded", "paced")
        assert "1 calls in 3600s per principal" in spent.decision.reason


TRUST = """\
version: 1
vars: {known: [bob@example.com]}
rules:
  - {id: say-known, allow: echo.echo, args: {text: {from: [prompt, policy, "tool:echo.read"]}}}
  - {id: files, allow: [echo.read, echo.write], args: {path: {under: /workspace}}}
  - {id: after-write, allow: echo.log, when: "session.calls['echo.write'] > 0 && session.steps < 9"}
  - {id: nights, allow: echo.noise, hours: "Mon 03:00-03:01 Antarctica/Troll"}
"""


async def test_provenance_expressions_and_hours_hold_on_the_one_path(tmp_path: Path) -> None:
    async with served(tmp_path, policy=TRUST) as gateway:
        session = await gateway.open_session("echo", LOCAL, prompt="Tell ann@example.com.")
        assert code(await call(gateway, session, "echo", text="ann@example.com")) == "rule_allow"
        assert code(await call(gateway, session, "echo", text="bob@example.com")) == "rule_allow"
        assert code(await call(gateway, session, "echo", text="carl@example.com")) == "no_match"
        assert code(await call(gateway, session, "log")) == "no_match"
        await call(gateway, session, "write", path="note", content="carl@example.com")
        assert text(await call(gateway, session, "read", path="note")) == "carl@example.com"
        assert code(await call(gateway, session, "echo", text="carl@example.com")) == "rule_allow"
        assert code(await call(gateway, session, "log")) == "rule_allow"
        assert code(await call(gateway, session, "noise")) in ("invalid_arguments", "no_match")
        stranger = await gateway.open_session("echo", LOCAL)
        assert code(await call(gateway, stranger, "echo", text="carl@example.com")) == "no_match"


TRAINING = """\
version: 1
rules:
  - {id: first-steps, allow: echo.echo, hours: "Sat 00:00-00:01 UTC"}
  - {id: files, allow: [echo.read, echo.write], args: {path: {under: /workspace}}}
grants:
  echo: {memory: 128MB, pids: 16}
modes:
  training:
    clock: {virtual: {step: 20s}}
    rules: [{id: no-secrets-here, deny: "*", args: {"@path": {glob: "**/*.key"}}}]
"""


async def test_overlays_the_virtual_clock_and_grants_hold_on_the_one_path(tmp_path: Path) -> None:
    settings = GatewaySettings(mode="training")
    async with served(tmp_path, policy=TRAINING, settings=settings) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        codes = [code(await call(gateway, session, "echo", text="x")) for _ in range(4)]
        assert codes == ["rule_allow", "rule_allow", "no_match", "no_match"]
        denied = await call(gateway, session, "read", path="a.key")
        assert (code(denied), denied.decision.rule) == ("rule_deny", "no-secrets-here")
        spec = gateway.packs["echo"].plans["echo"].spec
        assert (spec.limits.memory, spec.limits.pids, spec.writable) == (128_000_000, 16, True)


async def test_a_server_that_is_granted_its_workspace_for_reading_cannot_write_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = "version: 1\nrules: []\ngrants: {echo: {mounts: {ro: /workspace}}}\n"
    with pytest.raises(UsageError, match="did not start"):
        async with served(tmp_path, policy=policy):
            pass
    assert "Read-only file system" in caplog.text  # where this server keeps its log


async def test_a_secret_that_is_not_granted_is_neither_asked_for_nor_given(tmp_path: Path) -> None:
    copy_pack("echo", tmp_path)
    manifest = tmp_path / "packs" / "echo" / "toolpack.yaml"
    manifest.write_text(manifest.read_text().replace("    kinds:", "    secrets: [TOKEN]\n    kinds:"))
    rules = "version: 1\nrules: [{id: env, allow: echo.env}]\n"
    with pytest.raises(UsageError, match="needs the secret TOKEN"):
        async with served(tmp_path, policy=rules):
            pass
    async with served(tmp_path, policy=rules + "grants: {echo: {}}\n") as gateway:
        session = await gateway.open_session("echo", LOCAL)
        assert "TOKEN" not in str(await call(gateway, session, "env", name="TOKEN"))
