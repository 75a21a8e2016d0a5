"""Pictures of the data page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from touchstone.data.page.sets import SetFacts
from touchstone.pages.figures import BLUE, INK, ORANGE
from touchstone.pages.svg import Picture, figure, svg
from touchstone.statistics import wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
"""Okabe and Ito's: told apart by colour-blind readers. What has no colour left is drawn grey."""
OTHERS = "#B5B5B5"


def strengths(rows: Sequence[tuple[float, int]]) -> Picture:
    """Pairs by strength: the share of their judgements for the preferred side.

    Args:
        rows: (lower end of the bin, pairs), ascending from 0.5.
    """
    drawn, (axis,) = figure()
    lows = [low for low, _ in rows]
    width = min((b - a for a, b in pairwise(lows)), default=0.05)
    axis.bar(lows, [pairs for _, pairs in rows], width=0.9 * width, align="edge", color=BLUE)
    axis.set_xlabel("share of a pair's judgements for the preferred side")
    axis.set_ylabel("pairs")
    _count_axis(axis)
    total = sum(pairs for _, pairs in rows)
    sure = sum(pairs for low, pairs in rows if low >= 0.9)
    alt = (
        f"Histogram of how clearly pairs were decided: of {total:,} pairs {_percent(sure, total)} have at least 90% of"
        " their judgements on one side."
    )
    return Picture(svg(drawn, "strengths"), alt, "Left: as many for as against. Right: everybody agrees.")


def annotators(rows: Iterable[Mapping[str, Any]], suspects: Iterable[str]) -> Picture | None:
    """Agreement with others against the number of judgements, one point per annotator; None without any.

    Args:
        rows: `annotators` of audit.json.
        suspects: names that an alarm names; drawn in the accent colour.
    """
    known = [row for row in rows if row["agreement"] is not None]
    if not known:
        return None
    drawn, (axis,) = figure()
    named = frozenset(suspects)
    for colour, wanted in ((BLUE, False), (ORANGE, True)):
        chosen = [row for row in known if (row["name"] in named) is wanted]
        counts, shares = [row["judgements"] for row in chosen], [row["agreement"] for row in chosen]
        axis.plot(counts, shares, "o", color=colour, markersize=6, alpha=0.75)
    # A few annotators often do most of the work: beyond a factor of 30 the others would lie on the axis.
    counts = [row["judgements"] for row in known]
    if max(counts) > 30 * max(1, min(counts)):
        axis.set_xscale("log")
    else:
        axis.set_xlim(0, 1.08 * max(counts))
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    lowest = min(row["agreement"] for row in known)
    axis.set_ylim(max(-0.02, min(0.48, lowest - 0.05)), 1.02)
    axis.axhline(0.5, color=INK, linewidth=1, linestyle=":")
    axis.set_xlabel("judgements")
    axis.set_ylabel("agreement with others")
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    shares = sorted(row["agreement"] for row in known)
    alt = (
        f"Agreement with others of {len(known):,} annotators against how much they judged: from {shares[0]:.0%} to "
        f"{shares[-1]:.0%}, the middle one {shares[len(shares) // 2]:.0%}."
    )
    caption = "Low points with many judgements deserve a look. Dotted: a coin."
    key = ((BLUE, "annotator"), (ORANGE, "named by an alarm")) if named else ()
    return Picture(svg(drawn, "annotators"), alt, caption, key)


def lengths(rows: Sequence[tuple[int, int, float]]) -> Picture | None:
    """How often the longer completion wins, by how much longer it is, with 95% intervals; None without rows.

    Args:
        rows: (lower end of the bin in characters, decided pairs, share that the longer one wins), ascending.
    """
    if not rows:
        return None
    drawn, (axis,) = figure()
    shares = [share for _, _, share in rows]
    for place, (_, pairs, share) in enumerate(rows):
        axis.plot([place, place], wilson_interval(share * pairs, pairs, 0.95), color=BLUE, linewidth=3, alpha=0.4)
    axis.plot(range(len(rows)), shares, "o-", color=BLUE, linewidth=1.5, markersize=6)
    axis.axhline(0.5, color=INK, linewidth=1, linestyle=":")
    axis.set_xticks(range(len(rows)), [f"{low:,}+" for low, _, _ in rows])
    if len(rows) > 8:
        axis.tick_params(axis="x", labelrotation=35)
    axis.set_ylim(-0.02, 1.02)
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_xlabel("characters by which one completion is longer")
    axis.set_ylabel("the longer one wins")
    listing = "; ".join(f"{low:,} or more {share:.0%}" for low, _, share in rows)
    alt = f"How often the longer completion wins, by the difference in characters: {listing}."
    caption = "Far from the dotted line, length alone tells who wins. Lines: 95% intervals."
    return Picture(svg(drawn, "lengths"), alt, caption)


def axis_mix(sets: Sequence[SetFacts]) -> Picture:
    """Which share of each set's groups belongs to which axis, as stacked bars."""
    canvas, (axis,) = figure(height=2.9)
    total: dict[str, int] = {}
    for facts in sets:
        for name, count in facts.axes.items():
            total[name] = total.get(name, 0) + count
    # The most frequent axes get colours, in the same order in every bar; the rest share one.
    names = sorted(total, key=lambda name: (-total[name], name))
    drawn, rest = names[: len(COLOURS)], names[len(COLOURS) :]
    parts: list[tuple[tuple[str, ...], str]] = [
        ((name,), colour) for name, colour in zip(drawn, COLOURS, strict=False)
    ]
    parts += [(tuple(rest), OTHERS)] if rest else []
    places = range(len(sets))
    sizes = [max(1, sum(facts.axes.values())) for facts in sets]
    left = [0.0] * len(sets)
    for members, colour in parts:
        shares = [sum(f.axes.get(name, 0) for name in members) / size for f, size in zip(sets, sizes, strict=True)]
        axis.barh(places, shares, left=left, color=colour, height=0.72, edgecolor="white", linewidth=0.6)
        left = [low + share for low, share in zip(left, shares, strict=True)]
    axis.set_yticks(places, [facts.name for facts in sets])
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_xlabel("share of the set's groups")
    most = [_percent(facts.axes.get(names[0], 0), size) for facts, size in zip(sets, sizes, strict=True)]
    listing = "; ".join(f"{facts.name} {share}" for facts, share in zip(sets, most, strict=True))
    alt = f"Mix of axes in each set. Share of the most frequent axis: {listing}."
    key = (*zip(COLOURS, drawn, strict=False), *([(OTHERS, f"{len(rest)} others")] if rest else []))
    return Picture(svg(canvas, "axes"), alt, "Bars that look alike: every set was drawn from the same mix.", key)


def _count_axis(axis: Axes) -> None:
    axis.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _percent(part: int, total: int) -> str:
    return f"{part / total:.0%}" if total else "0%"
