"""Traces for OpenTelemetry: a span a request, with its stages below it; numbers and names, never a text.

    record = span_recorder()            # as the OTEL_... variables say
    record(exchange)

Nothing of OpenTelemetry is imported until it is wanted. Spans are made once an exchange is over, from the times that
were kept anyway: tracing costs nothing while a request is computed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from touchstone.errors import ServingError
from touchstone.serving.exchange import Exchange

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer, TracerProvider

_OTLP = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
"""Names under which exporters of the OTLP protocols are installed."""


def span_recorder(provider: TracerProvider | None = None) -> Callable[[Exchange], None]:
    """A function that records an exchange.

    Args:
        provider: of tracers; default: the process's where an agent has set one, otherwise one of the SDK's as the
            environment says (OTEL_TRACES_EXPORTER and the like).

    Raises:
        ServingError: a package is missing.
    """
    try:
        from opentelemetry import trace
    except ImportError:
        raise ServingError(
            "serve.opentelemetry is on, and opentelemetry-api isn't installed: "
            "pip install 'touchstone-rm[opentelemetry]'"
        ) from None
    if provider is None:
        present = trace.get_tracer_provider()
        provider = _from_environment() if isinstance(present, trace.ProxyTracerProvider) else present
    tracer = provider.get_tracer("touchstone")
    # Spans want times since 1970, and stages are told by a clock that nobody sets.
    offset = time.time_ns() - time.perf_counter_ns()
    return lambda exchange: _record(tracer, offset, exchange)


def _from_environment() -> TracerProvider:
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ServingError(
            "serve.opentelemetry is on, and without opentelemetry-sdk nothing is exported: "
            "pip install 'touchstone-rm[opentelemetry]'"
        ) from None

    # Sampler, attributes and the batches' sizes are read from the environment by the SDK itself.
    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(resource=Resource.create({} if named else {"service.name": "touchstone"}))
    for name in _exporters():
        points = entry_points(group="opentelemetry_traces_exporter", name=name)
        if not points:
            raise ServingError(
                f"serve.opentelemetry is on, and no exporter {name} is installed: pip install "
                "'touchstone-rm[opentelemetry]', or name another in OTEL_TRACES_EXPORTER (console and none come with "
                "the SDK)"
            )
        provider.add_span_processor(BatchSpanProcessor(next(iter(points)).load()()))
    return provider


def _exporters() -> list[str]:
    """What OTEL_TRACES_EXPORTER names, as the packages call themselves."""
    chosen = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    protocol = (
        os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or "http/protobuf"
    )
    names = [name.strip() for name in chosen.split(",") if name.strip() not in ("", "none")]
    return [_OTLP.get(protocol, protocol) if name == "otlp" else name for name in names]


def _record(tracer: Tracer, offset: int, exchange: Exchange) -> None:
    from opentelemetry import trace
    from opentelemetry.propagate import extract

    attributes: dict[str, str | int] = {
        "http.request.method": exchange.method,
        "http.route": exchange.route,
        "http.response.status_code": exchange.status,
        "touchstone.request_id": exchange.id,
    }
    if exchange.refusal is not None:
        attributes["error.type"] = exchange.refusal
    if exchange.scored is not None:
        attributes |= {
            "touchstone.model": exchange.scored.model,
            "touchstone.version": exchange.scored.version.version,
            "touchstone.texts": exchange.scored.texts,
            "touchstone.tokens": exchange.scored.tokens,
            "touchstone.truncated": exchange.scored.truncated,
        }
    span = tracer.start_span(
        f"{exchange.method} {exchange.route}",
        context=extract({"traceparent": exchange.traceparent}),
        kind=trace.SpanKind.SERVER,
        attributes=attributes,
        start_time=offset + exchange.started,
    )
    if exchange.status >= 500:
        span.set_status(trace.StatusCode.ERROR)
    begun = exchange.started
    inside = trace.set_span_in_context(span)
    for stage, end in exchange.stages:
        tracer.start_span(stage, context=inside, start_time=offset + begun).end(offset + end)
        begun = end
    span.end(offset + begun)
