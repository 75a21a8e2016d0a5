"""Place every cluster into one of the seven sets.

    python -m touchstone.splits        # build/groups.parquet -> build/splits/<set>.parquet, summary.json

A cluster's place depends on its id, the salt and the shares alone: neither the order of rows nor data that come later
move it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from touchstone import settings as settings_module
from touchstone.errors import SplitError
from touchstone.files import write_folder, write_json
from touchstone.groups import Group, judged_pairs, read_parquet, set_digest, write_parquet
from touchstone.settings.data import SETS, Split
from touchstone.stage import progress, run_stage

GROUPS = Path("build/groups.parquet")
FOLDER = Path("build/splits")


def assign(cluster_id: str, split: Split) -> str:
    """A cluster's set: what `split.assign` says, else where its hash falls among the cumulative shares."""
    if cluster_id in split.assign:
        return split.assign[cluster_id]
    digest = hashlib.sha256(f"{split.salt}:{cluster_id}".encode("utf-8", "surrogatepass")).digest()
    # 53 bits, because a float holds no more: every quotient is exact and below 1.
    position = (int.from_bytes(digest[:8], "big") >> 11) / 2**53
    end = 0.0
    for name in SETS:
        end += split.shares[name]
        if position < end:
            return name
    # Shares such as 0.64 + 0.06 + ... may add up to a hair less than 1.
    return next(name for name in reversed(SETS) if split.shares[name] > 0)


def split_groups(groups: Iterable[Group], split: Split) -> dict[str, list[Group]]:
    """The seven sets; groups keep their order.

    Raises:
        SplitError: a set is empty, or `split.assign` names a cluster that the data don't hold.
    """
    sets: dict[str, list[Group]] = {name: [] for name in SETS}
    clusters: dict[str, str] = {}
    for group in groups:
        name = clusters.setdefault(group.cluster_id, assign(group.cluster_id, split))
        sets[name].append(group)
    if unknown := sorted(set(split.assign) - set(clusters)):
        raise SplitError(
            f"split.assign names {len(unknown)} clusters that the data don't hold: {', '.join(unknown[:12])}; a "
            f"misspelt name would leave the real cluster to chance"
        )
    if empty := [name for name in SETS if not sets[name]]:
        raise SplitError(
            f"{len(clusters)} clusters leave these sets empty: {', '.join(empty)}. Bring more clusters, change "
            f"split.shares, or place clusters by hand with split.assign"
        )
    return sets


def summarise(sets: dict[str, list[Group]]) -> dict[str, Any]:
    """Counts and content digest of each set."""
    return {
        name: {
            "groups": len(groups),
            "clusters": len({group.cluster_id for group in groups}),
            "completions": sum(len(group.completions) for group in groups),
            "comparisons": sum(len(group.comparisons) for group in groups),
            "pairs": sum(len(judged_pairs(group)) for group in groups),
            "digest": set_digest(groups),
        }
        for name, groups in sets.items()
    }


def print_summary(summary: dict[str, Any]) -> None:
    """Print the sets as a table on stderr."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Sets")
    table.add_column("set")
    columns = ("groups", "clusters", "completions", "comparisons", "pairs")
    for column in columns:
        table.add_column(column, justify="right")
    for name, counts in summary.items():
        table.add_row(name, *(f"{counts[column]:,}" for column in columns))
    Console(file=sys.stderr).print(table)


def main() -> None:
    """Run the stage in the current folder."""
    settings = settings_module.load()
    sets = split_groups(read_parquet(GROUPS), settings.split)
    summary = summarise(sets)

    def fill(folder: Path) -> None:
        for name, groups in progress(sets.items(), "split", len(sets)):
            write_parquet(folder / f"{name}.parquet", groups)
        write_json(folder / "summary.json", summary)

    write_folder(FOLDER, fill)
    print_summary(summary)


if __name__ == "__main__":
    run_stage(main)
