"""What Prometheus reads at /metrics: the queue, batches, latency by stage, scores, refusals and versions.

    metrics = Metrics([live], batcher, samples)
    metrics.answered(exchange)          # after each request
    metrics.batch(texts, tokens, 0.2)   # after each batch
    app.include_router(metrics.router())

Counted while requests pass: counters and histograms. Read when somebody asks: the queue, and what is live. A label
never holds what a client wrote, so their number is bounded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from touchstone.serving.batching import Batcher
from touchstone.serving.exchange import STAGES, Exchange, Scored
from touchstone.serving.keys import METRICS
from touchstone.serving.live import Live
from touchstone.serving.samples import Samples

LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TOKENS = (64, 256, 1_024, 4_096, 16_384, 65_536)
CENTRED = (-4.0, -3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Standard deviations of the reference set: most scores lie within four."""
VERSION = ("model", "version")
MOST_VERSIONS = 32
"""So many versions have scores of their own; then the one that came first is forgotten."""


class Metrics:
    """The endpoint's metrics, in a registry of their own.

    Attributes:
        registry: for whoever reads them otherwise than at /metrics.
    """

    def __init__(self, lives: Sequence[Live], batcher: Batcher, samples: Samples | None = None) -> None:
        """
        Args:
            lives: a model each.
        """
        self.registry = CollectorRegistry()
        self._versions: dict[tuple[str, str], None] = {}
        self._requests = self._counter("requests", "Requests answered.", "route", "status")
        self._refusals = self._counter("refusals", "Requests refused, by the error's type.", "type")
        self._duration = self._histogram("request_duration_seconds", "From first byte to reply.", LATENCIES)
        stages = self._histogram("stage_duration_seconds", "Time that requests spent in a stage.", LATENCIES, "stage")
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        self._texts = self._histogram("batch_texts", "Completions scored together.", TEXTS)
        self._tokens = self._histogram("batch_tokens", "Tokens scored together.", TOKENS)
        self._seconds = self._histogram("batch_duration_seconds", "Time that a batch took to score.", LATENCIES)
        self._scores = self._histogram("centred_score", "Scores, in SDs of the reference set.", CENTRED, *VERSION)
        self._truncated = self._counter("truncated_completions", "Completions that were cut.", *VERSION)
        self.registry.register(_Present(lives, batcher, samples))
        ProcessCollector(registry=self.registry)

    def router(self) -> APIRouter:
        """The route that Prometheus scrapes."""
        routes = APIRouter()

        # Not a coroutine: wording a few hundred lines belongs in a thread, not in the event loop.
        @routes.get(METRICS, summary="For Prometheus", response_class=Response)
        def metrics(request: Request) -> Response:
            encode, content_type = choose_encoder(request.headers.get("accept", ""))
            return Response(encode(self.registry), media_type=content_type)

        return routes

    def answered(self, exchange: Exchange) -> None:
        """Count a request at its end."""
        self._requests.labels(exchange.route, exchange.status).inc()
        if exchange.refusal is not None:
            self._refusals.labels(exchange.refusal).inc()
        self._duration.observe(exchange.seconds)
        for stage, seconds in exchange.stage_seconds().items():
            self._stages[stage].observe(seconds)
        if exchange.scored is not None:
            for content in (exchange.scored, *exchange.scored.parts):
                self._count_scores(content)

    def batch(self, texts: int, tokens: int, seconds: float) -> None:
        """Count a batch that was scored."""
        self._texts.observe(texts)
        self._tokens.observe(tokens)
        self._seconds.observe(seconds)

    def _count_scores(self, scored: Scored) -> None:
        version = scored.model.partition("@")[0], str(scored.version.version)
        self._remember(version)
        histogram = self._scores.labels(*version)
        for row in scored.scores:
            for score in row:
                histogram.observe(score.centered)
        self._truncated.labels(*version).inc(scored.truncated)

    def _remember(self, version: tuple[str, str]) -> None:
        if version in self._versions:
            return
        self._versions[version] = None
        if len(self._versions) > MOST_VERSIONS:
            oldest = next(iter(self._versions))
            del self._versions[oldest]
            self._scores.remove(*oldest)
            self._truncated.remove(*oldest)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"touchstone_{name}", about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"touchstone_{name}", about, labels, buckets=buckets, registry=self.registry)


class _Present(Collector):
    """What is true when somebody asks: nothing has to be counted for it."""

    def __init__(self, lives: Sequence[Live], batcher: Batcher, samples: Samples | None) -> None:
        self.lives = lives
        self.batcher = batcher
        self.samples = samples

    def collect(self) -> Iterator[Metric]:
        """The queue, the versions, what they computed, and the samples."""
        yield from self._queue()
        yield from self._versions()
        yield from self._work()
        if self.samples is not None:
            yield _count("samples_written", "Prompts with completions kept as samples.", self.samples.written)
            yield _count("samples_dropped", "Samples given up because writing was behind.", self.samples.dropped)

    def _queue(self) -> Iterator[Metric]:
        yield _gauge("queue_requests", "Requests that wait to be scored.", self.batcher.queued_requests)
        yield _gauge("queue_tokens", "Tokens that wait to be scored.", self.batcher.queued_tokens)
        yield _gauge("queue_predicted_seconds", "How long the queue will take.", self.batcher.queued_seconds)

    def _versions(self) -> Iterator[Metric]:
        about = GaugeMetricFamily(
            "touchstone_version_info", "What is served.", labels=("model", "alias", "version", "digest")
        )
        ages = GaugeMetricFamily(
            "touchstone_self_test_age_seconds", "Since the self-test passed.", labels=("model", "alias")
        )
        troubles = GaugeMetricFamily(
            "touchstone_version_troubles", "Aliases not served as the registry says.", labels=("model",)
        )
        for live in self.lives:
            for alias, served in live.served.items():
                version = served.version
                about.add_metric((live.name, alias, str(version.version), version.digest[:16]), 1)
                ages.add_metric((live.name, alias), time.time() - served.scorer.self_tested)
            troubles.add_metric((live.name,), len(live.troubles))
        yield from (about, ages, troubles)

    def _work(self) -> Iterator[Metric]:
        computed = CounterMetricFamily("touchstone_computed_tokens", "Tokens computed, padding not.", labels=VERSION)
        padding = CounterMetricFamily("touchstone_padding_tokens", "Padding computed.", labels=VERSION)
        share = GaugeMetricFamily("touchstone_padding_share", "Share of padding since the start.", labels=VERSION)
        hits = CounterMetricFamily("touchstone_prefix_cache_hits", "Prompts found computed.", labels=VERSION)
        misses = CounterMetricFamily("touchstone_prefix_cache_misses", "Prompts not found.", labels=VERSION)
        held = GaugeMetricFamily("touchstone_prefix_cache_bytes", "What computed prompts take.", labels=VERSION)
        scorers = {
            (live.name, str(served.version.version)): served.scorer
            for live in self.lives
            for served in live.served.values()
        }
        for version, scorer in scorers.items():
            work = scorer.model.work
            computed.add_metric(version, work.tokens)
            padding.add_metric(version, work.padding)
            share.add_metric(version, work.padding / max(1, work.tokens + work.padding))
            cache = scorer.prefixes
            if cache is not None:
                hits.add_metric(version, cache.hits)
                misses.add_metric(version, cache.misses)
                held.add_metric(version, cache.bytes)
        yield from (computed, padding, share, hits, misses, held)


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(f"touchstone_{name}", about, value=value)


def _count(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(f"touchstone_{name}", about, value=value)
