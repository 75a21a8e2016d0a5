"""Fair turns by themselves: who gets how much, and whether the predicted wait is what it comes to."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from touchstone.serving.turns import Backlog, Turns


def test_equal_jobs_come_in_their_order() -> None:
    turns: Turns[int] = Turns()
    for number in range(6):
        turns.put("one", [(2.0, number)])
    assert [turns.take() for _ in range(6)] == list(range(6))
    assert not turns


def test_a_small_job_overtakes_a_bulk_job_of_its_own_client() -> None:
    turns: Turns[str] = Turns()
    turns.put("one", [(1.0, "bulk")] * 20)
    assert turns.take() == "bulk"
    turns.put("one", [(0.1, "small")])
    assert turns.peek() == (0.1, "small")
    assert [turns.take() for _ in range(2)] == ["small", "bulk"]


def test_below_a_quantum_a_client_s_jobs_come_in_their_order_whatever_they_cost() -> None:
    """The longest of 64 texts waited for all others: its latency was three times what a plain queue gives."""
    turns: Turns[int] = Turns(quantum=0.2)
    costs = [0.19, 0.01, 0.05, 0.2, 0.02]
    for number, cost in enumerate(costs):
        turns.put("one", [(cost, number)])
    assert [turns.take() for _ in costs] == [0, 1, 2, 3, 4]
    turns.put("one", [(1.0, 0)] * 3)
    turns.put("one", [(0.01, 1)])
    assert [turns.take() for _ in range(4)] == [1, 0, 0, 0], "what is dearer is still overtaken"


def test_clients_get_the_same_share_however_much_they_send() -> None:
    turns: Turns[str] = Turns()
    for name, cost in (("bulk", 3.0), ("small", 0.5), ("middle", 1.0)):
        turns.put(name, [(cost, name)] * 200)
    work: Counter[str] = Counter()
    for _ in range(150):
        cost, name = turns.peek()
        turns.take()
        work[name] += cost
    assert max(work.values()) - min(work.values()) <= 3.0


def test_clients_that_always_come_back_starve_nobody() -> None:
    """64 clients put a small job again as soon as they are served; the bulk client keeps its 65th part."""
    turns: Turns[str] = Turns()
    turns.put("bulk", [(2.0, "bulk")] * 50)
    for number in range(64):
        turns.put(f"small {number}", [(0.1, f"small {number}")])
    work: Counter[str] = Counter()
    for _ in range(64 * 100):
        cost, name = turns.peek()
        turns.take()
        work[name] += cost
        if name.startswith("small"):
            turns.put(name, [(cost, name)])
    shares = [work[f"small {number}"] for number in range(64)]
    assert max(shares) - min(shares) < 1.0
    assert abs(work["bulk"] - sum(shares) / 64) <= 2.5


def test_within_a_client_small_jobs_that_keep_coming_starve_no_bulk_job() -> None:
    turns: Turns[str] = Turns()
    turns.put("one", [(1.0, "bulk")] * 50)
    work: Counter[str] = Counter()
    turns.put("one", [(0.1, "small")])
    for _ in range(200):
        cost, name = turns.peek()
        turns.take()
        work[name] += cost
        if name == "small":
            turns.put("one", [(0.1, "small")])
    assert abs(work["bulk"] - work["small"]) <= 1.5


JOBS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 12)), min_size=1, max_size=30)


@given(jobs=JOBS, client=st.sampled_from("abcd"), size=st.integers(1, 12))
def test_the_predicted_wait_is_what_the_turns_come_to(jobs: list[tuple[str, int]], client: str, size: int) -> None:
    """Jobs of unit parts: a new one waits for as many parts of others as predicted, but for one part of each, and for
    lengths being classes of one power of two."""
    turns: Turns[bool] = Turns()
    backlog = Backlog()
    for name, parts in jobs:
        turns.put(name, [(1.0, False)] * parts)
        backlog.add(name, parts)
    predicted = backlog.wait(client, size)
    turns.put(client, [(1.0, True)] * size)
    waited, left = 0, size
    while left:
        if turns.take():
            left -= 1
        else:
            waited += 1
    slack = len(jobs)
    assert waited - slack <= predicted <= 2 * waited + slack


def test_a_backlog_counts_what_comes_shortens_and_goes() -> None:
    backlog = Backlog()
    bulk = backlog.add("a", 10.0)
    small = backlog.add("b", 0.5)
    assert backlog.seconds == 10.5
    assert backlog.wait("c", 0.1) == 0.2  # a tenth of each of the other two
    backlog.shorten("a", bulk, 9.9)
    assert abs(backlog.wait("c", 1.0) - 0.6) < 1e-9
    backlog.remove("b", small, 0.5)
    backlog.remove("a", bulk, 0.1)
    assert backlog.seconds == 0
    assert backlog.wait("c", 1.0) == 0
