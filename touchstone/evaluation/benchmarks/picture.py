"""A benchmark's scores as points with their intervals, as PNG bytes: the same numbers give the same bytes."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from matplotlib.figure import Figure

from touchstone.pages.figures import BLUE, DPI, GREY, INK, LABEL

COLOURS = {"subset": BLUE, "part": GREY, "mean": GREY, "total": INK}


def chart(facts: dict[str, Any], *, guess: float) -> bytes:
    """Every score of results.json from top to bottom, the total set apart; what guessing gets is marked."""
    scores = facts["scores"]
    figure = Figure(figsize=(7.0, 1.7 + 0.46 * len(scores)), dpi=DPI, layout="constrained", facecolor="white")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(GREY)
    axis.set_axisbelow(True)
    for place, score in enumerate(scores):
        colour = COLOURS[score["kind"]]
        axis.plot([score["low"], score["high"]], [place, place], color=colour, linewidth=3, alpha=0.45)
        axis.plot([score["value"]], [place], "o", color=colour, markersize=8 if score["kind"] != "part" else 5)
        axis.annotate(
            f"{score['value']:.3f}",
            (score["value"], place),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=colour,
            bbox=LABEL,
        )
    # The total is the last score; the line above it sets it apart.
    axis.axhline(len(scores) - 1.5, color=GREY, linewidth=0.8)
    axis.axvline(guess, color=INK, linewidth=1, linestyle=":")
    axis.set_yticks(range(len(scores)), [score["name"] for score in scores], fontsize=10)
    axis.set_ylim(len(scores) - 0.4, -0.8)
    axis.set_xlim(min(0.0, *(score["low"] for score in scores)) - 0.02, 1.04)
    axis.tick_params(labelsize=10, colors=INK)
    axis.set_xlabel("score", fontsize=10)
    axis.grid(axis="x", color="#E6E6E6")
    title = f"{facts['title']}: {facts['model']['name']}"
    axis.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=24)
    axis.annotate(
        f"lines: {facts['interval']['level']:.0%} intervals over prompts; dotted: guessing ({guess:.2f})",
        (0, 1),
        xytext=(0, 7),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=9.5,
        color=GREY,
    )
    target = BytesIO()
    # The default metadata name matplotlib's version, which would change the bytes without changing the picture.
    figure.savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()
