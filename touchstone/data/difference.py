"""What has changed between two versions of the data: groups, labels, sets, and the mix.

    compare(Path("before/build"), Path("build")).render()

A group is the same in both versions where its axis, prompt and completions are, in whatever order these stand: a
corrected label turns the order of a pair that was imported as chosen and rejected, and is a changed label here.

Of a group only its id, three digests and its place are held, and of a judged pair who is preferred: a million groups
of one comparison each, on either side, took 1.9 GB and 35 seconds on one core.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from touchstone.data.edges import oriented
from touchstone.errors import DataError
from touchstone.groups import iterate_tables
from touchstone.pages.text import cell
from touchstone.settings.checks import SETS

NAMED = 100
"""Groups that are named at most, of each kind."""
SLICES = ("axis", "source", "turns")
VALUES = 20
"""Values of a slice that are listed at most: those whose share has changed most."""

_UNIT, _RECORD = "\x1f", "\x1e"
"""Between the parts of an item, and between items."""


@dataclass(frozen=True, slots=True)
class Leak:
    """A prompt in a set in which it was not before, although it was in others.

    Attributes:
        group_id: the first of the prompt's groups in the new set.
        before: the sets that held the prompt, joined by commas.
        after: the set that holds it now.
    """

    group_id: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Drift:
    """A slice's share of the groups, before and after (0 to 1)."""

    slice: str
    value: str
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Difference:
    """What has changed.

    Attributes:
        groups_before, groups_after: groups in either version.
        added, removed: groups in one version only; another prompt, completion or axis makes another group, another
            order of the completions doesn't.
        changed: groups in both whose comparisons differ, whatever their order.
        pairs: pairs of completions that have a preferred side in both versions.
        flipped: those of them whose preferred side has changed.
        flipped_groups: ids of the groups that hold them, as they are now, the first `NAMED`.
        leaked: prompts in a set in which they were not before, although they were in others; must be 0.
        leaks: the first `NAMED` of them, by group.
        drift: how the shares of axes, sources and turns (messages of the prompt) moved.
    """

    groups_before: int
    groups_after: int
    added: int
    removed: int
    changed: int
    pairs: int
    flipped: int
    flipped_groups: tuple[str, ...]
    leaked: int
    leaks: tuple[Leak, ...]
    drift: tuple[Drift, ...]

    def to_json(self) -> dict[str, Any]:
        """For other programs."""
        return asdict(self)

    def render(self) -> str:
        """For people."""
        lines = [
            f"{self.groups_before:,} groups before, {self.groups_after:,} after",
            f"  added    {self.added:>10,}",
            f"  removed  {self.removed:>10,}",
            f"  changed  {self.changed:>10,}  same prompt and completions, other comparisons",
            f"  flipped  {self.flipped:>10,}  of {self.pairs:,} pairs decided in both: the label was turned",
            f"  leaked   {self.leaked:>10,}  prompts that were in another set before",
        ]
        lines += [f"    group {cell(leak.group_id)}: {leak.before} before, {leak.after} now" for leak in self.leaks]
        moved = [drift for drift in self.drift if drift.before != drift.after]
        lines += ["share of the groups"] if moved else []
        lines += [f"  {row.slice} {cell(row.value)}: {row.before:.1%} before, {row.after:.1%} now" for row in moved]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Version:
    """Facts of one version: a row per group, and a row per judged pair (`row` is the group's)."""

    groups: pl.DataFrame
    pairs: pl.DataFrame


def compare(previous: Path, current: Path) -> Difference:
    """What has changed from one version to the other.

    Args:
        previous, current: folders with `groups.parquet` and `splits/<set>.parquet`; a set that has no file is empty.

    Raises:
        DataError: a folder lacks its groups, or their schema is another.
    """
    before, after = _read(previous), _read(current)
    # Groups of the same id first; their texts, which are most of a file, are not asked. Then the rest, by its texts.
    same = _both(before.groups, after.groups, "id")
    flips = _flips(before, after, same)
    matches = [same]
    rests = (
        before.groups.join(same, on="row", how="anti"),
        after.groups.join(same, left_on="row", right_on="row_after", how="anti"),
    )
    if not any(rest.is_empty() for rest in rests):
        old, new = _by_texts(previous, rests[0]), _by_texts(current, rests[1])
        matches.append(_both(old.groups, new.groups, "content"))
        flips = pl.concat([flips, _flips(old, new, matches[-1])])
    both = pl.concat(matches)
    changed = both.filter(pl.col("labels") != pl.col("labels_after"))
    flipped = flips.filter(pl.col("preferred") != pl.col("preferred_after"))
    flipped_groups = after.groups.join(flipped, left_on="row", right_on="row_after", how="semi")["id"]
    leaked, leaks = _leaks(before.groups, after.groups)
    return Difference(
        groups_before=before.groups.height,
        groups_after=after.groups.height,
        added=after.groups.height - both.height,
        removed=before.groups.height - both.height,
        changed=changed.height,
        pairs=flips.height,
        flipped=flipped.height,
        flipped_groups=tuple(flipped_groups.unique().sort().head(NAMED)),
        leaked=leaked,
        leaks=leaks,
        drift=_drift(before.groups, after.groups),
    )


def _both(before: pl.DataFrame, after: pl.DataFrame, key: str) -> pl.DataFrame:
    """Groups of both versions, a row each: those of the same id, or of the same content.

    Where several have the same, the first of either side belong together, and so on.
    """
    nth = pl.int_range(pl.len()).over(key).alias("nth")
    old = before.select("row", "labels", pl.col(key).hash()).sort(key, "labels").with_columns(nth)
    new = after.select(pl.col("row", "labels").name.suffix("_after"), pl.col(key).hash()).sort(key, "labels_after")
    return old.join(new.with_columns(nth), on=[key, "nth"]).select("row", "row_after", "labels", "labels_after")


def _read(folder: Path) -> _Version:
    """Every group; in its comparisons the completions are named by their places."""
    groups, pairs = [], []
    for batch in _batches(folder, ["id", "prompt", "comparisons", "axis", "source"]):
        edges = oriented(batch.select("row", "comparisons").explode("comparisons").unnest("comparisons"))
        prompts = _prompts(batch)
        groups.append(
            batch.select(
                "row",
                "id",
                "axis",
                "source",
                turns=pl.col("prompt").list.len().cast(pl.String),
                prompt=_digests(prompts),
                labels=_labels(batch, edges),
            )
        )
        pairs.append(_preferences(edges))
    if not groups:
        raise DataError(f"{folder / 'groups.parquet'} holds no groups; run the stage `validate` again")
    facts = pl.concat(groups)
    return _Version(facts.join(_places(folder / "splits"), on="id", how="left"), pl.concat(pairs))


def _by_texts(folder: Path, wanted: pl.DataFrame) -> _Version:
    """Some of the groups; in their comparisons the completions are named by the order of their texts."""
    groups, pairs = [], []
    for groups_read in _batches(folder, ["prompt", "completions", "comparisons", "axis"]):
        batch = groups_read.join(wanted, on="row", how="semi", maintain_order="left")
        if batch.is_empty():
            continue
        texts = _texts(batch)
        edges = _edges(batch, texts)
        listed = texts.group_by("row", maintain_order=True).agg(pl.col("text").str.join(_RECORD))
        answers = batch.select("row").join(listed, on="row", how="left", maintain_order="left")["text"].fill_null("")
        parts = [batch["axis"], _prompts(batch), answers]
        contents = pl.select(pl.concat_str(parts, separator=_RECORD + _RECORD)).to_series()
        groups.append(batch.select("row", labels=_labels(batch, edges), content=_digests(contents)))
        pairs.append(_preferences(edges))
    return _Version(pl.concat(groups), pl.concat(pairs))


def _batches(folder: Path, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    """The groups of a version, some at a time, with the number of each."""
    rows = 0
    for table in iterate_tables(folder / "groups.parquet", columns):
        batch = pl.DataFrame(pl.from_arrow(table)).with_row_index("row", offset=rows)
        rows += batch.height
        yield batch


def _prompts(batch: pl.DataFrame) -> pl.Series:
    message = pl.element().struct.field("role") + _UNIT + pl.element().struct.field("content")
    return batch.select(pl.col("prompt").list.eval(message).list.join(_RECORD)).to_series()


def _texts(batch: pl.DataFrame) -> pl.DataFrame:
    """A row per completion: its place in the group, and its place among the group's texts in their order."""
    listed = batch.select("row", text=pl.col("completions").list.eval(pl.element().struct.field("text")))
    texts = listed.explode("text").with_columns(place=pl.int_range(pl.len(), dtype=pl.Int32).over("row"))
    return texts.sort("row", "text", "place").with_columns(rank=pl.int_range(pl.len(), dtype=pl.Int32).over("row"))


def _edges(batch: pl.DataFrame, texts: pl.DataFrame) -> pl.DataFrame:
    """A row per comparison, oriented by the order of the texts."""
    edges = batch.select("row", "comparisons").explode("comparisons").unnest("comparisons")
    for side in ("i", "j"):
        ranks = texts.select("row", pl.col("place").alias(side), pl.col("rank").alias(f"rank_{side}"))
        edges = edges.join(ranks, on=["row", side], how="left", maintain_order="left")
    return oriented(edges.drop("i", "j").rename({"rank_i": "i", "rank_j": "j"}))


def _labels(batch: pl.DataFrame, edges: pl.DataFrame) -> pl.Series:
    """A digest of each group's comparisons, whatever their order."""
    values = [pl.col(name).cast(pl.String).fill_null("") for name in edges.columns if name != "row"]
    spelt = edges.select("row", edge=pl.concat_str(values, separator=_UNIT)).sort("row", "edge")
    judged = spelt.group_by("row").agg(pl.col("edge").str.join(_RECORD))
    listed = batch.select("row").join(judged, on="row", how="left", maintain_order="left")["edge"]
    return _digests(listed.fill_null(""))


def _digests(texts: pl.Series) -> pl.Series:
    """64 bits of each text's BLAKE2b digest."""
    digests = [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") for text in texts]
    return pl.Series(digests, dtype=pl.UInt64)


def _preferences(edges: pl.DataFrame) -> pl.DataFrame:
    """A row per judged pair: 1 where the lower index is preferred, -1 where the higher is, 0 where neither is."""
    balance = pl.col("wins_low").sum() - pl.col("wins_high").sum()
    return edges.group_by("row", "low", "high").agg(preferred=balance.sign().cast(pl.Int8))


def _places(folder: Path) -> pl.DataFrame:
    """The set of each placed group."""
    places = [pl.DataFrame(schema={"id": pl.String, "set": pl.String})]
    for name in SETS:
        if (folder / f"{name}.parquet").is_file():
            for table in iterate_tables(folder / f"{name}.parquet", ["id"]):
                places.append(pl.DataFrame(pl.from_arrow(table)).select("id", set=pl.lit(name)))
    return pl.concat(places)


def _flips(before: _Version, after: _Version, both: pl.DataFrame) -> pl.DataFrame:
    """Pairs decided in both versions, with the group's row now and the preferred side before and after."""
    old = both.select("row", "row_after").join(before.pairs, on="row")
    pairs = old.join(
        after.pairs, left_on=["row_after", "low", "high"], right_on=["row", "low", "high"], suffix="_after"
    )
    decided = pairs.filter((pl.col("preferred") != 0) & (pl.col("preferred_after") != 0))
    return decided.select("row_after", "preferred", "preferred_after")


def _leaks(before: pl.DataFrame, after: pl.DataFrame) -> tuple[int, tuple[Leak, ...]]:
    """Prompts that are in a set in which they were not before, although they were in others."""
    was = before.drop_nulls("set").select("prompt", "set").unique()
    now = after.drop_nulls("set").group_by("prompt", "set").agg(pl.col("id").min())
    sets = was.sort("set").group_by("prompt").agg(before=pl.col("set").str.join(", "))
    leaked = now.join(was, on=["prompt", "set"], how="anti").join(sets, on="prompt").sort("id", "set")
    named = leaked.head(NAMED).select("id", "before", "set").iter_rows()
    return leaked["prompt"].n_unique(), tuple(Leak(*row) for row in named)


def _drift(before: pl.DataFrame, after: pl.DataFrame) -> tuple[Drift, ...]:
    rows = []
    for name in SLICES:
        shares = [
            frame.group_by(value=name).agg(share=(pl.len() / frame.height).round(6)) for frame in (before, after)
        ]
        joined = shares[0].join(shares[1], on="value", how="full", coalesce=True, suffix="_after").fill_null(0.0)
        moved = (pl.col("share") - pl.col("share_after")).abs()
        most = joined.sort(moved, "value", descending=[True, False]).head(VALUES).sort("value")
        rows += [Drift(name, *row) for row in most.iter_rows()]
    return tuple(rows)
