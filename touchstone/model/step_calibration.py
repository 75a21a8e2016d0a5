"""What the values of steps mean, from a calibration set whose steps are labelled: for `sealing`.

A process model has no comparison of its own: whether a chain has a wrong step is what its reward is about. So the
probability that A beats B follows from the map of rewards to that: of two chains of which exactly one has no wrong
step, it is A with odds e^(b (r_A - r_B)), the ratio of their odds, which is Bradley and Terry's model with T = 1/b.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from touchstone import statistics as st
from touchstone.errors import ArtifactError
from touchstone.groups import Group, judged_pairs, labelled_steps, set_digest
from touchstone.model.card import Calibration, OutcomeCalibration, OutcomeError, StepCalibration
from touchstone.model.scores import RawScore
from touchstone.statistics.first_error import best_threshold, detection, first_error, found_errors

SIGNIFICANT_DIGITS = 9
"""Kept of every sealed number: what an fp32 reward holds."""


def step_calibration(calibration: Sequence[Group], scores: Sequence[Sequence[RawScore]]) -> StepCalibration:
    """The map from a step's log odds to its probability, and the threshold that finds first errors best.

    Args:
        scores: per group one score per completion, with the values of its steps.

    Raises:
        ArtifactError: the set has no chain with a wrong step, or none without.
    """
    values: list[float] = []
    labels: list[float] = []
    clusters: list[str] = []
    chains: list[tuple[tuple[float, ...], int, str]] = []
    for group, row in zip(calibration, scores, strict=True):
        for completion, score in zip(group.completions, row, strict=True):
            labelled = labelled_steps(completion) or []
            # Values end where the text was cut.
            for value, (_, label) in zip(score.values or (), labelled, strict=False):
                if label is not None:
                    values.append(value)
                    labels.append(float(label >= 0.5))
                    clusters.append(group.cluster_id)
            truth = first_error([label for _, label in labelled]) if labelled else None
            if truth is not None:
                chains.append((score.values or (), truth, group.cluster_id))
    truths = [truth for _, truth, _ in chains]
    try:
        threshold = best_threshold([chain for chain, _, _ in chains], truths)
        fitted = st.fit_outcome_map(values, labels, clusters)
    except ValueError as error:
        raise ArtifactError(f"the calibration set: {error}; give it more clusters with step labels") from None
    found = found_errors([chain for chain, _, _ in chains], threshold)
    return StepCalibration(
        intercept=keep(fitted.map.intercept),
        slope=keep(fitted.map.slope),
        error=map_error(fitted.covariance),
        threshold=keep(threshold),
        f1=keep(detection(found, truths).f1),
        steps=len(values),
        chains=len(chains),
        n_prompts=len({cluster for _, _, cluster in chains}),
    )


def odds_calibration(calibration: Sequence[Group], outcome: OutcomeCalibration) -> Calibration:
    """The map from differences of rewards to P(A beats B), from the map of rewards to the probability of being right.

    Its error is that of the slope: log T moves by as much as log b.
    """
    temperature = 1 / outcome.slope
    error = None
    if outcome.error is not None:
        relative = outcome.error.slope / outcome.slope
        error = {"log_temperature": keep(relative), "noise_floor": 0.0, "correlation": 0.0}
    return Calibration.model_validate(
        {
            "temperature": keep(temperature),
            "noise_floor": 0.0,
            "error": error,
            "temperature_at_bound": False,
            "log_loss": outcome.log_loss,
            "pairs": sum(len(judged_pairs(group)) for group in calibration),
            "n_prompts": outcome.n_prompts,
            "calibration_digest": set_digest(calibration),
        }
    )


def map_error(covariance: st.Floats | None) -> OutcomeError | None:
    """A covariance of intercept and slope as the card has it."""
    if covariance is None:
        return None
    sides = np.sqrt(np.diag(covariance))
    correlation = float(np.clip(covariance[0, 1] / sides.prod(), -1, 1)) if sides.all() else 0.0
    return OutcomeError(intercept=keep(sides[0]), slope=keep(sides[1]), correlation=keep(correlation))


def keep(value: float) -> float:
    """The value with SIGNIFICANT_DIGITS: further ones are noise of the last addition."""
    return float(f"{float(value):.{SIGNIFICANT_DIGITS}g}")
