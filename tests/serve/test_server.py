"""The server on a socket: binding, heads that are too large or too slow, the ordered end."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from gateway.errors import UsageError
from gateway.runtime.audit import query
from gateway.runtime.gateway import Gateway, GatewaySettings
from gateway.serve import http_protocol, stalls
from gateway.serve.app import GatewayApp, build_app
from gateway.serve.identity import LOCAL_IDENTITY
from gateway.serve.security import HttpSecurity
from gateway.serve.server import bind, serve_http
from tests.support.http_serving import open_echo_packs, running
from tests.support.mcp_http import LEGACY, MODERN, RawMcp, modern_meta, texts


@asynccontextmanager
async def app_of(
    tmp_path: Path, settings: GatewaySettings | None = None
) -> AsyncGenerator[tuple[GatewayApp, Gateway]]:
    async with open_echo_packs(tmp_path, "echo", settings=settings) as gateway:
        security = HttpSecurity.bound_to("127.0.0.1")
        yield build_app(gateway, identity=LOCAL_IDENTITY, security=security), gateway


async def raw(url: str, data: bytes, *, apart: bool = False) -> bytes:
    """Send bytes, head and body `apart`, return everything that comes back until the server closes."""
    host, port = url.removeprefix("http://").split(":")
    head, end, body = data.partition(b"\r\n\r\n") if apart else (data, b"", b"")
    with anyio.fail_after(10):
        async with await anyio.connect_tcp(host, int(port)) as stream:
            answer = b""
            try:
                await stream.send(head + end)
                if apart:
                    await anyio.sleep(0.1)  # so that they are read apart; together they have to do as well
                    await stream.send(body)
                while True:
                    answer += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return answer


async def draining(gateway: Gateway) -> None:
    """Return once a signal has been acted on; the loop hands it over between two checkpoints."""
    with anyio.fail_after(2):
        while not gateway.draining:  # noqa: ASYNC110 - there is no event to wait for
            await anyio.sleep(0.01)


# -- binding


async def test_port_zero_takes_a_free_port() -> None:
    with await bind("127.0.0.1", 0) as one, await bind("localhost", 0) as two:
        assert 0 < one.getsockname()[1] != two.getsockname()[1] > 0


async def test_a_busy_port_is_told_with_the_way_out() -> None:
    with await bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} on 127.0.0.1 is in use: .*--port 0"):
            await bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1", "x" * 300])
async def test_a_host_that_is_not_ours_is_told(host: str) -> None:
    with pytest.raises(UsageError, match=r"host|listen"):
        await bind(host, 0)


# -- heads


async def test_a_head_that_is_too_large_gets_431(tmp_path: Path) -> None:
    async with app_of(tmp_path) as (app, gateway), running(app, gateway) as url:
        whole = await raw(url, b"GET /health HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 70_000 + b"\r\n\r\n")
        endless = await raw(url, b"GET /health HTTP/1.1\r\n" + b"A: aaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 9000)
        line = await raw(url, b"GET /" + b"a" * 70_000)
    assert [answer.split(b"\r\n")[0] for answer in (whole, endless, line)] == [
        b"HTTP/1.1 431 Request Header Fields Too Large"
    ] * 3


async def test_a_target_that_names_another_server_is_refused(tmp_path: Path) -> None:
    async with app_of(tmp_path) as (app, gateway), running(app, gateway) as url:
        absolute = await raw(url, b"GET http://evil.example/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        tunnel = await raw(url, b"CONNECT evil.example:80 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert absolute.startswith(b"HTTP/1.1 400")
    assert tunnel.startswith(b"HTTP/1.1 400")


async def test_a_sender_that_says_nothing_or_stops_halfway_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.2)
    async with app_of(tmp_path) as (app, gateway), running(app, gateway) as url:
        assert await raw(url, b"") == b""
        assert await raw(url, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n") == b""


async def test_smuggled_and_ambiguous_lengths_are_refused(tmp_path: Path) -> None:
    both = b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n"
    twice = b"Content-Length: 2\r\nContent-Length: 3\r\n"
    async with app_of(tmp_path) as (app, gateway), running(app, gateway) as url:
        for lengths in (both, twice):
            head = b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            assert (await raw(url, head + lengths + b"\r\n{}")).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "anything"])
@pytest.mark.parametrize("apart", [False, True])
async def test_an_offer_of_another_protocol_is_passed_over_and_its_body_is_no_further_request(
    tmp_path: Path, protocol: str, *, apart: bool
) -> None:
    """Clients on the Java platform offer h2c with every first request."""
    offer = f"Upgrade: {protocol}\r\nConnection: close, Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AA\r\n"
    call = pipelined(("echo", {"text": "still here"})).replace(
        b"Content-Type", offer.encode() + b"Content-Type"
    )
    inner = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n"
    hiding = b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n" + offer.encode()
    hiding += b"Content-Length: %d\r\n\r\n" % len(inner) + inner
    async with app_of(tmp_path) as (app, gateway), running(app, gateway) as url:
        answers = [await raw(url, request, apart=apart) for request in (call, hiding)]
    assert b"still here" in answers[0]
    assert [answer.count(b"HTTP/1.1 ") for answer in answers] == [1, 1]
    assert answers[1].startswith(b"HTTP/1.1 400")


async def test_trailers_are_no_headers_and_have_an_end(tmp_path: Path) -> None:
    call = pipelined(("echo", {"text": "x"}))
    head, _, body = call.partition(b"\r\n\r\n")
    length = b"Content-Length: %d" % len(body)
    head = head.replace(length, b"Transfer-Encoding: chunked\r\nConnection: close")
    chunked = head + b"\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(body), body)
    async with app_of(tmp_path) as (app, gateway), running(app, gateway) as url:
        ignored = await raw(url, chunked + b"Host: evil.example\r\nMcp-Name: other\r\n\r\n")
        many = await raw(url, chunked + b"A: aaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 200_000)
        endless = await raw(url, chunked + b"A: " + b"a" * 5_000_000)
    assert ignored.startswith(b"HTTP/1.1 200")
    for answer in (many, endless):
        assert not answer or answer.startswith(b"HTTP/1.1 431")  # reset over what it still sends


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"])
async def test_who_reads_nothing_of_an_answer_is_cut_off(
    tmp_path: Path, more: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stalls, "STALLED_SECONDS", 0.3)
    call = pipelined(("big", {"bytes": 9_000_000})).replace(b"\r\n\r\n", b"\r\n" + more + b"\r\n", 1)
    async with app_of(tmp_path) as (app, gateway), running(app, gateway) as url:
        await raw(
            url, pipelined(("echo", {"text": "x"})).replace(b"Accept", b"Connection: close\r\nAccept", 1)
        )
        host, port = url.removeprefix("http://").split(":")
        before = descriptors()
        with socket.socket() as client, anyio.fail_after(30):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((host, int(port)))
            client.sendall(call)
            # Its own end is open still, the gateway's is not once the call has an outcome and time passed.
            while len(outcomes(tmp_path)) < 2 or descriptors() > before + 1:  # noqa: ASYNC110 - no event tells
                await anyio.sleep(0.05)
    assert [outcome["kind"] for outcome in outcomes(tmp_path)] == ["answered"] * 2


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def outcomes(tmp_path: Path) -> list[Any]:
    return [record["outcome"] for record in query(tmp_path / "state") if record["event"] == "outcome"]


def pipelined(*calls: tuple[str, dict[str, Any]]) -> bytes:
    """Return modern calls of tools as one stretch of bytes, as a client sends them that waits for nothing."""
    stretch = b""
    for number, (tool, arguments) in enumerate(calls):
        params = {"name": tool, "arguments": arguments, "_meta": modern_meta()}
        message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
        body = json.dumps(message).encode()
        head = f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        head += "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
        head += f"MCP-Protocol-Version: {MODERN}\r\nMcp-Method: tools/call\r\nMcp-Name: {tool}\r\n\r\n"
        stretch += head.encode() + body
    return stretch


async def test_a_client_that_leaves_ends_the_call_it_waits_for_and_those_it_sent_after_never_begin(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with app_of(tmp_path) as (app, gateway), running(app, gateway) as url:
        host, port = url.removeprefix("http://").split(":")
        async with await anyio.connect_tcp(host, int(port)) as stream:
            await stream.send(pipelined(("sleep", {"seconds": 4}), ("echo", {"text": "never"})))
            with anyio.fail_after(10):
                while not gateway.in_flight:  # noqa: ASYNC110 - there is no event to wait for
                    await anyio.sleep(0.01)
        with anyio.fail_after(10):
            while gateway.in_flight:  # noqa: ASYNC110
                await anyio.sleep(0.01)
    outcomes = [record["outcome"] for record in query(tmp_path / "state") if record["event"] == "outcome"]
    assert [outcome["failure"] for outcome in outcomes if isinstance(outcome, dict)] == ["cancelled"]
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_blanks_after_a_header_value_do_not_matter(tmp_path: Path) -> None:
    body = (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{'
        b'"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}'
    )
    head = (
        b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1  \r\nContent-Type: application/json \t\r\n"
        b"Connection: close\r\n"
        b"Accept: application/json, text/event-stream \r\nMcp-Protocol-Version: 2026-07-28  \r\n"
        b"Mcp-Method: tools/list \r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    async with app_of(tmp_path) as (app, gateway), running(app, gateway) as url:
        answer = await raw(url, head + body)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"resultType":"complete"' in answer


async def test_the_server_does_not_say_what_it_runs_on(tmp_path: Path) -> None:
    async with app_of(tmp_path) as (app, gateway), running(app, gateway) as url:
        answer = await raw(url, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    assert b"uvicorn" not in answer.lower()
    assert answer.endswith(b'{"status":"healthy"}')


async def test_a_websocket_handshake_of_a_foreign_page_is_refused_and_told_why(
    tmp_path: Path,
) -> None:
    handshake = (
        b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    async with app_of(tmp_path) as (app, gateway), running(app, gateway) as url:
        foreign = await raw(url, handshake + b"Origin: https://evil.example\r\n\r\n")
        own = await raw(url, handshake + b"Origin: http://127.0.0.1:1\r\n\r\n")
    assert foreign.startswith(b"HTTP/1.1 403")
    assert b"another origin" in foreign
    assert own.startswith((b"HTTP/1.1 403", b"HTTP/1.1 404"))
    assert b"another origin" not in own


# -- the end


async def test_a_signal_lets_calls_in_flight_finish_turns_new_ones_away_and_returns(tmp_path: Path) -> None:
    answers: dict[str, httpx2.Response] = {}
    async with app_of(tmp_path) as (app, gateway), httpx2.AsyncClient(timeout=10) as http:
        url = anyio.Event()
        mcp = RawMcp(http, "")
        probe = RawMcp(http, "")

        def on_ready(base: str) -> None:
            mcp.url = probe.url = base + "/mcp"
            url.set()

        async def slow() -> None:
            answers["slow"] = await mcp.call(LEGACY, "sleep", seconds=1)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: serve_http(app, gateway, port=0, on_ready=on_ready))
                await url.wait()
                await mcp.call(LEGACY, "echo", text="warm")
                tasks.start_soon(slow)
                await anyio.sleep(0.3)
                os.kill(os.getpid(), signal.SIGTERM)
                await draining(gateway)
                answers["new"] = await probe.call(MODERN, "echo", text="late")
    assert texts(answers["slow"]) == "slept"
    assert (answers["new"].status_code, answers["new"].headers["retry-after"]) == (503, "5")


async def test_a_signal_ends_streams_of_changes_by_their_answer(tmp_path: Path) -> None:
    params = {"notifications": {"toolsListChanged": True}, "_meta": modern_meta()}
    body = {"jsonrpc": "2.0", "id": "s", "method": "subscriptions/listen", "params": params}
    async with (
        app_of(tmp_path) as (app, gateway),
        running(app, gateway) as url,
        httpx2.AsyncClient(timeout=30) as http,
    ):
        headers = {
            **RawMcp(http, url).modern_headers("subscriptions/listen", {}),
            "accept": "application/json, text/event-stream",
        }
        with anyio.fail_after(30):
            async with http.stream("POST", url + "/mcp", json=body, headers=headers) as stream:
                told: list[Any] = []
                async for line in stream.aiter_lines():
                    if line.startswith("data:"):
                        told.append(json.loads(line[5:]))
                        if len(told) == 1:
                            os.kill(os.getpid(), signal.SIGTERM)
    assert [message.get("method", message.get("id")) for message in told] == [
        "notifications/subscriptions/acknowledged",
        "s",
    ]
    assert told[1]["result"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == "s"


@pytest.mark.parametrize("era", [LEGACY, MODERN])
async def test_a_second_signal_stops_the_waiting_and_says_so(tmp_path: Path, era: str) -> None:
    answers: list[httpx2.Response] = []
    async with app_of(tmp_path) as (app, gateway), httpx2.AsyncClient(timeout=10) as http:
        ready = anyio.Event()
        mcp = RawMcp(http, "")

        def on_ready(base: str) -> None:
            mcp.url = base + "/mcp"
            ready.set()

        async def slow() -> None:
            answers.append(await mcp.call(era, "sleep", seconds=4.5))

        with anyio.fail_after(3):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: serve_http(app, gateway, port=0, on_ready=on_ready))
                await ready.wait()
                await mcp.call(era, "echo", text="warm")
                tasks.start_soon(slow)
                await anyio.sleep(0.3)
                os.kill(os.getpid(), signal.SIGINT)
                await draining(gateway)
                os.kill(os.getpid(), signal.SIGINT)
    assert (answers[0].status_code, answers[0].json()["error"]) == (503, "stopped")


async def test_a_listener_that_was_bound_before_is_served_and_closed_at_the_end(tmp_path: Path) -> None:
    listener = await bind("127.0.0.1", 0)
    async with app_of(tmp_path) as (app, gateway):
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                urls: list[str] = []
                ready = anyio.Event()

                def on_ready(base: str) -> None:
                    urls.append(base)
                    ready.set()

                tasks.start_soon(lambda: serve_http(app, gateway, on_ready=on_ready, listener=listener))
                await ready.wait()
                assert urls == [f"http://127.0.0.1:{listener.getsockname()[1]}"]
                tasks.cancel_scope.cancel()
    assert listener.fileno() == -1
    assert isinstance(listener, socket.socket)
