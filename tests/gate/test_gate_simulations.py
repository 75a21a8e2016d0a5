"""The gate's error rates, simulated through its own functions: small, with fixed seeds; the full size is a benchmark.

A share p counted in n draws has the standard error sqrt(p (1 - p) / n): bounds leave room for three of them.
"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.gate import simulations
from benchmarks.gate.worlds import World, draw
from tests.places import ROOT
from touchstone import settings, statistics

LIMITS = settings.load(ROOT / "params.yaml").gates.model_copy(update={"bootstrap_draws": 1000})


def room(share: float, draws: int) -> float:
    return 3 * simulations.error_of(share, draws)


@pytest.mark.parametrize("per_prompt", [1, 6, 15])
def test_the_simulated_world_is_what_it_says(per_prompt: int) -> None:
    world = World(per_prompt, disagreement=0.12, accuracy=0.7)
    candidate, champion = draw(world, 60_000 // per_prompt, 0.03, np.random.default_rng(1))
    credits, clusters = candidate.credits()
    gains = statistics.cluster_means(credits, clusters) - statistics.cluster_means(*champion.credits())
    assert gains.mean() == pytest.approx(0.03, abs=3 * statistics.standard_error(gains))
    assert np.mean(credits != champion.credits()[0]) == pytest.approx(0.12, abs=0.01)
    assert np.mean(~candidate.decided) == pytest.approx(0.04, abs=0.005)
    if per_prompt > 1:
        found = statistics.intraclass_correlation(credits - champion.credits()[0], clusters)
        assert found == pytest.approx(0.25, abs=0.06)
    # Calibrated at T = 1.
    fitted = statistics.fit_calibration_map(np.abs(candidate.differences[candidate.decided]), credits, clusters)
    assert fitted.map.temperature == pytest.approx(1, abs=0.06)
    assert fitted.map.noise_floor < 0.02


@pytest.mark.slow
def test_equal_models_are_promoted_as_rarely_as_the_gate_says() -> None:
    found = simulations.false_promotion(LIMITS, 300, None)
    for row in found.values():
        assert row["promoted"] <= 0.025 + room(0.025, 300)
    # What it is worth to resample prompts: who counts pairs is wrong several times as often.
    assert found["6"]["promoted_if_pairs_were_prompts"] > 0.06
    assert found["15"]["promoted_if_pairs_were_prompts"] > 0.12


@pytest.mark.slow
def test_a_gain_of_three_points_is_found_at_the_size_that_the_gate_asks_for() -> None:
    found = simulations.power(LIMITS, 60, None)
    assert found["promoted"] >= 0.80
    assert found["prompts"] < 3000


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
    assert worse["passed"] <= 0.05 + room(0.05, 50)
