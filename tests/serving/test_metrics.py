"""What /metrics says is what happened."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.worlds.registered import NAME, artifact
from tests.worlds.served import Served, open_live, served
from touchstone.groups import Message
from touchstone.model.scoring import Scorer
from touchstone.serving import metrics as metrics_module
from touchstone.serving.exchange import STAGES, Exchange, Scored, done
from touchstone.serving.live import Live, Memory
from touchstone.serving.logs import log_exchange
from touchstone.serving.metrics import Metrics

SECRET = "the-planted-secret"
ASK = (Message("user", "2+2?"),)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Live:
    return open_live(tmp_path_factory.mktemp("metrics"))


def body(*completions: str, prompt: str = "2+2?", **more: object) -> dict[str, object]:
    return {"inputs": [{"prompt": prompt, "completions": list(completions or ("4", "5"))}], **more}


def scrape(endpoint: Served) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by its name and labels."""
    answer = endpoint.ask("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: dict[tuple[str, tuple[tuple[str, str], ...]], float], name: str, **labels: str) -> float:
    return samples[f"touchstone_{name}", tuple(sorted(labels.items()))]


def test_what_was_asked_is_counted_with_its_scores(live: Live) -> None:
    texts = ["4", "five", "egg " * 1000]
    offline = Scorer.load(artifact(0)).score([(ASK, texts)])[0]
    with served(live) as endpoint:
        for _ in range(3):
            assert endpoint.ask("/v1/rewards", body(*texts)).status_code == 200
        assert endpoint.ask("/v1/rewards", body(model=f"{NAME}@challenger")).status_code == 200
        assert endpoint.ask("/v1/rewards", {}).status_code == 422
        samples = scrape(endpoint)

    assert value(samples, "requests_total", route="/v1/rewards", status="200") == 4
    assert value(samples, "requests_total", route="/v1/rewards", status="422") == 1
    assert value(samples, "refusals_total", type="invalid_request") == 1
    assert value(samples, "centred_score_count", model=NAME, version="1") == 9
    assert value(samples, "centred_score_count", model=NAME, version="2") == 2
    for bound in ("-1.0", "0.0", "+Inf"):
        count = 3 * sum(score.centered <= float(bound) for score in offline)
        assert value(samples, "centred_score_bucket", model=NAME, version="1", le=bound) == count
    assert value(samples, "truncated_completions_total", model=NAME, version="1") == 3
    assert value(samples, "batch_texts_sum") == 11
    assert value(samples, "batch_tokens_count") == value(samples, "batch_duration_seconds_count")


def test_versions_queue_and_process_are_read_when_asked(live: Live) -> None:
    with served(live) as endpoint:
        before = scrape(endpoint)
        endpoint.ask("/v1/rewards", body())
        after = scrape(endpoint)
    for seed, alias in ((0, "champion"), (1, "challenger")):
        digest = Scorer.load(artifact(seed)).card.digest[:16]
        labels = {"model": NAME, "alias": alias, "version": str(seed + 1), "digest": digest}
        assert value(after, "version_info", **labels) == 1
        assert 0 <= value(after, "self_test_age_seconds", model=NAME, alias=alias) < 600
    assert value(after, "queue_requests") == value(after, "queue_tokens") == 0
    assert value(after, "version_troubles", model=NAME) == 0
    assert after["process_resident_memory_bytes", ()] > 0
    computed = [value(samples, "computed_tokens_total", model=NAME, version="1") for samples in (before, after)]
    assert computed[1] > computed[0]


def test_what_waits_is_shown_with_how_long_it_will_take(live: Live) -> None:
    async def scenario() -> None:
        with served(live, working=False) as endpoint:
            asked = [asyncio.create_task(endpoint.asked("/v1/rewards", body())) for _ in range(3)]
            while endpoint.batcher.queued_requests < 3:
                await asyncio.sleep(0.01)
            waiting = await asyncio.to_thread(scrape, endpoint)
            assert value(waiting, "queue_requests") == 3
            assert value(waiting, "queue_tokens") == endpoint.batcher.queued_tokens
            assert value(waiting, "queue_predicted_seconds") == endpoint.batcher.queued_seconds
            endpoint.batcher.start()
            assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200] * 3
            done = await asyncio.to_thread(scrape, endpoint)
            assert value(done, "queue_requests") == value(done, "queue_predicted_seconds") == 0

    asyncio.run(scenario())


def test_the_stages_of_a_request_add_up_to_it(live: Live) -> None:
    with served(live) as endpoint:
        started = time.perf_counter()
        endpoint.ask("/v1/rewards", body("egg " * 50, "water " * 60))
        lasted = time.perf_counter() - started
        samples = scrape(endpoint)
    seconds = {stage: value(samples, "stage_duration_seconds_sum", stage=stage) for stage in STAGES}
    assert all(value(samples, "stage_duration_seconds_count", stage=stage) >= 1 for stage in STAGES)
    assert min(seconds.values()) > 0
    assert sum(seconds.values()) == pytest.approx(value(samples, "request_duration_seconds_sum"), abs=1e-6)
    assert sum(seconds.values()) < lasted
    assert seconds["forward"] > seconds["read"] / 10


def test_padding_is_the_share_of_what_was_computed_in_vain(live: Live) -> None:
    model = live.served["challenger"].scorer.model
    shares, done = model.shares, (model.work.tokens, model.work.padding)
    model.shares = False
    try:
        with served(live) as endpoint:
            endpoint.ask("/v1/rewards", body("egg", "egg " * 40, model=f"{NAME}@challenger"))
            samples = scrape(endpoint)
    finally:
        model.shares = shares
    short, long = live.served["challenger"].scorer.encode([(ASK, ["egg"]), (ASK, ["egg " * 40])])
    padding = long.tokens(0) - short.tokens(0)
    assert model.work.padding - done[1] == padding > 0
    assert model.work.tokens - done[0] == long.tokens(0) + short.tokens(0)
    assert value(samples, "padding_tokens_total", model=NAME, version="2") == model.work.padding
    share = model.work.padding / (model.work.padding + model.work.tokens)
    assert value(samples, "padding_share", model=NAME, version="2") == pytest.approx(share)


def test_no_label_holds_what_a_client_wrote(live: Live) -> None:
    with served(live) as endpoint:
        for number in range(20):
            path = f"/{SECRET}/{number}"
            assert endpoint.ask(path, headers={"X-Request-ID": SECRET}).status_code == 404
            endpoint.ask("/v1/rewards", body(model=f"{SECRET}{number}"))
            endpoint.ask("/v1/rewards", body(prompt=f"{SECRET} {number}"))
        answer = endpoint.ask("/metrics")
        samples = scrape(endpoint)
    assert SECRET not in answer.text
    routes = {dict(labels)["route"] for name, labels in samples if name == "touchstone_requests_total"}
    assert routes == {"none", "/v1/rewards", "/metrics"}
    assert value(samples, "requests_total", route="none", status="404") == 20
    assert value(samples, "refusals_total", type="unknown_model") == 20


def test_names_follow_the_conventions(live: Live) -> None:
    with served(live) as endpoint:
        endpoint.ask("/v1/rewards", body())
        text = endpoint.ask("/metrics").text
        openmetrics = endpoint.ask("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")
    for family in text_string_to_metric_families(text):
        assert family.name.startswith(("touchstone_", "process_"))
        assert family.documentation
        assert "milliseconds" not in family.name
        if family.type == "counter":
            assert all(sample.name.endswith(("_total", "_created")) for sample in family.samples)


def test_versions_beyond_the_last_are_forgotten(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "MOST_VERSIONS", 1)
    with served(live) as endpoint:
        endpoint.ask("/v1/rewards", body())
        endpoint.ask("/v1/rewards", body(model=f"{NAME}@challenger"))
        samples = scrape(endpoint)
    versions = {dict(labels)["version"] for name, labels in samples if name == "touchstone_centred_score_count"}
    assert versions == {"2"}


def test_two_endpoints_of_one_process_count_apart(live: Live) -> None:
    with served(live) as first, served(live) as second:
        first.ask("/v1/rewards", body())
        assert value(scrape(first), "batch_texts_count") == 1
        assert value(scrape(second), "batch_texts_count") == 0


def test_readiness_is_the_self_test_of_the_champion(live: Live) -> None:
    with served(live) as endpoint:
        assert live.served["champion"].scorer.self_tested > 0
        assert endpoint.ask("/readyz").json()["version"] == "1"
        present, live.memory = live.memory, Memory()
        try:
            assert endpoint.ask("/readyz").status_code == 503
            assert endpoint.ask("/healthz").status_code == 200
            assert "touchstone_version_info{" not in endpoint.ask("/metrics").text
        finally:
            live.memory = present


def test_watching_costs_little_of_a_request(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    """All that is done for an exchange, and not for a request without one: far from a request's own milliseconds."""
    caplog.set_level(logging.CRITICAL)
    version = live.served["champion"].version
    scores = Scorer.load(artifact(0)).score([(ASK, ["4"])])
    with served(live) as endpoint:
        metrics = Metrics([live], endpoint.batcher)

    def watch() -> float:
        started = time.process_time()
        for _ in range(200):
            exchange = Exchange("1", "POST", "127.0.0.1", time.perf_counter_ns(), route="/v1/rewards", status=200)
            exchange.scored = Scored(NAME, version, [(ASK, ["4"])], 9, scores)
            for stage in STAGES:
                done(stage, exchange)
            metrics.answered(exchange)
            log_exchange("text", exchange)
        return (time.process_time() - started) / 200

    assert min(watch() for _ in range(5)) < 0.0005
