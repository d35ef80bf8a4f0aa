"""The gateway as an MCP server on stdin and stdout."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.core.calls import Principal
from gateway.runtime.gateway import Gateway, GatewaySettings
from gateway.runtime.sessions import named_session_id
from gateway.serve.mcp.stdio import serve_stdio
from tests.support.http_serving import open_echo_packs, rule_line
from tests.support.mcp_http import LEGACY, MODERN, modern_meta

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}},
}


class Pipes:
    """A client's ends of the server's stdin and stdout."""

    def __init__(self, stdin: int, stdout: int) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.buffer = b""

    def write(self, data: bytes) -> None:
        os.write(self.stdin, data)

    def send(self, message: object) -> None:
        self.write(json.dumps(message).encode() + b"\n")

    async def line(self) -> Any:
        """Return the next message from the server, `None` at the end."""
        with anyio.fail_after(10):
            while b"\n" not in self.buffer:
                await anyio.wait_readable(self.stdout)
                data = os.read(self.stdout, 65_536)
                if not data:
                    return None
                self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line)

    async def ask(self, era: str, method: str, params: dict[str, Any] | None = None, id: Any = 1) -> Any:
        params = dict(params or {})
        if era == MODERN:
            params["_meta"] = modern_meta()
        self.send({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
        return await self.line()

    async def open(self, era: str) -> None:
        if era == LEGACY:
            self.send(INITIALIZE)
            assert (await self.line())["result"]["serverInfo"]["name"] == "sandgate"
            self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def end_input(self) -> None:
        os.close(self.stdin)
        self.stdin = -1

    def close(self) -> None:
        for descriptor in (self.stdin, self.stdout):
            if descriptor >= 0:
                os.close(descriptor)


@asynccontextmanager
async def piped(gateway: Gateway, **more: Any) -> AsyncGenerator[Pipes]:
    """Run `serve_stdio` on pipes; at the end it has to end by itself once input ends."""
    to_read, to_write = os.pipe()
    back_read, back_write = os.pipe()
    pipes = Pipes(to_write, back_read)

    async def run() -> None:
        try:
            await serve_stdio(gateway, stdin=to_read, stdout=back_write, **more)
        finally:
            os.close(to_read)
            os.close(back_write)

    try:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                yield pipes
                if pipes.stdin >= 0:
                    pipes.end_input()
    finally:
        pipes.close()


@pytest.mark.parametrize("era", [LEGACY, MODERN])
async def test_tools_are_listed_and_called_in_the_era_the_client_opens_with(tmp_path: Path, era: str) -> None:
    async with open_echo_packs(tmp_path, "echo") as gateway, piped(gateway) as pipes:
        await pipes.open(era)
        listed = await pipes.ask(era, "tools/list")
        call = {"name": "structured", "arguments": {"value": 123456789012345678901}}
        called = await pipes.ask(era, "tools/call", call, id="x")
        denied = await pipes.ask(era, "tools/call", {"name": "echo", "arguments": {"text": "forbidden"}})
        unknown = await pipes.ask(era, "tools/call", {"name": "nope"})
    assert [tool["name"] for tool in listed["result"]["tools"]][:2] == ["echo", "structured"]
    assert (called["id"], called["result"]["unknownField"]) == ("x", [1])
    assert called["result"]["structuredContent"] == {"value": 123456789012345678901}
    assert f"policy.yaml:{rule_line('no-forbidden-words')}" in denied["result"]["content"][0]["text"]
    assert unknown["error"]["code"] == -32602
    assert ("resultType" in called["result"]) is (era == MODERN)


@pytest.mark.parametrize("era", [LEGACY, MODERN])
async def test_one_session_serves_the_whole_connection(tmp_path: Path, era: str) -> None:
    async with open_echo_packs(tmp_path, "echo") as gateway, piped(gateway) as pipes:
        await pipes.open(era)
        write = {"name": "write", "arguments": {"path": "a.txt", "content": "kept"}}
        await pipes.ask(era, "tools/call", write)
        read = await pipes.ask(era, "tools/call", {"name": "read", "arguments": {"path": "a.txt"}})
        assert gateway.readiness().detail["sessions"] == 1
    assert read["result"]["content"][0]["text"] == "kept"


async def test_calls_are_made_as_the_principal_given(tmp_path: Path) -> None:
    async with (
        open_echo_packs(tmp_path, "echo") as gateway,
        piped(gateway, principal=Principal("carol")) as pipes,
    ):
        await pipes.ask(MODERN, "tools/call", {"name": "echo", "arguments": {"text": "x"}})
        carol = Principal("carol")
        session = gateway.session("echo", named_session_id(carol, None), carol)
        assert session.principal == carol


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":NaN,"method":"ping"}',
        b"not json",
        b'"\xff"',
        b'{"jsonrpc":"2.0","id":1,"method":"' + b"x" * 5000 + b'"}',
    ],
)
async def test_a_line_that_the_gate_refuses_is_a_parse_error_and_the_next_one_is_answered(
    tmp_path: Path, line: bytes
) -> None:
    async with open_echo_packs(tmp_path, "echo") as gateway, piped(gateway, max_line=4000) as pipes:
        pipes.write(b"\n" + line + b"\r\n")
        refused = await pipes.line()
        await pipes.open(LEGACY)
        pong = await pipes.ask(LEGACY, "ping")
    assert (refused["id"], refused["error"]["code"]) == (None, -32700)
    assert pong["result"] == {}


async def test_json_that_is_no_message_is_an_invalid_request(tmp_path: Path) -> None:
    async with open_echo_packs(tmp_path, "echo") as gateway, piped(gateway) as pipes:
        lines = [b"[]", b'{"jsonrpc":"1.0","id":1,"method":"ping"}', b"7"]
        lines += [b'{"jsonrpc":"2.0","id":%s,"method":"ping"}' % i for i in (b"null", b"1.5", b"true", b"{}")]
        for line in lines:
            pipes.write(line + b"\n")
            assert (await pipes.line())["error"]["code"] == -32600


async def test_what_was_asked_before_the_input_ended_is_answered(tmp_path: Path) -> None:
    async with open_echo_packs(tmp_path, "echo") as gateway, piped(gateway) as pipes:
        call = {"name": "echo", "arguments": {"text": "last words"}, "_meta": modern_meta()}
        pipes.write(json.dumps({"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": call}).encode())
        pipes.end_input()
        answer = await pipes.line()
        assert answer["result"]["content"][0]["text"] == "last words"
        assert await pipes.line() is None


async def test_a_cancelled_call_is_not_waited_for(tmp_path: Path) -> None:
    async with open_echo_packs(tmp_path, "echo") as gateway, piped(gateway) as pipes:
        await pipes.ask(MODERN, "tools/call", {"name": "echo", "arguments": {"text": "warm"}})
        with anyio.fail_after(3):
            slow = {"name": "sleep", "arguments": {"seconds": 4}, "_meta": modern_meta()}
            pipes.send({"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": slow})
            note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 9}}
            pipes.send(note)
            pipes.end_input()
            assert await pipes.line() is None


async def test_a_signal_ends_it_after_the_answers(tmp_path: Path) -> None:
    async with open_echo_packs(tmp_path, "echo") as gateway, piped(gateway) as pipes:
        await pipes.ask(MODERN, "tools/call", {"name": "echo", "arguments": {"text": "warm"}})
        slow = {"name": "sleep", "arguments": {"seconds": 0.5}, "_meta": modern_meta()}
        pipes.send({"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": slow})
        await pipes.ask(MODERN, "tools/list")
        os.kill(os.getpid(), signal.SIGTERM)
        assert (await pipes.line())["result"]["content"][0]["text"] == "slept"
        assert await pipes.line() is None


@pytest.mark.parametrize("how", ["its input ends", "a signal"])
async def test_a_stream_of_changes_ends_properly_and_holds_up_nothing(tmp_path: Path, how: str) -> None:
    settings = GatewaySettings(drain=1000)
    async with open_echo_packs(tmp_path, "echo", settings=settings) as gateway, piped(gateway) as pipes:
        wanted = {"notifications": {"toolsListChanged": True}}
        told = await pipes.ask(MODERN, "subscriptions/listen", wanted, id="s")
        assert told["method"] == "notifications/subscriptions/acknowledged"
        if how == "a signal":
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            pipes.end_input()
        end = await pipes.line()
        assert (end["id"], end["result"]["resultType"]) == ("s", "complete")
        assert end["result"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == "s"
        assert await pipes.line() is None


async def test_a_client_that_is_gone_ends_it(tmp_path: Path) -> None:
    async with open_echo_packs(tmp_path, "echo") as gateway, piped(gateway) as pipes:
        os.close(pipes.stdout)
        pipes.stdout = -1
        pipes.send({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": modern_meta()}})
        pipes.end_input()
    assert pipes.stdin == -1


async def test_an_answer_larger_than_the_pipe_comes_through_whole(tmp_path: Path) -> None:
    async with open_echo_packs(tmp_path, "echo") as gateway, piped(gateway) as pipes:
        answer = await pipes.ask(MODERN, "tools/call", {"name": "big", "arguments": {"bytes": 3_000_000}})
    assert len(answer["result"]["content"][0]["text"]) == 3_000_000


async def test_standard_streams_lead_elsewhere_meanwhile_and_back_afterwards(tmp_path: Path) -> None:
    source, sink = (tmp_path / "in").open("w+b"), (tmp_path / "out").open("w+b")
    async with open_echo_packs(tmp_path, "echo") as gateway:
        with source, sink:
            source.write(json.dumps(INITIALIZE).encode() + b"\n")
            source.flush()
            source.seek(0)
            before = os.fstat(sink.fileno()).st_ino
            await serve_stdio(gateway, stdin=source.fileno(), stdout=sink.fileno())
            assert os.fstat(sink.fileno()).st_ino == before
    answer = json.loads((tmp_path / "out").read_text(encoding="utf-8"))
    assert answer["result"]["capabilities"] == {"tools": {"listChanged": False}}
