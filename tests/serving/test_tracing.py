"""A trace is the request with its stages, in the caller's own trace; numbers and names only."""

from __future__ import annotations

import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from tests.worlds.registered import NAME, tiny_settings
from tests.worlds.served import open_live, served
from touchstone.errors import ServingError
from touchstone.serving.exchange import STAGES
from touchstone.serving.live import Live
from touchstone.serving.operating import Operation
from touchstone.serving.tracing import span_recorder

SECRET = "the-planted-secret"
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Live:
    return open_live(tmp_path_factory.mktemp("traces"))


def test_a_request_is_a_span_with_its_stages_below(live: Live) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with served(live, Operation(trace=span_recorder(provider))) as endpoint:
        asked = {"inputs": [{"prompt": SECRET, "completions": [SECRET, "5"]}]}
        headers = {"traceparent": f"00-{TRACE}-{CALLER}-01", "X-Request-ID": "r-1"}
        assert endpoint.ask("/v1/rewards", asked, headers=headers).status_code == 200
        assert endpoint.ask("/v1/rewards", {}).status_code == 422
    spans = exporter.get_finished_spans()
    root = next(span for span in spans if span.name == "POST /v1/rewards" and span.parent is not None)
    assert (f"{root.context.trace_id:032x}", f"{root.parent.span_id:016x}") == (TRACE, CALLER)
    assert root.kind is SpanKind.SERVER
    assert root.attributes["http.response.status_code"] == 200
    assert (root.attributes["touchstone.model"], root.attributes["touchstone.version"]) == (f"{NAME}@champion", 1)
    assert (root.attributes["touchstone.texts"], root.attributes["touchstone.request_id"]) == (2, "r-1")

    stages = [span for span in spans if span.parent is not None and span.parent.span_id == root.context.span_id]
    assert [span.name for span in stages] == list(STAGES)
    edges = [root.start_time, *(span.end_time for span in stages)]
    assert [span.start_time for span in stages] == edges[:-1]
    assert edges == sorted(edges)
    assert edges[-1] == root.end_time

    refused = next(span for span in spans if span.attributes.get("http.response.status_code") == 422)
    assert refused.attributes["error.type"] == "invalid_request"
    assert SECRET not in "".join(span.to_json() for span in spans)


def test_without_an_exporter_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "a-protocol-that-nobody-made")
    with pytest.raises(ServingError, match=r"no exporter a-protocol-that-nobody-made is installed: pip install"):
        span_recorder()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert callable(span_recorder())


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ServingError, match=r"opentelemetry-api isn't installed: pip install"):
        span_recorder()


def test_it_is_off_unless_it_is_asked_for(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    settings = tiny_settings().serve
    assert Operation.open(tmp_path, settings, "127.0.0.1").trace is None
    asked = settings.model_copy(update={"opentelemetry": True})
    assert Operation.open(tmp_path, asked, "127.0.0.1").trace is not None
