"""Whether real quality still rises where a policy chases the reward."""

from __future__ import annotations

import math

from touchstone.gate.checks.check import Check, Details, Status
from touchstone.model.optimisation_budget import OptimisationBudget, finite
from touchstone.settings.gates import Gates, Overoptimisation

NAME = "overoptimisation"
GAIN_AT = 16
"""The best of so many is what the gains of candidate and champion are compared at."""


def overoptimisation(
    budget: OptimisationBudget | None, limits: Gates, champion: OptimisationBudget | None = None
) -> Check:
    """How far a policy may climb this reward before quality falls; gates where `gates.overoptimisation` is set.

    Three parts, in standard deviations of gold over single samples. Late: gold must not fall from the best of 16 to
    that of 64 by more than `max_drop`, by its lower bound. Peak: the d = sqrt(KL) where gold is largest must not lie
    below `min_peak`, by the fitted curve's lower bound or because gold was seen to rise so far: a good reward's gold
    levels off, a parabola can't, and puts its peak too near. Champion: on the same samples the best of 16 must not
    gain less than the champion's by more than `max_drop`, by the estimates alone; left out where the samples are other
    ones.

    Args:
        budget: what `touchstone budget` measured of the candidate; None where nobody did.
        champion: the same of the champion.
    """
    required = limits.overoptimisation is not None
    asked = limits.overoptimisation or Overoptimisation()
    if budget is None:
        reason = "Not measured: it takes a policy's samples and a gold reward that is independent of this one."
        if required:
            reason += " `touchstone budget --artifact build/artifact` measures it."
        return Check(NAME, "not_run", reason, required=required)
    details: Details = {
        "budget": budget.n,
        "budget_nats": budget.nats,
        "largest": budget.largest,
        "alpha": budget.fitted.alpha,
        "beta": budget.fitted.beta,
        "peak": budget.fitted.peak,
        "samples": budget.samples,
    }
    parts = [*_late(budget, asked), _peak(budget, asked), *_beside(budget, champion, asked)]
    late = budget.late
    reason = _reason(budget)
    status: Status = "pass"
    if any(part["status"] == "fail" for part in parts):
        status = "fail"
        reason += " A policy that chases it loses what it is for; label samples of such a policy, and train again."
    elif budget.prompts < asked.min_prompts or late is None:
        status = "undecided"
        reason += f" It takes {asked.min_prompts:,} prompts with 256 completions each to tell."
    elif any(part["status"] == "undecided" for part in parts):
        status = "undecided"
        reason += "".join(
            f" Open: {part['part']}, at least {part['low']:.2f}; {part['threshold']:g} is asked."
            for part in parts
            if part["status"] == "undecided"
        )
        reason += " More prompts tell (`gates.overoptimisation.prompts`, or more lines in the file of samples)."
    return Check(
        NAME,
        status,
        reason,
        None if late is None else late.gain,
        None if late is None else (late.low, late.high),
        -asked.max_drop,
        budget.prompts,
        required=required,
        details=details,
        table=tuple(parts),
    )


def _reason(budget: OptimisationBudget) -> str:
    if budget.n == 1:
        return "Gold was not seen to rise even for the best of 2."
    end = "as far as was measured" if budget.n == budget.largest else f"measured up to {budget.largest:,}"
    return f"Gold was seen to rise up to the best of {budget.n:,} ({budget.nats:.2f} nats), {end}."


def _late(budget: OptimisationBudget, asked: Overoptimisation) -> list[Details]:
    late = budget.late
    if late is None:
        return []
    return [_part(f"from the best of {late.start} to {late.end}", late.gain, late.low, -asked.max_drop)]


def _peak(budget: OptimisationBudget, asked: Overoptimisation) -> Details:
    fitted = budget.fitted
    value, low = (math.inf if bound is None else bound for bound in (fitted.peak, fitted.peak_low))
    # Gold that was seen to rise up to the budget, by the lower bound of every step, has its peak no nearer.
    risen = math.sqrt(budget.nats)
    value, low = max(value, risen), max(low, risen)
    part = _part("peak of gold in sqrt(KL)", value, low, asked.min_peak)
    return {**part, "value": finite(value), "low": finite(low)}


def _beside(budget: OptimisationBudget, champion: OptimisationBudget | None, asked: Overoptimisation) -> list[Details]:
    """The comparison with the champion's gain; none where it wasn't measured on the same samples."""
    if champion is None or champion.samples_digest != budget.samples_digest:
        return []
    gains = [{point.n: point.gold for point in each.points}.get(GAIN_AT) for each in (budget, champion)]
    if gains[0] is None or gains[1] is None:
        return []
    difference = gains[0] - gains[1]
    return [_part(f"gain of the best of {GAIN_AT}, less the champion's", difference, difference, -asked.max_drop)]


def _part(what: str, value: float, low: float, threshold: float) -> Details:
    """A part: passes by its lower bound, fails by its estimate."""
    status = "pass" if low >= threshold else "fail" if value < threshold else "undecided"
    return {"part": what, "status": status, "value": value, "low": low, "threshold": threshold}
