"""Pictures of results, as PNG bytes: the same numbers give the same bytes.

Drawn without pyplot, so nothing global is touched; colours are Okabe and Ito's, told apart by colour-blind readers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import LogFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from touchstone.pages.figures import BLUE, DENSITY, GREY, GRID, INK, LABEL, ORANGE, add_title, figure_of, to_png
from touchstone.statistics import Interval, reliability, wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection


def accuracy_chart(
    results: Mapping[str, tuple[float, Interval]],
    *,
    subject: str,
    model: str = "model",
    what: str = "Accuracy",
    about: str = "accuracy (share of comparisons ordered as labelled)",
    chance: float | None = 0.5,
) -> bytes:
    """Accuracy of the model and of each baseline with its interval, in the order given; chance is marked.

    Args:
        results: name -> (accuracy, interval), each 0 to 1.
        subject: what was scored, for the title ("720 validation prompts").
        model: the name drawn in the accent colour.
        what, about: what is drawn instead of accuracy, for the title and the axis.
        chance: what guessing reaches; None where that is no one number.
    """
    figure, (axis,) = figure_of(height=1.5 + 0.55 * len(results))
    names = list(results)
    lowest = min(0.5 if chance is None else chance, *(interval.low for _, interval in results.values()))
    for place, name in enumerate(names):
        value, interval = results[name]
        colour = BLUE if name == model else GREY
        axis.plot([interval.low, interval.high], [place, place], color=colour, linewidth=3, alpha=0.45)
        axis.plot([value], [place], "o", color=colour, markersize=9)
        axis.annotate(
            f"{value:.3f}",
            (value, place),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            color=colour,
            bbox=LABEL,
        )
    if chance is not None:
        axis.axvline(chance, color=INK, linewidth=1, linestyle=":")
    axis.set_yticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=11)
    axis.set_ylim(len(names) - 0.5, -0.7)
    axis.set_xlim(max(0.0, lowest - 0.03), 1.0)
    axis.set_xlabel(about, fontsize=10)
    axis.grid(axis="x", color=GRID)
    dotted = "" if chance is None else "; dotted: guessing"
    add_title(axis, f"{what} on {subject}", f"lines: 95% intervals over prompts{dotted}")
    return to_png(figure)


def reliability_diagram(
    confidence: ArrayLike, correct: ArrayLike, *, error: float, null_error: float, subject: str
) -> bytes:
    """Confidence against accuracy in equal-mass bins with Wilson intervals, and below it how many pairs lie where.

    Args:
        confidence: P(|D|) of each pair, 0.5 to 1.
        correct: share of each pair's judgements that went to the model's side, ties half.
        error, null_error: calibration error, and what a perfectly calibrated model reads at most.
    """
    figure, (top, bottom) = figure_of(height=5.6, rows=2, sharex=True, height_ratios=[3, 1])
    paint_reliability(top, bottom, confidence, correct)
    top.set_ylabel("accuracy", fontsize=10)
    top.grid(color=GRID)
    add_title(
        top,
        f"Calibration on {subject}",
        f"calibration error {error:.3f} (a perfect model: up to {null_error:.3f} by chance); dotted: perfect",
    )
    bottom.set_xlabel("confidence that the higher reward is the preferred one", fontsize=10)
    bottom.set_ylabel("comparisons", fontsize=10)
    return to_png(figure)


def paint_reliability(top: Axes, bottom: Axes, confidence: ArrayLike, correct: ArrayLike) -> None:
    """`reliability_diagram` on axes of somebody else's figure, without words."""
    bins = reliability(confidence, correct)
    top.plot([0.5, 1], [0.5, 1], color=INK, linewidth=1, linestyle=":")
    intervals = [wilson_interval(row.accuracy * row.count, row.count, 0.95) for row in bins]
    for row, interval in zip(bins, intervals, strict=True):
        top.plot([row.confidence] * 2, interval, color=BLUE, linewidth=2, alpha=0.45)
    top.plot([row.confidence for row in bins], [row.accuracy for row in bins], "o", color=BLUE, markersize=7)
    top.set_ylim(min(0.42, *(interval.low for interval in intervals)) - 0.02, 1.02)
    bottom.hist(np.asarray(confidence), bins=np.linspace(0.5, 1, 26).tolist(), color=BLUE, alpha=0.6)
    bottom.set_xlim(0.49, 1.01)
    bottom.yaxis.set_major_locator(MaxNLocator(3, integer=True))


def step_reliability(
    probabilities: ArrayLike, correct: ArrayLike, *, error: float, null_error: float, subject: str
) -> bytes:
    """How probable steps were called against how often they are right, in equal-mass bins with Wilson intervals.

    Args:
        probabilities: of each step not being wrong, 0 to 1.
        correct: 1.0 where it is not.
        error, null_error: calibration error, and what a perfectly calibrated model reads at most.
    """
    figure, (axis,) = figure_of(height=4.2)
    axis.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=":")
    for row in reliability(probabilities, correct):
        low, high = wilson_interval(row.accuracy * row.count, row.count, 0.95)
        axis.plot([row.confidence] * 2, [low, high], color=BLUE, linewidth=2, alpha=0.45)
        axis.plot([row.confidence], [row.accuracy], "o", color=BLUE, markersize=7)
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlabel("probability that the step is not wrong", fontsize=10)
    axis.set_ylabel("share that is not", fontsize=10)
    axis.grid(color=GRID)
    reads = f"calibration error {error:.3f} (a perfect model: up to {null_error:.3f} by chance); dotted: perfect"
    add_title(axis, f"Calibration on {subject}", reads)
    return to_png(figure)


def margin_histogram(differences: ArrayLike, *, subject: str) -> bytes:
    """How far the model puts the preferred completion above the other: D in raw reward units, one value per pair."""
    values = np.asarray(differences, dtype=np.float64)
    figure, (axis,) = figure_of()
    paint_margins(axis, values)
    axis.set_xlabel("reward of the preferred completion minus reward of the other", fontsize=10)
    axis.set_ylabel("comparisons", fontsize=10)
    axis.legend(loc="upper left", frameon=False, fontsize=10)
    add_title(
        axis,
        f"Reward differences on {subject}",
        f"{np.mean(values > 0):.1%} of comparisons on the right side; the outermost bars hold what lies beyond",
    )
    return to_png(figure)


def paint_margins(axis: Axes, differences: ArrayLike, champion: ArrayLike | None = None) -> None:
    """`margin_histogram` on the axis of somebody else's figure, without words; the champion's as an outline.

    Args:
        champion: differences of the same pairs in the same unit; None where there is no champion.
    """
    values = np.asarray(differences, dtype=np.float64)
    champions = np.empty(0) if champion is None else np.asarray(champion, dtype=np.float64)
    reach = float(np.quantile(np.abs(np.concatenate([values, champions])), 0.995)) or 1.0
    edges = np.linspace(-reach, reach, 61).tolist()
    shown = np.clip(values, -reach, reach)
    axis.hist(shown[values > 0], bins=edges, color=BLUE, label="ordered as labelled")
    axis.hist(shown[values <= 0], bins=edges, color=ORANGE, label="the other way round, or equal")
    if len(champions):
        axis.hist(np.clip(champions, -reach, reach), bins=edges, histtype="step", color=INK, linewidth=1.3)
    axis.axvline(0, color=INK, linewidth=1)
    axis.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def spread_chart(
    signs: Mapping[str, ArrayLike], credits: ArrayLike, areas: Mapping[str, float | None], *, subject: str
) -> bytes:
    """Accuracy in tenths of the comparisons by how far the members of an ensemble are apart, with Wilson intervals.

    Once by the spread that is served, and once by the spread among comparisons whose rewards lie as far apart.

    Args:
        signs: from `metrics.signs_of_error`, one number per comparison with a preferred side.
        credits: of the same comparisons.
        areas: from `metrics.spread_metrics`.
    """
    right = np.asarray(credits, dtype=np.float64)
    figure, (axis,) = figure_of()
    series = (
        ("error", BLUE, -0.1, "the two scores' spread"),
        ("like", ORANGE, 0.1, "among comparisons of like distance"),
    )
    for name, colour, offset, label in series:
        order = np.argsort(np.asarray(signs[name], dtype=np.float64), kind="stable")
        for place, run in enumerate(np.array_split(order, min(10, len(order))), start=1):
            ends = wilson_interval(right[run].sum(), len(run), 0.95)
            axis.plot([place + offset] * 2, ends, color=colour, linewidth=2, alpha=0.45)
            axis.plot([place + offset], [right[run].mean()], "o", color=colour, markersize=7)
        area = areas[f"{name}_area"]
        axis.plot([], [], "o", color=colour, label=label if area is None else f"{label}: area {area:.3f}")
    axis.set_xlabel("tenths of the comparisons, the members' largest spread on the right", fontsize=10)
    axis.set_ylabel("accuracy", fontsize=10)
    axis.grid(color=GRID)
    axis.legend(frameon=False, fontsize=10, loc="lower left")
    words = "areas under the curve of errors, 0.5 says nothing; lines: 95% intervals"
    add_title(axis, f"Where the members disagree on {subject}", words)
    return to_png(figure)


def reward_against_length(tokens: ArrayLike, rewards: ArrayLike, *, correlation: float | None, subject: str) -> bytes:
    """Density of completions by length and reward, with the median reward of each tenth of the lengths."""
    figure, (axis,) = figure_of()
    cells = paint_lengths(axis, tokens, rewards, cells=(44, 24))
    figure.colorbar(cells, ax=axis, label="completions", shrink=0.8, format=LogFormatter())
    axis.set_xlabel("completion length in tokens", fontsize=10)
    axis.set_ylabel("raw reward", fontsize=10)
    axis.legend(loc="upper right", frameon=False, fontsize=10)
    value = "undefined (no spread)" if correlation is None else f"{correlation:+.2f}"
    add_title(
        axis, f"Reward against length on {subject}", f"rank correlation within a prompt: {value}; 0 is indifference"
    )
    return to_png(figure)


def paint_lengths(axis: Axes, tokens: ArrayLike, rewards: ArrayLike, cells: tuple[int, int]) -> PolyCollection:
    """`reward_against_length` on the axis of somebody else's figure, without words; the cells, for a colour bar.

    Args:
        cells: how many beside and above each other.
    """
    lengths, values = np.asarray(tokens, dtype=np.float64), np.asarray(rewards, dtype=np.float64)
    density = axis.hexbin(lengths, values, gridsize=cells, mincnt=1, bins="log", cmap=DENSITY, linewidths=0.1)
    middle = _running_median(lengths, values)
    axis.plot(middle[0], middle[1], "o-", color=ORANGE, linewidth=2, markersize=5, label="median reward")
    return density


def _running_median(lengths: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median length and median reward of ten equal runs by length, shape (2, <= 10)."""
    order = np.argsort(lengths, kind="stable")
    runs = [run for run in np.array_split(order, 10) if len(run)]
    return np.array([[np.median(column[run]) for run in runs] for column in (lengths, values)])
