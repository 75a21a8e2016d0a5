"""Evidence for the gate's checks, drawn by Bradley-Terry, and the limits that it is held to."""

from __future__ import annotations

import numpy as np
from scipy import stats
from scipy.special import expit

from tests.places import ROOT
from touchstone import settings
from touchstone.gate.checks import Check, Pairs
from touchstone.gate.checks.sizes import AIMED_POWER
from touchstone.statistics import CalibrationMap

DEFAULTS = settings.load(ROOT / "params.yaml").gates
LIMITS = DEFAULTS.model_copy(update={"bootstrap_draws": 1000})


def world(
    clusters: int = 1000, per_cluster: int = 1, strength: float = 1.5, seed: int = 1
) -> tuple[np.ndarray, list[str]]:
    """True reward differences of pairs (preferred first, labels by Bradley-Terry), and their clusters."""
    rng = np.random.default_rng(seed)
    gaps = rng.normal(0, strength, clusters * per_cluster)
    wins = rng.random(len(gaps)) < expit(gaps)
    return np.where(wins, gaps, -gaps), [f"c{i // per_cluster:05d}" for i in range(len(gaps))]


def pairs(differences: np.ndarray, clusters: list[str], temperature: float = 1.0) -> Pairs:
    """Pairs of full strength with those reward differences."""
    return Pairs(clusters, np.asarray(differences, float), np.ones(len(clusters)), CalibrationMap(temperature))


def good(**options: float) -> Pairs:
    """A model whose rewards are those that the labels were drawn from; options of `world`."""
    return pairs(*world(**options))


def conditional_power(gains: np.ndarray, more: int, true: float, alpha: float) -> float:
    """P(a one-sided normal test at `alpha` of "the mean is above 0" passes once `more` prompts with that true mean
    have come to those seen): by the distribution of the sum of the new ones."""
    count, deviation = len(gains), gains.std(ddof=1)
    needed_sum = stats.norm.isf(alpha) * deviation * np.sqrt(count + more) - gains.sum()
    return float(stats.norm.sf(needed_sum, more * true, deviation * np.sqrt(more)))


def assert_just_enough(more: int | None, gains: np.ndarray, true: float, alpha: float) -> None:
    """So many more prompts give the power that is aimed at by the formula, and one fewer doesn't."""
    assert more is not None
    assert conditional_power(gains, more, true, alpha) >= AIMED_POWER
    assert more == 1 or conditional_power(gains, more - 1, true, alpha) < AIMED_POWER


def assert_finite(check: Check) -> None:
    """No number of a check may be NaN or infinite, wherever it stands."""
    numbers = [check.value, *(check.interval or ()), check.threshold, *check.details.values()]
    numbers += [value for row in (*check.table, *check.sizes) for value in row.values()]
    assert all(np.isfinite(number) for number in numbers if isinstance(number, int | float)), check
