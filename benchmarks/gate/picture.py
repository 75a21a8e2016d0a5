"""The picture of the simulations: false promotions and power over the number of prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from touchstone.pages.figures import BLUE, GREEN, GREY, INK, ORANGE


def draw(simulated: dict[str, Any], path: Path) -> None:
    """Write the picture as SVG; the same numbers give the same bytes."""
    matplotlib.rcParams["svg.hashsalt"] = "touchstone"
    figure = Figure(figsize=(10, 4.2), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    rows = simulated["curves"]
    sizes = sorted({row["prompts"] for row in rows})

    def curve(gain: float, key: str) -> list[float]:
        return [row[key] for size in sizes for row in rows if row["prompts"] == size and row["gain"] == gain]

    left.plot(sizes, curve(0.0, "promoted_if_pairs_were_prompts"), color=ORANGE, marker="s", label="counting pairs")
    left.plot(sizes, curve(0.0, "promoted"), color=BLUE, marker="o", label="this gate: prompts are resampled")
    left.axhline(0.025, color=GREY, linestyle="--", linewidth=1)
    left.annotate(
        "claimed: 2.5%", (sizes[-1], 0.025), xytext=(0, 4), textcoords="offset points", ha="right", color=GREY
    )
    left.set_ylim(0, None)
    left.set_title(
        "Two equal models: how often one is promoted", loc="left", fontsize=11, fontweight="bold", color=INK
    )
    for gain, colour, marker in ((0.03, BLUE, "o"), (0.02, GREEN, "^")):
        right.plot(
            sizes, curve(gain, "promoted"), color=colour, marker=marker, label=f"truly {100 * gain:.0f} points better"
        )
    right.axhline(0.8, color=GREY, linestyle="--", linewidth=1)
    right.set_ylim(0, 1.02)
    right.set_title("A better model: how often it is promoted", loc="left", fontsize=11, fontweight="bold", color=INK)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
        axis.set_xlabel("prompts in the holdout, 6 judged pairs each")
        axis.legend(frameon=False)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
