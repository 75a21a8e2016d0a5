"""The gate's error rates, simulated through its own functions: small, with fixed seeds; the full size is a benchmark.

A share p counted in n draws has the standard error sqrt(p (1 - p) / n): bounds leave room for three of them.
"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.gate import simulations
from tests.places import ROOT
from touchstone import settings, statistics
from touchstone.gate.checks import Verdict
from touchstone.gate.simulation import CERTAIN, Sizes, World, decide, draw, pairs_of, seal

LIMITS = settings.load(ROOT / "params.yaml").gates.model_copy(update={"bootstrap_draws": 1000})
SIZES = Sizes(600, 240, 360)


@pytest.fixture(scope="module")
def shape() -> simulations.Shape:
    return simulations.default_shape(LIMITS, groups=1500)


def room(share: float, draws: int) -> float:
    return 3 * simulations.error_of(share, draws)


@pytest.mark.parametrize("per_prompt", [1, 6, 15])
def test_the_simulated_world_is_what_it_says(per_prompt: int) -> None:
    world = World(accuracy=0.7, discordance=0.12)
    even = simulations.even_shape(per_prompt, ties=0.04)
    drawn = draw(even, world, 60_000 // per_prompt, [0.03, 0.0], np.random.default_rng(1))
    sealed = seal(drawn)
    better, champion = pairs_of(drawn, sealed)
    equal, _ = pairs_of(drawn, sealed, 1)
    gains = better.gains(champion)
    assert gains.mean() == pytest.approx(0.03, abs=3 * statistics.standard_error(gains))
    credits, clusters = equal.credits()
    assert np.mean(credits != champion.credits()[0]) == pytest.approx(0.12, abs=0.01)
    assert np.mean(~better.decided) == pytest.approx(0.04, abs=0.005)
    if per_prompt > 1:
        found = statistics.intraclass_correlation(credits - champion.credits()[0], clusters)
        assert found == pytest.approx(0.25, abs=0.06)
    # Calibrated at T = 1, but for the ties.
    decided = better.decided
    clusters = np.asarray(better.clusters)[decided]
    fitted = statistics.fit_calibration_map(better.differences[decided], np.ones(decided.sum()), clusters)
    assert fitted.map.temperature == pytest.approx(1, abs=0.06)
    assert fitted.map.noise_floor < 0.02


def test_wrong_labels_hide_a_part_of_the_gain() -> None:
    world, even = World(label_noise=0.1), simulations.even_shape(1, ties=0.0)
    drawn = draw(even, world, 60_000, [0.05], np.random.default_rng(2))
    candidate, champion = pairs_of(drawn, CERTAIN)
    assert champion.means().mean() == pytest.approx(0.9 * 0.7 + 0.1 * 0.3, abs=0.006)
    gains = candidate.gains(champion)
    assert gains.mean() == pytest.approx(0.8 * 0.05, abs=3 * statistics.standard_error(gains))


def test_the_shape_of_a_set_is_that_of_its_groups(shape: simulations.Shape) -> None:
    assert shape.masks["axis=safety"].mean() == pytest.approx(0.2, abs=0.03)
    assert 1.5 < len(shape.tied) / shape.prompts < 2
    assert shape.starts[0] == 0
    assert shape.starts[-1] == len(shape.tied) == len(shape.chosen)
    assert (shape.chosen != shape.rejected).all()
    assert {"turns=several", "length_contrast=alike", "source=sandbox"} <= set(shape.masks)
    assert shape.absent == ()
    drawn = draw(shape, World(), 500, [0.0], np.random.default_rng(3))
    assert len(np.unique(drawn.clusters)) == 500
    # The pairs of a prompt come together, as often as it has them.
    sizes = np.diff(shape.starts)
    assert np.bincount(drawn.clusters).sum() == len(drawn.places)
    assert set(np.bincount(drawn.clusters)) <= set(sizes)


def test_copies_of_a_prompt_are_one_cluster(shape: simulations.Shape) -> None:
    drawn = draw(shape, World(copies=5), 200, [0.0], np.random.default_rng(4))
    once = draw(shape, World(), 200, [0.0], np.random.default_rng(4))
    assert len(drawn.places) == 5 * len(once.places)
    assert len(np.unique(drawn.clusters)) == 200
    assert len(np.unique(drawn.numbers)) == 1000
    many, few = pairs_of(drawn, CERTAIN), pairs_of(once, CERTAIN)
    assert many[0].gains(many[1]) == pytest.approx(few[0].gains(few[1]))


def test_a_decision_is_the_same_whoever_computes_it(shape: simulations.Shape) -> None:
    options = {"shape": shape, "world": World(), "sizes": SIZES, "gain": 0.05, "limits": LIMITS, "seed": 3}
    first, second = decide(7, **options), decide(7, **options)
    assert (first.verdict, first.checks) == (second.verdict, second.checks)
    assert decide(8, **options).checks != first.checks
    assert decide(7, **{**options, "gain": -0.10}).verdict is Verdict.REJECT
    assert decide(7, **{**options, "sizes": Sizes(200, 80, 120)}).verdict is not Verdict.PROMOTE


def test_every_statistical_check_has_its_say(shape: simulations.Shape) -> None:
    options = {"shape": shape, "world": World(), "sizes": Sizes(2500, 1000, 1500), "gain": 0.08, "limits": LIMITS}
    outcomes = [decide(number, **options) for number in range(4)]
    promoted = next(outcome for outcome in outcomes if outcome.verdict is Verdict.PROMOTE)
    asked = {"champion", "slices", "evidence", "floor", "length", "calibration", "confirm"}
    assert set(promoted.statuses) == asked
    alone = decide(0, **{**options, "limits": LIMITS.model_copy(update={"policy": "first_model"})})
    assert alone.checks[0].reason.startswith("This is the first model")
    small = decide(0, **{**options, "limits": LIMITS.model_copy(update={"policy": "small_data"})})
    assert small.verdict is not Verdict.PROMOTE


@pytest.mark.slow
def test_equal_models_are_promoted_as_rarely_as_the_gate_says(shape: simulations.Shape) -> None:
    for row in simulations.false_promotion(shape, LIMITS, 90, None, prompts=800).values():
        assert row["promoted"] <= row["champion_passed"] <= 0.025 + room(0.025, 90)
    copies = simulations.families(shape, LIMITS, 90, None, prompts=500)
    assert copies["promoted"] <= copies["champion_passed"] <= 0.025 + room(0.025, 90)
    # What it is worth to resample prompts: who counts pairs is wrong several times as often.
    (curve,) = simulations.curves(LIMITS, 300, None, [600], [0.0])
    assert curve["promoted_if_pairs_were_prompts"] > 0.06


@pytest.mark.slow
@pytest.mark.long  # the benchmark of the same, at full size, says more
def test_a_gain_of_three_points_is_found_with_the_default_data(shape: simulations.Shape) -> None:
    found = simulations.promote3(shape, LIMITS, 60, None)
    assert found["safety_share"] == pytest.approx(0.2, abs=0.03)
    assert found["by_discordance"]["0.10"]["promoted"] >= 0.80 - room(0.80, 60)
    assert found["by_discordance"]["0.10"]["champion_passed"] >= 0.90


@pytest.mark.slow
@pytest.mark.long  # the benchmark of the same, at full size, says more
def test_the_size_that_is_asked_for_gives_the_power_that_is_promised(shape: simulations.Shape) -> None:
    for name, row in simulations.asked_sizes(shape, LIMITS, 120, None, prompts=600).items():
        if row["undecided"] >= 30:
            assert row["passed"] == pytest.approx(0.80, abs=0.04 + room(0.80, row["undecided"])), name


@pytest.mark.slow
def test_twenty_equal_candidates_pass_no_more_often_than_the_page_says(shape: simulations.Shape) -> None:
    found = simulations.lineage(shape, LIMITS, 60, None, prompts=600)
    assert found["promoted"] <= found["passed_the_holdout"]
    assert found["promoted"] <= found["claimed_at_most"] + room(found["claimed_at_most"], 60)


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_claim() -> None:
    for name, share in simulations.coverage(LIMITS, 400, None)["shares"].items():
        nominal = float(name.rsplit(" ", 1)[1].rstrip("%")) / 100
        assert share == pytest.approx(nominal, abs=0.015 + room(nominal, 400)), name


@pytest.mark.slow
def test_an_equal_model_passes_a_refresh_and_one_that_is_worse_by_the_margin_does_not() -> None:
    equal, worse = simulations.refreshes(LIMITS, 50, None, simulations.REFRESH_SIZES[:1])
    assert equal["passed_by_accuracy"] >= 0.80 - room(0.80, 50)
    assert equal["passed"] >= 0.5
    assert equal["failed"] <= 0.1 + room(0.1, 50)
    assert worse["passed"] <= 0.05 + room(0.05, 50)
