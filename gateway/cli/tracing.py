"""Sends spans where the operator wants them (OTLP over HTTP). The SDK is the extra `otel`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from gateway import __version__
from gateway.config import TracingSettings
from gateway.errors import UsageError

if TYPE_CHECKING:
    from gateway.runtime.tracing import CallTracing

__all__ = ["open_tracing"]

_EXPORT_SECONDS = 2
_FLUSH_SECONDS = 4.0
"""How long the last spans may take to get out; a collector that is gone holds nobody up."""


@asynccontextmanager
async def open_tracing(settings: TracingSettings) -> AsyncGenerator[CallTracing | None]:
    """Trace calls to the endpoint that is set, or yield `None`; raises `UsageError` without the extra."""
    if settings.endpoint is None:
        yield None
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        message = "tracing.endpoint is set and OpenTelemetry is not installed: pip install 'sandgate[otel]'"
        raise UsageError(message) from None
    from gateway.runtime.tracing import CallTracing

    about = Resource.create({"service.name": settings.service, "service.version": __version__})
    provider = TracerProvider(resource=about, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=settings.endpoint, timeout=_EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield CallTracing(provider)
    finally:
        with anyio.move_on_after(_FLUSH_SECONDS, shield=True):
            await anyio.to_thread.run_sync(provider.shutdown, abandon_on_cancel=True)
