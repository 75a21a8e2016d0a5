"""Pictures of the holdout's rows: reliability, margins beside the champion's, reward against length."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from touchstone import statistics
from touchstone.evaluation.optimisation_picture import paint_optimisation
from touchstone.evaluation.pictures import paint_lengths, paint_margins, paint_reliability
from touchstone.evaluation.rows import Row, completions
from touchstone.gate.record import Record
from touchstone.model.optimisation_budget import OptimisationBudget
from touchstone.pages.svg import figure, svg
from touchstone.statistics import CalibrationMap, Floats

WIDTH = 4.3
"""Inches: on a telephone the words keep about the size that they have here."""
SURE = (0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
UNSURE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def pictures(rows: Sequence[Row], champion_differences: Floats | None, record: Record) -> dict[str, bytes]:
    """The page's pictures as SVG by file name; none where the holdout could not be measured.

    Args:
        rows: the candidate's rows of the holdout.
        champion_differences: D of the same rows, signed like `Row.difference`, shape (rows,); None without a champion.
        record: for both calibration maps.
    """
    if record.metrics.holdout is None:
        return {}
    fitted, champion_map = record.facts.calibration_map, record.facts.champion_map
    decided = np.array([row.chosen is not None for row in rows], dtype=bool)
    differences = np.array([row.difference for row in rows], dtype=np.float64)
    champion_log_odds = None
    # A champion whose scores aren't finite is an error of its check: there is nothing to draw beside the candidate.
    if champion_differences is not None and np.isfinite(champion_differences).all():
        assert champion_map is not None  # noqa: S101  a champion has one
        champion_log_odds = statistics.log_odds(champion_differences[decided], champion_map)
    rewards, tokens, _ = zip(*completions(rows).values(), strict=True)
    budget = record.facts.budget
    return {
        **({} if budget is None else {"optimisation.svg": _optimisation(budget)}),
        "reliability.svg": _reliability(differences, np.array([row.strength for row in rows]), fitted),
        "margins.svg": _margins(statistics.log_odds(differences[decided], fitted), champion_log_odds),
        "length.svg": _lengths(tokens, rewards),
    }


def _reliability(differences: Floats, strengths: Floats, calibration_map: CalibrationMap) -> bytes:
    drawn, (top, bottom) = figure(WIDTH, 4.2, ratios=(3.0, 1.0))
    confidence = statistics.probability(np.abs(differences), calibration_map)
    paint_reliability(top, bottom, confidence, statistics.agreement(differences, strengths))
    for axis in (top.yaxis, bottom.xaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    top.set_ylabel("how often it is right")
    bottom.set_xlabel("how sure the model is")
    bottom.set_ylabel("pairs")
    return svg(drawn, "reliability").encode()


def _margins(log_odds: Floats, champion: Floats | None) -> bytes:
    drawn, (axis,) = figure(WIDTH, 3.4)
    paint_margins(axis, log_odds, champion)
    reach = axis.get_xlim()[1]
    chances = SURE if reach > math.log(9) else UNSURE
    ticks = [(math.log(chance / (1 - chance)), f"{100 * chance:g}%") for chance in chances]
    shown = [(place, label) for place, label in ticks if abs(place) <= reach]
    axis.set_xticks([place for place, _ in shown], [label for _, label in shown])
    axis.set_xlabel("probability that the model gives the labelled winner")
    axis.set_ylabel("pairs")
    return svg(drawn, "margins").encode()


def _lengths(tokens: Sequence[int], rewards: Sequence[float]) -> bytes:
    drawn, (axis,) = figure(WIDTH, 3.4)
    paint_lengths(axis, tokens, rewards, cells=(26, 15))
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.set_xlabel("length in tokens")
    axis.set_ylabel("raw reward")
    return svg(drawn, "length").encode()


def _optimisation(budget: OptimisationBudget) -> bytes:
    drawn, (axis,) = figure(WIDTH, 3.4)
    paint_optimisation(axis, budget)
    axis.set_xlabel("best of n, by sqrt(KL)")
    axis.set_ylabel("gain over one sample (sd)")
    return svg(drawn, "optimisation").encode()
