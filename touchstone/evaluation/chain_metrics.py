"""Metrics of a process model on chains of labelled steps, with the baselines beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from touchstone import statistics as st
from touchstone.errors import DataError, ModelError
from touchstone.evaluation.chain_baselines import Values
from touchstone.evaluation.chains import Chain, ChainRow, has_errors, labelled_values
from touchstone.evaluation.metrics import DRAWS, LEVEL, SEED
from touchstone.model.card import StepCalibration
from touchstone.statistics.first_error import NO_ERROR, Places, detection, detection_interval, found_errors

BEST = 1.0
"""F1 where labels are known for certain: whoever knows the world finds every first error."""


def measure_chains(
    rows: Sequence[ChainRow],
    chains: Sequence[Chain],
    baselines: Mapping[str, tuple[Places, Values | None]],
    process: StepCalibration,
    *,
    known_world: bool = False,
) -> dict[str, Any]:
    """Metrics of one model on one set.

    Args:
        rows, chains: of the same chains, in one order.
        baselines: from `chain_baselines` for these chains.
        process: the sealed threshold, and the map of values to probabilities.
        known_world: the labels are certain, so that the best possible F1 is 1.

    Returns:
        f1 with its 95% interval (f1_low, f1_high), on_errors and on_correct (its two parts), threshold; chains,
        chains_with_error, clusters; steps, step_accuracy (share of labelled steps on the right side of the
        threshold), step_auc with its interval, step_calibration_error with what a calibrated model reads
        (step_calibration_error_null) and step_brier; reward_auc, of chains without a wrong step against those with
        one; truncated_share, unread_steps; axes; baselines; gap_closed = (model - best baseline) / (1 - best
        baseline), None where the best possible isn't known.

    Raises:
        DataError: there are no chains of both kinds.
        ModelError: a value is not finite.
    """
    truth = [row.truth for row in rows]
    with_error, without = has_errors(rows)
    if not with_error or not without:
        raise DataError(
            f"{with_error} chains have a wrong step and {without} have none: F1 needs both kinds; split the data anew"
        )
    if not all(np.isfinite(row.values).all() and np.isfinite(row.reward) for row in rows):
        raise ModelError("a step's value is not finite: the model can't be measured")
    clusters = [row.cluster_id for row in rows]
    values, labels, step_clusters = labelled_values(rows)
    odds = st.outcome_log_odds(values, process.map)
    calibration = st.assess_outcome_calibration(odds, labels, step_clusters, values, process.covariance)
    auc = st.auc(values, labels, step_clusters)
    auc_interval = auc.interval(LEVEL)
    reward_auc = st.auc([row.reward for row in rows], [float(place == NO_ERROR) for place in truth], clusters)
    found = found_errors([row.values for row in rows], process.threshold)
    beaten = {name: _baseline(places, of_steps, chains) for name, (places, of_steps) in baselines.items()}
    model = _f1(found, truth, clusters)
    best = max(result["f1"] for result in beaten.values())
    labelled = sum(label is not None for row in rows for label in row.labels)
    return {
        **model,
        "threshold": process.threshold,
        "chains": len(rows),
        "chains_with_error": with_error,
        "clusters": len(set(clusters)),
        "steps": len(values),
        "step_accuracy": float(((values >= process.threshold) == (labels == 1)).mean()),
        "step_auc": auc.value,
        "step_auc_low": auc_interval.low,
        "step_auc_high": auc_interval.high,
        "step_calibration_error": calibration.error,
        "step_calibration_error_null": calibration.null,
        "step_brier": float(np.square(special.expit(odds) - labels).mean()),
        "reward_auc": reward_auc.value,
        "truncated_share": sum(row.truncated for row in rows) / len(rows),
        "unread_steps": labelled - len(values),
        "axes": _axes(rows, found),
        "baselines": beaten,
        "gap_closed": (model["f1"] - best) / (BEST - best) if known_world and best < BEST else None,
    }


def _f1(found: Places, truth: Sequence[int], clusters: Sequence[str]) -> dict[str, float]:
    result = detection(found, truth)
    low, high = detection_interval(found, truth, clusters, LEVEL, DRAWS, SEED)
    return {
        "f1": result.f1,
        "f1_low": low,
        "f1_high": high,
        "on_errors": result.on_errors,
        "on_correct": result.on_correct,
    }


def _baseline(found: Places, values: Values | None, chains: Sequence[Chain]) -> dict[str, Any]:
    clusters = [chain.cluster_id for chain in chains]
    result: dict[str, Any] = _f1(found, [chain.truth for chain in chains], clusters)
    if values is None:
        return {**result, "step_auc": 0.5}
    steps = [
        (value, float(label >= 0.5), chain.cluster_id)
        for chain, of_chain in zip(chains, values, strict=True)
        for value, label in zip(of_chain, chain.labels, strict=True)
        if label is not None
    ]
    scores, labels, step_clusters = zip(*steps, strict=True)
    return {**result, "step_auc": st.auc(scores, labels, step_clusters).value}


def _axes(rows: Sequence[ChainRow], found: Places) -> dict[str, dict[str, Any]]:
    """By axis F1, where there are chains of both kinds, and how many there are."""
    axes: dict[str, dict[str, Any]] = {}
    for axis in sorted({row.axis for row in rows}):
        places = [place for place, row in enumerate(rows) if row.axis == axis]
        with_error, without = has_errors([rows[place] for place in places])
        f1 = detection(found[places], [rows[place].truth for place in places]).f1 if with_error and without else None
        axes[axis] = {"f1": f1, "chains": len(places), "chains_with_error": with_error}
    return axes
