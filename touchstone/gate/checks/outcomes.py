"""Is a model of outcomes a good classifier too? Across prompts, in its probabilities, and in the answers it chooses.

Its pairs, a correct answer against a wrong one to the same prompt, go through every other check. These three ask what
pairs can't say. They are required of a model that learnt from outcome labels, and of no other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from touchstone import statistics
from touchstone.evaluation.outcomes import ENOUGH_PROMPTS, MOST_OF, RANDOM, Labelled, best_of_means
from touchstone.gate.checks.check import Check, Details, Status
from touchstone.gate.checks.pairs import LEVEL, finite
from touchstone.settings.gates import ERROR_RATE, Gates
from touchstone.statistics import Floats, Interval, OutcomeMap

OUTCOME_CHECKS = ("auc", "outcome_calibration", "best_of_n")


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """The labelled completions of one set as the models scored them; arrays of shape (completions,).

    Attributes:
        rewards: the candidate's.
        outcome_map, covariance: the candidate's sealed map and its error; None where it is known for certain.
        champion: the champion's log odds of being correct; None where there is no champion.
        baselines: log odds by baseline.
    """

    rows: Labelled
    rewards: Floats
    outcome_map: OutcomeMap
    covariance: Floats | None
    champion: Floats | None
    baselines: Mapping[str, Floats]


def auc(outcomes: Outcomes, limits: Gates) -> Check:
    """Whether correct answers score above wrong ones to other prompts too, clearly more often than by simple rules.

    The area under the ROC curve is an accuracy over pairs of completions of the whole set, so its thresholds are those
    of the floor: its lower bound must reach the product's floor, length's area and words' with the gains that are
    asked. Where there is a champion the area may not lie below the champion's by more than `refresh_margin`: which of
    the two is better is decided by pairs.
    """
    rows = outcomes.rows
    area = statistics.auc(outcomes.rewards, rows.labels, rows.clusters)
    beside = {
        name: statistics.auc(values, rows.labels, rows.clusters).value for name, values in outcomes.baselines.items()
    }
    thresholds = {
        "the product's floor": limits.floor_accuracy,
        f"length alone + {limits.floor_gain_over_length:g}": beside["longer_wins"] + limits.floor_gain_over_length,
        f"words and length + {limits.gain_over_linear:g}": beside["linear"] + limits.gain_over_linear,
    }
    source = max(thresholds, key=lambda name: thresholds[name])
    threshold, interval = thresholds[source], finite(area.interval(LEVEL))
    count = len(area.influences)
    details: Details = {f"AUC, {name}": value for name, value in beside.items()}
    reason = f"The AUC is {area.value:.3f} (lower bound {interval.low:.3f}); {threshold:.3f} is asked: {source}."
    status: Status
    more: int | None = None
    if count < limits.min_clusters:
        status, more = "undecided", limits.min_clusters - count
        reason += f" {count} prompts are too few to judge by."
    elif area.value < threshold:
        status = "fail"
        reason += " The model misses it."
    elif interval.low >= threshold:
        status = "pass"
    else:
        status, more = "undecided", _more(area.value - threshold, area)
        reason += " The estimate meets it, but there are too few prompts to be sure."
    if outcomes.champion is not None:
        champion = statistics.auc(outcomes.champion, rows.labels, rows.clusters)
        gain, around = statistics.auc_gain(area, champion, LEVEL)
        details |= {
            "AUC, the champion": champion.value,
            "gain": gain,
            "gain_low": around.low,
            "gain_high": around.high,
        }
        reason += f" The champion's is {champion.value:.3f}; the difference is {gain:+.3f} ({_bounds(around)})."
        if gain < -limits.refresh_margin:
            status, more = "fail", None
            reason += f" It is lower by more than {limits.refresh_margin:g}."
        elif around.low <= -limits.refresh_margin and status == "pass":
            status = "undecided"
            reason += f" That it isn't lower by more than {limits.refresh_margin:g} is not sure yet."
    return Check(
        "auc", status, reason, area.value, (interval.low, interval.high), threshold, count, more, details=details
    )


def outcome_calibration(outcomes: Outcomes, limits: Gates) -> Check:
    """Whether of the answers that it calls 80% likely to be correct 80% are.

    By the limits and the logic of the check `calibration`: it fails only where the completions show that the error of
    the probabilities is larger than is allowed, or that their whole slope lies outside its limits.

    Returns:
        The check; its table holds one row per bin: probability, correct, low and high (Wilson, 95%), count.
    """
    rows = outcomes.rows
    count, prompts = len(rows.labels), len(set(rows.clusters))
    if count < limits.min_calibration_pairs:
        least = limits.min_calibration_pairs
        reason = f"{count} labelled answers are too few to check probabilities: {least} are needed."
        return Check(
            "outcome_calibration", "undecided", reason, n=prompts, needed=math.ceil(prompts * least / count) - prompts
        )
    log_odds = statistics.outcome_log_odds(outcomes.rewards, outcomes.outcome_map)
    scores = statistics.assess_outcome_calibration(
        log_odds,
        rows.labels,
        rows.clusters,
        outcomes.rewards,
        outcomes.covariance,
        allowed=limits.max_calibration_error,
    )
    losses = statistics.cluster_means(statistics.outcome_losses(log_odds, rows.labels), rows.clusters)
    majority = statistics.cluster_means(
        statistics.outcome_losses(outcomes.baselines["majority"], rows.labels), rows.clusters
    )
    chances = 1 / (1 + np.exp(-np.clip(log_odds, -700, 700)))
    interval = scores.slope_interval
    details: Details = {
        "calibration_error_of_a_calibrated_model": scores.null,
        "slope": scores.slope,
        "slope_low": None if interval is None else interval.low,
        "slope_high": None if interval is None else interval.high,
        "mean_probability_less_share_correct": scores.level,
        "brier": statistics.brier(chances, rows.labels, rows.clusters),
        "log_loss": float(losses.mean()),
        "log_loss of the majority": float(majority.mean()),
    }
    slope = "undefined" if scores.slope is None else f"{scores.slope:.2f} ({_bounds(interval)})"
    reason = (
        f"The calibration error reads {scores.error:.3f} (above {scores.threshold:.3f} it shows one above "
        f"{limits.max_calibration_error:g}), the slope {slope}."
    )
    status: Status = "pass"
    low, high = limits.min_calibration_slope, limits.max_calibration_slope
    if losses.mean() >= majority.mean():
        status = "fail"
        reason += " Always saying how often answers are correct would lose less: its probabilities say nothing."
    elif scores.error > scores.threshold or (interval is not None and (interval.high < low or interval.low > high)):
        status = "fail"
        reason += " Probabilities are not to be taken at their word."
    elif interval is None:
        status = "undecided"
        reason += " The labels can be separated, so nothing is known of how sure it may be."
    elif not interval.low <= 1 <= interval.high and not low <= (scores.slope or 0.0) <= high:
        status = "undecided"
        reason += " There are too few prompts to say by how much they are wrong."
    table: list[Details] = []
    for row in statistics.reliability(chances, rows.labels):
        bounds = statistics.wilson_interval(row.accuracy * row.count, row.count, 0.95)
        table.append(
            {
                "probability": row.confidence,
                "correct": row.accuracy,
                "low": bounds.low,
                "high": bounds.high,
                "count": row.count,
            }
        )
    return Check(
        "outcome_calibration",
        status,
        reason,
        scores.error,
        None,
        scores.threshold,
        prompts,
        details=details,
        table=tuple(table),
    )


def best_of_n(outcomes: Outcomes, limits: Gates) -> Check:
    """Whether the answer that it would choose is correct more often than one chosen blindly, and than by simple rules.

    Over the prompts with several labelled answers, correct or not, the best of all of them: g is the share of correct
    answers that a choice gains over the better of blind choice and the baselines, paired by prompt. The gain's lower
    bound must lie above 0; a gain of 0 or less fails.

    Returns:
        The check; its table has a row for each number of answers that enough prompts have, by an unbiased estimate.
    """
    rows = outcomes.rows
    several = [members for members in rows.by_group() if len(members) > 1]
    if not several:
        return Check("best_of_n", "undecided", "No prompt has two labelled answers to choose from.", n=0)
    rules = {RANDOM: None, **{name: outcomes.baselines[name] for name in ("longer_wins", "linear")}}
    chosen = best_of_means(rows, several, outcomes.rewards, None)
    by_rule = {name: best_of_means(rows, several, values, None) for name, values in rules.items()}
    best = max(by_rule, key=lambda name: float(by_rule[name].mean()))
    gains = np.round(chosen - by_rule[best], 12)
    gain, count = float(gains.mean()), len(gains)
    draws, seed = limits.bootstrap_draws, limits.seed
    interval = finite(statistics.bootstrap_mean_interval(gains, LEVEL, draws, seed) or Interval(gain, gain))
    oracle = float(best_of_means(rows, several, rows.labels, None).mean())
    details: Details = {
        "correct, the model's choice": float(chosen.mean()),
        **{f"correct, {name}": float(values.mean()) for name, values in by_rule.items()},
        "correct, the best possible choice": oracle,
    }
    if outcomes.champion is not None:
        champions = best_of_means(rows, several, outcomes.champion, None)
        details |= {"correct, the champion's choice": float(champions.mean())}
    reason = (
        f"Of {len(several)} prompts with several answers its choice is correct in {chosen.mean():.1%} "
        f"(blindly {by_rule[RANDOM].mean():.1%}, at best {oracle:.1%}); the gain over {_RULES[best]} is {gain:+.3f} "
        f"({_bounds(interval)})."
    )
    more: int | None = None
    status: Status = "pass"
    if count < limits.min_clusters:
        status, more = "undecided", limits.min_clusters - count
        reason += f" {count} prompts are too few to judge by."
    elif gain <= 0:
        status = "fail"
        reason += " Choosing by it gains nothing."
    elif interval.low <= 0:
        status = "undecided"
        reason += " There are too few prompts to be sure of it."
        more = statistics.more_clusters(count, gain, float(gains.std(ddof=1)), gain, alpha=ERROR_RATE)
    return Check(
        "best_of_n", status, reason, gain, (interval.low, interval.high), 0.0, count, more,
        details=details, table=tuple(_rows_of_n(outcomes)),
    )  # fmt: skip


_RULES = {RANDOM: "blind choice", "longer_wins": "length alone", "linear": "words and length"}


def _rows_of_n(outcomes: Outcomes) -> Sequence[Details]:
    """For 2, 4, ... answers the share of prompts whose chosen one is correct."""
    rows, table = outcomes.rows, []
    models: dict[str, Floats | None] = {
        "model": outcomes.rewards, "champion": outcomes.champion, **outcomes.baselines, "oracle": rows.labels,
    }  # fmt: skip
    for answers in MOST_OF:
        groups = [members for members in rows.by_group() if len(members) >= answers]
        if len(groups) < ENOUGH_PROMPTS:
            break
        entry: Details = {"answers": answers, "prompts": len(groups)}
        entry |= {
            name: float(best_of_means(rows, groups, values, answers).mean())
            for name, values in models.items()
            if values is not None and name != "majority"
        }
        table.append({**entry, RANDOM: float(best_of_means(rows, groups, None, answers).mean())})
    return table


def _more(room: float, area: statistics.Auc) -> int | None:
    """How many more prompts would show an area so far above its threshold."""
    count = len(area.influences)
    deviation = float(np.sqrt(count) * math.sqrt(float(np.square(area.influences).sum())))
    return statistics.more_clusters(count, room, deviation, room, alpha=ERROR_RATE) if room > 0 else None


def _bounds(interval: Interval | None) -> str:
    return "unknown" if interval is None else f"{interval.low:.3f} to {interval.high:.3f}"


def not_about_outcomes(name: str, reason: str) -> Check:
    """A check that has no meaning for a model of outcomes: said, and counted as nothing."""
    return Check(name, "not_run", f"It doesn't apply to outcome labels: {reason}.", required=False)
