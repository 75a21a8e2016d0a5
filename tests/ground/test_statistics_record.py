"""Every number that the gate's statistics give on fixed draws: a change of one changes the verdicts that are stored.

What the numbers must be is asked by test_statistics.py and its neighbours; here they must stay what they are. Written
anew as `worlds.records` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.worlds.records import assert_recorded
from touchstone import statistics as st
from touchstone.statistics import CalibrationMap, MapError, OutcomeMap, falls, first_error, sequences, whitening
from touchstone.statistics.first_error import NO_ERROR

FILE = Path(__file__).with_name("statistics_record.json")
ERROR = MapError(0.1, 0.02, -0.4)
FLOOR = CalibrationMap(0.8, 0.05)


def drawn(count: int = 240, each: int = 3, seed: int = 11) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Differences of rewards, shares of votes, clusters of three sizes."""
    dice = np.random.default_rng(seed)
    differences = dice.normal(0.7, 1.2, count)
    votes = dice.binomial(3, 1 / (1 + np.exp(-differences))) / 3
    sizes = np.repeat(np.arange(count // each), each)
    return np.where(votes < 0.5, -differences, differences), np.maximum(votes, 1 - votes), [f"c{n}" for n in sizes]


def decided(flips: float = 0.1) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Single votes, some of them turned round: what a noise floor is for."""
    dice = np.random.default_rng(12)
    gaps = dice.normal(0, 3, 900)
    wins = dice.random(900) < flips + (1 - 2 * flips) / (1 + np.exp(-gaps))
    return np.where(wins, gaps, -gaps), np.ones(900), [f"c{n // 2}" for n in range(900)]


def outcomes() -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
    dice = np.random.default_rng(13)
    rewards = dice.normal(0.5, 1.5, 300)
    labels = (dice.random(300) < 1 / (1 + np.exp(-rewards))).astype(float)
    return rewards, labels, [f"c{n // 4}" for n in range(300)], rewards + dice.normal(0, 2, 300)


def chains() -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str], list[list[float]]]:
    dice = np.random.default_rng(14)
    values = [list(dice.normal(1, 2, dice.integers(1, 6))) for _ in range(90)]
    truth = np.array([dice.integers(0, len(chain)) if dice.random() < 0.5 else NO_ERROR for chain in values])
    found = np.where(dice.random(90) < 0.7, truth, NO_ERROR)
    other = np.where(dice.random(90) < 0.5, truth, 0)
    return found, other, truth, [f"c{n // 2}" for n in range(90)], values


def of_maps() -> dict[str, Callable[[], Any]]:
    rows, labels, clusters = drawn()
    steep = np.abs(rows) * 1e3
    return {
        "probability": lambda: [st.probability(rows[:9], CalibrationMap(0.8)), st.probability(rows[:9], FLOOR)],
        "log odds": lambda: [st.log_odds(rows[:9], CalibrationMap(0.8)), st.log_odds(rows[:9], FLOOR)],
        "log odds, extreme": lambda: [st.log_odds([-900.0, 900.0], FLOOR), st.log_odds([900.0], CalibrationMap(1.0))],
        "losses": lambda: [
            st.pair_losses(rows[:9], labels[:9], CalibrationMap(0.8)), st.pair_losses(rows[:9], labels[:9], FLOOR)
        ],
        "losses, extreme": lambda: st.pair_losses([-900.0, 900.0], [1.0, 1.0], CalibrationMap(1.0)),
        "spread": lambda: st.spread(rows, clusters),
        "fit": lambda: st.fit_calibration_map(rows, labels, clusters),
        "fit, a floor": lambda: st.fit_calibration_map(*decided()),
        "fit, a large floor": lambda: st.fit_calibration_map(*decided(0.25)),
        "fit, no floor": lambda: st.fit_calibration_map(*decided(0.0)),
        "fit, few": lambda: st.fit_calibration_map(rows[:6], labels[:6], clusters[:6]),
        "fit, one cluster": lambda: st.fit_calibration_map(rows[:3], labels[:3], clusters[:3]),
        "fit, certain": lambda: st.fit_calibration_map(steep, np.ones(240), clusters),
        "fit, against": lambda: st.fit_calibration_map(-np.abs(rows), np.ones(240), clusters),
        "fit, flat": lambda: st.fit_calibration_map(np.zeros(240), labels, clusters),
        "whole": lambda: st.assess_calibration(rows, labels, clusters, CalibrationMap(0.7), ERROR, allowed=0.03),
        "whole, certain map": lambda: st.assess_calibration(rows, labels, clusters, FLOOR),
        "whole, one vote": lambda: st.assess_calibration(*decided(), CalibrationMap(1.2, 0.1), ERROR, allowed=0.02),
        "null": lambda: [
            st.calibration_null(rows, labels, clusters, FLOOR, ERROR, off_by=off, bins=bins, level=level)
            for off, bins, level in ((0.0, 10, 0.95), (0.05, 4, 0.9), (0.0, 240, 0.5))
        ],
        "slope": lambda: [
            st.calibration_slope(rows, labels, clusters, CalibrationMap(t), error)
            for t in (0.3, 0.8, 3.0)
            for error in (None, ERROR, MapError(2.0, 0.0, 0.0))
        ],
        "slope, flat": lambda: st.calibration_slope(np.zeros(240), labels, clusters, FLOOR),
        "slope, one cluster": lambda: st.calibration_slope(rows[:3], labels[:3], clusters[:3], FLOOR),
        "reliability": lambda: bins_of(st.probability(np.abs(rows), FLOOR), st.agreement(rows, labels)),
        "reliability, ties": lambda: bins_of(np.repeat([0.6, 0.7, 0.8], 11), np.arange(33) % 2, bins=5),
        "reliability, few": lambda: bins_of([0.6, 0.9], [0.0, 1.0]),
        "error": lambda: [st.calibration_error([0.6, 0.9, 0.9, 0.7], [0, 1, 0.5, 1], bins=n) for n in (1, 2, 4, 9)],
        "debiased": lambda: st.debiased_calibration_error(rows, labels, clusters, CalibrationMap(0.3), bins=5),
        "debiased, one cluster": lambda: st.debiased_calibration_error(rows[:3], labels[:3], clusters[:3], FLOOR),
        "spiegelhalter": lambda: [
            st.spiegelhalter(rows, labels, clusters, CalibrationMap(t), error)
            for t in (0.3, 3.0) for error in (None, ERROR)
        ],
        "spiegelhalter, one cluster": lambda: st.spiegelhalter(rows[:3], labels[:3], clusters[:3], FLOOR),
    }  # fmt: skip


def of_clusters() -> dict[str, Callable[[], Any]]:
    rows, labels, clusters = drawn()
    credits = st.credit(rows)
    means = st.cluster_means(credits, clusters)
    few, flat = means[:4], np.full(40, 0.25)
    gains = means - np.roll(means, 1)
    noise = np.random.default_rng(15).random(240)
    design = np.column_stack([np.ones(240), rows])
    right = (labels > 0.7).astype(float)
    return {
        "credit": lambda: st.credit([1.0, 0.0, -0.0, -2.0]),
        "means": lambda: [means, st.cluster_weights(clusters)[:7], st.accuracy(credits, clusters)],
        "means, out of order": lambda: st.cluster_means([1.0, 2.0, 4.0, 8.0], ["b", "a", "b", "c"]),
        "bootstrap": lambda: [st.bootstrap_mean_interval(values, 0.9, 400, 3) for values in (means, few, flat, [1.0])],
        "bootstrap, skewed": lambda: st.bootstrap_mean_interval(dice_values(), 0.95, 700, 4),
        "t": lambda: [st.t_mean_interval(values, 0.9) for values in (means, few, flat, [1.0])],
        "paired": lambda: [st.paired_interval(values, 0.95) for values in (gains, few, flat, np.zeros(9), [1.0])],
        "accuracy interval": lambda: [
            st.accuracy_interval(credits, clusters, 0.9, 300, 5),
            st.accuracy_interval(np.ones(240), clusters, 0.9, 300, 5),
            st.accuracy_interval(np.zeros(6), clusters[:6], 0.9, 300, 5),
        ],
        "wilson": lambda: [st.wilson_interval(n, 40, level) for n in (0, 12.5, 40) for level in (0.8, 0.95)],
        "clopper": lambda: [st.clopper_pearson_upper(n, 40, 0.9) for n in (0, 12, 40)],
        "mcnemar": lambda: [st.mcnemar(*pair) for pair in ((0, 0), (5, 5), (9, 2), (2, 9))],
        "signs": lambda: [st.sign_test(values) for values in (gains, np.zeros(5), [1.0, -1.0, 2.0, 0.0])],
        "holm": lambda: [st.holm([0.01, 0.04, 0.03, 0.9]), st.holm([0.5, 0.5]), st.holm([])],
        "worse": lambda: [
            st.worse_than(values, border) for values in (gains, few, flat) for border in (-0.3, 0.0, 0.25)
        ],
        "one each": lambda: st.one_per_cluster(clusters, 6)[:20],
        "errors": lambda: [
            st.standard_error(means), st.standard_error(few), st.clustered_standard_error(credits, clusters),
        ],
        "logit": lambda: [*st.clustered_logit(design, right, clusters)][:2],
        "logit, two clusters": lambda: [*st.clustered_logit(design, right, ["a", "b"] * 120)][:2],
        "logit, separated": lambda: [*st.clustered_logit(design, (rows > 0).astype(float), clusters)][:2],
        "correlation inside": lambda: [
            st.intraclass_correlation(values, names)
            for values, names in ((credits, clusters), (noise, clusters), (rows[:3], ["a", "b", "c"]),
                                  (rows[:6], ["a", "a", "b", "b", "c", "c"]), (np.ones(6), clusters[:6]))
        ],
        "effects": lambda: [
            st.minimum_detectable_effect(0.02), st.minimum_detectable_effect(0.02, alpha=0.05, power=0.9)
        ],
        "more": lambda: [
            st.more_clusters(count, seen, 0.4, true, alpha=alpha)
            for count in (50, 400) for seen in (-0.02, 0.0, 0.03) for true in (0.01, 0.03) for alpha in (0.05, 0.01)
        ],
        "inside": lambda: [
            st.within_correlation(rows, credits + rows**2, clusters), st.within_slope(rows, labels, clusters),
            st.within_correlation_error(rows, labels, clusters, clusters),
            st.within_correlation_error(rows, labels, clusters, ["x"] * 240),
            st.within_correlation(rows[:2], labels[:2], ["a", "a"]), st.within_slope(rows, np.ones(240), clusters),
            st.within_correlation(rows, np.ones(240), clusters), st.within_correlation(np.ones(240), rows, clusters),
        ],
        "inside, three rows": lambda: st.within_correlation([1.0, 2.0, 4.0], [3.0, 1.0, 2.0], ["a", "a", "a"]),
        "inside, ties": lambda: st.within_correlation_error(
            np.repeat([1.0, 2.0, 2.0, 5.0], 6), np.tile([0.0, 1.0, 1.0], 8), np.repeat(list("abcdef"), 4),
            np.repeat(list("abc"), 8),
        ),
        "rewards": lambda: [
            st.quantile_table(rows), st.percentile([-9.0, 0.0, 0.3, 9.0], st.quantile_table(rows)),
            st.median_deviation(rows), st.relative_spread(100.0, 0.5), st.relative_spread(0.0, 0.0),
            st.relative_spread(-3.0, 1e-12), whitening.whitened(rows[:9]), whitening.whitened([2.0, 2.0, 2.0]),
            whitening.whitened([]), whitening.whitened([1, 2]),
            whitening.whitened([1e-200, 3e-200]), whitening.whitened([1e200, 3e200]),
        ],
    }  # fmt: skip


def dice_values() -> np.ndarray:
    return np.random.default_rng(16).exponential(1.0, 60)


def of_the_rest() -> dict[str, Callable[[], Any]]:
    rewards, labels, clusters, weak = outcomes()
    found, other, truth, owners, values = chains()
    bits = (np.random.default_rng(17).random(200) < 0.7).astype(float)
    looks = [bits[start : start + 40] for start in range(0, 200, 40)]
    fallen = [*looks, *((np.random.default_rng(18).random((6, 50)) < 0.5).astype(float))]
    fitted = OutcomeMap(0.1, 0.9)
    covariance = np.array([[0.02, 0.003], [0.003, 0.01]])
    areas = st.auc(rewards, labels, clusters), st.auc(weak, labels, clusters)
    return {
        "auc": lambda: [[*area, area.interval(0.9)] for area in areas] + [st.auc_gain(*areas, 0.9)],
        "auc, apart": lambda: [
            st.auc([1.0, 2.0, 3.0, 4.0], labels, ["a", "b", "c", "d"]).interval(0.9)
            for labels in ([0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0.5, 1])
        ],
        "auc, ties": lambda: st.auc([1.0, 1.0, 1.0, 2.0], [0, 1, 1, 0], ["a", "a", "b", "b"]),
        "outcome map": lambda: [*st.fit_outcome_map(rewards, labels, clusters)],
        "outcome map, against": lambda: [*st.fit_outcome_map(-rewards, labels, clusters)],
        "outcome map, separated": lambda: [*st.fit_outcome_map(labels, labels, clusters)],
        "outcomes": lambda: [
            st.outcome_log_odds(rewards[:5], fitted), st.outcome_probability(rewards[:5], fitted),
            st.outcome_losses(rewards[:5], labels[:5]), st.outcome_losses([-900.0, 900.0], [1.0, 0.0]),
        ],
        "outcome calibration": lambda: [
            st.assess_outcome_calibration(scale * rewards, labels, clusters, rewards, known, allowed=0.03)
            for scale in (0.3, 1.0, 3.0) for known in (None, covariance)
        ],
        "outcome calibration, odd": lambda: [
            st.assess_outcome_calibration(np.full(12, 0.4), labels[:12], clusters[:12], rewards[:12]),
            st.assess_outcome_calibration(9 * labels - 4, labels, clusters, rewards),
            st.assess_outcome_calibration(rewards, labels, clusters, np.ones(300), covariance),
        ],
        "best of": lambda: [
            st.best_of([0.1, 0.4, 0.4, 0.9], [0, 1, 0, 1], count) for count in (1, 2, 3, 4)
        ],
        "errors by spread": lambda: [
            st.error_area(np.abs(weak), labels, clusters, 0.9, 200, 7),
            st.error_area(np.round(np.abs(weak)), labels, clusters, 0.9, 200, 7),
            st.error_area(weak, np.ones(300), clusters, 0.9, 50, 7),
            st.error_area(weak[:4], [1, 1, 1, 0], ["a", "b", "c", "d"], 0.9, 50, 7),
        ],
        "first error": lambda: [
            first_error.first_error(chain)
            for chain in ([1, 1], [1, 0.5, 0], [1, None, 0], [None], [0.4], [1, 0.49, None], [])
        ],
        "found": lambda: first_error.found_errors(values[:9], 0.5),
        "detection": lambda: [first_error.detection(found, truth), first_error.detection(other, truth)],
        "detection interval": lambda: [
            first_error.detection_interval(named, truth, owners, 0.9, 300, 8) for named in (found, other, truth)
        ],
        "detection gain": lambda: first_error.detection_gain(found, other, truth, owners, 0.95, 300, 8),
        "threshold": lambda: [
            first_error.best_threshold(values, truth),
            first_error.best_threshold([[1.0, -1.0], [2.0, 3.0], [0.5]], [1, NO_ERROR, NO_ERROR]),
            first_error.best_threshold([[-5.0, 1.0], [-6.0]], [1, NO_ERROR]),
            first_error.best_threshold([[3.0], [4.0], [9.0, 1.0]], [NO_ERROR, NO_ERROR, 1]),
            first_error.best_threshold([[2.0, 2.0], [3.0], [4.0]], [1, NO_ERROR, NO_ERROR]),
            first_error.best_threshold([[5.0, 6.0], [1.0]], [1, NO_ERROR]),
        ],
        "betting": lambda: [ends[::40] for ends in sequences.betting_sequence(bits, 0.9, 200)],
        "bernstein": lambda: [ends[::40] for ends in sequences.empirical_bernstein_sequence(bits, 0.9)],
        "bernstein, nothing": lambda: sequences.empirical_bernstein_sequence([]),
        "asymptotic": lambda: [
            np.nan_to_num(ends[::40], posinf=9, neginf=-9)
            for ends in sequences.asymptotic_sequence(bits - 0.2, 0.9, planned=300, first=50)
        ],
        "falls": lambda: [
            [*vars_of(falls.find_fall(seen, known, error, rate))]
            for seen in (looks, fallen, fallen[:7], looks[:1])
            for known, error in ((0.7, 0.02), (0.9, 0.01))
            for rate in (0.05, 0.001)
        ],
    }  # fmt: skip


def bins_of(confidence: Any, correct: Any, **options: int) -> list[dict[str, Any]]:
    return [asdict(row) for row in st.reliability(confidence, correct, **options)]


def vars_of(fall: falls.Fall) -> list[Any]:
    return [getattr(fall, name) for name in fall.__dataclass_fields__]


CASES = {**of_maps(), **of_clusters(), **of_the_rest()}


@pytest.mark.parametrize("name", CASES)
def test_a_number_is_what_it_was(name: str) -> None:
    assert_recorded(FILE, name, CASES[name]())
