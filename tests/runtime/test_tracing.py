"""Spans of calls, with the SDK's own exporter: their names, where they belong, and what is never in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from gateway.core.calls import LOCAL, Answered, Front, ToolCall
from gateway.runtime.gateway import Gateway
from gateway.runtime.sessions import new_call_id
from gateway.runtime.tracing import CallTracing
from gateway.serve.app import build_app
from gateway.serve.identity import LOCAL_IDENTITY
from gateway.serve.security import HttpSecurity
from tests.support.gateways import served
from tests.support.http_serving import open_echo_packs, running
from tests.support.mcp_http import LEGACY, MODERN, RawMcp

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def traced(gateway: Gateway) -> InMemorySpanExporter:
    """Trace a gateway's calls; returns where the spans are."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    gateway.tracing = CallTracing(provider)
    return exporter


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def ids(span: ReadableSpan) -> tuple[str, str]:
    assert span.context is not None
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


def parent_of(span: ReadableSpan) -> tuple[str, str]:
    assert span.parent is not None
    return f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}"


async def test_a_call_is_a_server_span_with_its_servers_share_below_it_in_the_callers_trace(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as gateway:
        spans = traced(gateway)
        session = await gateway.open_session("echo", LOCAL)
        meta = {"traceparent": PARENT, "tracestate": "vendor=1", "other": "kept"}
        await gateway.call(session, ToolCall("call_1", "echo", {"text": "s3cret"}, Front.MCP, meta))
        log = await gateway.call(session, ToolCall("call_2", "log", {}, Front.MCP))
        client, server, *_ = spans.get_finished_spans()
    assert (server.name, server.kind) == ("tools/call echo", SpanKind.SERVER)
    assert (client.name, client.kind) == ("tools/call echo", SpanKind.CLIENT)
    assert parent_of(server) == (TRACE, "b7ad6b7169203331")
    assert parent_of(client) == ids(server)
    said = attributes(server)
    digest = said.pop("sandgate.policy.sha256")
    assert len(str(digest)) == 64
    assert said == {
        "mcp.method.name": "tools/call",
        "mcp.session.id": session.id,
        "gen_ai.tool.name": "echo",
        "gen_ai.operation.name": "execute_tool",
        "sandgate.call_id": "call_1",
        "sandgate.front": "mcp",
        "sandgate.pack": "echo",
        "sandgate.decision.effect": "allow",
        "sandgate.decision.code": "rule_allow",
        "sandgate.decision.rule": "talk",
    }
    assert isinstance(log, Answered)
    content: Any = log.result["content"]
    messages = [json.loads(line) for line in content[0]["text"].splitlines()]
    [sent] = [
        m["params"]["_meta"]
        for m in messages
        if m["method"] == "tools/call" and m["params"]["name"] == "echo"
    ]
    assert sent == {
        "traceparent": f"00-{TRACE}-{ids(client)[1]}-01",
        "tracestate": "vendor=1",
        "other": "kept",
    }
    assert "s3cret" not in "".join(span.to_json() for span in spans.get_finished_spans())


async def test_what_went_wrong_has_one_word_and_no_text_of_anybody(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway:
        spans = traced(gateway)
        session = await gateway.open_session("echo", LOCAL)
        calls: list[tuple[str, dict[str, Any]]] = [
            ("read", {"path": "/workspace/.env"}),
            ("fail", {"message": "s3cret"}),
            ("rpc_error", {}),
            ("crash", {}),
            ("s3cret-made-up", {}),
        ]
        for tool, arguments in calls:
            await gateway.call(session, ToolCall(new_call_id(), tool, arguments, Front.MCP))
        finished = spans.get_finished_spans()
    told = [
        (span.name, attributes(span)["error.type"], span.status.is_ok)
        for span in finished
        if span.kind is SpanKind.SERVER
    ]
    assert told == [
        ("tools/call read", "rule_deny", False),
        ("tools/call fail", "tool_error", False),
        ("tools/call rpc_error", "server_error", False),
        ("tools/call crash", "crashed", False),
        ("tools/call", "unknown_tool", False),
    ]
    assert "s3cret" not in "".join(span.to_json() for span in finished)


@pytest.mark.parametrize("era", [LEGACY, MODERN])
async def test_over_http_the_trace_of_the_body_counts_before_that_of_the_headers(
    tmp_path: Path, era: str
) -> None:
    async with open_echo_packs(tmp_path, "echo") as gateway:
        spans = traced(gateway)
        app = build_app(gateway, identity=LOCAL_IDENTITY, security=HttpSecurity.bound_to("127.0.0.1"))
        header = {"traceparent": PARENT.replace(TRACE, "1" * 32)}
        async with running(app, gateway) as url, httpx2.AsyncClient(timeout=10, headers=header) as http:
            mcp = RawMcp(http, url + "/mcp")
            call = {"name": "echo", "arguments": {"text": "hi"}}
            await mcp.send(era, "tools/call", call)
            await mcp.send(era, "tools/call", {**call, "_meta": {"traceparent": PARENT}})
    traces = [ids(s)[0] for s in spans.get_finished_spans() if s.kind is SpanKind.SERVER]
    assert traces == ["1" * 32, TRACE]


@pytest.mark.parametrize(
    "parent", ["nonsense", "00-" + "0" * 32 + "-b7ad6b7169203331-01", 7, {"a": 1}, "x" * 9999]
)
async def test_a_trace_that_makes_no_sense_starts_a_new_one(tmp_path: Path, parent: Any) -> None:
    async with served(tmp_path) as gateway:
        spans = traced(gateway)
        session = await gateway.open_session("echo", LOCAL)
        meta: dict[str, Any] = {"traceparent": parent, "tracestate": ["no"]}
        await gateway.call(session, ToolCall(new_call_id(), "echo", {"text": "x"}, Front.MCP, meta))
        assert [span.parent for span in spans.get_finished_spans() if span.kind is SpanKind.SERVER] == [None]
