"""The queue with a real scorer and its threads: merging, fairness, bounds, cancelling, and other people's faults."""

from __future__ import annotations

import itertools
import math
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from tests.worlds.registered import artifact
from tests.worlds.served import Slowed, serve_settings, slowed, until
from touchstone.errors import ModelError
from touchstone.groups import Message
from touchstone.model.scores import Item
from touchstone.model.scoring import Scorer
from touchstone.model.templating import EncodedGroup
from touchstone.serving.batching import Batcher
from touchstone.serving.cost import Coefficients, Cost, Lateness, Size
from touchstone.serving.jobs import EngineError, QueueFullError, Result, StoppingError

ASK = (Message("user", "2+2?"),)
KNOWN = Coefficients(call=0.0, completion=0.01, token=1e-6, attention=0.0)
"""Predictions that don't depend on this machine's other work, until the first batch corrects them."""


@contextmanager
def working(scorer: Scorer, *, start: bool = True, at_once: int = 1, **settings: object) -> Iterator[Batcher]:
    batcher = Batcher(serve_settings(**settings), at_once)
    batcher.prepare(scorer, Cost(KNOWN))
    if start:
        batcher.start()
    try:
        yield batcher
    finally:
        batcher.abandon()
        batcher.stop()


def submit(batcher: Batcher, scorer: Scorer, *items: Item, client: str = "", encode: Any = None) -> Future[Result]:
    sizes = [Size(sum(len(message.content) for message in prompt), tuple(map(len, texts))) for prompt, texts in items]
    return batcher.submit(scorer, items, sizes, encode or scorer.encode, client=client)


def texts(count: int, name: str = "egg") -> list[Item]:
    return [(ASK, [f"{name} {number}"]) for number in range(count)]


def test_what_waits_is_scored_together_and_each_gets_its_own() -> None:
    scorer = slowed(0.0)
    items = texts(24)
    with working(scorer, start=False, batch_seconds=5.0) as batcher:
        futures = [submit(batcher, scorer, item, client=str(number % 3)) for number, item in enumerate(items)]
        batcher.start()
        results = [future.result(60) for future in futures]
        assert batcher.queued_requests == 0
        assert batcher.queued_seconds == pytest.approx(0, abs=1e-9)
        batcher.stop()
    assert max(scorer.batches) > 4
    expected = Scorer.load(artifact(0)).score(items)
    for result, rows in zip(results, expected, strict=True):
        assert result.scores[0][0].reward == pytest.approx(rows[0].reward, abs=1e-5)
        assert [group.tokens(0) for group in result.groups] == [result.groups[0].tokens(0)]


def test_a_request_that_comes_alone_waits_for_nobody() -> None:
    scorer = slowed(0.0)
    with working(scorer, batch_seconds=5.0) as batcher:
        submit(batcher, scorer, *texts(1)).result(60)
        times = []
        for item in texts(9):
            began = time.perf_counter()
            submit(batcher, scorer, item).result(60)
            times.append(time.perf_counter() - began)
    began = time.perf_counter()
    for item in texts(9, "water"):
        scorer.score([item])
    alone = (time.perf_counter() - began) / 9
    assert sorted(times)[4] < 3 * alone + 0.02


def test_tokens_that_wait_are_counted_until_they_are_scored() -> None:
    scorer = slowed(0.2)
    with working(scorer, batch_seconds=0.01) as batcher:
        futures = [submit(batcher, scorer, item) for item in texts(3)]
        until(lambda: scorer.batches and batcher.queued_tokens > 0)
        for future in futures:
            future.result(60)
        assert batcher.queued_tokens == 0


def test_a_batch_is_cut_where_it_would_take_too_long() -> None:
    scorer = slowed(0.01)
    with working(scorer, start=False, batch_seconds=0.06) as batcher:
        futures = [submit(batcher, scorer, item) for item in texts(20)]
        batcher.start()
        for future in futures:
            future.result(60)
    assert scorer.batches[0] == 5  # a hundredth of a second each, and a little for their tokens


def test_one_bulk_client_does_not_starve_small_ones() -> None:
    scorer = slowed(0.01)
    with working(scorer, batch_seconds=0.03, max_wait_seconds=30.0) as batcher:
        bulk = submit(batcher, scorer, *texts(150), client="bulk")
        until(lambda: scorer.batches)
        small = [submit(batcher, scorer, item, client=f"small {n}") for n, item in enumerate(texts(8, "king"))]
        own = submit(batcher, scorer, *texts(1, "Paris"), client="bulk")
        for future in small:
            future.result(60)
        own.result(60)
        assert scorer.completions < 70  # of 159, some of them before the others came
        assert not bulk.done()
        assert len(bulk.result(60).scores) == 150


def test_one_large_group_is_scored_in_pieces_that_let_others_pass() -> None:
    scorer = slowed(0.0)
    many = [f"{number} " + "egg water " * 20 for number in range(160)]
    with working(scorer, batch_seconds=0.02) as batcher:
        row = submit(batcher, scorer, (ASK, many)).result(60).scores[0]
    assert len(scorer.batches) > 2
    expected = scorer.score([(ASK, many)])[0]
    assert [score.reward for score in row] == pytest.approx([score.reward for score in expected], abs=1e-5)


def test_a_full_queue_refuses_with_what_waits_and_takes_again_what_fits() -> None:
    scorer = slowed(0.0)
    with working(scorer, start=False, max_wait_seconds=1.0, batch_seconds=5.0) as batcher:
        accepted: list[Future[Result]] = []

        def fill() -> None:
            for item in texts(1000):
                accepted.append(submit(batcher, scorer, item))

        with pytest.raises(QueueFullError) as refused:
            fill()
        assert 75 < len(accepted) <= 81  # 10 ms each: one second, if they come a quarter later than predicted
        assert refused.value.retry_after == 1
        with pytest.raises(QueueFullError):
            batcher.check_room("", 10_000)
        submit(batcher, scorer, *texts(1), client="another")  # whose turn comes soon
        batcher.start()
        for future in accepted:
            future.result(60)
        until(lambda: batcher.queued_requests == 0)
        batcher.check_room("", 10_000)
        submit(batcher, scorer, *texts(500)).cancel()  # what comes while nothing waits is taken, however large


def test_what_nobody_waits_for_any_more_is_not_computed() -> None:
    scorer = slowed(0.05)
    with working(scorer, batch_seconds=0.05) as batcher:
        first = submit(batcher, scorer, *texts(2), client="a")
        until(lambda: scorer.batches)
        left = submit(batcher, scorer, *texts(100), client="b")
        stays = submit(batcher, scorer, *texts(1), client="c")
        seconds = batcher.queued_seconds
        assert left.cancel()
        assert batcher.queued_requests == 2
        assert batcher.queued_seconds < seconds / 2
        assert len(first.result(60).scores) == 2
        stays.result(60)
        until(lambda: batcher.queued_requests == 0)
        with pytest.raises(CancelledError):
            left.result()
    assert scorer.completions < 10


def test_texts_are_not_tokenised_for_whom_nobody_waits() -> None:
    scorer = slowed(0.0)
    seen: list[str] = []

    def encode(items: Sequence[Item]) -> list[EncodedGroup]:
        time.sleep(0.2)
        seen.extend(completion for _, completions in items for completion in completions)
        return scorer.encode(items)

    with working(scorer) as batcher:
        large = "egg " * 10_000
        futures = [submit(batcher, scorer, (ASK, [f"{n} {large}"]), client=str(n), encode=encode) for n in range(8)]
        for future in futures[4:]:
            future.cancel()
        for future in futures[:4]:
            future.result(60)
    assert sorted(text[0] for text in seen) == ["0", "1", "2", "3"]


def test_one_text_that_cannot_be_tokenised_fails_alone() -> None:
    scorer = slowed(0.0)

    def encode(items: Sequence[Item]) -> list[EncodedGroup]:
        for _, completions in items:
            if completions == ["king"]:
                raise ModelError("that can't be rendered")
            if completions == ["Paris"]:
                raise MemoryError
        return scorer.encode(items)

    with working(scorer, start=False) as batcher:
        good, bad, worse = [submit(batcher, scorer, (ASK, [text]), encode=encode) for text in ("egg", "king", "Paris")]
        batcher.start()
        assert math.isfinite(good.result(60).scores[0][0].reward)
        with pytest.raises(ModelError, match="can't be rendered"):
            bad.result(60)
        with pytest.raises(EngineError, match="MemoryError"):
            worse.result(60)
        assert submit(batcher, scorer, *texts(1)).result(60).scores


def test_a_nan_of_one_text_stays_with_its_request() -> None:
    """In a packed row what isn't a number would spread: nothing times NaN is NaN."""
    scorer = slowed(0.0)
    (group,) = scorer.encode([(ASK, ["king"])])
    with torch.no_grad():
        network = scorer.model.network
        network.get_input_embeddings().weight[group.completion_ids[0][0]] = math.nan
    expected = scorer.score([(ASK, ["egg"])])[0][0].reward
    assert math.isfinite(expected)
    with working(scorer, start=False, batch_seconds=5.0) as batcher:
        futures = [submit(batcher, scorer, (ASK, [text])) for text in ("egg", "king", "water", "egg")]
        batcher.start()
        rewards = [future.result(60).scores[0][0].reward for future in futures]
    assert [math.isfinite(reward) for reward in rewards] == [True, False, True, True]
    assert rewards[0] == pytest.approx(expected, abs=1e-5)


def test_a_forward_that_raises_fails_its_own_request_only() -> None:
    class Broken(Slowed):
        def score_encoded(self, encoded: Sequence[EncodedGroup], *, values: bool = False) -> list[list[Any]]:
            if any(len(group.completion_ids) == 3 for group in encoded):
                raise RuntimeError("out of memory: 2+2?")
            return super().score_encoded(encoded, values=values)

    scorer = Broken(Scorer.load(artifact(0)), 0.0)
    with working(scorer, start=False, batch_seconds=5.0) as batcher:
        good, bad = submit(batcher, scorer, *texts(2)), submit(batcher, scorer, (ASK, ["a", "b", "c"]))
        batcher.start()
        assert len(good.result(60).scores) == 2
        with pytest.raises(EngineError, match=r"^RuntimeError$"):
            bad.result(60)


def test_versions_take_turns_and_are_not_mixed() -> None:
    items = texts(6)
    taken: list[int] = []

    class Held(Slowed):
        """Scores nothing before all texts are tokenised: one that comes later would be a batch of its own."""

        def score_encoded(self, encoded: Sequence[EncodedGroup], *, values: bool = False) -> list[list[Any]]:
            taken.extend(Size.of(group).total for group in encoded)
            until(lambda: sum(taken) + batcher.queued_tokens == tokens)
            return super().score_encoded(encoded, values=values)

    scorers = [Held(Scorer.load(artifact(seed)), 0.0) for seed in (0, 1)]
    tokens = sum(Size.of(group).total for scorer in scorers for group in scorer.encode(items))
    with working(scorers[0], start=False, batch_seconds=5.0) as batcher:
        futures = [[submit(batcher, scorer, item) for scorer in scorers] for item in items]
        batcher.start()
        rewards = [[future.result(60).scores[0][0].reward for future in pair] for pair in futures]
    for place, seed in enumerate((0, 1)):
        expected = [row[0].reward for row in Scorer.load(artifact(seed)).score(items)]
        assert [pair[place] for pair in rewards] == pytest.approx(expected, abs=1e-5)
        assert len(scorers[place].batches) <= 2


def test_what_is_abandoned_is_told_and_nothing_more_is_taken() -> None:
    scorer = slowed(0.05)
    with working(scorer, batch_seconds=0.05) as batcher:
        futures = [submit(batcher, scorer, item) for item in texts(20)]
        until(lambda: scorer.batches)
        batcher.abandon()
        for future in futures[2:]:
            with pytest.raises(StoppingError):
                future.result(5)
        with pytest.raises(StoppingError):
            submit(batcher, scorer, *texts(1))


def test_an_item_without_completions_has_no_scores() -> None:
    scorer = slowed(0.0)
    with working(scorer) as batcher:
        assert submit(batcher, scorer, (ASK, [])).result(5).scores == [[]]
        assert [len(row) for row in submit(batcher, scorer, (ASK, []), (ASK, ["4"])).result(60).scores] == [0, 1]


# --- several batches at once -----------------------------------------------------------------------------------------


def test_two_batches_at_once_share_what_waits_and_score_the_same() -> None:
    scorer = slowed(0.05)
    items = texts(24)
    with working(scorer, start=False, at_once=2, batch_seconds=5.0) as batcher:
        futures = [submit(batcher, scorer, item, client=str(number % 3)) for number, item in enumerate(items)]
        assert batcher.queued_seconds == pytest.approx(24 * 0.01 / 2, rel=0.5)
        began = time.perf_counter()
        batcher.start()
        results = [future.result(60) for future in futures]
        assert time.perf_counter() - began < 0.75 * 24 * 0.05
        assert batcher.queued_seconds == pytest.approx(0, abs=1e-9)
    assert max(scorer.batches) <= 20
    expected = Scorer.load(artifact(0)).score(items)
    for result, rows in zip(results, expected, strict=True):
        assert result.scores[0][0].reward == pytest.approx(rows[0].reward, abs=1e-5)


def test_a_group_is_divided_among_idle_threads_and_stays_whole_while_they_work() -> None:
    scorer = slowed(0.2)
    many = [f"egg {number}" for number in range(16)]
    with working(scorer, at_once=2, batch_seconds=0.1) as batcher:
        row = submit(batcher, scorer, (ASK, many)).result(60).scores[0]
        assert scorer.batches == [1, 1]
        assert scorer.completions == 16

        others = [submit(batcher, scorer, item) for item in texts(2, "king")]
        until(lambda: len(scorer.batches) == 4)
        again = submit(batcher, scorer, (ASK, many))
        again.result(60)
        for future in others:
            future.result(60)
        assert len(scorer.batches) == 5
    expected = scorer.score([(ASK, many)])[0]
    for scores in (row, again.result().scores[0]):
        assert [score.reward for score in scores] == pytest.approx([score.reward for score in expected], abs=1e-5)


def test_a_group_that_would_not_be_done_much_sooner_is_not_divided() -> None:
    scorer = slowed(0.0)
    dear = Cost(Coefficients(call=0.0, completion=0.0, token=0.01, attention=0.0))
    with working(scorer, at_once=2) as batcher:
        batcher.prepare(scorer, dear)
        submit(batcher, scorer, ((Message("user", "egg " * 40),), ["Yes.", "No."])).result(60)
    assert scorer.batches == [1]


@pytest.mark.parametrize("at_once", [1, 2])
def test_so_much_is_taken_as_all_threads_together_do_in_time(at_once: int) -> None:
    scorer = slowed(0.0)
    with working(scorer, start=False, at_once=at_once, max_wait_seconds=1.0) as batcher:
        batcher.prepare(scorer, Cost(Coefficients(call=0.0, completion=0.1, token=0.0, attention=0.0)))
        accepted: list[Future[Result]] = []

        def fill() -> None:
            for item in texts(1000):
                accepted.append(submit(batcher, scorer, item))

        with pytest.raises(QueueFullError):
            fill()
        assert len(accepted) == pytest.approx(at_once * 1.0 / 0.1 / Lateness().factor, abs=1.5)
        batcher.start()


def test_after_a_stall_as_much_is_taken_as_before() -> None:
    """A process that was stopped, a model read from the disk again: whoever comes next has no part in it."""
    scorer = slowed(0.0)
    with working(scorer, max_wait_seconds=1.0) as batcher:
        for item in texts(40):
            submit(batcher, scorer, item).result(60)
        scorer.seconds = 3.0
        waiting = [submit(batcher, scorer, item) for item in texts(8, "king")]
        until(lambda: len(scorer.batches) == 41)
        scorer.seconds = 0.0
        for future in waiting:
            future.result(60)
        for future in [submit(batcher, scorer, item) for item in texts(10, "water")]:
            future.result(60)


def test_a_bulk_job_s_own_work_is_not_lateness() -> None:
    """It comes when it was to come, again and again: others are let in as before."""
    scorer = slowed(0.05)
    with working(scorer, batch_seconds=0.03, max_wait_seconds=2.5) as batcher:
        batcher.prepare(scorer, Cost(Coefficients(call=0.0, completion=0.05, token=0.0, attention=0.0)))
        for number in range(12):
            first = submit(batcher, scorer, *texts(2, f"first {number}"), client="one")
            bulk = submit(batcher, scorer, *texts(5, f"bulk {number}"), client="bulk")
            first.result(60)
            bulk.result(60)
        for item in texts(28, "water"):
            submit(batcher, scorer, item)


class Panic(BaseException):
    """What a panic in Rust is in Python."""


@pytest.mark.parametrize("where", ["tokenising", "scoring", "a gap"])
def test_a_panic_of_a_library_costs_its_request_and_no_thread(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = slowed(0.0)

    def panic(*_: object, **__: object) -> Any:
        raise Panic

    with working(scorer) as batcher:
        for _ in range(4):
            if where == "a gap":
                with pytest.raises(Panic):
                    batcher.in_gap(panic)
                continue
            with monkeypatch.context() as patched:
                if where == "scoring":
                    patched.setattr(scorer, "score_encoded", panic)
                future = submit(batcher, scorer, *texts(1), encode=panic if where == "tokenising" else None)
                with pytest.raises(EngineError, match="Panic"):
                    future.result(60)
        assert len(submit(batcher, scorer, *texts(2)).result(60).scores) == 2
        assert not batcher.health.broken


def test_who_is_served_no_more_is_freed_while_nothing_comes() -> None:
    with working(slowed(0.0), at_once=2) as batcher:
        scorer = slowed(0.0, seed=1)
        batcher.prepare(scorer, Cost(KNOWN))
        for item in texts(6):
            submit(batcher, scorer, item).result(60)
        gone = weakref.ref(scorer)
        del scorer
        until(lambda: gone() is None, seconds=10)


def test_work_beside_requests_is_done_although_one_thread_always_scores() -> None:
    scorer = slowed(0.02)
    with working(scorer, at_once=2, batch_seconds=0.01) as batcher:
        done = threading.Event()

        def ask_always() -> None:
            for number in itertools.count():
                if done.is_set():
                    return
                submit(batcher, scorer, (ASK, [f"egg {number}"])).result(60)

        client = threading.Thread(target=ask_always)
        client.start()
        try:
            began = time.perf_counter()
            assert [batcher.in_gap(lambda: 7) for _ in range(5)] == [7] * 5
            assert time.perf_counter() - began < 10
        finally:
            done.set()
            client.join(60)
