"""OpenTelemetry spans of calls, by the semantic conventions for MCP. Imported only where tracing is on.

One server span for each call that came in and, below it, one client span while its tool server has it. Where
the trace came from is told by the caller's `_meta` or HTTP headers (W3C), and passed on in the `_meta` that
the server is sent. Never an argument, a result or what anybody wrote; names come from the catalog.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import context as contexts
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway import __version__
from gateway.core.calls import Answered, Denied, Failed, Method, Outcome, ToolCall
from gateway.core.json_types import JsonObject, JsonValue

if TYPE_CHECKING:
    from gateway.runtime.sessions import Session

__all__ = ["CallTracing"]

_W3C = TraceContextTextMapPropagator()
_CARRIED = ("traceparent", "tracestate")
_OPERATIONS = {Method.CALL_TOOL: "execute_tool"}


class CallTracing:
    """Makes the spans, with a provider of its own: nothing global is set or read."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("sandgate", __version__)

    @contextmanager
    def arriving(self, headers: Mapping[str, str]) -> Generator[None]:
        """Let the calls of one HTTP request belong to the trace that its headers name, if they name one."""
        found = _extracted({name: headers.get(name) for name in _CARRIED})
        if found is None:
            yield
            return
        token = contexts.attach(found)
        try:
            yield
        finally:
            contexts.detach(token)

    @contextmanager
    def serving(self, session: Session, call: ToolCall) -> Generator[Callable[[Outcome], None]]:
        """Hold the span of one call; it is told how the call ended, or ends as cancelled."""
        tool = session.pack.catalog.tools.get(call.tool) if call.target == "tool" else None
        name = None if tool is None else tool.name
        with self._span(call.method, name, SpanKind.SERVER, _extracted(call.meta)) as span:
            span.set_attribute("mcp.session.id", session.id)
            span.set_attribute("sandgate.call_id", call.call_id)
            span.set_attribute("sandgate.front", call.front.value)
            span.set_attribute("sandgate.pack", session.pack.name)

            def ended(outcome: Outcome) -> None:
                _ended(span, outcome)

            yield ended

    @contextmanager
    def sending(self, server: str, call: ToolCall, params: JsonObject) -> Generator[JsonObject]:
        """Hold the span of one request to a tool server; yields its parameters with the trace in `_meta`."""
        name = call.tool if call.target == "tool" else None  # judged, so it is one of the catalog
        with self._span(call.method, name, SpanKind.CLIENT, None) as span:
            span.set_attribute("sandgate.server", server)
            carrier: dict[str, str] = {}
            _W3C.inject(carrier)
            meta = params.get("_meta")
            kept = (
                {key: value for key, value in meta.items() if key not in _CARRIED}
                if isinstance(meta, dict)
                else {}
            )
            yield {**params, "_meta": {**kept, **carrier}} if carrier else params

    @contextmanager
    def _span(
        self, method: Method, target: str | None, kind: SpanKind, parent: Context | None
    ) -> Generator[Span]:
        named = f"{method.value} {target}" if target else method.value
        with self._tracer.start_as_current_span(
            named, parent, kind, record_exception=False, set_status_on_exception=False
        ) as span:
            span.set_attribute("mcp.method.name", method.value)
            if target is not None:
                span.set_attribute("gen_ai.tool.name", target)
            if (operation := _OPERATIONS.get(method)) is not None:
                span.set_attribute("gen_ai.operation.name", operation)
            try:
                yield span
            except BaseException as error:
                # A failure of the server has its own word; a caller that left raises what stops a task.
                _failed(span, getattr(getattr(error, "kind", None), "value", "cancelled"))
                raise


def _extracted(carrier: Mapping[str, JsonValue]) -> Context | None:
    """Return the trace that a carrier names, `None` if it names none: then what is current counts."""
    texts = {name: value for name in _CARRIED if isinstance(value := carrier.get(name), str)}
    return _W3C.extract(texts) if "traceparent" in texts else None


def _ended(span: Span, outcome: Outcome) -> None:
    decision = outcome.decision
    span.set_attribute("sandgate.decision.effect", decision.effect.value)
    span.set_attribute("sandgate.decision.code", decision.code.value)
    if decision.rule is not None:
        span.set_attribute("sandgate.decision.rule", decision.rule)
    if decision.policy_sha256 is not None:
        span.set_attribute("sandgate.policy.sha256", decision.policy_sha256)
    match outcome:
        case Denied():
            _failed(span, decision.code.value)
        case Failed(kind=kind):
            _failed(span, kind.value)
        case Answered(result=result) if result.get("isError") is True:
            _failed(span, "tool_error")
        case Answered():
            return


def _failed(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)
