"""Two reward models on one judged set, with the truth known: what the gate's simulations draw from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import optimize
from scipy.stats import multivariate_normal, norm

from touchstone import statistics
from touchstone.gate.checks import Pairs
from touchstone.statistics import CalibrationMap

LARGE = 100_000
"""Pairs on which a world's map is fitted, so many that its error doesn't count."""


@dataclass(frozen=True)
class World:
    """How two models and the labels are alike.

    The reward difference of a pair, counted from its chosen side, is normal and has three parts: how easy the prompt
    is and how easy the pair is, the same for both models, and how well a model does on this prompt. Two models'
    difference of credits then has an intraclass correlation of about 0.3 inside a prompt.

    Attributes:
        per_prompt: judged pairs of every prompt.
        disagreement: share of the pairs on which two equal models differ.
        accuracy: of the champion.
        ties: share of the pairs that are labelled ties.
    """

    per_prompt: int
    disagreement: float = 0.15
    accuracy: float = 0.70
    ties: float = 0.04


@cache
def likeness(accuracy: float, disagreement: float) -> float:
    """Correlation of two equal models' reward differences at which they differ on this share of the pairs."""
    mean = norm.ppf(accuracy)

    def excess(correlation: float) -> float:
        both = multivariate_normal.cdf([mean, mean], cov=[[1.0, correlation], [correlation, 1.0]])
        return float(2 * (accuracy - both) - disagreement)

    return float(optimize.brentq(excess, 0.0, 0.9999))


@cache
def calibration_map(accuracy: float, ties: float) -> CalibrationMap:
    """The map that fits a model of this accuracy where this share of the pairs are labelled ties."""
    dice, mean = np.random.default_rng(1), float(norm.ppf(accuracy))
    tied = dice.random(LARGE) < ties
    differences = 2 * mean * (np.where(tied, 0.0, mean) + dice.normal(size=LARGE))
    strengths = np.where(tied, 0.5, 1.0)
    return statistics.fit_calibration_map(differences, strengths, np.arange(LARGE)).map


def draw(world: World, prompts: int, gain: float, dice: np.random.Generator) -> tuple[Pairs, Pairs]:
    """Candidate and champion on freshly drawn prompts; the candidate's true accuracy is higher by `gain`.

    Both are calibrated: of a normal D with mean m and variance 1, P(D > 0 given its size) = sigmoid(2 m |D|), and the
    map accounts for the labelled ties.
    """
    shape = (prompts, world.per_prompt)
    common = likeness(world.accuracy, world.disagreement)
    easy = np.sqrt(common / 2) * (dice.normal(size=(prompts, 1)) + dice.normal(size=shape))
    tied = dice.random(shape) < world.ties
    strengths = np.where(tied, 0.5, 1.0).ravel()
    clusters = [f"{prompt:06d}" for prompt in range(prompts) for _ in range(world.per_prompt)]

    def model(accuracy: float) -> Pairs:
        own = np.sqrt(1 - common) * dice.normal(size=(prompts, 1))
        mean = float(norm.ppf(accuracy))
        differences = 2 * mean * (np.where(tied, 0.0, mean) + easy + own)
        return Pairs(clusters, differences.ravel(), strengths, calibration_map(accuracy, world.ties))

    return model(world.accuracy + gain), model(world.accuracy)
