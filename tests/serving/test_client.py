"""The client by itself, against a peer that misbehaves, and against a real endpoint."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from itertools import chain, pairwise
from typing import Any

import pytest

from tests.places import ROOT
from tests.worlds.registered import NAME, artifact, open_registry, publish, reference, tiny_settings
from tests.worlds.scripted import HANG_UP, Answer, answer, refusal, scores, scripted
from touchstone.client import AsyncClient, Client, Reply
from touchstone.client.retries import Attempts
from touchstone.errors import RefusedError, ServingError
from touchstone.groups import Message, read_parquet
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer
from touchstone.runtime.retries import FIRST_SECONDS, LONGEST_SECONDS, retry_after
from touchstone.serving import temporary_endpoint

ONE = [("2+2?", ["4"])]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real endpoint with one version, that takes at most eight completions a request."""
    registry = open_registry(tmp_path_factory.mktemp("client"))
    registry.set_alias(NAME, "champion", publish(registry, 0).version, expected=None)
    with temporary_endpoint(registry.root, tiny_settings(max_completions=8), NAME) as client:
        yield client.url


def rewards(url: str, how: str, inputs: Any, **options: Any) -> Reply:
    """`rewards` of one of the two forms."""
    call = {name: options.pop(name) for name in ("version", "one_version") if name in options}

    async def awaited() -> Reply:
        async with AsyncClient(url, **options) as client:
            return await client.rewards(inputs, **call)

    if how == "async":
        return asyncio.run(awaited())
    with Client(url, **options) as client:
        return client.rewards(inputs, **call)


both = pytest.mark.parametrize("how", ["sync", "async"])


@pytest.mark.parametrize("module", ["touchstone.client", "touchstone.client.reward_function"])
def test_the_client_needs_neither_the_model_nor_the_server(module: str) -> None:
    """A trainer installs it beside libraries of its own."""
    heavy = {
        "torch",
        "transformers",
        "numpy",
        "pyarrow",
        "fastapi",
        "starlette",
        "uvicorn",
        "pydantic",
        "mlflow",
        "trl",
    }
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


# --- what it sends and reads -----------------------------------------------------------------------------------------


@both
def test_a_batch_beyond_the_endpoint_s_limits_is_cut_and_scores_the_same(url: str, how: str) -> None:
    items = [as_item(group) for group in read_parquet(reference())[:6]]
    items.append(((Message("user", "count"),), [f"{number} eggs" for number in range(19)]))
    expected = Scorer.load(artifact(0)).score(items)
    for options in ({"completions_per_request": 8}, {"completions_per_request": 512}, {"bytes_per_request": 300}):
        reply = rewards(url, how, items, **options)  # at 512 the endpoint refuses, and the client halves
        assert [len(row) for row in reply.scores] == [len(row) for row in expected]
        for served, offline in zip(chain(*reply.scores), chain(*expected), strict=True):
            assert served.reward == pytest.approx(offline.reward, abs=1e-5)
        assert (reply.version, reply.versions) == (1, (1,))


@both
@pytest.mark.parametrize("kind", ["too_many_completions", "request_too_long"])
def test_what_is_too_large_in_one_request_is_halved(how: str, kind: str) -> None:
    def small_only(number: int, body: Any) -> Answer:
        texts = list(chain(*(given["completions"] for given in body["inputs"])))
        return answer(scores(body)) if len(texts) <= 2 else refusal(422, kind)

    with scripted(small_only) as peer:
        reply = rewards(peer.url, how, [("a", ["1", "2", "3"]), ("b", ["4"]), ("c", ["5", "6"])])
    assert [[score.reward for score in row] for row in reply.scores] == [[1.0, 2.0, 3.0], [4.0], [5.0, 6.0]]


def test_a_prompt_may_be_a_text_dictionaries_or_messages(url: str) -> None:
    prompts = ["2+2?", [{"role": "user", "content": "2+2?"}], [Message("user", "2+2?")]]
    reply = rewards(url, "sync", [(prompt, ["4"]) for prompt in prompts])
    assert len({row[0] for row in reply.scores}) == 1


def test_a_comparison_says_the_chance_that_a_wins(url: str) -> None:
    scorer = Scorer.load(artifact(0))
    with Client(url) as client:
        reply = client.compare("2+2?", "4", "five")
        swapped = client.compare("2+2?", "five", "4", f"{NAME}@champion")
    assert reply.probability == pytest.approx(scorer.probability(reply.a.reward, reply.b.reward), abs=1e-6)
    assert swapped.probability == pytest.approx(1 - reply.probability, abs=1e-6)
    assert (swapped.model, swapped.version, swapped.a.tokens) == (f"{NAME}@champion", 1, reply.b.tokens)
    assert swapped.a.reward == pytest.approx(reply.b.reward, abs=1e-5)


def test_a_ranking_is_asked_for_and_read_as_agreed() -> None:
    score = {"reward": 2.0, "centered": 1.0, "percentile": 0.8, "truncated": False, "tokens": 3, "newer": "field"}
    ranking = [{"index": 1, "rank": 1, "probability": 0.5, "score": score}]
    peer_answer = answer({"model": "r@champion", "version": 3, "digest": "d", "ranking": ranking})
    with scripted(lambda number, body: peer_answer) as peer, Client(peer.url) as client:
        reply = client.rank("2+2?", ["4", "5"], best=1)
    assert peer.requests[0][0] == "/v1/rank"
    assert peer.requests[0][2] == {"model": None, "prompt": "2+2?", "completions": ["4", "5"], "n": 1}
    assert (reply.version, reply.ranking[0].index, reply.ranking[0].score.centered) == (3, 1, 1.0)


def test_texts_without_utf_8_are_sent_as_escapes(url: str) -> None:
    lone, replaced = rewards(url, "sync", [("2+2?", ["\ud800", "\ufffd"])]).scores[0]
    assert lone.reward == pytest.approx(replaced.reward, abs=1e-5)


def test_no_inputs_are_the_endpoint_s_to_refuse(url: str) -> None:
    with pytest.raises(RefusedError, match="at least 1") as refused:
        rewards(url, "sync", [])
    assert (refused.value.status, refused.value.kind) == (422, "invalid_request")


@pytest.mark.parametrize(
    "content",
    [
        b"<html>a proxy</html>",
        b"[]",
        b'{"results": []}',
        b'{"model": "m", "version": 1, "digest": "d", "results": []}',
        b'{"model": "m", "version": 1, "digest": "d", "results": [{"scores": [{"reward": NaN, "centered": 0.0, '
        b'"percentile": 0.5, "truncated": false, "tokens": 1}]}]}',
    ],
)
def test_an_answer_that_is_none_is_an_error_and_never_a_score(content: bytes) -> None:
    with scripted(lambda number, body: (200, {}, content)) as peer, pytest.raises(ServingError, match="can't be used"):
        rewards(peer.url, "sync", ONE)


# --- who asks, and for which version ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "environment", "credentials", "sent"),
    [
        ("key-1", "key-2", "", "Bearer key-1"),
        (None, "key-2", "", "Bearer key-2"),
        (None, "", "", None),
        (None, "key-2", "trainer:key-3@", "Basic dHJhaW5lcjprZXktMw=="),
    ],
)
def test_the_key_travels_in_a_header_and_stands_in_no_message(
    monkeypatch: pytest.MonkeyPatch, given: str | None, environment: str, credentials: str, sent: str | None
) -> None:
    monkeypatch.setenv("TOUCHSTONE_API_KEY", environment)
    with scripted(lambda number, body: refusal(401, "no_key")) as peer:
        address = peer.url.replace("http://", f"http://{credentials}")
        with pytest.raises(RefusedError, match="because of no_key") as refused:
            rewards(address, "sync", ONE, api_key=given)
    assert peer.requests[0][1]["Authorization"] == sent
    assert "key-" not in str(refused.value)


@pytest.mark.parametrize("address", ["127.0.0.1:8100", "ftp://127.0.0.1", "http://", "http://[::1", "http://a:b:c"])
def test_an_address_that_can_be_none_is_refused_at_once(address: str) -> None:
    with pytest.raises(ServingError, match="http://HOST:PORT"):
        Client(address)


def test_a_key_that_no_header_can_carry_is_refused_at_once() -> None:
    with pytest.raises(ServingError, match="TOUCHSTONE_API_KEY"):
        Client("http://127.0.0.1:8100", api_key="key\n")


@both
def test_a_batch_that_two_versions_answered_says_so_or_is_asked_again(how: str) -> None:
    def promoted_meanwhile(number: int, body: Any) -> Answer:
        return answer(scores(body, version=1 if number == 0 else 2))

    inputs = [(f"prompt {number}", ["1", "2"]) for number in range(3)]
    with scripted(promoted_meanwhile) as peer:
        reply = rewards(peer.url, how, inputs, completions_per_request=2, concurrency=1)
    assert (reply.version, reply.versions) == (2, (1, 2))
    with scripted(promoted_meanwhile) as peer:
        reply = rewards(peer.url, how, inputs, completions_per_request=2, concurrency=1, one_version=True)
    assert (reply.version, reply.digest, reply.versions) == (2, "digest-2", (2,))
    assert [[score.reward for score in row] for row in reply.scores] == [[1.0, 2.0]] * 3
    again = peer.requests[-1]
    assert (again[1]["X-Touchstone-Digest"], again[2]["inputs"][0]["prompt"]) == ("digest-2", "prompt 0")
    assert len(peer.requests) == 4


@both
def test_a_pinned_version_answers_or_nobody(how: str) -> None:
    with scripted(lambda number, body: answer(scores(body, version=2))) as peer:
        assert rewards(peer.url, how, ONE, version=2).version == 2
        with pytest.raises(ServingError, match="version 2 where 1 was asked for"):
            rewards(peer.url, how, ONE, version=1)
        with Client(peer.url, version=1) as client, pytest.raises(ServingError, match="where 1 was asked for"):
            client.rewards(ONE)
    assert [request[1]["X-Touchstone-Version"] for request in peer.requests] == ["2", "1", "1"]


# --- when it tries again ---------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "trouble",
    [refusal(503, "queue_full", Retry_After="0.2"), refusal(429, "too_fast"), answer({}, 502), HANG_UP],
    ids=["503", "429", "502", "closed"],
)
def test_what_passes_is_tried_again(how: str, trouble: Answer) -> None:
    with scripted(lambda number, body: trouble if number < 2 else answer(scores(body))) as peer:
        reply = rewards(peer.url, how, ONE)
    assert reply.scores[0][0].reward == 4.0
    times = [request[3] for request in peer.requests]
    assert len(times) == 3
    if "Retry-After" in trouble[1]:
        assert min(second - first for first, second in pairwise(times)) >= 0.2


@both
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 500])
def test_what_stays_refused_is_sent_once(how: str, status: int) -> None:
    with (
        scripted(lambda number, body: refusal(status, "no_way", Retry_After="0")) as peer,
        pytest.raises(RefusedError, match=f"answered {status}: because of no_way") as refused,
    ):
        rewards(peer.url, how, ONE)
    assert (refused.value.status, refused.value.kind, len(peer.requests)) == (status, "no_way", 1)


@both
def test_patience_ends(how: str) -> None:
    begin = time.monotonic()
    with (
        scripted(lambda number, body: refusal(503, "queue_full", Retry_After="0.1")) as peer,
        pytest.raises(ServingError, match=r"503: because of queue_full \(tried \d+ times in \d s; patience"),
    ):
        rewards(peer.url, how, ONE, patience=0.8)
    assert 0.2 < time.monotonic() - begin < 2
    assert len(peer.requests) > 1
    with (
        scripted(lambda number, body: refusal(503, "draining", Retry_After="3600")) as peer,
        pytest.raises(ServingError, match="tried once"),
    ):  # an hour is not waited for
        rewards(peer.url, how, ONE)


@both
def test_nobody_listens(how: str) -> None:
    with scripted(lambda number, body: HANG_UP) as peer:
        gone = peer.url
    with pytest.raises(ServingError, match=r"can't be reached \(ConnectError\); is it running\?"):
        rewards(gone, how, ONE, patience=0.0)


@both
def test_one_try_takes_no_longer_than_its_timeout(how: str) -> None:
    begin = time.monotonic()
    with scripted(lambda number, body: answer(scores(body)), seconds=1.0) as peer:
        with pytest.raises(ServingError, match="ReadTimeout"):
            rewards(peer.url, how, ONE, timeout=0.2, patience=0.0)
        assert time.monotonic() - begin < 0.8


@both
def test_a_large_batch_goes_a_few_requests_at_a_time(how: str) -> None:
    inputs = [(f"prompt {number}", [str(number)]) for number in range(12)]
    with scripted(lambda number, body: answer(scores(body)), seconds=0.05) as peer:
        reply = rewards(peer.url, how, inputs, completions_per_request=1, concurrency=3)
    assert [row[0].reward for row in reply.scores] == [float(number) for number in range(12)]
    assert (len(peer.requests), peer.most_at_once) == (12, 3)


def test_pauses_grow_are_random_and_never_shorter_than_asked_for() -> None:
    def pauses(make: Callable[[], Attempts], count: int, header: str) -> list[float]:
        import httpx

        response = httpx.Response(503, headers={"Retry-After": header}, json={})
        attempts = make()
        return [attempts.pause("http://endpoint", response) for _ in range(count)]

    many = [pauses(lambda: Attempts(1e9), 8, "2") for _ in range(200)]
    for number, column in enumerate(zip(*many, strict=True)):
        most = min(LONGEST_SECONDS, FIRST_SECONDS * 2**number)
        assert 2.0 <= min(column) < 2.0 + 0.1 * most
        assert 2.0 + 0.9 * most < max(column) <= 2.0 + most


def test_retry_after_is_read_in_both_its_forms() -> None:
    assert (retry_after("7"), retry_after("0.5"), retry_after(""), retry_after("soon")) == (7.0, 0.5, 0.0, 0.0)
    assert retry_after(formatdate(time.time() + 30, usegmt=True)) == pytest.approx(30, abs=2)
    assert retry_after(formatdate(time.time() - 30, usegmt=True)) == 0.0
