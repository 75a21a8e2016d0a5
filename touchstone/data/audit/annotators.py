"""Who judged how much, and whether one of them judges unlike the others.

Three looks at everybody who judged enough:

    others    how often he prefers what another judge of the same pair prefers
    model     how often he prefers what a model of all labels expects that never saw this group
    habits    how often he prefers what was shown first, and what is longer

A look alarms only if he is further from the rest than people are by nature (`floor`, or three times the scatter among
the annotators themselves), and then only if chance can't be blamed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from touchstone.data.audit.agreement import Votes
from touchstone.data.audit.alarms import Alarm, corrected, percent
from touchstone.data.audit.bounds import MIN_WEIGHT, Floats, log_p_above, log_p_below, natural_spread
from touchstone.data.audit.columns import Columns

LISTED = 200
"""Annotators in the report at most."""
DISAGREES = 0.05
"""Annotators whose agreement differs by so much are never an alarm: care and skill differ."""
HABIT = 0.2
"""The same for the share of wins of the first or the longer one: what people are given to judge differs."""
TESTS = 6
"""Tests per annotator: others and model on one side, two habits on both."""
CONFIDENCE_BINS = 10
OTHERS = "what another judge of the same pair prefers"
MODEL = "what a model of the other labels expects"


def annotator_rows(columns: Columns, named: pl.DataFrame, votes: Votes) -> list[dict[str, Any]]:
    """The report's part "annotators": most judgements first, at most `LISTED`.

    `agreement` is with the other judges of the same pair, where both prefer a side. Shares of wins are of judgements
    that prefer a side.
    """
    count = len(columns.annotators)
    who, _, mates, same = _shared(named, votes)
    edges = columns.edges.filter(pl.col("annotator") >= 0)
    owner = edges["annotator"].to_numpy()
    judged = np.bincount(owner, minlength=count)
    ties = np.bincount(owner[(edges["wins_low"] == edges["wins_high"]).to_numpy()], minlength=count)
    company = votes.total[named["pair"].to_numpy()] >= 2
    pairs = np.bincount(named["annotator"].to_numpy()[company], minlength=count)
    together = mates > 0
    agreement = _means(who[together], same[together] / mates[together], count)
    first, longer = (_means(*habit, count) for habit in _habits(columns))
    order = sorted(range(count), key=lambda a: (-judged[a], columns.annotators[a]))[:LISTED]
    return [
        {
            "name": columns.annotators[a],
            "judgements": int(judged[a]),
            "share": float(judged[a] / len(columns.edges)),
            "pairs_with_others": int(pairs[a]),
            "agreement": _known(agreement[a]),
            "first_share": _known(first[a]) or 0.0,
            "longer_share": _known(longer[a]),
            "tie_share": float(ties[a] / judged[a]),
        }
        for a in order
    ]


def concentration(rows: list[dict[str, Any]], most: float) -> list[Alarm]:
    """An alarm for each annotator who gave more than the share `most` of all judgements."""
    return [
        Alarm(
            kind="annotator_concentration",
            name=row["name"],
            count=row["judgements"],
            observed=row["share"],
            expected=most,
            p_value=None,
            sentence=f"Annotator {row['name']} gave {percent(row['share'])} of all judgements; "
            f"audit.max_annotator_share is {percent(most)}.",
        )
        for row in rows
        if row["share"] > most
    ]


def contaminated(
    columns: Columns, named: pl.DataFrame, votes: Votes, expected: Floats, false_alarm_rate: float
) -> list[Alarm]:
    """Annotators whose judgements are far from everybody else's.

    Args:
        expected: for every pair of `columns.pairs` the log-odds that the low one wins, from a model that never saw
            the pair's group; NaN where nothing is expected.
    """
    count = len(columns.annotators)
    who, values, mates, same = _shared(named, votes)
    weights = _weights(named)
    # Who is tested is decided by how much they judged, never by what they preferred: the correction counts them all.
    judged = np.bincount(named["annotator"].to_numpy(), minlength=count)
    candidates = np.flatnonzero(judged >= MIN_WEIGHT)
    tests = TESTS * len(candidates)
    # Every look compares all annotators at once; an annotator's alarm rests on the least likely of them.
    looks = [_look_at_others(who, mates, same, weights, votes, count)]
    logits = expected[named.filter(pl.col("value") != 0)["pair"].to_numpy()]
    looks.append(_look_at_model(who, values, logits, weights, count))
    for name, (owner, wins) in zip(("the one shown first", "the longer one"), _habits(columns), strict=True):
        looks += _look_at_habit(name, owner, wins, count)
    alarms = []
    for annotator in candidates.tolist():
        log_p, observed, usual, number, what = min(
            (
                look.log_p[annotator],
                look.observed[annotator],
                look.expected[annotator],
                look.judged[annotator],
                look.what,
            )
            for look in looks
        )
        p_value = corrected(log_p, tests)
        if p_value <= false_alarm_rate:
            name = columns.annotators[annotator]
            alarms.append(
                Alarm(
                    kind="annotator",
                    name=name,
                    count=int(number),
                    observed=float(observed),
                    expected=float(usual),
                    p_value=p_value,
                    sentence=f"Annotator {name} prefers {what} in {percent(observed)} of {int(number):,} judgements; "
                    f"with everybody else it is {percent(usual)}.",
                )
            )
    return alarms


class _Look(NamedTuple):
    """One statistic of every annotator beside everybody else's; `log_p` is 0 where too little is known."""

    log_p: Floats
    observed: Floats
    expected: Floats
    judged: Floats
    what: str


def _look(
    what: str, shares: tuple[Floats, Floats], weight: Floats, count: Floats, floor: float, *, above: bool
) -> _Look:
    """The test of (observed, expected) shares on one side, `floor` or three times the natural scatter apart."""
    usable = weight >= MIN_WEIGHT
    observed, expected = (np.where(usable, share, 0.5) for share in shares)
    slack = max(floor, 3 * natural_spread((observed - expected)[usable], 0.25 / weight[usable]))
    facts = np.where(usable, weight, 0.0)
    bound = log_p_above(observed, expected + slack, facts) if above else log_p_below(observed, expected - slack, facts)
    return _Look(bound, observed, expected, count, what)


def _shared(named: pl.DataFrame, votes: Votes) -> tuple[NDArray[np.int64], Floats, Floats, Floats]:
    """Of each judgement that prefers a side: annotator, value, other such ones of the pair, equal ones among them."""
    decided = named.filter(pl.col("value") != 0)
    pair, value = decided["pair"].to_numpy(), decided["value"].to_numpy().astype(np.float64)
    same = np.where(value > 0, votes.low[pair], votes.high[pair]) - 1
    return decided["annotator"].to_numpy(), value, votes.decided[pair] - 1, same


def _weights(named: pl.DataFrame) -> Floats:
    """How much each judgement that prefers a side counts: n pairs among k completions of a group are k - 1 facts."""
    decided = named.filter(pl.col("value") != 0)
    keys = ["annotator", "group"]
    texts = pl.concat([decided.select(*keys, pl.col(side).alias("text")) for side in ("low", "high")])
    facts = texts.group_by(keys).agg((pl.col("text").n_unique() - 1).alias("facts"))
    pairs = decided.group_by(keys).agg(pl.len().alias("pairs"))
    joined = decided.join(facts, on=keys, how="left", maintain_order="left").join(
        pairs, on=keys, how="left", maintain_order="left"
    )
    return np.asarray(np.minimum(1.0, joined["facts"].to_numpy() / joined["pairs"].to_numpy()), dtype=np.float64)


def _look_at_others(
    who: NDArray[np.int64], mates: Floats, same: Floats, weights: Floats, votes: Votes, count: int
) -> _Look:
    """Agreement with the other judges of a pair, beside that of all judges without this one."""
    agreeing = (votes.low * (votes.low - 1) + votes.high * (votes.high - 1)).sum() / 2
    meetings = (votes.decided * (votes.decided - 1)).sum() / 2
    meetings_by_annotator = np.bincount(who, mates, count)
    rest = meetings - meetings_by_annotator
    usual = np.divide(agreeing - np.bincount(who, same, count), rest, out=np.full(count, 0.5), where=rest > 0)
    together = mates > 0
    owner = who[together]
    weight = np.where(rest > 0, np.bincount(owner, weights[together], count), 0.0)
    observed = _means(owner, same[together] / mates[together], count, weights[together])
    number = np.bincount(owner, minlength=count).astype(np.float64)
    return _look(OTHERS, (observed, usual), weight, number, DISAGREES, above=False)


def _look_at_model(who: NDArray[np.int64], values: Floats, logits: Floats, weights: Floats, count: int) -> _Look:
    """Agreement with the out-of-fold model, beside everybody else's where the model is about as sure."""
    known = np.isfinite(logits) & (logits != 0)
    owner, sure = who[known], np.abs(logits[known])
    agrees = (np.sign(logits[known]) == values[known]).astype(np.float64)
    edges = np.quantile(sure, np.linspace(0, 1, CONFIDENCE_BINS + 1)[1:-1]) if len(sure) else np.empty(0)
    place = np.searchsorted(edges, sure)
    cell = owner * CONFIDENCE_BINS + place
    shape = (count, CONFIDENCE_BINS)
    wins = np.bincount(cell, agrees, count * CONFIDENCE_BINS).reshape(shape)
    total = np.bincount(cell, minlength=count * CONFIDENCE_BINS).reshape(shape)
    others = total.sum(axis=0) - total
    usual = np.divide(wins.sum(axis=0) - wins, others, out=np.full(shape, 0.5), where=others > 0)
    expected = _means(owner, usual[owner, place], count, weights[known])
    weight = np.bincount(owner, weights[known], count).astype(np.float64)
    observed = _means(owner, agrees, count, weights[known])
    number = total.sum(axis=1).astype(np.float64)
    return _look(MODEL, (observed, expected), weight, number, DISAGREES, above=False)


def _look_at_habit(what: str, owner: NDArray[np.int64], wins: Floats, count: int) -> list[_Look]:
    """Share of a habit beside everybody else's, on both sides."""
    number = np.bincount(owner, minlength=count).astype(np.float64)
    with_habit = np.bincount(owner, wins, count)
    rest = number.sum() - number
    usual = np.divide(with_habit.sum() - with_habit, rest, out=np.full(count, 0.5), where=rest > 0)
    observed = np.divide(with_habit, number, out=np.full(count, 0.5), where=number > 0)
    weight = np.where(rest > 0, number, 0.0)
    shares = (observed, usual)
    return [_look(what, shares, weight, number, HABIT, above=above) for above in (False, True)]


def _habits(columns: Columns) -> tuple[tuple[NDArray[np.int64], Floats], tuple[NDArray[np.int64], Floats]]:
    """(annotator, 1 where the one shown first wins) and the same for the longer one, judgements that prefer a side."""
    edges = columns.edges.filter((pl.col("annotator") >= 0) & (pl.col("wins_low") != pl.col("wins_high")))
    owner = edges["annotator"].to_numpy()
    low, high = edges["low"].to_numpy(), edges["high"].to_numpy()
    low_wins = (edges["wins_low"] > edges["wins_high"]).to_numpy()
    first = (edges["first"].to_numpy() == low) == low_wins
    excess = columns.lengths[low] - columns.lengths[high]
    unequal = excess != 0
    longer = ((excess > 0) == low_wins)[unequal]
    return (owner, first.astype(np.float64)), (owner[unequal], longer.astype(np.float64))


def _means(owner: NDArray[np.int64], values: Floats, count: int, weights: Floats | None = None) -> Floats:
    """Mean of the values of each owner; NaN where there is none."""
    each = np.ones(len(owner)) if weights is None else weights
    total = np.bincount(owner, each, count)
    sums = np.bincount(owner, each * values, count)
    return np.asarray(np.divide(sums, total, out=np.full(count, np.nan), where=total > 0), dtype=np.float64)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
