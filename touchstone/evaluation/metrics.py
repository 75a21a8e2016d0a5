"""Metrics over rows, the baselines beside the model: the same numbers for `evaluate` and for the judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from touchstone import statistics as st
from touchstone.errors import DataError, ModelError
from touchstone.evaluation.baselines import (
    BEST_POSSIBLE,
)
from touchstone.evaluation.rows import Row, completions, score_rows
from touchstone.groups import Group
from touchstone.model.scores import RawScore

LEVEL = 0.95
DRAWS = 2_000
SEED = 17
LIKE = 10
"""Parts of the comparisons, by the distance of their rewards: each is a tenth of them."""
DIGITS = 6
"""Digits after the point in metrics.json: below them two machines differ."""


def measure(
    rows: Sequence[Row],
    baselines: Mapping[str, st.Floats],
    calibration_map: st.CalibrationMap,
    map_error: st.MapError | None = None,
) -> dict[str, Any]:
    """Metrics of one model on one set; every mean is over clusters of the mean inside each.

    Args:
        baselines: from `baseline_differences`, for the same groups.
        calibration_map: the sealed one.
        map_error: of the fitted map; None where it is known for certain.

    Returns:
        pairs (with a preferred side), labelled_ties, clusters, model_ties (share of pairs), truncated_share (of
        completions); accuracy with its 95% interval; margin (mean D, raw units), log_loss (labelled ties count with
        q = 1/2); brier, calibration_error with what a calibrated model reads (calibration_error_null) and slope, as in
        `statistics.assess_calibration`; length_correlation (Spearman inside groups); axes; baselines; gap_closed =
        (model - best baseline) / (bayes_optimal - best baseline). A number that can't be computed is None and
        `missing` says why. Of an ensemble also spread, see `spread_metrics`.

    Raises:
        DataError: no pair has a preferred side.
        ModelError: a reward is not finite.
    """
    differences = np.array([row.difference for row in rows], dtype=np.float64)
    if not np.isfinite(differences).all():
        bad = next(row.group_id for row in rows if not np.isfinite(row.difference))
        count = int((~np.isfinite(differences)).sum())
        raise ModelError(f"{count} of {len(rows)} reward differences are not finite, the first in group {bad}")
    is_decided = np.array([row.chosen is not None for row in rows], dtype=bool)
    if not is_decided.any():
        raise DataError("no comparison has a preferred side (all are ties, or there is none): nothing to measure")
    # Accuracy is about pairs with a preferred side; ties enter calibration and log loss, with q = 1/2.
    decided = [row for row in rows if row.chosen is not None]
    clusters = [row.cluster_id for row in decided]
    strict_differences = differences[is_decided]
    credits = st.credit(strict_differences)
    missing: dict[str, str] = {}

    beaten = {name: _accuracy(values[is_decided], clusters) for name, values in baselines.items()}
    accuracy = _accuracy(strict_differences, clusters)
    correlation = _length_correlation(rows)
    if correlation is None:
        missing["length_correlation"] = "rewards or lengths don't vary inside any group"
    gap = _gap_closed(accuracy["accuracy"], {name: result["accuracy"] for name, result in beaten.items()}, missing)

    strengths, all_clusters = [row.strength for row in rows], [row.cluster_id for row in rows]
    losses = st.pair_losses(differences, strengths, calibration_map)
    calibration = st.assess_calibration(differences, strengths, all_clusters, calibration_map, map_error)
    axes = sorted({row.axis for row in decided})
    spread = spread_metrics(decided)
    return {
        **accuracy,
        "pairs": len(decided),
        "labelled_ties": len(rows) - len(decided),
        "clusters": len(set(clusters)),
        "model_ties": float((strict_differences == 0).mean()),
        "truncated_share": _truncated_share(rows),
        "margin": st.accuracy(strict_differences, clusters),
        "log_loss": float(st.cluster_means(losses, all_clusters).mean()),
        "brier": calibration.brier,
        "calibration_error": calibration.error,
        "calibration_error_null": calibration.null,
        "slope": calibration.slope.value,
        "length_correlation": correlation,
        "axes": {axis: _axis(decided, credits, axis) for axis in axes},
        "baselines": beaten,
        "gap_closed": gap,
        "missing": missing,
        **({} if spread is None else {"spread": spread}),
    }


def spread_metrics(decided: Sequence[Row]) -> dict[str, float | None] | None:
    """Whether the members of an ensemble are further apart where it errs; None for a single model.

    Args:
        decided: rows with a preferred side.

    Returns:
        mean: of the completions' spreads, in standard deviations of the reference set. Then areas under the curve of
        errors against a number, with 95% intervals: error_area, against the spread that is served with each score
        (of both completions, root of the sum of squares), pair_area, against the spread of their difference,
        margin_area, against minus the distance of the two rewards, which any model has, and like_area, against the
        spread of the difference among comparisons of like distance (tenths of them): far rewards have large spreads
        and few errors, so the first two read low whatever the spread says. None: there is no error.
    """
    if not decided or any(row.spread_difference is None for row in decided):
        return None
    clusters = [row.cluster_id for row in decided]
    credits = st.credit([row.difference for row in decided])
    both = [(row.spread_first, row.spread_second) for row in decided]
    results: dict[str, float | None] = {"mean": float(np.mean(np.array(both, dtype=np.float64)))}
    for name, values in signs_of_error(decided).items():
        area = st.error_area(values, credits, clusters, LEVEL, DRAWS, SEED)
        results |= {
            f"{name}_area": None if area is None else area.area,
            f"{name}_area_low": None if area is None else area.interval.low,
            f"{name}_area_high": None if area is None else area.interval.high,
        }
    return results


def signs_of_error(decided: Sequence[Row]) -> dict[str, st.Floats]:
    """The numbers whose areas `spread_metrics` gives, one of each per row, larger where an error is expected.

    Args:
        decided: rows with a preferred side, with spreads.
    """
    first, second, difference = (
        np.array([getattr(row, f"spread_{name}") for row in decided], dtype=np.float64)
        for name in ("first", "second", "difference")
    )
    distances = np.abs([row.difference for row in decided])
    return {
        "error": np.hypot(first, second),
        "pair": difference,
        "margin": -distances,
        "like": st.ranks_at_like(difference, distances, LIKE),
    }


def _accuracy(differences: st.Floats, clusters: Sequence[str]) -> dict[str, float]:
    credits = st.credit(differences)
    interval = st.accuracy_interval(credits, clusters, LEVEL, DRAWS, SEED)
    return {
        "accuracy": st.accuracy(credits, clusters),
        "accuracy_low": interval.low,
        "accuracy_high": interval.high,
    }


def _axis(decided: Sequence[Row], credits: st.Floats, axis: str) -> dict[str, Any]:
    places = [place for place, row in enumerate(decided) if row.axis == axis]
    clusters = [decided[place].cluster_id for place in places]
    return {
        "accuracy": st.accuracy(credits[places], clusters),
        "pairs": len(places),
        "clusters": len(set(clusters)),
    }


def _gap_closed(model: float, baselines: Mapping[str, float], missing: dict[str, str]) -> float | None:
    best = max(value for name, value in baselines.items() if name != BEST_POSSIBLE)
    if BEST_POSSIBLE not in baselines:
        missing["gap_closed"] = "the data has no known reward"
        return None
    if baselines[BEST_POSSIBLE] <= best:
        missing["gap_closed"] = "a baseline reaches the best possible accuracy: there is no gap"
        return None
    return (model - best) / (baselines[BEST_POSSIBLE] - best)


def by_annotators(
    groups: Sequence[Group], scores: Sequence[Sequence[RawScore]], train: Sequence[Group]
) -> dict[str, dict[str, Any]]:
    """Accuracy on the judgements of annotators who taught the model ("seen") and of those who didn't ("unseen").

    A model can learn its labellers' taste: InstructGPT agreed with 72.4% of its own labellers' judgements and with
    69.6% of strangers' (Ouyang et al. 2022, table 9). Empty where annotators have no names, or where one side has
    no pair with a preference.
    """
    taught = {edge.annotator for group in train for edge in group.comparisons}
    results: dict[str, dict[str, Any]] = {}
    for name, seen in (("seen", True), ("unseen", False)):
        judged = [
            replace(
                group,
                comparisons=tuple(
                    edge
                    for edge in group.comparisons
                    if edge.annotator is not None and (edge.annotator in taught) is seen
                ),
            )
            for group in groups
        ]
        decided = [row for row in score_rows(judged, scores) if row.chosen is not None]
        if not decided:
            return {}
        values = np.array([row.difference for row in decided])
        who = {edge.annotator for group in judged for edge in group.comparisons}
        results[name] = {
            **_accuracy(values, [row.cluster_id for row in decided]),
            "pairs": len(decided),
            "annotators": len(who),
        }
    return results


def _length_correlation(rows: Sequence[Row]) -> float | None:
    scored = completions(rows)
    rewards, tokens, _ = zip(*scored.values(), strict=True)
    return st.within_correlation(rewards, tokens, [group for group, _ in scored])


def _truncated_share(rows: Sequence[Row]) -> float:
    scored = completions(rows)
    return sum(truncated for _, _, truncated in scored.values()) / len(scored)


def rounded(value: Any) -> Any:
    """The value with every float in it rounded to DIGITS."""
    if isinstance(value, float):
        return round(value, DIGITS) + 0.0
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value
