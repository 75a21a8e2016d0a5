"""rows.parquet: one row per judged pair with everything that a check or a slice may ask about it."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from touchstone.evaluation.baselines import BEST_POSSIBLE
from touchstone.evaluation.rows import ROW_SCHEMA, SPREADS, Row, schema_of, score_rows
from touchstone.gate.checks import Pairs
from touchstone.groups import Group, JudgedPair, Message, judged_pairs
from touchstone.model.scores import RawScore
from touchstone.statistics import CalibrationMap, Floats, MapError

BASELINES = ("longer_wins", "linear", BEST_POSSIBLE)
"""Columns with a baseline's D."""

SCHEMA = pa.schema(
    [
        ("set", pa.string()),
        *ROW_SCHEMA,
        ("champion_first", pa.float64()),
        ("champion_second", pa.float64()),
        ("champion_truncated", pa.bool_()),
        *((name, pa.float64()) for name in BASELINES),
        *((name, pa.float64()) for name in ("votes_first", "votes_second")),
        ("source", pa.string()),
        ("policy_first", pa.string()),
        ("policy_second", pa.string()),
        ("turns", pa.int32()),
        ("script", pa.string()),
        ("annotators", pa.string()),
        ("style_first", pa.float64()),
        ("style_second", pa.float64()),
    ]
)

CONTRAST = 0.25
"""Lengths further apart than this share of the longer one are in contrast."""

Mask = NDArray[np.bool_]


def records(
    name: str,
    groups: Sequence[Group],
    scores: Sequence[Sequence[RawScore]],
    champion: Sequence[Sequence[RawScore]] | None,
    baselines: Mapping[str, Floats],
    taught: frozenset[str],
) -> pa.Table:
    """The rows of one set.

    Args:
        scores, champion: per group one score per completion.
        baselines: D of every judged pair by baseline.
        taught: annotators whose judgements are in the training set.
    """
    rows = score_rows(groups, scores)
    champion_rows = score_rows(groups, champion) if champion is not None else [None] * len(rows)
    described = [_description(group, pair, taught) for group in groups for pair in judged_pairs(group)]
    found = [
        {
            "set": name,
            **asdict(row),
            **about,
            "champion_first": before.reward_first if before else None,
            "champion_second": before.reward_second if before else None,
            "champion_truncated": before.truncated_first or before.truncated_second if before else None,
            **{baseline: float(values[place]) for baseline, values in baselines.items()},
        }
        for place, (row, before, about) in enumerate(zip(rows, champion_rows, described, strict=True))
    ]
    return pa.Table.from_pylist(found, schema=pa.schema([*SCHEMA, *list(schema_of(rows))[len(ROW_SCHEMA) :]]))


def _description(group: Group, pair: JudgedPair, taught: frozenset[str]) -> dict[str, Any]:
    first, second = group.completions[pair.first], group.completions[pair.second]
    places = {pair.first, pair.second}
    judges = {edge.annotator for edge in group.comparisons if {edge.i, edge.j} == places}
    known = {judge for judge in judges if judge is not None}
    all_named = known == judges and bool(known)
    return {
        "votes_first": pair.wins_first,
        "votes_second": pair.wins_second,
        "source": group.source,
        "policy_first": first.policy,
        "policy_second": second.policy,
        "turns": sum(message.role == "user" for message in group.prompt),
        "script": script(group.prompt),
        "annotators": ("seen" if known <= taught else "unseen" if not known & taught else None) if all_named else None,
        "style_first": first.ratings.get("style"),
        "style_second": second.ratings.get("style"),
    }


def script(prompt: Sequence[Message]) -> str:
    """The writing system of most letters of the last message, by Unicode's names ("latin", "cjk", "cyrillic" ...).

    What can be said of a language without guessing; "none" without letters.
    """
    letters = Counter(
        unicodedata.name(letter, "?").split(" ")[0].lower()
        for letter in prompt[-1].content[:2_000]
        if letter.isalpha()
    )
    return min(letters, key=lambda name: (-letters[name], name)) if letters else "none"


@dataclass(frozen=True)
class Rows:
    """The rows of one set: for `evaluation.metrics.measure`, and as the columns that the checks read."""

    table: pa.Table

    def candidate(self, calibration_map: CalibrationMap, map_error: MapError | None = None) -> Pairs:
        """The candidate's pairs."""
        return self._pairs("reward_first", "reward_second", calibration_map, map_error)

    def champion(self, calibration_map: CalibrationMap | None) -> Pairs | None:
        """The champion's pairs; None where there is no champion."""
        if calibration_map is None:
            return None
        return self._pairs("champion_first", "champion_second", calibration_map, None)

    def baselines(self) -> dict[str, Floats]:
        """D of every pair by baseline; without the best possible one where nobody knows it."""
        return {name: self.column(name) for name in BASELINES if self.table[name].null_count == 0}

    def plain(self) -> list[Row]:
        """The candidate's rows as `evaluation` has them."""
        names = [*ROW_SCHEMA.names, *(field.name for field in SPREADS if field.name in self.table.schema.names)]
        return [Row(**row) for row in self.table.select(names).to_pylist()]

    def column(self, name: str) -> Floats:
        """A column of numbers; NaN where nothing is known."""
        return np.asarray(self.table[name].to_numpy(), dtype=np.float64)

    def preferred(self, column: str) -> tuple[Floats, Floats]:
        """`<column>_first` and `_second` as (of the preferred one, of the other); of a labelled tie in that order."""
        first, second = self.column(f"{column}_first"), self.column(f"{column}_second")
        return np.where(self.swapped, second, first), np.where(self.swapped, first, second)

    @property
    def swapped(self) -> Mask:
        """Which pairs have their preferred completion second."""
        return np.asarray(
            pc.fill_null(pc.equal(self.table["chosen"], self.table["second"]), False).to_numpy(), dtype=bool
        )

    def _pairs(self, first: str, second: str, calibration_map: CalibrationMap, map_error: MapError | None) -> Pairs:
        # Two infinities give NaN here: the checks see it and stop.
        with np.errstate(invalid="ignore"):
            differences = (self.column(first) - self.column(second)) * np.where(self.swapped, -1.0, 1.0)
        clusters = self.table["cluster_id"].to_pylist()
        return Pairs(clusters, differences, self.column("strength"), calibration_map, map_error)

    def slices(self, dimensions: Sequence[str]) -> dict[str, Mask]:
        """Which pairs lie in which slice, by "dimension=value"; a pair may lie in several of one dimension.

        A pair lies in policy=P where P wrote either completion. length: tenths of the pairs by the mean length of
        the two. length_contrast: whether the preferred one is longer or shorter by more than CONTRAST of the longer.
        """
        return {
            f"{dimension}={value}": mask
            for dimension in dimensions
            for value, mask in sorted(self._values(dimension).items())
        }

    def _values(self, dimension: str) -> dict[str, Mask]:
        if dimension == "policy":
            first, second = self._by_value("policy_first"), self._by_value("policy_second")
            empty = np.zeros(self.table.num_rows, dtype=bool)
            return {name: first.get(name, empty) | second.get(name, empty) for name in first.keys() | second.keys()}
        if dimension == "turns":
            several = self.column("turns") > 1
            return {"one": ~several, "several": several}
        if dimension == "length":
            return self._tenths()
        if dimension == "length_contrast":
            chosen, rejected = self.preferred("tokens")
            decided = self.column("strength") > 0.5
            apart = np.abs(chosen - rejected) > CONTRAST * np.maximum(chosen, rejected)
            return {
                "chosen is longer": decided & apart & (chosen > rejected),
                "chosen is shorter": decided & apart & (chosen < rejected),
                "alike": decided & ~apart,
            }
        return self._by_value(dimension)

    def _by_value(self, column: str) -> dict[str, Mask]:
        values = np.asarray(self.table[column].to_pylist(), dtype=object)
        return {str(value): values == value for value in set(values.tolist()) if value is not None}

    def _tenths(self) -> dict[str, Mask]:
        mean = (self.column("tokens_first") + self.column("tokens_second")) / 2
        edges = np.quantile(mean, np.arange(1, 10) / 10)
        tenth = np.searchsorted(edges, mean, side="left")
        return {f"tenth {place + 1:02d}": tenth == place for place in range(10) if (tenth == place).any()}


def append(table: pa.Table, path: Path) -> None:
    """Add rows to a file of theirs."""
    if path.exists():
        table = pa.concat_tables([pq.read_table(path, schema=table.schema), table])
    pq.write_table(table, path, compression="zstd")


def read(path: Path, name: str) -> Rows:
    """The rows of one set ("holdout" or "confirm")."""
    present = pq.read_schema(path).names
    table = pq.read_table(path, schema=pa.schema([*SCHEMA, *(field for field in SPREADS if field.name in present)]))
    return Rows(table.filter(pc.equal(table["set"], name)))
