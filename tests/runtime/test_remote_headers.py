"""Arguments that a remote server wants repeated in headers: its own SDK is the judge of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.inbound import (
    decode_header_value,
    encode_header_value,
    find_invalid_x_mcp_header,
    mcp_param_headers,
    x_mcp_header_map,
)

from gateway.core.calls import LOCAL, Answered, Front, ToolCall
from gateway.runtime.peer import ClientFacts
from gateway.runtime.remote_headers import argument_headers, header_value, marked_arguments
from gateway.runtime.sessions import new_call_id
from tests.support.remote_servers import LOOPBACK, Remote, remote_gateway, remote_pack, served_at

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "file": {"type": "string", "x-mcp-header": "File"},
        "count": {"type": "integer", "x-mcp-header": "Count"},
        "options": {
            "type": "object",
            "properties": {"dry": {"type": "boolean", "x-mcp-header": "Dry-Run"}, "note": {"type": "string"}},
        },
        "text": {"type": "string"},
    },
}
CALLS: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"region": "eu-west", "text": "x"}, {"region": "eu-west"}),
    ({"region": " Zürich\n"}, {"region": "=?base64?IFrDvHJpY2gK?="}),
    ({"region": "=?base64?eA==?="}, {"region": "=?base64?PT9iYXNlNjQ/ZUE9PT89?="}),
    ({"region": ""}, {"region": ""}),
    ({"count": 10**40}, {"count": str(10**40)}),
    ({"options": {"dry": True, "note": "n"}}, {"dry-run": "true"}),
    ({"file": "a/../b"}, {"file": "/workspace/b"}),  # what was judged, not what was asked
    ({"text": "only"}, {}),
]


def strict_app() -> Any:
    """A server of the SDK, which compares headers and arguments before its tool is called."""
    tool = types.Tool(name="route", description="Says what it was given.", input_schema=SCHEMA)

    async def list_tools(
        ctx: ServerRequestContext[Any, Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[tool])

    async def call_tool(
        ctx: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=json.dumps(params.arguments))]
        )

    return Server("strict", on_list_tools=list_tools, on_call_tool=call_tool).streamable_http_app()


def repeated(remote: Remote) -> dict[str, str]:
    """Return the arguments in the headers of the last request, by the token of each."""
    return {
        name.removeprefix("mcp-param-"): value
        for name, value in remote.asked[-1][1].items()
        if name.startswith("mcp-param-")
    }


@pytest.mark.parametrize(("arguments", "headers"), CALLS)
async def test_a_strict_server_finds_marked_arguments_in_headers(
    arguments: dict[str, Any], headers: dict[str, str], tmp_path: Path
) -> None:
    async with served_at(strict_app()) as remote:
        server = {"url": f"{remote.url}/mcp", "kinds": {"path": ["file"]}}
        pack = remote_pack(tmp_path / "pack", server)
        async with remote_gateway(tmp_path, pack, LOOPBACK) as gateway:
            session = await gateway.open_session("remote", LOCAL, client=ClientFacts("modern"))
            call = ToolCall(new_call_id(), "route", arguments, Front.MCP)
            outcome = await gateway.call(session, call)
            assert isinstance(outcome, Answered), outcome
            assert not outcome.result.get("isError"), outcome.result
            assert repeated(remote) == headers


async def test_a_server_with_sessions_is_sent_no_argument_in_headers(tmp_path: Path) -> None:
    async with served_at(strict_app()) as remote:
        pack = remote_pack(tmp_path / "pack", {"url": f"{remote.url}/mcp"})
        async with remote_gateway(tmp_path, pack, LOOPBACK) as gateway:
            session = await gateway.open_session("remote", LOCAL, client=ClientFacts("legacy"))
            call = ToolCall(new_call_id(), "route", {"region": "eu"}, Front.MCP)
            assert isinstance(await gateway.call(session, call), Answered)
            assert not any("mcp-param" in name for _, headers in remote.asked for name in headers)


def marked(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


A_MARK: dict[str, Any] = {"type": "string", "x-mcp-header": "A"}
WRONG: dict[str, Any] = {
    "the root": {**marked(), "x-mcp-header": "A"},
    "in a list": marked(a={"type": "array", "items": A_MARK}),
    "in a choice": marked(a={"anyOf": [A_MARK]}),
    "in a definition": {**marked(), "$defs": {"a": A_MARK}},
    "twice": marked(a=A_MARK, b={**A_MARK, "x-mcp-header": "a"}),
    "a number": marked(a={**A_MARK, "type": "number"}),
    "without a type": marked(a={"x-mcp-header": "A"}),
    "several types": marked(a={**A_MARK, "type": ["string", "null"]}),
    "no token": marked(a={**A_MARK, "x-mcp-header": "A: b\r\nx"}),
    "empty": marked(a={**A_MARK, "x-mcp-header": ""}),
    "no text": marked(a={**A_MARK, "x-mcp-header": 1}),
    "one of two": marked(a=A_MARK, b={"type": "object", "x-mcp-header": "B"}),
}


@pytest.mark.parametrize("schema", WRONG.values(), ids=WRONG)
def test_marks_that_are_not_as_they_have_to_be_repeat_nothing(schema: dict[str, Any]) -> None:
    assert find_invalid_x_mcp_header(schema) is not None
    assert marked_arguments(schema) == {}


def test_a_mark_in_data_is_none() -> None:
    schema = marked(a={**A_MARK, "default": {"x-mcp-header": "B"}}, b={"$ref": "#/$defs/c"})
    assert find_invalid_x_mcp_header(schema) is None
    assert marked_arguments(schema) == {("a",): "A"} == x_mcp_header_map(schema)


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8))


@given(region=VALUES, count=VALUES, dry=VALUES)
def test_headers_are_those_the_sdk_sends(region: Any, count: Any, dry: Any) -> None:
    arguments = {"region": region, "count": count, "options": {"dry": dry}}
    expected = {
        name.lower(): value for name, value in mcp_param_headers(x_mcp_header_map(SCHEMA), arguments).items()
    }
    assert argument_headers(marked_arguments(SCHEMA), arguments) == expected


@given(st.text())
def test_any_text_survives_a_header(text: str) -> None:
    assert header_value(text) == encode_header_value(text)
    assert decode_header_value(header_value(text)) == text
