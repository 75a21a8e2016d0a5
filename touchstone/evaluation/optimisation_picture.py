"""The picture of how far a reward may be optimised."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from touchstone.model.optimisation_budget import OptimisationBudget
from touchstone.pages.figures import BLUE, GREY, INK, ORANGE, add_title, figure_of, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def optimisation_curve(budget: OptimisationBudget, *, subject: str) -> bytes:
    """Gold and reward of the best of n over sqrt(KL), with the fitted curve and the budget."""
    figure, (axis,) = figure_of()
    paint_optimisation(axis, budget)
    axis.set_xlabel("best of n, by sqrt(KL)", fontsize=10)
    axis.set_ylabel("gain over one sample (standard deviations)", fontsize=10)
    axis.legend(loc="upper left", frameon=False, fontsize=10)
    add_title(
        axis, f"How far {subject} may be optimised", f"budget: best of {budget.n:,}, where gold is last seen to rise"
    )
    return to_png(figure)


def paint_optimisation(axis: Axes, budget: OptimisationBudget) -> None:
    """`optimisation_curve` on the axis of somebody else's figure, without words."""
    steps = np.sqrt([point.nats for point in budget.points])
    gold = np.array([[point.gold, point.gold_low, point.gold_high] for point in budget.points])
    axis.axhline(0, color=GREY, linewidth=0.8)
    axis.axvline(math.sqrt(budget.nats), color=INK, linewidth=1, linestyle=":", label="budget")
    axis.plot(steps, [point.proxy for point in budget.points], "o-", color=ORANGE, markersize=4, label="the reward")
    axis.fill_between(steps, gold[:, 1], gold[:, 2], color=BLUE, alpha=0.2, linewidth=0)
    axis.plot(steps, gold[:, 0], "o", color=BLUE, markersize=5, label="gold")
    grid = np.linspace(0, steps[-1], 60)
    axis.plot(grid, grid * (budget.fitted.alpha - budget.fitted.beta * grid), color=BLUE, linewidth=1.5)
    shown = [point for point in budget.points if point.n != 2]  # there is no room for every doubling's number
    axis.set_xticks([math.sqrt(point.nats) for point in shown], [f"{point.n:,}" for point in shown])
