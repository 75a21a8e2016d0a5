"""The picture of a year: what is true of the champion, what monitoring saw, what was judged, and what went wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from benchmarks.year.world import LAUNCHES
from touchstone.pages.figures import BLUE, GREEN, GREY, INK, ORANGE

MARKERS = {
    "PROMOTE": (GREEN, "^", "promoted"),
    "REJECT": (ORANGE, "v", "rejected"),
    "INCONCLUSIVE": (GREY, "o", "undecided"),
}
SHADES: tuple[tuple[str, str, Callable[[dict[str, Any]], bool]], ...] = (
    ("holiday", BLUE, lambda night: night["batch"] is None),
    ("label noise", ORANGE, lambda night: night["label_noise"] > 0),
    ("poison", INK, lambda night: night["poisoned"]),
)


def draw(nights: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the picture, SVG or PNG by the path's suffix; the same nights give the same bytes."""
    matplotlib.rcParams["svg.hashsalt"] = "touchstone"
    figure = Figure(figsize=(10, 6.4), layout="constrained", facecolor="white", dpi=110)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))

    # What is true.
    known = [night for night in nights if night["gold"] is not None]
    upper.plot([n["night"] for n in known], [n["gold"] for n in known], color=BLUE, linewidth=2, label="champion")
    made = [(night["night"], retrain) for night in nights for retrain in night["retrains"] if "gold" in retrain]
    for verdict, (colour, marker, words) in MARKERS.items():
        found = [(at, retrain["gold"]) for at, retrain in made if retrain["verdict"] == verdict]
        if found:
            upper.scatter(*zip(*found, strict=True), color=colour, marker=marker, s=60, zorder=3, label=words)
    promoted = [(at, retrain) for at, retrain in made if retrain["promoted"]]
    for version, (at, retrain) in enumerate(promoted, start=1):
        upper.annotate(
            f"version {version}", (at, retrain["gold"]), xytext=(5, 7), textcoords="offset points", color=INK
        )
    upper.set_ylabel("gold accuracy")
    upper.set_title("Accuracy by the gold reward, on what the policies write that night", **_TITLE)

    # What is seen.
    looked = [night for night in nights if night["window"] is not None]
    seen = [(night["night"], night["window"]["signals"]["accuracy"]) for night in looked]
    seen = [(at, signal) for at, signal in seen if signal["value"] is not None]
    lower.plot([at for at, _ in seen], [s["value"] for _, s in seen], color=BLUE, marker=".", label="canary accuracy")
    for state, colour in (("WARN", GREY), ("RETRAIN", ORANGE)):
        at = [night["night"] for night in looked if night["window"]["state"] == state]
        lower.plot(
            at, [0.03] * len(at), "|", color=colour, markersize=14, transform=lower.get_xaxis_transform(), label=state
        )
    troubles = [(night["night"], night["trouble"]) for night in nights if night["trouble"] != "none"]
    for at, trouble in troubles:
        words = "kill -9" if trouble == "kill" else "two at once"
        place = {"xycoords": ("data", "axes fraction"), "rotation": 90, "ha": "center", "va": "top"}
        lower.annotate(words, (at, 0.99), fontsize=7.5, color=GREY, **place)
    lower.set_ylabel("accuracy by labels")
    lower.set_xlabel("night")
    lower.set_title("What monitoring saw, as far back as a fall is likeliest", **_TITLE)

    launches = [math.ceil(launch * nights[-1]["night"]) for launch in LAUNCHES]
    for axis in (upper, lower):
        axis.vlines(launches, 0, 1, transform=axis.get_xaxis_transform(), color=INK, linestyle=":", linewidth=1,
                    label="a new subject" if axis is lower else None)  # fmt: skip
        for words, colour, belongs in SHADES:
            for night in nights:
                if night["night"] and belongs(night):
                    axis.axvspan(night["night"] - 0.5, night["night"] + 0.5, color=colour, alpha=0.12, linewidth=0)
            if axis is lower and any(belongs(night) for night in nights if night["night"]):
                axis.fill_between([], [], color=colour, alpha=0.25, label=words)
        axis.spines[["top", "right"]].set_visible(False)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    figure.legend(frameon=False, fontsize=9, ncols=5, loc="outside lower center")
    metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(path, metadata=metadata)


_TITLE: dict[str, Any] = {"loc": "left", "fontsize": 11, "fontweight": "bold", "color": INK}
