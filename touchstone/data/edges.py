"""Comparisons as a table's rows: `groups.judged_pairs` turns an edge the same way, one group at a time."""

from __future__ import annotations

import polars as pl


def oriented(edges: pl.DataFrame) -> pl.DataFrame:
    """Edges with the completion of the lower index first: low, high, wins_low, wins_high in place of i, j and wins.

    Args:
        edges: i, j, wins_i, wins_j, and any other columns, which stay as they are, in front.
    """
    forward = pl.col("i") < pl.col("j")
    return edges.select(
        pl.exclude("i", "j", "wins_i", "wins_j"),
        low=pl.min_horizontal("i", "j"),
        high=pl.max_horizontal("i", "j"),
        wins_low=pl.when(forward).then("wins_i").otherwise("wins_j"),
        wins_high=pl.when(forward).then("wins_j").otherwise("wins_i"),
    )
