"""The benchmark's picture: everybody's rate on each workload, and alone the time of a request."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

OURS, OTHERS = "#b8860b", "#8f9bab"
TITLES = {
    "a": "a: single samples, many clients\nrequests per second",
    "b": "b: 512-token prompt, 16 completions\ntexts per second",
    "c": "c: bulk\ntexts per second",
    "s": "one client alone\nmilliseconds per request",
}


def draw(record: dict[str, Any], path: Path) -> None:
    """Write the picture as SVG: one panel a workload, one bar a contestant; who was not run has a word for a bar."""
    contestants = record["contestants"]
    figure, panels = pyplot.subplots(1, 4, figsize=(14, 1.2 + 0.45 * len(contestants)), sharey=True)
    names = list(contestants)
    for (workload, title), panel in zip(TITLES.items(), panels, strict=True):
        for place, name in enumerate(names):
            row = contestants[name]
            if "unavailable" in row:
                panel.text(0, -place, " not run", va="center", fontsize=8, color="#707070")
                continue
            if workload not in row["rounds"]:
                panel.text(0, -place, " not asked", va="center", fontsize=8, color="#707070")
                continue
            results = row["rounds"][workload]
            value = statistics.median(1000 * each["p50"] if workload == "s" else each["rate"] for each in results)
            panel.barh(-place, value, 0.6, color=OURS if name == "touchstone" else OTHERS)
            panel.text(value, -place, f" {value:.3g}", va="center", fontsize=8)
        panel.set_title(title, fontsize=9, loc="left")
        panel.set_yticks([-place for place in range(len(names))], names, fontsize=9)
        panel.set_ylim(0.4 - len(names), 0.6)
        panel.set_xlim(right=1.2 * panel.get_xlim()[1])
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(axis="x", labelsize=8)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
