"""Place every cluster into one of the seven sets.

    python -m touchstone.data.splits    # build/groups.parquet -> build/splits/{<set>,quarantine}.parquet, summary.json

A cluster's place depends on its id, the salt and the shares (or `split.assign`) alone, so neither the order of the
file nor what comes later moves it. Where near duplicates, or the same prompt under two cluster ids, have their places
in different sets, the later one in the order of `SETS` gives way: its cluster is set aside. Training comes first in
that order. So whatever is appended, no set that judges ever holds what nearly repeats a prompt that a model of an
earlier version was trained on.

Clusters of a set that near duplicates join, however long the chain, are one family: the unit that is resampled,
weighed and counted. In the sets' files `cluster_id` is the family's, the smallest of its clusters' ids.

Where `selection.axis` names one, the sets hold the comparisons of that axis alone. Places and families are those of
all groups, so that a prompt lies in the same set for the model of every axis.

Where `split.held_out_annotators` says so, the judgements of some annotators, chosen by the hash of their names, are
kept out of `train`: they show whether a model serves people who didn't teach it.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse
from scipy.sparse import csgraph

from touchstone import settings as settings_module
from touchstone.data.neighbours import (
    Hashes,
    Places,
    near_duplicates,
    sequences,
    signatures,
    text_digest,
)
from touchstone.data.prompts import dialogue_text, words_of
from touchstone.data.quarantine import write_quarantine
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
)
from touchstone.runtime.files import write_folder, write_json
from touchstone.runtime.parallel import map_ordered
from touchstone.runtime.progress import progress
from touchstone.runtime.stage import run_stage
from touchstone.settings.checks import SETS, Split
from touchstone.settings.gates import Gates

GROUPS = Path("build/groups.parquet")
FOLDER = Path("build/splits")
_ROTATED = {"holdout": "reference", "reference": "holdout"}


def assign(cluster_id: str, split: Split) -> str:
    """A cluster's set before `split.rotated`: what `split.assign` says, else where its hash falls among the shares."""
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
    """The distinct prompts of a file of groups, and which cluster has which.

    Attributes:
        clusters: distinct cluster ids.
        cluster_of, prompt_of: for each group, the index of its cluster and of its prompt; prompts that differ in case
            and blanks alone are one.
        digests: for each prompt, its `text_digest`.
        keys: for each prompt, its `signatures`.
        first_group: for each prompt, the first group that has it.
    """

    clusters: list[str]
    cluster_of: Places
    prompt_of: Places
    digests: Hashes
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
    return Prompts(
        clusters=list(clusters),
        cluster_of=np.array(cluster_of, dtype=np.intp),
        prompt_of=np.array(prompt_of, dtype=np.intp),
        digests=np.array(list(prompts), dtype=np.uint64),
        keys=np.concatenate(keys),
        first_group=first_group,
    )


def fingerprints(table: pa.Table) -> tuple[list[str], list[int], Hashes]:
    """For each group of a table: its cluster, its prompt's digest, and the prompt's signature."""
    words = [words_of(dialogue_text(messages_of(prompt))) for prompt in table["prompt"].to_pylist()]
    return table["cluster_id"].to_pylist(), [text_digest(text) for text in words], signatures(words)


def near_prompts(prompts: Prompts, groups: Path, threshold: float, kinds: Places | None = None) -> Places:
    """Pairs of prompts that are near duplicates, as indices, shape [pairs, 2].

    Args:
        groups: the file that the prompts were read from.
        kinds: as for `near_duplicates`.
    """

    def read(numbers: Collection[int]) -> dict[int, frozenset[int]]:
        return dict(_sequences(groups, {prompts.first_group[number]: number for number in numbers}))

    near = near_duplicates(prompts.keys, prompts.digests, threshold, read, kinds)
    return np.array(near, dtype=np.intp).reshape(-1, 2)


def families(prompts: Prompts, near: Places, among: npt.NDArray[np.bool_] | None = None) -> list[str]:
    """Each cluster's family: the smallest id of those that equal or nearly equal prompts join, however long the chain.

    Args:
        near: from `near_prompts`.
        among: which clusters join, shape [clusters]; the others are alone. None: all.
    """
    count = len(prompts.clusters)
    joins = np.ones(count, dtype=bool) if among is None else among
    # Clusters and prompts are the nodes of one graph, prompts numbered after the clusters.
    held = joins[prompts.cluster_of]
    present = np.zeros(len(prompts.digests), dtype=bool)
    present[prompts.prompt_of[held]] = True
    linked = near[present[near].all(axis=1)]
    starts = np.concatenate([prompts.cluster_of[held], count + linked[:, 0]])
    ends = count + np.concatenate([prompts.prompt_of[held], linked[:, 1]])
    size = count + len(present)
    graph = sparse.coo_matrix((np.ones(len(starts), dtype=np.int8), (starts, ends)), shape=(size, size))
    labels = csgraph.connected_components(graph, directed=False)[1][:count].tolist()
    names: dict[int, str] = {}
    for cluster, label in zip(prompts.clusters, labels, strict=True):
        names[label] = min(cluster, names.get(label, cluster))
    return [names[label] for label in labels]


def _sequences(groups: Path, wanted: Mapping[int, int]) -> Iterator[tuple[int, frozenset[int]]]:
    """(prompt, its five-word sequences) for the groups that `wanted` names, with the prompt that each stands for."""
    start = 0
    for table in iterate_tables(groups, ["prompt"]) if wanted else ():
        for place in [place for place in range(table.num_rows) if start + place in wanted]:
            prompt = messages_of(table["prompt"][place].as_py())
            yield wanted[start + place], sequences(words_of(dialogue_text(prompt)))
        start += table.num_rows


@dataclass(frozen=True, slots=True)
class Placement:
    """Where every cluster goes; one entry per cluster, in the order of `Prompts.clusters`.

    Attributes:
        homes: its own set.
        claims: the first set with a prompt that is nearly one of the cluster's; its home where none comes before.
        families: the family that it belongs to inside its set.
    """

    homes: list[str]
    claims: list[str]
    families: list[str]

    @property
    def sets(self) -> list[str | None]:
        """The set that holds the cluster; None where it is set aside."""
        return [home if home == claim else None for home, claim in zip(self.homes, self.claims, strict=True)]


def place(prompts: Prompts, groups: Path, split: Split) -> Placement:
    """Place clusters, and set those aside whose prompts nearly stand in a set that comes before theirs.

    Args:
        groups: the file that the prompts were read from.

    Raises:
        SplitError: `split.assign` names a cluster that is not there, or one that would be set aside.
    """
    if unknown := sorted(set(split.assign) - set(prompts.clusters)):
        raise SplitError(
            f"split.assign names {len(unknown)} clusters that the data don't hold: {', '.join(unknown[:12])}; a "
            f"misspelt name would leave the real cluster to chance"
        )
    # Sets by their place in SETS: of each cluster, and the first that holds each prompt, itself or nearly.
    homes = np.array([SETS.index(assign(cluster, split)) for cluster in prompts.clusters])
    holders = _least(homes[prompts.cluster_of], prompts.prompt_of, len(prompts.digests))
    near = near_prompts(prompts, groups, split.near_duplicate, holders)
    nearest = holders.copy()
    for prompt, twin in (near.T, near.T[::-1]):
        np.minimum.at(nearest, prompt, holders[twin])

    # What is nearly the same in a set before gives way. The rest of a set falls into families.
    claims = _least(nearest[prompts.prompt_of], prompts.cluster_of, len(homes))
    for cluster in np.flatnonzero(claims < homes).tolist():
        if (name := prompts.clusters[cluster]) in split.assign:
            raise SplitError(
                f"split.assign puts cluster {name} into {SETS[homes[cluster]]}, but its prompts are near duplicates "
                f"of those of {_twin(prompts, near, homes, cluster)} in {SETS[claims[cluster]]}; place both in one set"
            )
    # Rotated at last: a prompt that nearly stands in a spent holdout isn't fresh, and stays set aside.
    names = [_ROTATED.get(name, name) for name in SETS] if split.rotated else SETS
    return Placement(
        homes=[names[number] for number in homes],
        claims=[names[number] for number in claims],
        families=families(prompts, near, claims == homes),
    )


def _least(values: Places, owners: Places, count: int) -> Places:
    """The least value of each owner, shape [count]; each has one."""
    least = np.full(count, len(SETS), dtype=np.intp)
    np.minimum.at(least, owners, values)
    return least


def _twin(prompts: Prompts, near: Places, homes: Places, cluster: int) -> str:
    """The cluster with a prompt that is nearly one of this cluster's, in the first set that has one."""
    mine = prompts.prompt_of[prompts.cluster_of == cluster]
    alike = np.concatenate([mine, near[np.isin(near, mine).any(axis=1)].ravel()])
    owners = np.setdiff1d(prompts.cluster_of[np.isin(prompts.prompt_of, alike)], [cluster])
    first: int = min(owners.tolist(), key=lambda owner: (int(homes[owner]), prompts.clusters[owner]))
    return prompts.clusters[first]


def split_groups(groups: Path, split: Split, folder: Path, axis: str | None = None) -> dict[str, Any]:
    """Write the seven sets and what was set aside into an existing folder; returns the summary.

    Args:
        axis: what the sets hold; None: every axis.

    Raises:
        SplitError: a set is empty, or as `place`.
    """
    prompts = read_prompts(groups)
    placement = place(prompts, groups, split)
    asked = _of_axis(groups, axis)
    sets = placement.sets
    clusters = Counter(sets[cluster] for cluster in np.unique(prompts.cluster_of[asked]).tolist())
    if empty := [name for name in SETS if not clusters[name]]:
        gone = f", and {clusters[None]} more are near duplicates of prompts in other sets" if clusters[None] else ""
        raise SplitError(
            f"{clusters.total() - clusters[None]} clusters leave these sets empty: {', '.join(empty)}{gone}. Bring "
            f"more clusters, give rows that belong together one cluster_id, change split.shares, or place clusters by "
            f"hand with split.assign"
        )
    set_aside, held_out = _write(groups, prompts, placement, asked, split, folder)
    # Counted from the files as written, so that the summary is about what later stages read.
    total = sum(-(-count_groups(folder / f"{name}.parquet") // PARQUET_BATCH) for name in SETS)
    counted = progress(
        ((name, counts) for name in SETS for counts in _counts(folder / f"{name}.parquet")), "count", total
    )
    tallies = {name: _Set() for name in SETS}
    for name, counts in counted:
        tallies[name].add(counts)
    return {
        "sets": {
            name: {**counts.summary(), "clusters": clusters[name], "set_aside": set_aside[name]}
            for name, counts in tallies.items()
        },
        "groups_set_aside": set_aside.total(),
        "comparisons_held_out": held_out,
        **({} if axis is None else {"axis": axis, "groups_of_other_axes": int((~asked).sum())}),
    }


def _of_axis(groups: Path, axis: str | None) -> npt.NDArray[np.bool_]:
    """Which groups the sets may hold, shape [groups].

    Raises:
        SplitError: none is of this axis.
    """
    axes = np.array([name for table in iterate_tables(groups, ["axis"]) for name in table["axis"].to_pylist()])
    asked: npt.NDArray[np.bool_] = axes == axis if axis is not None else np.ones(len(axes), dtype=bool)
    if not asked.any():
        raise SplitError(f"selection.axis={axis}: no group is of this axis; these are: {', '.join(sorted(set(axes)))}")
    return asked


def _write(
    groups: Path, prompts: Prompts, placement: Placement, asked: npt.NDArray[np.bool_], split: Split, folder: Path
) -> tuple[Counter[str], int]:
    """Write every group that is asked for into its cluster's set, under its family's id.

    Returns how many groups were set aside, by the set that was their own, and how many comparisons were kept out of
    `train`.
    """
    quarantine: list[dict[str, Any]] = []
    set_aside: Counter[str] = Counter()
    sets = placement.sets
    held_out = start = 0
    with ExitStack() as stack:
        writers = {name: stack.enter_context(GroupWriter(folder / f"{name}.parquet")) for name in SETS}
        total = -(-len(prompts.cluster_of) // PARQUET_BATCH)
        for table in progress(iterate_tables(groups), "write sets", total):
            clusters = prompts.cluster_of[start : start + table.num_rows].tolist()
            names = [sets[cluster] for cluster in clusters]
            wanted = asked[start : start + table.num_rows].tolist()
            named = _with_column(table, "cluster_id", [placement.families[cluster] for cluster in clusters])
            for name, writer in writers.items():
                part = named.filter(
                    pa.array([set_name == name and of_axis for set_name, of_axis in zip(names, wanted, strict=True)])
                )
                if name == "train" and split.held_out_annotators:
                    part, left_out = _without_held_out(part, split)
                    held_out += left_out
                writer.add(part)
            for number in [number for number, name in enumerate(names) if name is None and wanted[number]]:
                home, claim = placement.homes[clusters[number]], placement.claims[clusters[number]]
                set_aside[home] += 1
                quarantine.append(
                    {
                        "source_file": GROUPS.name,
                        "line": start + number + 1,
                        "group_id": table["id"][number].as_py(),
                        "check": "near_duplicate",
                        "reason": f"its place is {home}, and near duplicates of its cluster's prompts lie in {claim}",
                    }
                )
            start += table.num_rows
    write_quarantine(folder / "quarantine.parquet", quarantine)
    return set_aside, held_out


def _with_column(table: pa.Table, name: str, values: Sequence[Any]) -> pa.Table:
    """The table with other values in one of its columns."""
    field = ARROW_SCHEMA.field(name)
    return table.set_column(table.schema.get_field_index(name), field, pa.array(values, type=field.type))


def _without_held_out(table: pa.Table, split: Split) -> tuple[pa.Table, int]:
    """The groups without the judgements of the annotators who are held out, and how many those are."""
    before = table["comparisons"].to_pylist()
    comparisons = [
        [edge for edge in edges if edge["annotator"] is None or not is_held_out(edge["annotator"], split)]
        for edges in before
    ]
    left_out = sum(map(len, before)) - sum(map(len, comparisons))
    return _with_column(table, "comparisons", comparisons), left_out


@dataclass(frozen=True, slots=True)
class _TableCounts:
    """What a table holds."""

    digests: list[str]
    families: list[str]
    completions: int
    comparisons: int
    pairs: int


def _counts(path: Path) -> Iterator[_TableCounts]:
    return map_ordered(_count, iterate_tables(path))


def _count(table: pa.Table) -> _TableCounts:
    records = table.to_pylist()
    return _TableCounts(
        digests=[group_digest(record) for record in records],
        families=table["cluster_id"].to_pylist(),
        completions=sum(len(record["completions"]) for record in records),
        comparisons=sum(len(record["comparisons"]) for record in records),
        pairs=sum(len({frozenset((edge["i"], edge["j"])) for edge in record["comparisons"]}) for record in records),
    )


@dataclass(slots=True)
class _Set:
    """A set's counts, added up table by table."""

    digests: list[str] = field(default_factory=list)
    families: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, table: _TableCounts) -> None:
        self.digests += table.digests
        self.families.update(table.families)
        self.counts.update(completions=table.completions, comparisons=table.comparisons, pairs=table.pairs)

    def summary(self) -> dict[str, Any]:
        """Counts and content digest."""
        return {
            "groups": len(self.digests),
            "families": len(self.families),
            "completions": self.counts["completions"],
            "comparisons": self.counts["comparisons"],
            "pairs": self.counts["pairs"],
            "digest": combined_digest(self.digests),
        }


def print_summary(summary: dict[str, Any], gates: Gates) -> None:
    """Print the sets as a table on stderr."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Sets")
    table.add_column("set")
    columns = ("groups", "clusters", "families", "completions", "comparisons", "pairs", "set_aside")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for name, counts in summary["sets"].items():
        table.add_row(name, *(f"{counts[column]:,}" for column in columns))
    console = Console(file=sys.stderr)
    console.print(table)
    console.print("Families are independent prompts: clusters that near duplicates join count once.")
    if summary["groups_set_aside"]:
        console.print(
            f"{summary['groups_set_aside']:,} groups were set aside: prompts that are nearly theirs lie in a set that "
            f"comes before. Rows that belong together stay together if the source gives them one cluster_id, or "
            f"split.assign one set."
        )
    if "axis" in summary:
        console.print(
            f"selection.axis={summary['axis']}: {summary['groups_of_other_axes']:,} groups of other axes are in no set"
        )
    if summary["comparisons_held_out"]:
        console.print(f"{summary['comparisons_held_out']:,} comparisons of held-out annotators kept from training")
    if warning := _too_few_for(summary, gates):
        console.print(warning, soft_wrap=True, markup=False, highlight=False)


def _too_few_for(summary: Mapping[str, Any], gates: Gates) -> str | None:
    """What to do where the holdout is too small for any promotion: known here, hours before the gate says so."""
    families = summary["sets"]["holdout"]["families"]
    if families >= gates.min_clusters:
        return None
    wanted = math.ceil(summary["sets"]["holdout"]["groups"] * (gates.min_clusters / max(families, 1) - 1))
    fewer = (
        ", or choose `touchstone configure gates=small_data`, which asks for fewer and leaves the decision to a person"
        if gates.policy != "small_data"
        else ""
    )
    return (
        f"warning: the holdout has {families:,} independent prompts, and gates.min_clusters asks for "
        f"{gates.min_clusters:,}: nothing can be promoted on it. It lacks about {wanted:,} groups: bring more data, "
        f"or raise split.shares.holdout{fewer}."
    )


def main() -> None:
    """Run the stage in the current folder."""
    settings = settings_module.load()
    summary: dict[str, Any] = {}

    def fill(folder: Path) -> None:
        summary.update(split_groups(GROUPS, settings.split, folder, settings.selection.axis))
        write_json(folder / "summary.json", summary)

    write_folder(FOLDER, fill)
    print_summary(summary, settings.gates)


if __name__ == "__main__":
    run_stage(main)
