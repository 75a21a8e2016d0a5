"""Pictures: valid PNG, the same bytes for the same numbers, and no warning on degenerate input."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from matplotlib.image import imread

from touchstone.evaluation import pictures
from touchstone.statistics import Interval

RNG = np.random.default_rng(17)
DIFFERENCES = RNG.normal(1, 2, 400)
CONFIDENCE = 0.5 + 0.5 * RNG.random(400)


def accuracy() -> bytes:
    results = {"model": (0.78, Interval(0.75, 0.81)), "longer_wins": (0.41, Interval(0.35, 0.47))}
    return pictures.accuracy_chart(results, subject="400 validation prompts")


def calibration() -> bytes:
    correct = (DIFFERENCES > 0).astype(float)
    return pictures.reliability_diagram(CONFIDENCE, correct, error=0.04, null_error=0.05, subject="400 comparisons")


def margins() -> bytes:
    return pictures.margin_histogram(DIFFERENCES, subject="400 comparisons")


def lengths() -> bytes:
    return pictures.reward_against_length(
        np.arange(400), DIFFERENCES, correlation=-0.1, subject="400 validation completions"
    )


@pytest.mark.parametrize("draw", [accuracy, calibration, margins, lengths])
def test_pictures_repeat_byte_for_byte_and_hold_ink(draw: Callable[[], bytes]) -> None:
    first = draw()
    assert first == draw()
    assert b"matplotlib" not in first.lower()
    pixels = imread(BytesIO(first), format="png")[..., :3]
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 900
    assert 0.005 < (pixels.min(axis=2) < 0.9).mean() < 0.6


def test_pictures_of_almost_nothing() -> None:
    assert pictures.accuracy_chart({"model": (1.0, Interval(0.2, 1.0))}, subject="1 prompt")
    assert pictures.reliability_diagram([0.5], [0.5], error=0.0, null_error=0.5, subject="1 comparison")
    assert pictures.margin_histogram([0.0, 0.0], subject="2 comparisons")
    assert pictures.reward_against_length([5, 5], [1.0, 1.0], correlation=None, subject="2 completions")
