"""Every front leads down the same path: one script of calls, equal ledgers but for front and ids."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect

from gateway.runtime.audit import verify
from tests.support.gateways import copy_pack
from tests.support.mcp_http import LEGACY, MODERN, RawMcp
from tests.support.processes import run_sandgate, serving

Call = tuple[str, dict[str, Any]]

SCRIPT: list[Call] = [
    ("echo", {"text": "hello"}),
    ("echo", {"text": "naïve 🙂 \u2028"}),
    ("structured", {"value": 123456789012345678901}),
    ("write", {"path": "a/../b.txt", "content": "x"}),
    ("read", {"path": "/workspace/README.md"}),
    ("read", {"path": "/workspace/../etc/passwd"}),
    ("read", {"path": "/workspace/.env"}),
    ("read", {"path": ["/workspace/README.md"]}),
    ("echo", {"text": "x", "sudo": True}),
    ("echo", {}),
    ("hidden", {"text": "x"}),
    ("no_such_tool", {}),
    ("fail", {"message": "as asked"}),
    ("rpc_error", {"code": -32077}),
]

OWN_TO_A_RUN = {
    "seq",
    "ts",
    "boot_id",
    "call_id",
    "session",
    "episode",
    "step",
    "front",
    "sandbox",
    "prev",
    "hash",
}


async def over_mcp(url: str, era: str) -> None:
    async with httpx2.AsyncClient(timeout=30) as http:
        client = RawMcp(http, f"{url}/mcp")
        for tool, arguments in SCRIPT:
            await client.call(era, tool, **arguments)


async def over_legacy(url: str) -> None:
    await over_mcp(url, LEGACY)


async def over_modern(url: str) -> None:
    await over_mcp(url, MODERN)


def action(call: Call) -> dict[str, Any]:
    return {"type": "call_tool", "tool_name": call[0], "arguments": call[1]}


async def over_websocket(url: str) -> None:
    async with connect(url.replace("http", "ws") + "/ws") as socket:
        await socket.send(json.dumps({"type": "reset", "data": {}}))
        assert json.loads(await socket.recv())["type"] == "observation"
        for call in SCRIPT:
            await socket.send(json.dumps({"type": "step", "data": action(call)}))
            assert json.loads(await socket.recv())["type"] == "observation"


async def over_code(url: str) -> None:
    calls = "\n".join(
        f"try:\n    call_tool({tool!r}, {arguments!r})\nexcept ToolError: pass" for tool, arguments in SCRIPT
    )
    async with httpx2.AsyncClient(timeout=30) as http:
        step = (await http.post(f"{url}/step", json={"action": {"type": "code", "code": calls}})).json()
    assert [call["tool"] for call in step["observation"]["calls"]] == [tool for tool, _ in SCRIPT]


async def over_http_step(url: str) -> None:
    async with httpx2.AsyncClient(timeout=30) as http:
        reset = await http.post(f"{url}/reset", json={})
        session = reset.headers["x-session-id"]
        for call in SCRIPT:
            body = {"action": action(call)}
            answer = await http.post(f"{url}/step", json=body, headers={"x-session-id": session})
            assert answer.status_code == 200


async def over_the_dialect(url: str) -> None:
    async def ask(method: str, **params: Any) -> dict[str, Any]:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return (await http.post(f"{url}/mcp", json=body)).json()

    async with httpx2.AsyncClient(timeout=30) as http:
        session = (await ask("openenv/session/create"))["result"]["session_id"]
        for tool, arguments in SCRIPT:
            await ask("tools/call", session_id=session, name=tool, arguments=arguments)


FRONTS: dict[str, Callable[[str], Awaitable[None]]] = {
    "MCP legacy": over_legacy,
    "MCP modern": over_modern,
    "WebSocket": over_websocket,
    "HTTP step": over_http_step,
    "CodeAct": over_code,
    "MCP dialect": over_the_dialect,
}


def prepare(tmp_path: Path, name: str) -> tuple[str, Path]:
    """Return a pack with room for the whole script in one episode, and a state folder with a fixed key."""
    folder = copy_pack("echo", tmp_path).folder
    manifest = folder / "toolpack.yaml"
    text = manifest.read_text().replace("max_steps: 8, max_denials: 3", "max_steps: 100, max_denials: 100")
    manifest.write_text(text)
    state = tmp_path / name
    state.mkdir(mode=0o700)
    (state / "audit.key").write_text("5a" * 32 + "\n")
    (state / "audit.key").chmod(0o600)
    return str(folder), state


def ledger(state: Path) -> list[dict[str, Any]]:
    """Return the records of calls, without what is each run's own."""
    assert verify(state).ok
    files = sorted((state / "audit").glob("*.jsonl"))
    lines = [line for file in files for line in file.read_text().split("\n") if line]
    return [
        comparable(record) for record in map(json.loads, lines) if record["event"] in ("decision", "outcome")
    ]


def comparable(record: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in record.items() if key not in OWN_TO_A_RUN}
    for part, own in (("decision", "call_id"), ("outcome", "ms")):
        if kept.get(part):
            kept[part] = {key: value for key, value in kept[part].items() if key != own}
    return kept


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The ledger of the script through `sandgate call`, one process a call."""
    tmp_path = tmp_path_factory.mktemp("cli")
    pack, state = prepare(tmp_path, "state")
    for tool, arguments in SCRIPT:
        done = run_sandgate(
            "call",
            pack,
            tool,
            "--args",
            json.dumps(arguments),
            "--state",
            str(state),
            env={"SANDGATE_MODE": "training"},
        )
        assert done.returncode in (0, 1), done.stderr
    return ledger(state)


def test_the_script_leaves_a_decision_and_an_outcome_per_call(expected: list[dict[str, Any]]) -> None:
    assert [record["event"] for record in expected] == ["decision", "outcome"] * len(SCRIPT)
    kinds = [record["outcome"]["kind"] for record in expected[1::2]]
    assert kinds == ["answered"] * 5 + ["denied"] * 7 + ["answered", "failed"]


@pytest.mark.parametrize("front", FRONTS)
async def test_every_front_leaves_the_ledger_that_the_command_line_leaves(
    front: str, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    pack, state = prepare(tmp_path, "state")
    with serving(pack, "--mode", "training", "--state", str(state)) as gateway:
        await FRONTS[front](gateway.url)
    assert ledger(state) == expected
