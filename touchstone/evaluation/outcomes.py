"""Labelled completions instead of pairs: is the reward also a probability of being correct that can be believed?

One row per completion with an outcome label, the baselines beside the model, and the metrics of a classifier: AUC over
all completions of the set, accuracy at one half, Brier score, log loss, calibration, and how often the best of several
answers to a prompt is correct. Means are over clusters of the mean inside each, but for the AUC and the calibration
error, where completions count alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from touchstone import statistics as st
from touchstone.errors import DataError, ModelError
from touchstone.groups import Group
from touchstone.model.scores import RawScore

LEVEL, DRAWS, SEED = 0.95, 2_000, 17
RANDOM = "random"
"""Choosing an answer blindly: what the best of several is compared with."""
MOST_OF = (2, 4, 8, 16)
"""Of how many answers the best is looked for, where enough prompts have so many."""
ENOUGH_PROMPTS = 20


@dataclass(frozen=True, slots=True)
class Labelled:
    """Completions with an outcome label, as columns, in the order of groups.

    Attributes:
        groups, clusters: of each completion.
        completions: its index in the group.
        labels: 0 to 1, 1 is correct.
    """

    groups: list[str]
    clusters: list[str]
    completions: list[int]
    labels: st.Floats

    def by_group(self) -> list[list[int]]:
        """Rows of each group, in order."""
        rows: dict[str, list[int]] = {}
        for row, group in enumerate(self.groups):
            rows.setdefault(group, []).append(row)
        return list(rows.values())


def labelled(groups: Sequence[Group]) -> Labelled:
    """The labelled completions of a set."""
    rows = [
        (group.id, group.cluster_id, place, completion.outcome)
        for group in groups
        for place, completion in enumerate(group.completions)
        if completion.outcome is not None
    ]
    names, clusters, places, labels = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Labelled(list(names), list(clusters), list(places), np.asarray(labels, dtype=np.float64))


def of_labelled(groups: Sequence[Group], values: Sequence[Sequence[float]]) -> st.Floats:
    """One value per labelled completion, in the order of `labelled`.

    Args:
        values: per group one per completion.
    """
    chosen = [
        value
        for group, row in zip(groups, values, strict=True)
        for completion, value in zip(group.completions, row, strict=True)
        if completion.outcome is not None
    ]
    return np.asarray(chosen, dtype=np.float64)


def rewards_of(groups: Sequence[Group], scores: Sequence[Sequence[RawScore]]) -> st.Floats:
    """The reward of each labelled completion."""
    return of_labelled(groups, [[score.reward for score in row] for row in scores])


def measure_outcomes(
    rows: Labelled,
    rewards: st.Floats,
    outcome_map: st.OutcomeMap,
    covariance: st.Floats | None,
    baselines: Mapping[str, st.Floats],
) -> dict[str, Any]:
    """Metrics of one model as a classifier, the baselines beside it.

    Args:
        rewards: of each row.
        outcome_map, covariance: the sealed ones.
        baselines: log odds of each row by baseline (`baselines.outcome_log_odds`).

    Returns:
        completions, prompts, clusters, correct_share; auc, accuracy, brier, log_loss, each with its 95% interval
        (_low, _high); calibration_error with what a calibrated model reads (calibration_error_null); slope with its
        interval; level (mean probability less correct share); best_of: by number of answers the share of prompts
        whose best one is correct, with `random` and `oracle` beside it; baselines: the same but for the calibration.

    Raises:
        DataError: no completion is labelled, or all alike.
        ModelError: a reward is not finite.
    """
    if not np.isfinite(rewards).all():
        raise ModelError(f"{int((~np.isfinite(rewards)).sum())} of {len(rewards)} rewards are not finite")
    if len(rows.labels) == 0 or (rows.labels > 0.5).all() or (rows.labels <= 0.5).all():
        raise DataError("the labelled completions are all correct, all wrong, or none: nothing to tell apart")
    log_odds = st.outcome_log_odds(rewards, outcome_map)
    calibration = st.assess_outcome_calibration(log_odds, rows.labels, rows.clusters, rewards, covariance)
    interval = calibration.slope_interval
    return {
        "completions": len(rows.labels),
        "prompts": len(set(rows.groups)),
        "clusters": len(set(rows.clusters)),
        "correct_share": st.accuracy(rows.labels, rows.clusters),
        **_classifier(rows, log_odds),
        "calibration_error": calibration.error,
        "calibration_error_null": calibration.null,
        "slope": calibration.slope,
        "slope_low": None if interval is None else interval.low,
        "slope_high": None if interval is None else interval.high,
        "level": calibration.level,
        "best_of": best_of_table(rows, {"model": rewards, **baselines}),
        "baselines": {name: _classifier(rows, values) for name, values in baselines.items()},
    }


def _classifier(rows: Labelled, log_odds: st.Floats) -> dict[str, float]:
    """AUC, accuracy, Brier score and log loss with their intervals."""
    area = st.auc(log_odds, rows.labels, rows.clusters)
    bounds = area.interval(LEVEL)
    results = {"auc": area.value, "auc_low": bounds.low, "auc_high": bounds.high}
    chances = special.expit(log_odds)
    # At one half a guess is half right, and a label of one half is half met whatever is said.
    hits = 0.5 + np.sign(log_odds) * np.sign(rows.labels - 0.5) / 2
    by_name = {
        "accuracy": hits,
        "brier": np.square(chances - rows.labels),
        "log_loss": st.outcome_losses(log_odds, rows.labels),
    }
    for name, values in by_name.items():
        means = st.cluster_means(values, rows.clusters)
        around = st.bootstrap_mean_interval(means, LEVEL, DRAWS, SEED)
        low, high = (float(means.mean()),) * 2 if around is None else around
        results |= {name: float(means.mean()), f"{name}_low": low, f"{name}_high": high}
    return results


def best_of_table(rows: Labelled, scores: Mapping[str, st.Floats]) -> list[dict[str, Any]]:
    """For 2, 4, ... answers how often the best one is correct, over prompts with at least so many labelled ones.

    Args:
        scores: by model the score of each row.
    """
    groups = rows.by_group()
    table = []
    for count in MOST_OF:
        several = [members for members in groups if len(members) >= count]
        if len(several) < ENOUGH_PROMPTS:
            break
        entry: dict[str, Any] = {"answers": count, "prompts": len(several)}
        for name, values in scores.items():
            means = best_of_means(rows, several, values, count)
            around = st.bootstrap_mean_interval(means, LEVEL, DRAWS, SEED)
            entry[name] = float(means.mean())
            if name == "model" and around is not None:
                entry |= {"model_low": around.low, "model_high": around.high}
        entry[RANDOM] = float(best_of_means(rows, several, None, count).mean())
        entry["oracle"] = float(best_of_means(rows, several, rows.labels, count).mean())
        table.append(entry)
    return table


def best_of_means(
    rows: Labelled, groups: Sequence[Sequence[int]], values: st.Floats | None, count: int | None
) -> st.Floats:
    """Expected label of the best of `count` of each group's answers, as a mean per cluster, clusters sorted.

    Args:
        groups: rows of each group.
        values: the score of each row; None: any is as good as another.
        count: None: all that the group has.
    """
    expected = [
        st.best_of([0.0 if values is None else float(values[row]) for row in members],
                   [float(rows.labels[row]) for row in members],
                   len(members) if count is None else count)
        for members in groups
    ]  # fmt: skip
    return st.cluster_means(expected, [rows.clusters[members[0]] for members in groups])


def outcome_table(metrics: Mapping[str, Any]) -> str:
    """The metrics as aligned plain text, the model and its baselines first."""
    lines = [f"{'is it correct?':<24}{'AUC':>7}   {'95% interval':<17}{'accuracy':>9}{'Brier':>8}{'log loss':>10}"]
    for name, result in {"model": metrics, **metrics["baselines"]}.items():
        interval = f"{result['auc_low']:.3f} to {result['auc_high']:.3f}"
        shown = f"{result['auc']:>7.3f}   {interval:<17}{result['accuracy']:>9.3f}{result['brier']:>8.3f}"
        lines.append(f"{name.replace('_', ' '):<24}{shown}{result['log_loss']:>10.3f}")
    slope = "-" if metrics["slope"] is None else f"{metrics['slope']:.2f}"
    lines.append(
        f"{'calibration error':<24}{metrics['calibration_error']:>7.3f}   (a perfect model: up to "
        f"{metrics['calibration_error_null']:.3f} by chance), slope {slope}"
    )
    for entry in metrics["best_of"]:
        around = f"{entry['model']:.3f} correct" if math.isfinite(entry["model"]) else "-"
        beside = f"blindly {entry[RANDOM]:.3f}, at best {entry['oracle']:.3f}"
        lines.append(f"best of {entry['answers']:<16}{around:>7} of {entry['prompts']:,} prompts ({beside})")
    return "\n".join(lines) + "\n"
