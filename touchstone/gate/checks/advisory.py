"""What stands beside the verdict: how good any model could be, how much is a seed's luck, and what is unknown."""

from __future__ import annotations

import math
import statistics as sample
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from touchstone import statistics
from touchstone.evaluation.metrics import spread_metrics
from touchstone.evaluation.rows import Row
from touchstone.gate.checks.check import Check, Details, Status
from touchstone.gate.checks.pairs import LEVEL, Asked, Pairs
from touchstone.settings.gates import Gates
from touchstone.statistics import Floats, Interval

FEWEST_SEEDS = 3
FEWEST_RANDOM = 30
"""Random labels that are compared with the holdout."""
BLIND = 0.5
"""Area under the curve of errors against a number that says nothing of them."""
RARE = 0.01
"""Two-sided error of that comparison."""


def spread(rows: Sequence[Row]) -> Check:
    """Whether the members of an ensemble are further apart where it errs: a warning where nothing shows it.

    Asked among comparisons whose rewards lie about as far apart: a large distance comes with a large spread and with
    few errors, so that over all comparisons even a telling spread reads low.

    Args:
        rows: of the holdout, with spreads.
    """
    decided = [row for row in rows if row.chosen is not None]
    areas = spread_metrics(decided) or {}
    area, low, high = (areas.get(f"like_area{end}") for end in ("", "_low", "_high"))
    if area is None or low is None or high is None:
        return Check("spread", "not_run", "There is no error, so nothing to find one by.", required=False)
    details: Details = {**areas}
    reason = (
        f"Of an error and a right answer whose rewards lie as far apart the error has the larger spread of members in "
        f"{area:.0%} of the cases ({low:.0%} to {high:.0%}); over all comparisons in {areas['error_area']:.0%}, and "
        f"the smaller distance of the two rewards finds it in {areas['margin_area']:.0%}."
    )
    status: Status = "pass" if low > BLIND else "warn"
    if status == "warn":
        reason += (
            " Nothing shows that the spread says more of a comparison than the distance does: don't choose by it "
            "which answers of the model to trust."
        )
    clusters = len({row.cluster_id for row in decided})
    return Check("spread", status, reason, area, (low, high), BLIND, clusters, required=False, details=details)


def asked(pairs: Pairs, champion: Pairs, sample: Asked | None, random: Floats, counts: Mapping[str, int]) -> Check:
    """What labels were asked for beside the holdout, and whether those of the random pairs tell the same as it.

    Where labellers or prompts are others than the holdout's, the candidate agrees with the random pairs' labels more
    or less often than with the holdout's: a warning where the two shares differ beyond RARE.

    Args:
        pairs, champion: on the holdout.
        sample: of all prompts; None where only slices were sampled.
        random: the candidate's credit of each labelled pair that was asked about whatever the models say.
        counts: `prompts` that were sampled, `disagreements` among them, and `labels` of disagreements.

    Raises:
        ValueError: as for `Pairs.gains`.
    """
    name, share = "asked", counts["labels"] / counts["disagreements"] if counts["disagreements"] else 1.0
    details: Details = {
        **counts,
        "answered_share": share,
        "random_labels": len(random),
        "difference_on_holdout": float(pairs.gains(champion).mean()),
        "difference_in_sample": None if sample is None else float(sample.gains.mean()),
    }
    reason = (
        f"{counts['labels']:,} labelled disagreements, {share:.0%} of those asked about, stand for "
        f"{counts['prompts']:,} prompts beside the holdout."
    )
    if len(random) < FEWEST_RANDOM:
        reason += f" {len(random)} random labels are too few to compare with the holdout's."
        return Check(name, "not_run", reason, n=counts["prompts"], required=False, details=details)
    means = pairs.means()
    value, gap = float(random.mean()), float(random.mean() - means.mean())
    error = math.hypot(*(statistics.standard_error(values) for values in (random, means)))
    details |= {"holdout_accuracy": float(means.mean()), "difference_to_holdout": gap}
    interval = statistics.wilson_interval(float(random.sum()), len(random), LEVEL)
    reason += f" The candidate agrees with {value:.1%} of {len(random)} random labels ({gap:+.1%} to the holdout)."
    status: Status = "pass"
    if abs(gap) > stats.norm.isf(RARE / 2) * error:
        status = "warn"
        reason += " Other people may have labelled, or other prompts been asked about."
    return Check(
        name,
        status,
        reason,
        value,
        (interval.low, interval.high),
        n=counts["prompts"],
        required=False,
        details=details,
    )


def noise_ceiling(pairs: Pairs, votes_for: Floats, votes_against: Floats, limits: Gates) -> Check:
    """Whether the model agrees with the labels more than anybody could who didn't know them: a sign of leakage.

    Two independent judges of one pair agree with probability 1 - 2e(1 - e), so the error rate of one judge is
    e = (1 - sqrt(2 * agreement - 1)) / 2; assumed is that errors are independent and equally likely in all pairs. The
    label of a pair is the majority of its n decided votes, and right with probability `_majority_right(n, e)`. A model
    that knows every truth therefore reads the mean of that over the pairs: the ceiling, 1 - e for single votes. Fails
    if A lies above it by more than two standard errors (of A and of the ceiling together), and never gates.

    Args:
        votes_for, votes_against: votes for and against the preferred side of each pair, shape (pairs,); ties and
            unknown (NaN) votes don't count.

    Raises:
        ValueError: a difference isn't finite, or no pair has a preferred side.
    """
    name, needed = "noise_ceiling", limits.min_double_labelled
    ours, theirs = np.nan_to_num(votes_for), np.nan_to_num(votes_against)
    votes = ours + theirs
    double = votes >= 2
    count = int(double.sum())
    if count < needed:
        reason = f"{count} pairs have two judgements or more; {needed} are needed to know how noisy labels are."
        return Check(name, "not_run", reason, n=count, required=False)
    # The share of agreeing judges among all two of a pair. Split pairs count too, or agreement would read too high.
    total = votes[double]
    agreeing = (ours * (ours - 1) + theirs * (theirs - 1))[double] / (total * (total - 1))
    clusters = [cluster for cluster, judged_twice in zip(pairs.clusters, double, strict=True) if judged_twice]
    shares = statistics.cluster_means(agreeing, clusters)
    agreement = float(shares.mean())
    draws, seed = limits.bootstrap_draws, limits.seed
    bounds = statistics.bootstrap_mean_interval(shares, LEVEL, draws, seed) or Interval(0.0, 1.0)
    if agreement <= 0.5:
        reason = f"Two judges of one pair agree in {agreement:.1%}: no more than by chance, so there is no ceiling."
        return Check(name, "not_run", reason, n=count, required=False)
    credits, judged = pairs.credits()
    means = statistics.cluster_means(credits, judged)
    accuracy = float(means.mean())
    per_pair = np.maximum(1, np.rint(votes[pairs.decided])).astype(int)

    def ceiling_at(agreed: float) -> float:
        error = _label_error(agreed)
        right = {int(n): _majority_right(int(n), error) for n in np.unique(per_pair)}
        return statistics.accuracy([right[int(n)] for n in per_pair], judged)

    ceiling = ceiling_at(agreement)
    spread = [statistics.standard_error(values) if len(values) > 1 else 0.0 for values in (means, shares)]
    # A step of one standard error to both sides: the ceiling is no straight line in the agreement.
    ceiling_error = (ceiling_at(min(1.0, agreement + spread[1])) - ceiling_at(agreement - spread[1])) / 2
    threshold = ceiling + 2 * math.hypot(spread[0], ceiling_error)
    details: Details = {
        "agreement": agreement,
        "agreement_low": bounds.low,
        "agreement_high": bounds.high,
        # Chance agreement is one half, as nothing tells the first text of a pair from the second.
        "kappa": 2 * agreement - 1,
        "label_error": _label_error(agreement),
        "ceiling": ceiling,
        "ceiling_error": ceiling_error,
        "share_of_ceiling": accuracy / ceiling,
        "pairs_with_two_judgements": count,
    }
    status: Status = "pass"
    reason = (
        f"Judges agree in {agreement:.1%}, so the best possible model would read about {ceiling:.3f}; this one reads "
        f"{accuracy:.3f}. Assumed: judges err independently, and equally often in all pairs."
    )
    if accuracy > threshold:
        status, reason = "fail", f"{reason} That is too good: look for holdout labels in the training data."
    return Check(name, status, reason, accuracy, None, threshold, count, required=False, details=details)


def _label_error(agreement: float) -> float:
    return (1 - math.sqrt(max(0.0, 2 * agreement - 1))) / 2


def _majority_right(votes: int, error: float) -> float:
    """P(the majority of independent votes is right): a sum of binomial terms; for an even number, given no tie.

    With k right votes of n the label is right if k > n / 2. A tie is no label and is left out of A, so the sum is
    divided by 1 - P(k = n / 2): for two votes (1 - e)^2 / ((1 - e)^2 + e^2).
    """
    right = float(stats.binom.sf(votes // 2, votes, 1 - error))
    tied = 0.0 if votes % 2 else float(stats.binom.pmf(votes // 2, votes, 1 - error))
    return right / (1 - tied)


def seeds(accuracies: Mapping[str, float], candidate: str, limits: Gates) -> Check:
    """How much of an accuracy is luck: the spread over models that differ in their seed alone; never gates.

    Warns if the standard deviation (n - 1) lies above its limit, or if the candidate isn't the median one: choosing
    the best seed on a holdout flatters it.

    Args:
        accuracies: accuracy on the same pairs by model, the candidate among them.

    Raises:
        ValueError: the candidate isn't among them, or an accuracy isn't finite.
    """
    if candidate not in accuracies or not all(math.isfinite(value) for value in accuracies.values()):
        raise ValueError("the candidate is not among the models of several seeds, or an accuracy is not finite")
    count = len(accuracies)
    if count < FEWEST_SEEDS:
        reason = f"{count} of at least {FEWEST_SEEDS} models of the same recipe with other seeds were scored."
        return Check("seeds", "not_run", reason, n=count, required=False)
    values = list(accuracies.values())
    spread = sample.stdev(values)
    accuracy = accuracies[candidate]
    middle = sample.median_low(values) <= accuracy <= sample.median_high(values)
    details: Details = {
        "median": sample.median(values),
        "lowest": min(values),
        "highest": max(values),
        "candidate": accuracy,
    }
    status: Status = "pass" if middle and spread <= limits.max_seed_spread else "warn"
    reason = f"Accuracy over {count} seeds has a standard deviation of {spread:.3f}."
    if spread > limits.max_seed_spread:
        reason += f" More than {limits.max_seed_spread:g} is much: a single seed says little of the recipe."
    if not middle:
        reason += " The candidate is not the median one: the best of several seeds flatters the recipe."
    return Check("seeds", status, reason, spread, None, limits.max_seed_spread, count, required=False, details=details)


def unattended(limits: Gates) -> Check | None:
    """With policy small_data a check that only a person can close; None with every other policy."""
    if limits.policy != "small_data":
        return None
    reason = (
        "Evidence from little data never promotes by itself; a person must decide: `touchstone promote --override`."
    )
    return Check("unattended", "undecided", reason)
