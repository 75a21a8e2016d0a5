"""What sways a judge, measured on verdicts whose sways are known."""

from __future__ import annotations

import random

import pytest

from touchstone.evaluation import judge_bias
from touchstone.evaluation.judge_bias import Bias
from touchstone.groups import Comparison, Completion, Group, Message, make_group
from touchstone.model.llm_judge.verdicts import PairVerdict, Verdict

OWN = "judge-model"


def group(number: int, lengths: tuple[int, int] = (3, 5), people: float | None = 1.0, own: int | None = None) -> Group:
    """Two answers of these lengths; `people` is the share of the judgements that the first won."""
    edges = [] if people is None else [Comparison(0, 1, people, 1 - people)]
    return make_group(
        prompt=[Message("user", f"{number}?")],
        completions=[
            Completion("x" * length, policy=OWN if place == own else "another") for place, length in enumerate(lengths)
        ],
        comparisons=edges,
        source="test",
    )


def pair(forward: str, backward: str) -> PairVerdict:
    return PairVerdict(0, 1, Verdict(forward), Verdict(backward))  # type: ignore[arg-type]


FOR_FIRST, FOR_SECOND = pair("first", "second"), pair("second", "first")
ALWAYS_FIRST = pair("first", "first")


def measure(groups: list[Group], verdicts: list[PairVerdict]) -> dict[str, Bias]:
    table = judge_bias.records("candidate", "holdout", groups, [[verdict] for verdict in verdicts], [OWN])
    return {bias.name: bias for bias in judge_bias.measure(table)}


def test_a_judge_that_agrees_with_people_leans_nowhere() -> None:
    groups = [group(n, lengths=(3 + n % 2 * 4, 5), people=float(n % 2), own=0) for n in range(20)]
    biases = measure(groups, [FOR_FIRST if n % 2 else FOR_SECOND for n in range(20)])
    assert {name: bias.value for name, bias in biases.items()} == {
        "order_disagreement": 0.0,
        "first_place": 0.0,
        "longer_answer": 0.0,
        "own_answer": 0.0,
    }


def test_always_the_first_place_is_half_above_one_half_and_always_a_disagreement() -> None:
    biases = measure([group(n) for n in range(10)], [ALWAYS_FIRST] * 10)
    assert (biases["order_disagreement"].value, biases["first_place"].value) == (1.0, 0.5)
    # As ties these verdicts prefer neither length; people preferred the shorter answer every time.
    assert biases["longer_answer"].value == 0.5


def test_always_the_longer_is_told_from_longer_being_better() -> None:
    against = measure([group(n, people=1.0) for n in range(10)], [FOR_SECOND] * 10)
    alongside = measure([group(n, people=0.0) for n in range(10)], [FOR_SECOND] * 10)
    unlabelled = measure([group(n, people=None) for n in range(10)], [FOR_SECOND] * 10)
    assert against["longer_answer"].value == 1.0
    assert alongside["longer_answer"].value == 0.0
    assert unlabelled["longer_answer"].value == 0.5
    assert "nobody judged" in unlabelled["longer_answer"].what


def test_liking_its_own_writing_is_measured_where_it_wrote_one_of_two() -> None:
    groups = [group(n, people=0.5, own=n % 2) for n in range(10)] + [group(99)]
    verdicts = [FOR_SECOND if n % 2 else FOR_FIRST for n in range(10)] + [FOR_SECOND]
    own = measure(groups, verdicts)["own_answer"]
    assert (own.value, own.n) == (0.5, 10)
    nobody = measure([group(n) for n in range(4)], [FOR_FIRST] * 4)["own_answer"]
    assert nobody.value is None
    assert nobody.what.startswith("not measured")


def test_pairs_without_a_verdict_are_no_evidence() -> None:
    broken = PairVerdict(0, 1, Verdict("first"), Verdict(None, "the answer is empty"))
    biases = measure([group(1), group(2)], [FOR_FIRST, broken])
    assert biases["order_disagreement"].n == 1
    assert measure([group(1)], [broken])["order_disagreement"].value is None


@pytest.mark.parametrize("seed", range(3))
def test_intervals_hold_what_was_put_in(seed: int) -> None:
    """Three in ten verdicts go to whatever is shown first, in pairs that people find even."""
    rng = random.Random(seed)
    groups = [group(n, people=0.5) for n in range(400)]
    verdicts = [
        ALWAYS_FIRST if rng.random() < 0.3 else FOR_FIRST if rng.random() < 0.5 else FOR_SECOND for _ in groups
    ]
    biases = measure(groups, verdicts)
    for name, truth in (("order_disagreement", 0.3), ("first_place", 0.15), ("longer_answer", 0.0)):
        low, high = biases[name].low, biases[name].high
        assert low is not None
        assert high is not None
        assert low - 0.03 < truth < high + 0.03
        assert high - low < 0.12


def test_the_table_of_biases_is_for_people() -> None:
    biases = list(measure([group(n) for n in range(3)], [FOR_FIRST] * 3).values())
    text = judge_bias.table(biases)
    assert "order_disagreement" in text
    assert len(text.splitlines()) == 4
