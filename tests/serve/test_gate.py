"""The strict gate over HTTP: what gets through, and how the rest is told."""

from __future__ import annotations

import json

import anyio
import pytest
from starlette.types import Message, Receive, Scope, Send

from gateway.serve.gate import GateLimits, StrictGate, message_of
from tests.support.asgi import Reply, echo_app, http_scope, request

JSON = {"content-type": "application/json"}
GATE = StrictGate(echo_app, GateLimits(max_body=1000, body_seconds=0.2))


async def post(*chunks: bytes, headers: dict[str, str] | None = None) -> Reply:
    return await request(GATE, http_scope("/mcp", "POST", JSON | (headers or {})), chunks)


async def test_a_body_is_passed_on_re_serialised_with_its_own_length() -> None:
    reply = await post(b'{ "b" : 1,\n "a": [1.0, "\\u00e9", 123456789012345678901] }')
    assert reply.body == '{"b":1,"a":[1.0,"é",123456789012345678901]}'.encode()
    assert reply.headers["x-content-length"] == str(len(reply.body))


async def test_a_body_in_pieces_is_put_together() -> None:
    assert (await post(b'{"a"', b":", b"1}")).body == b'{"a":1}'


async def test_what_stands_behind_finds_the_parsed_message_in_the_scope() -> None:
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(message_of(scope))
        await echo_app(scope, receive, send)

    await request(StrictGate(app, GateLimits()), http_scope("/", "POST", JSON), [b'{"a":1}'])
    assert seen == [{"a": 1}]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a":1,"a":2}',
        b'{"a":1,"A":2}',
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"a":1} {"b":2}',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":"\xff"}',
        b'{"a":"\\ud800"}',
        b"[" * 400 + b"]" * 400,
    ],
)
async def test_what_parsers_may_read_differently_is_a_json_rpc_parse_error(body: bytes) -> None:
    reply = await post(body)
    assert reply.status == 400
    assert reply.json()["id"] is None
    assert reply.json()["error"]["code"] == -32700


async def test_a_declared_length_over_the_limit_is_refused_before_the_body_is_read() -> None:
    reply = await post(b"{}", headers={"content-length": "1001"})
    assert (reply.status, reply.headers["connection"]) == (413, "close")
    assert "1000 bytes" in reply.json()["error"]["message"]


async def test_a_body_that_grows_over_the_limit_is_refused_and_read_on_so_that_the_answer_is_seen() -> None:
    reply = await post(*[b'"' + b"x" * 600] * 5)
    assert reply.status == 413
    assert json.loads(reply.body)["error"]["code"] == -32600
    assert reply.messages[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_a_body_that_does_not_arrive_gets_408() -> None:
    reply = Reply()
    done = anyio.Event()

    async def receive() -> Message:
        if not reply.messages:
            await anyio.sleep_forever()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        reply.messages.append(message)

    with anyio.fail_after(5):
        await GATE(http_scope("/mcp", "POST", JSON), receive, send)
    done.set()
    assert reply.status == 408


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": ""},
        {"content-type": "text/plain"},
        {"content-type": "application/jsonp"},
        {"content-type": "text/plain; application/json"},
        {"content-type": "application/json, text/plain"},
        {"content-type": "application/json; charset=utf-7"},
        {"content-encoding": "gzip"},
    ],
)
async def test_anything_but_plain_utf8_json_gets_415(headers: dict[str, str]) -> None:
    assert (await post(b"{}", headers=headers)).status == 415


@pytest.mark.parametrize(
    "media", ["application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"']
)
async def test_json_is_taken_however_it_is_spelled(media: str) -> None:
    assert (await post(b"{}", headers={"content-type": media})).status == 200


async def test_a_client_that_leaves_while_sending_is_not_answered() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await GATE(http_scope("/mcp", "POST", JSON), receive, send)
    assert sent == []


async def test_requests_without_a_body_of_ours_pass_untouched() -> None:
    reply = await request(GATE, http_scope("/mcp", "DELETE"), [b"anything"])
    assert (reply.status, reply.body) == (200, b"anything")
