"""The benchmark's picture: rates of everybody relative to TRL as documented, one group of bars per workload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

COLOURS = {"touchstone": "#b8860b", "tuned": "#7f8c9b", "documented": "#c9d1d9"}


def draw(record: dict[str, Any], path: Path) -> None:
    """Write the picture as SVG."""
    workloads = record["workloads"]
    figure, axes = pyplot.subplots(figsize=(8, 1.0 + 0.95 * len(workloads)))
    ticks, labels = [], []
    for number, row in enumerate(workloads.values()):
        base = row["contestants"]["trl-8"]["rate"]
        bars = {
            "touchstone": row["contestants"]["touchstone"]["rate"],
            "tuned": row["contestants"][row["tuned"]]["rate"],
            "documented": base,
        }
        for place, (who, rate) in enumerate(bars.items()):
            height = -number - 0.26 * place
            axes.barh(height, rate / base, 0.24, color=COLOURS[who], label=who if number == 0 else None)
            axes.text(rate / base, height, f" {rate:.1f} pairs/s", va="center", fontsize=8)
        ticks.append(-number - 0.26)
        labels.append(row["what"].replace(", ", "\n", 1))
    axes.set_yticks(ticks, labels, fontsize=9)
    axes.set_xlabel("comparisons per second, relative to TRL as documented")
    axes.set_xlim(right=axes.get_xlim()[1] * 1.15)
    axes.spines[["top", "right"]].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    words = {"touchstone": "Touchstone", "tuned": "TRL, tuned", "documented": "TRL, documented"}
    axes.legend(handles, [words[name] for name in names], frameon=False, fontsize=9, loc="lower right")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
