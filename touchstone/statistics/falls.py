"""Whether a mean has fallen below a known one, now or at some time: evidence that holds however often one looks.

    fall = find_fall(looks, known=0.82, error=0.009, alarm_rate=0.02)
    fall.alarmed           # over a mean that never changes: ever, with a probability of 2% at most

A confidence sequence of all values asks whether they fell together. Where the mean was well for a thousand values and
falls then, these thousand speak against the fall for long. Here each look may be the first after it: the values before
are added to what is known, and those since then are compared with both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from touchstone.statistics.arrays import Floats, floats

LIKELY_FALL = 0.05
"""Scale of the falls that are expected (half-normal): evidence grows fastest for those."""
SOON, LATE = 50.0, 1500.0
"""Values after which a fall is expected. A quarter of the wealth is on a fall before the first look, a quarter on
falls whose time has the median SOON and a heavy tail, half on an even chance per value, one in LATE."""


@dataclass(frozen=True, slots=True)
class Fall:
    """The likeliest fall, and whether it is one.

    Attributes:
        alarmed: the evidence is enough.
        evidence: natural logarithm of the wealth of somebody who began with 1 and bet on a fall.
        since: index of the look with which it most likely began.
        before: mean of all that was known until then, and of the values until then.
        after: mean of the values since then.
        limit: the alarm is raised where `after` is this or less; 0 where even that would not be enough.
        count: of the values since then.
    """

    alarmed: bool
    evidence: float
    since: int
    before: float
    after: float
    limit: float
    count: int


def find_fall(looks: Sequence[ArrayLike], known: float, error: float, alarm_rate: float) -> Fall:
    """Bet on a fall that began with any of the looks, of any size, against the mean that is known.

    For a fall at a given look by a given size the values' differences from the known mean have a likelihood ratio that
    knows nothing but known variances; by invariance it is that of (mean before - mean after), whose information is
    P0 P1 / (P0 + P1), P0 and P1 being the precisions of the two. Mixed over sizes (half-normal) and over looks, with
    weights that are known when a look begins and sum to 1 at most, it stays a martingale that starts at 1: a mixture
    e-detector (Shin, Ramdas and Rinaldo 2022) whose chance of ever an alarm is bounded by Ville's inequality. It holds
    in the limit: variances are estimated, means of some hundred values taken for normal.

    Args:
        looks: values by look, oldest first; together one at least. Empty ones count for nothing.
        known: a mean that was measured before on other values, e.g. the accuracy on a holdout.
        error: its standard error.
        alarm_rate: probability of ever an alarm where the mean stays what it was.
    """
    arrays = [floats(look) for look in looks]
    sizes = np.array([len(array) for array in arrays], dtype=np.float64)
    sums = np.array([array.sum() for array in arrays])
    values = np.concatenate(arrays)
    count = len(values)
    # One more value that is half a range away: few values that are all alike have no variance of 0.
    variance = float(((values - values.mean()) ** 2).sum() + 0.25) / (count + 1)

    # For each look: the mean until it and the mean since, and what their difference is worth.
    until, sum_until = np.cumsum(sizes) - sizes, np.cumsum(sums) - sums
    since = count - until
    possible = np.flatnonzero(sizes > 0)
    until, sum_until, since = until[possible], sum_until[possible], since[possible]
    precision_before = 1 / error**2 + until / variance
    before = (known / error**2 + sum_until / variance) / precision_before
    after = (values.sum() - sum_until) / since
    precision_after = since / variance
    information = precision_before * precision_after / (precision_before + precision_after)
    wealth = _log_weights(until) + _log_ratio(before - after, information)
    evidence = float(special.logsumexp(wealth))

    # The likeliest one, and what its mean would have to be for an alarm, all else being as it is.
    best = int(np.argmax(wealth))
    enough = -math.log(alarm_rate)
    return Fall(
        alarmed=evidence >= enough,
        evidence=evidence,
        since=int(possible[best]),
        before=float(before[best]),
        after=float(after[best]),
        limit=_limit(wealth, best, float(before[best]), float(after[best]), float(information[best]), enough),
        count=int(since[best]),
    )


def _log_weights(until: Floats) -> Floats:
    """Of a fall with each look, by the number of values before it: known when it begins, and 1 at most together."""
    begin = np.concatenate([[0.0], until[:-1]])
    soon = SOON / (SOON + begin) - SOON / (SOON + until)
    late = np.exp(-begin / LATE) - np.exp(-until / LATE)
    weights = soon / 4 + late / 2
    weights[0] = 1 / 4
    return np.asarray(np.log(weights))


def _log_ratio(difference: Floats, information: Floats) -> Floats:
    """Likelihood of falls of half-normal size over that of none, given a difference of two means."""
    spread = 1 + LIKELY_FALL**2 * information
    bet = difference * information * LIKELY_FALL
    return np.asarray(
        math.log(2) - np.log(spread) / 2 + bet**2 / (2 * spread) + special.log_ndtr(bet / np.sqrt(spread))
    )


def _limit(wealth: Floats, best: int, before: float, after: float, information: float, enough: float) -> float:
    """The mean since the likeliest fall at which the evidence is just enough."""
    weight = float(wealth[best] - _log_ratio(np.array([before - after]), np.array([information]))[0])
    others = np.delete(wealth, best)

    def missing(mean: float) -> float:
        ratio = float(_log_ratio(np.array([before - mean]), np.array([information]))[0])
        return enough - float(special.logsumexp([*others, weight + ratio]))

    if missing(0.0) > 0:
        return 0.0
    return before if missing(before) <= 0 else float(optimize.brentq(missing, 0.0, before))
