"""Where a generative judge is the candidate, or where one has labelled: what is asked of it in place of other checks.

A judge compares. It has no zero point and nothing to reload, but it may answer otherwise when it is asked again, and
be swayed by the order of two answers, by their length and by who wrote them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from touchstone import statistics
from touchstone.gate.checks.check import Check, Details, Status
from touchstone.settings.gates import ERROR_RATE


def asked_again(changed: int, pairs: int, limit: float) -> Check:
    """In place of `reload`: how many verdicts came out otherwise when the same was asked a second time.

    Args:
        changed: pairs with another winner, or with a verdict only once.
        limit: the largest share of them.
    """
    if pairs < 1:
        raise ValueError("nothing was asked a second time")
    share = changed / pairs
    upper = statistics.clopper_pearson_upper(changed, pairs, 1 - ERROR_RATE)
    status: Status = "pass" if share <= limit else "fail"
    reason = f"Asked again, the judge gave another verdict about {changed:,} of {pairs:,} pairs."
    if status == "fail":
        reason += f" At most {limit:.1%} may be: what was judged is not what will answer."
    return Check("reload", status, reason, share, (0.0, upper), limit, pairs, details={"changed": changed})


def without_scale() -> Check:
    """In place of `centering`: it doesn't apply, and doesn't count as passed."""
    reason = "It doesn't apply: a judge compares the completions of a prompt, and its scores have no zero point."
    return Check("centering", "not_run", reason, required=False)


def swayed(biases: Sequence[Details], unanswered: Mapping[str, int]) -> Check:
    """What sways a judge besides what is said; shown.

    Args:
        biases: rows with name, what, value, low, high and n; the first is how often the orders disagree.
        unanswered: why pairs have no verdict, with how many.
    """
    disagreement = biases[0]
    value = disagreement["value"]
    details: Details = {f"no verdict: {reason}": count for reason, count in unanswered.items()}
    if not isinstance(value, float):
        return Check("judge_bias", "not_run", "No pair has a verdict.", required=False, details=details)
    low, high = disagreement["low"], disagreement["high"]
    bounds = (float(low), float(high)) if isinstance(low, float) and isinstance(high, float) else None
    shown = [(row, side) for row in biases[1:] if (side := _side(row)) is not None]
    names = " and ".join(f"{side} the {str(row['name']).replace('_', ' ')}" for row, side in shown)
    reason = f"In {value:.1%} of the pairs the verdict depends on the order of the answers; these count as ties."
    reason += f" It leans {names}." if names else ""
    status: Status = "warn" if shown else "pass"
    return Check(
        "judge_bias",
        status,
        reason,
        value,
        bounds,
        None,
        int(disagreement["n"] or 0),
        required=False,
        details=details,
        table=tuple(biases),
    )


def _side(row: Details) -> str | None:
    """Toward what it names, or against it; None where the interval holds zero, or nothing was measured."""
    low, high = row["low"], row["high"]
    if not isinstance(low, float) or not isinstance(high, float) or low <= 0 <= high:
        return None
    return "toward" if low > 0 else "against"


def labelled_by_models(pairs: int, total: int, *, allowed: bool) -> Check:
    """Whether people made the comparisons that judge; only asked where models made some of them.

    Args:
        pairs: judged pairs of holdout and confirm that a model has judged, whoever else did.
        total: judged pairs of both.
        allowed: gates.allow_model_labels.
    """
    share = pairs / total
    seen = f"A model made the comparisons of {pairs:,} of the {total:,} pairs that judge here ({share:.1%})."
    if allowed:
        reason = f"{seen} The numbers are about agreement with it, as gates.allow_model_labels has it."
        return Check("model_labels", "warn", reason, share, None, None, total)
    reason = f"{seen} They say nothing of people: judge by people's labels, or set gates.allow_model_labels=true."
    return Check("model_labels", "undecided", reason, share, None, 0.0, total)
