"""Place every cluster into one of the seven sets.

    python -m touchstone.data.splits    # build/groups.parquet -> build/splits/{<set>,quarantine}.parquet, summary.json

A cluster's place depends on its id, the salt and the shares alone, unless its prompts are near duplicates of prompts
that came before: then it goes where they are. Clusters are placed in the order in which they came, so whatever comes
later moves none. A newcomer that is a near duplicate of clusters in two different sets would be a leak wherever it
went: its groups are set aside.

Where `split.held_out_annotators` says so, the judgements of some annotators, chosen by the hash of their names, are
kept out of `train`: they show whether a model serves people who didn't teach it.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from touchstone import settings as settings_module
from touchstone.data.neighbours import Hashes, candidates, near_duplicates, sequences, signatures
from touchstone.data.prompts import dialogue_text, words_of
from touchstone.errors import SplitError
from touchstone.groups import (
    ARROW_SCHEMA,
    PARQUET_BATCH,
    GroupWriter,
    combined_digest,
    count_groups,
    group_digest,
    iterate_tables,
    messages_of,
    write_quarantine,
)
from touchstone.runtime.files import write_folder, write_json
from touchstone.runtime.parallel import map_ordered
from touchstone.runtime.progress import progress
from touchstone.runtime.stage import run_stage
from touchstone.settings.checks import SETS, Split

GROUPS = Path("build/groups.parquet")
FOLDER = Path("build/splits")


def assign(cluster_id: str, split: Split) -> str:
    """A cluster's set: what `split.assign` says, else where its hash falls among the cumulative shares."""
    if cluster_id in split.assign:
        return split.assign[cluster_id]
    position = _position(cluster_id, split)
    end = 0.0
    for name in SETS:
        end += split.shares[name]
        if position < end:
            return name
    # Shares such as 0.64 + 0.06 + ... may add up to a hair less than 1.
    return next(name for name in reversed(SETS) if split.shares[name] > 0)


def is_held_out(annotator: str, split: Split) -> bool:
    """Whether an annotator's judgements are kept out of `train`."""
    return _position(f"annotator {annotator}", split) < split.held_out_annotators


def _position(name: str, split: Split) -> float:
    """Where a name falls between 0 and 1."""
    digest = hashlib.sha256(f"{split.salt}:{name}".encode("utf-8", "surrogatepass")).digest()
    # 53 bits, because a float holds no more: every quotient is exact and below 1.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


@dataclass(frozen=True, slots=True)
class Prompts:
    """The distinct prompts of a file of groups, in the order in which they came.

    Attributes:
        clusters: distinct cluster ids, in the order in which they came.
        cluster_of: for each group, the index of its cluster.
        prompt_of: for each group, the index of its prompt; prompts that differ in case and blanks alone are one.
        keys: for each prompt, its `signatures`.
        first_group: for each prompt, the first group that has it.
    """

    clusters: list[str]
    cluster_of: list[int]
    prompt_of: list[int]
    keys: Hashes
    first_group: list[int]


def read_prompts(groups: Path) -> Prompts:
    """Read clusters and prompts, with a progress bar.

    Raises:
        DataError: the file is missing, or of another schema version.
        SplitError: it holds no groups.
    """
    clusters: dict[str, int] = {}
    prompts: dict[int, int] = {}
    cluster_of: list[int] = []
    prompt_of: list[int] = []
    first_group: list[int] = []
    keys: list[Hashes] = []
    tables = iterate_tables(groups, ["cluster_id", "prompt"])
    total = -(-count_groups(groups) // PARQUET_BATCH)
    for names, digests, signed in progress(map_ordered(fingerprints, tables), "read prompts", total):
        new = []
        for place, (name, digest) in enumerate(zip(names, digests, strict=True)):
            cluster_of.append(clusters.setdefault(name, len(clusters)))
            known = len(prompts)
            prompt_of.append(prompts.setdefault(digest, known))
            if prompt_of[-1] == known:
                new.append(place)
                first_group.append(len(prompt_of) - 1)
        keys.append(signed[new])
    if not cluster_of:
        raise SplitError(f"{groups} holds no groups, so every set would be empty; import and validate the data again")
    return Prompts(list(clusters), cluster_of, prompt_of, np.concatenate(keys), first_group)


def fingerprints(table: pa.Table) -> tuple[list[str], list[int], Hashes]:
    """For each group of a table: its cluster, 8 bytes of its prompt's digest, and the prompt's signature."""
    words = [words_of(dialogue_text(messages_of(prompt))) for prompt in table["prompt"].to_pylist()]
    digests = [
        int.from_bytes(hashlib.blake2b(" ".join(text).encode("utf-8"), digest_size=8).digest(), "little")
        for text in words
    ]
    return table["cluster_id"].to_pylist(), digests, signatures(words)


def linked_clusters(prompts: Prompts, groups: Path, threshold: float) -> dict[int, set[int]]:
    """For each cluster, the earlier ones with the same prompt or with a near duplicate of one of its prompts."""
    clusters_of: dict[int, set[int]] = defaultdict(set)
    for cluster, prompt in zip(prompts.cluster_of, prompts.prompt_of, strict=True):
        clusters_of[prompt].add(cluster)
    pairs = candidates(prompts.keys)
    wanted = {prompts.first_group[prompt]: prompt for pair in pairs for prompt in pair}
    near = near_duplicates(pairs, dict(_sets(groups, wanted)), threshold)
    links: dict[int, set[int]] = defaultdict(set)
    same = [(prompt, prompt) for prompt, clusters in clusters_of.items() if len(clusters) > 1]
    for prompt_a, prompt_b in [*near, *same]:
        for first in clusters_of[prompt_a]:
            for second in clusters_of[prompt_b]:
                if first != second:
                    links[max(first, second)].add(min(first, second))
    return links


def _sets(groups: Path, wanted: Mapping[int, int]) -> Iterator[tuple[int, frozenset[int]]]:
    """(prompt, its five-word sequences) for the groups that `wanted` names, with the prompt that each stands for."""
    start = 0
    for table in iterate_tables(groups, ["prompt"]) if wanted else ():
        for place in [place for place in range(table.num_rows) if start + place in wanted]:
            prompt = messages_of(table["prompt"][place].as_py())
            yield wanted[start + place], sequences(words_of(dialogue_text(prompt)))
        start += table.num_rows


def place(clusters: Sequence[str], links: Mapping[int, set[int]], split: Split) -> list[str | None]:
    """Each cluster's set, None for one that would join two sets.

    Args:
        clusters: ids in the order in which they came.
        links: for a cluster's index, the indices of earlier ones that must lie in the same set.

    Raises:
        SplitError: `split.assign` names a cluster that is not there, or parts clusters that belong together.
    """
    if unknown := sorted(set(split.assign) - set(clusters)):
        raise SplitError(
            f"split.assign names {len(unknown)} clusters that the data don't hold: {', '.join(unknown[:12])}; a "
            f"misspelt name would leave the real cluster to chance"
        )
    places: list[str | None] = []
    for index, cluster in enumerate(clusters):
        linked_sets = {
            name: neighbour for neighbour in sorted(links.get(index, ())) if (name := places[neighbour]) is not None
        }
        # By hand wins over near duplicates, but may not part them: that would be a leak between sets.
        by_hand = split.assign.get(cluster)
        if by_hand is not None and (elsewhere := sorted(set(linked_sets) - {by_hand})):
            raise SplitError(
                f"split.assign puts cluster {cluster} into {by_hand}, but its prompts are near duplicates of those of "
                f"{clusters[linked_sets[elsewhere[0]]]} in {elsewhere[0]}; place both in one set"
            )
        if by_hand is not None or not linked_sets:
            places.append(assign(cluster, split))
        else:
            places.append(next(iter(linked_sets)) if len(linked_sets) == 1 else None)
    return places


def split_groups(groups: Path, split: Split, folder: Path) -> dict[str, Any]:
    """Write the seven sets and what was set aside into an existing folder; returns the summary.

    Raises:
        SplitError: a set is empty, or as `place`.
    """
    prompts = read_prompts(groups)
    links = linked_clusters(prompts, groups, split.near_duplicate)
    places = place(prompts.clusters, links, split)
    names = [places[cluster] for cluster in prompts.cluster_of]
    if empty := [name for name in SETS if name not in {*names}]:
        raise SplitError(
            f"{len(places)} clusters leave these sets empty: {', '.join(empty)}. Bring more clusters, change "
            f"split.shares, or place clusters by hand with split.assign"
        )
    set_aside, held_out = _write(groups, names, split, folder)
    # Counted from the files as written, so that the summary is about what later stages read.
    total = sum(-(-names.count(name) // PARQUET_BATCH) for name in SETS)
    counted = progress(
        ((name, counts) for name in SETS for counts in _counts(folder / f"{name}.parquet")), "count", total
    )
    sets = {name: _Set() for name in SETS}
    for name, counts in counted:
        sets[name].add(counts)
    return {
        "sets": {name: counts.summary() for name, counts in sets.items()},
        "clusters_joined": sum(bool(links.get(index)) and name is not None for index, name in enumerate(places)),
        "groups_set_aside": set_aside,
        "comparisons_held_out": held_out,
    }


def _write(groups: Path, names: list[str | None], split: Split, folder: Path) -> tuple[int, int]:
    """Write every group into the set that `names` gives it.

    Returns how many groups were set aside, and how many comparisons were kept out of `train`.
    """
    set_aside: list[dict[str, Any]] = []
    reason = "near duplicates of its prompts lie in two different sets"
    held_out = start = 0
    with ExitStack() as stack:
        writers = {name: stack.enter_context(GroupWriter(folder / f"{name}.parquet")) for name in SETS}
        for table in progress(iterate_tables(groups), "write sets", -(-len(names) // PARQUET_BATCH)):
            here = names[start : start + table.num_rows]
            for name, writer in writers.items():
                part = table.filter(pa.array([set_name == name for set_name in here]))
                if name == "train" and split.held_out_annotators:
                    part, left_out = _without_held_out(part, split)
                    held_out += left_out
                writer.add(part)
            for number in [number for number, name in enumerate(here) if name is None]:
                where = {
                    "source_file": GROUPS.name,
                    "line": start + number + 1,
                    "group_id": table["id"][number].as_py(),
                }
                set_aside.append({**where, "check": "bridges_sets", "reason": reason})
            start += table.num_rows
    write_quarantine(folder / "quarantine.parquet", set_aside)
    return len(set_aside), held_out


def _without_held_out(table: pa.Table, split: Split) -> tuple[pa.Table, int]:
    """The groups without the judgements of the annotators who are held out, and how many those are."""
    before = table["comparisons"].to_pylist()
    comparisons = [
        [edge for edge in edges if edge["annotator"] is None or not is_held_out(edge["annotator"], split)]
        for edges in before
    ]
    left_out = sum(map(len, before)) - sum(map(len, comparisons))
    place = table.schema.get_field_index("comparisons")
    field = ARROW_SCHEMA.field("comparisons")
    return table.set_column(place, field, pa.array(comparisons, type=field.type)), left_out


@dataclass(frozen=True, slots=True)
class _TableCounts:
    """What a table holds."""

    digests: list[str]
    clusters: list[str]
    completions: int
    comparisons: int
    pairs: int


def _counts(path: Path) -> Iterator[_TableCounts]:
    return map_ordered(_count, iterate_tables(path))


def _count(table: pa.Table) -> _TableCounts:
    records = table.to_pylist()
    return _TableCounts(
        digests=[group_digest(record) for record in records],
        clusters=table["cluster_id"].to_pylist(),
        completions=sum(len(record["completions"]) for record in records),
        comparisons=sum(len(record["comparisons"]) for record in records),
        pairs=sum(len({frozenset((edge["i"], edge["j"])) for edge in record["comparisons"]}) for record in records),
    )


@dataclass(slots=True)
class _Set:
    """A set's counts, added up table by table."""

    digests: list[str] = field(default_factory=list)
    clusters: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, table: _TableCounts) -> None:
        self.digests += table.digests
        self.clusters.update(table.clusters)
        self.counts.update(completions=table.completions, comparisons=table.comparisons, pairs=table.pairs)

    def summary(self) -> dict[str, Any]:
        """Counts and content digest."""
        return {
            "groups": len(self.digests),
            "clusters": len(self.clusters),
            "completions": self.counts["completions"],
            "comparisons": self.counts["comparisons"],
            "pairs": self.counts["pairs"],
            "digest": combined_digest(self.digests),
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
    for name, counts in summary["sets"].items():
        table.add_row(name, *(f"{counts[column]:,}" for column in columns))
    console = Console(file=sys.stderr)
    console.print(table)
    console.print(
        f"{summary['clusters_joined']:,} clusters follow a near duplicate that came before; "
        f"{summary['groups_set_aside']:,} groups set aside between two sets; "
        f"{summary['comparisons_held_out']:,} comparisons of held-out annotators kept from training"
    )


def main() -> None:
    """Run the stage in the current folder."""
    settings = settings_module.load()
    summary: dict[str, Any] = {}

    def fill(folder: Path) -> None:
        summary.update(split_groups(GROUPS, settings.split, folder))
        write_json(folder / "summary.json", summary)

    write_folder(FOLDER, fill)
    print_summary(summary)


if __name__ == "__main__":
    run_stage(main)
