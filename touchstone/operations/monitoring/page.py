"""The page of monitoring: the last window, accuracy and drift over all of them, and what was decided."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from touchstone.operations.monitoring import history
from touchstone.operations.monitoring.history import MonitorEntry, Window
from touchstone.pages.figures import BLUE, GREY, ORANGE
from touchstone.pages.svg import Picture, figure, svg
from touchstone.pages.template import environment
from touchstone.runtime.files import write_atomic
from touchstone.settings.monitor import Monitor
from touchstone.statistics.sequences import betting_sequence

SHOWN = 200
"""Windows in the table, newest first."""


def write_page(root: Path, name: str, entries: Sequence[MonitorEntry], settings: Monitor) -> Path:
    """Write runs/monitor/NAME.html; returns its path.

    Args:
        entries: hold a window at least.
    """
    path = history.file_of(root, name, ".html")
    write_atomic(path, render(name, entries, settings))
    return path


def render(name: str, entries: Sequence[MonitorEntry], settings: Monitor) -> str:
    """The page as HTML."""
    windows = [entry for entry in entries if isinstance(entry, Window)]
    last = windows[-1]
    pictures = [accuracy_picture(windows), drift_picture(windows, settings)]
    template = environment(Path(__file__).parent).get_template("page.html.jinja")
    return template.render(
        name=name,
        last=last,
        windows=windows[::-1][:SHOWN],
        pictures=[picture for picture in pictures if picture is not None],
    )


def accuracy_picture(windows: Sequence[Window]) -> Picture | None:
    """Accuracy of the labelled prompts of the present champion with a 95% betting sequence; None without any."""
    current = [window for window in windows if window.model_digest == windows[-1].model_digest]
    credits = [judged.credit for window in current for judged in window.judged]
    if not credits:
        return None
    ends = np.cumsum([len(window.judged) for window in current])
    places = np.flatnonzero(ends > 0)
    low, high = betting_sequence(credits)
    means = np.cumsum(credits) / np.arange(1, len(credits) + 1)
    at = ends[places] - 1
    drawn, (axis,) = figure()
    axis.fill_between(ends[places], low[at], high[at], color=BLUE, alpha=0.2, linewidth=0)
    axis.plot(ends[places], means[at], color=BLUE, marker="o", markersize=3)
    limits = {signal.name: signal.limit for signal in current[-1].signals}
    if limits.get("accuracy") is not None:
        axis.axhline(limits["accuracy"] or 0.0, color=ORANGE, linestyle="--")
    axis.set_xlabel("labelled prompts under this version")
    axis.set_ylabel("accuracy")
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    alt = f"Accuracy after {len(credits):,} labelled prompts: {means[-1]:.1%} ({low[-1]:.1%} to {high[-1]:.1%})."
    caption = (
        "The band holds at every moment at once. Dashed: the limit for the prompts since the likeliest moment of a "
        "fall, which the table names."
    )
    return Picture(svg(drawn, "accuracy"), alt, caption)


def drift_picture(windows: Sequence[Window], settings: Monitor) -> Picture | None:
    """Distance of served scores from the first ones under each champion; None without any."""
    distances = [
        (place, signal.value)
        for place, window in enumerate(windows, start=1)
        for signal in window.signals
        if signal.name == "scores" and signal.value is not None
    ]
    if not distances:
        return None
    drawn, (axis,) = figure()
    axis.plot(
        [place for place, _ in distances], [value for _, value in distances], color=BLUE, marker="o", markersize=3
    )
    axis.axhline(settings.drift_alarm, color=ORANGE, linestyle="--")
    axis.axhline(settings.drift_warning, color=GREY, linestyle=":")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("window")
    axis.set_ylabel("distance of served scores, sd")
    alt = f"Distance of the served scores from the first ones: {distances[-1][1]:.3f} sd in the last window."
    return Picture(svg(drawn, "drift"), alt, "Dotted: worth a look. Dashed: breached.")
