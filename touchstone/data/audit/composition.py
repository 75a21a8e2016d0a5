"""What the comparisons are made of: sources, lengths, prompts, and whether one of them rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from touchstone.data.audit.agreement import Votes
from touchstone.data.audit.alarms import Alarm, percent
from touchstone.data.audit.columns import FIRST_WORDS, Columns
from touchstone.settings.checks import Audit

LENGTH_BINS = (1, 10, 30, 100, 300, 1000, 3000)
"""Low ends, in characters, of the bins of the difference between two completions."""
FEWEST_PAIRS = 30
"""Below so many pairs, a share raises no alarm."""


def length_report(columns: Columns) -> dict[str, Any]:
    """The report's part "length": decided pairs of different lengths."""
    low_wins, low, high = _decided(columns)
    excess = columns.lengths[low] - columns.lengths[high]
    longer = ((excess > 0) == low_wins)[excess != 0]
    place = np.searchsorted(LENGTH_BINS, np.abs(excess[excess != 0]), side="right") - 1
    counts = np.bincount(place, minlength=len(LENGTH_BINS))
    wins = np.bincount(place, longer, len(LENGTH_BINS))
    return {
        "longer_wins": float(longer.mean()) if len(longer) else None,
        "pairs": len(longer),
        "by_difference": [
            [least, int(count), float(won / count)]
            for least, count, won in zip(LENGTH_BINS, counts, wins, strict=True)
            if count
        ],
    }


def policy_rows(columns: Columns) -> list[dict[str, Any]]:
    """The report's part "policies": `comparisons` are decided pairs with another source's completions."""
    low_wins, low, high = _decided(columns)
    count = len(columns.policies)
    low_policy, high_policy = columns.policy[low], columns.policy[high]
    apart = (low_policy != high_policy) & (low_policy >= 0) & (high_policy >= 0)
    winner, loser = (
        np.where(low_wins, low_policy, high_policy)[apart],
        np.where(low_wins, high_policy, low_policy)[apart],
    )
    wins, losses = np.bincount(winner, minlength=count), np.bincount(loser, minlength=count)
    written = np.bincount(columns.policy[columns.policy >= 0], minlength=count)
    rows = [
        {
            "name": name,
            "completions": int(written[number]),
            "comparisons": int(wins[number] + losses[number]),
            "win_share": float(wins[number] / (wins + losses)[number]) if (wins + losses)[number] else None,
        }
        for number, name in enumerate(columns.policies)
    ]
    return sorted(rows, key=lambda row: str(row["name"]))


def composition(columns: Columns, votes: Votes) -> dict[str, Any]:
    """The report's part "composition"."""
    judges, pairs = np.unique(votes.total.astype(np.int64), return_counts=True)
    return {
        "axes": dict(sorted(columns.axes.items())),
        "sources": dict(sorted(columns.sources.items())),
        "turns": {str(turns): groups for turns, groups in sorted(columns.turns.items())},
        "completions": {str(count): groups for count, groups in sorted(columns.completions.items())},
        "judges": {str(count): int(number) for count, number in zip(judges, pairs, strict=True)},
    }


def prompt_report(columns: Columns) -> dict[str, Any]:
    """The report's part "prompts"; a cluster is prompts whose last message begins with the same FIRST_WORDS words."""
    return {
        "distinct": columns.prompts,
        "clusters": columns.clusters,
        "largest_share": columns.largest_cluster / len(columns.keys),
    }


def threshold_alarms(
    length: dict[str, Any], policies: list[dict[str, Any]], prompts: dict[str, Any], groups: int, settings: Audit
) -> list[Alarm]:
    """Alarms that a share beyond its setting raises."""
    alarms = []
    # Length alarms on both sides: always choosing the shorter one is as much of a shortcut.
    longer, most = length["longer_wins"], settings.max_longer_wins_share
    if length["pairs"] >= FEWEST_PAIRS and not 1 - most <= longer <= most:
        name, share = ("longer", longer) if longer > most else ("shorter", 1 - longer)
        alarms.append(
            Alarm(
                "length", name, length["pairs"], share, most, None,
                f"The {name} completion wins {percent(share)} of {length['pairs']:,} decided pairs; "
                f"audit.max_longer_wins_share is {percent(most)}.",
            )
        )  # fmt: skip
    for row in policies:
        if row["comparisons"] >= FEWEST_PAIRS and row["win_share"] > settings.max_source_share:
            alarms.append(
                Alarm(
                    "source_concentration", row["name"], row["comparisons"], row["win_share"],
                    settings.max_source_share, None,
                    f"Completions of {row['name']} win {percent(row['win_share'])} of {row['comparisons']:,} "
                    f"comparisons with others; audit.max_source_share is {percent(settings.max_source_share)}.",
                )
            )  # fmt: skip
    share, most = prompts["largest_share"], settings.max_prompt_cluster_share
    if groups >= FEWEST_PAIRS and share > most:
        alarms.append(
            Alarm(
                "prompt_cluster", "largest", round(share * groups), share, most, None,
                f"{percent(share)} of the prompts begin their last message with the same {FIRST_WORDS} words; "
                f"audit.max_prompt_cluster_share is {percent(most)}.",
            )
        )  # fmt: skip
    return alarms


def _decided(columns: Columns) -> tuple[Any, Any, Any]:
    """Of every decided pair: whether the low one wins, the low one's number, the high one's."""
    pairs = columns.pairs.filter(pl.col("wins_low") != pl.col("wins_high"))
    return (
        (pairs["wins_low"] > pairs["wins_high"]).to_numpy(),
        pairs["low"].to_numpy(),
        pairs["high"].to_numpy(),
    )
