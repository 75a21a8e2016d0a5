"""The checks carried out: facts by block, the verdict of Great Expectations, what is kept and what is set aside."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from touchstone.data.validation.checks import COMPARISON_CHECKS, row_checks, total_checks
from touchstone.data.validation.expectations import Check, CheckResult, Suites
from touchstone.data.validation.facts import Block, Examined, examine
from touchstone.data.validation.merging import Merged, merge, rewrite
from touchstone.errors import ValidationError
from touchstone.groups import PARQUET_BATCH, write_tables
from touchstone.runtime.parallel import map_ordered
from touchstone.runtime.progress import progress
from touchstone.settings.checks import Validation
from touchstone.settings.objective import Learns

FILE = "groups.jsonl"


@dataclass(frozen=True, slots=True)
class SetAside:
    """A row of `quarantine.parquet`.

    Attributes:
        source_file, line: where the row stands: in the source for rows that the import set aside, else in
            data/groups.jsonl.
        group_id: None for rows of the import.
        comparison: index among the group's comparisons; None when the whole group is set aside.
        check: the check's name, or "import".
    """

    source_file: str
    line: int
    group_id: str | None
    comparison: int | None
    check: str
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was set aside, and the report of `validation.json`."""

    set_aside: list[SetAside]
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Read:
    """All blocks together; rows in the order of the lines.

    Attributes:
        facts: one row per group.
        faults: for each line, the faults of its comparisons by their indices.
        merged: what became of groups that stand on several lines; facts, faults and parts have it in them.
    """

    facts: pl.DataFrame
    ids: list[str]
    clusters: np.ndarray
    judged: np.ndarray
    faults: dict[int, dict[int, str]]
    personal: Counter[str]
    parts: list[Path]
    merged: Merged


def validate(
    groups: Path,
    kept: Path,
    settings: Validation,
    imported: Sequence[SetAside] = (),
    docs: Path | None = None,
    learns: Learns = "comparisons",
) -> Outcome:
    """Run all checks on a file of groups and write those that pass, in their order, with a progress bar.

    Args:
        groups: `data/groups.jsonl`.
        kept: the Parquet file to write.
        imported: what the import set aside; it is passed on and counted.
        docs: folder for a fresh Data Docs site; None makes none.
        learns: which labels the objective learns from. Of others than comparisons the kept groups have the comparisons
            that the labels imply, in place of any other.

    Raises:
        DataError: a line is no group.
        ValidationError: no group at all, a critical check failed, or a check could not be run. `kept` is as it was.
    """
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".parts-", dir=kept.parent) as parts:
        read = _read(groups, Path(parts), settings, learns)
        # Judge the groups, decide which go, then judge what would be left.
        suites = Suites()
        results = suites.run("groups", read.facts, row_checks(settings, learns))
        set_aside = _set_aside(read, results)
        lines = {row.line for row in set_aside if row.comparison is None}
        joined = read.merged.joined - lines
        comparisons_aside = sum(row.comparison is not None for row in set_aside if row.line not in lines)
        totals = _totals(read, lines, joined, comparisons_aside, learns)
        results += suites.run("totals", pl.DataFrame([totals]), total_checks(settings, learns))
        if docs is not None:
            suites.write_docs(docs)
        # Only now, because the error names the site.
        only_labels = not totals["pairs"] and int(read.facts["labelled_completions"].sum()) > 0
        _stop_if_critical(results, totals, docs, only_labels=only_labels)
        write_tables(kept, progress(_passed(read.parts, lines | joined), "write groups", len(read.parts)))
    report = {
        "totals": totals,
        "set_aside": dict(sorted(Counter(row.check for row in set_aside).items())),
        "set_aside_by_import": dict(sorted(Counter(row.reason for row in imported).items())),
        "personal_data": {"policy": settings.personal_data, "found": dict(sorted(read.personal.items()))},
        "checks": [_describe(result, totals) for result in results],
    }
    return Outcome([*imported, *set_aside], report)


def _read(groups: Path, parts: Path, settings: Validation, learns: Learns) -> _Read:
    """Examine every block."""
    blocks = progress(
        map_ordered(examine, _blocks(groups, parts, settings, learns)),
        "check groups",
        -(-_lines(groups) // PARQUET_BATCH),
    )
    examined: list[Examined] = list(blocks)
    if not examined:
        raise ValidationError(f"data/{FILE} is empty: it holds no groups; import the data again")
    facts = pl.DataFrame(
        {name: np.concatenate([block.facts[name] for block in examined]) for name in examined[0].facts}
    )
    ids = [group for block in examined for group in block.ids]
    faults: dict[int, dict[int, str]] = defaultdict(dict)
    for line, number, fault in (row for block in examined for row in block.faults):
        faults[line][number] = fault
    places = [(block.first, block.part) for block in examined]
    contents = np.concatenate([block.contents for block in examined])
    merged = merge(places, contents, (facts["only_bad_comparisons"] == 0).to_numpy())
    rewrite(places, merged.comparisons)
    facts = _with_copies(_with_merged(facts, faults, merged), ids, merged)
    judged = np.concatenate([block.judged for block in examined])
    return _Read(
        facts=facts,
        ids=ids,
        clusters=np.concatenate([block.clusters for block in examined]),
        # Votes of named annotators disagree, which the audit measures; what contradicts names nobody.
        judged=judged[~np.isin(judged[:, 2], sorted(merged.votes))],
        faults=faults,
        personal=sum((block.personal for block in examined), Counter[str]()),
        parts=[block.part for block in examined],
        merged=merged,
    )


def _blocks(groups: Path, parts: Path, settings: Validation, learns: Learns) -> Iterator[Block]:
    with groups.open("rb") as file:
        first = 1
        while lines := list(islice(file, PARQUET_BATCH)):
            yield Block(first, lines, parts / f"{first}.arrow", settings.personal_data, learns)
            first += len(lines)


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))


def _with_merged(facts: pl.DataFrame, faults: dict[int, dict[int, str]], merged: Merged) -> pl.DataFrame:
    """The facts as they are after merging; a repeated judgement becomes a fault of its comparison."""
    columns = {name: facts[name].to_numpy().copy() for name in next(iter(merged.facts.values()), {})}
    for line, changed in merged.facts.items():
        for name, value in changed.items():
            columns[name][line - 1] = value
    repeated = np.zeros(facts.height, dtype=np.int64)
    for line, places in merged.repeated.items():
        # Among all comparisons of the line: the merging knows only the good ones.
        good = [number for number in range(facts["comparisons"][line - 1]) if number not in faults[line]]
        faults[line].update({good[place]: "repeated_judgement" for place in places})
        repeated[line - 1] = len(places)
    return facts.with_columns(
        pl.Series(name, values) for name, values in {**columns, "repeated_judgement": repeated}.items()
    )


def _with_copies(facts: pl.DataFrame, ids: list[str], merged: Merged) -> pl.DataFrame:
    """The facts with `earlier_copies`: 1 for what says nothing new, and of unusable groups how many come before."""
    frame = facts.select("only_bad_comparisons", id=pl.Series(ids)).with_row_index("row")
    ordered = frame.sort("only_bad_comparisons", "row", maintain_order=True)
    before = ordered.with_columns(pl.int_range(pl.len()).over("id").alias("before")).sort("row")["before"]
    copies = np.zeros(facts.height, dtype=np.int64)
    copies[[line - 1 for line in merged.copies]] = 1
    unusable = (facts["only_bad_comparisons"] > 0).to_numpy()
    return facts.with_columns(pl.Series("earlier_copies", np.where(unusable, before.to_numpy(), copies)))


def _set_aside(read: _Read, results: list[CheckResult]) -> list[SetAside]:
    """What the failed warning checks set aside, in the order of the lines."""
    groups: dict[int, Check] = {}
    columns: dict[int, dict[str, Check]] = defaultdict(dict)
    for result in results:
        for row in result.failed if result.check.severity == "warning" else ():
            if result.check in COMPARISON_CHECKS:
                columns[row + 1][result.check.column] = result.check
            else:
                groups.setdefault(row + 1, result.check)
    rows = []
    for line in sorted({*groups, *columns}):
        name = read.ids[line - 1]
        for number, fault in read.faults.get(line, {}).items():
            check = columns[line][fault]
            rows.append(SetAside(FILE, line, name, number, check.name, check.reason))
        if (failed := groups.get(line)) is not None:
            rows.append(SetAside(FILE, line, name, None, failed.name, failed.reason))
    return rows


def _passed(parts: list[Path], lines: set[int]) -> Iterator[pa.Table]:
    """The blocks' groups without those on the lines `lines`."""
    line = 1
    for part in parts:
        with pa.memory_map(str(part)) as file:
            table = pa.ipc.open_file(file).read_all()
        places = range(line, line + table.num_rows)
        line += table.num_rows
        if lines.isdisjoint(places):
            yield table
        else:
            yield table.filter(pa.array([place not in lines for place in places]))


def _totals(
    read: _Read, lines: set[int], joined: set[int], comparisons_aside: int, learns: Learns
) -> dict[str, int | float]:
    """The data set's numbers: what came in, what was kept, and how the labels look.

    Args:
        lines: those of the groups that are set aside.
        joined: those of the groups whose comparisons went to an earlier one.
        comparisons_aside: how many more comparisons are, each alone; what is neither there nor kept is lost.
    """
    # Lines count from 1, rows from 0.
    mask = np.ones(read.facts.height, dtype=bool)
    mask[[line - 1 for line in lines]] = False
    set_aside = read.facts.filter(~mask)
    mask[[line - 1 for line in joined]] = False
    accepted = read.facts.filter(mask)

    def total(column: str, of: pl.DataFrame = accepted) -> int:
        return int(of[column].sum())

    groups, comparisons = read.facts.height, total("comparisons", read.facts)
    comparisons_aside += total("comparisons", set_aside)
    pairs, decided = total("pairs"), total("decided_pairs")
    longer, shorter = total("longer_wins"), total("shorter_wins")
    contradicted = _contradicted(read.judged)
    labels: dict[str, int | float] = {}
    if learns != "comparisons":
        labelled, correct = total("labelled_completions"), total("correct_completions")
        labels = {"labelled_completions": labelled, "correct_share": _share(correct, labelled)}
    return {
        **labels,
        "groups": groups,
        "groups_kept": accepted.height,
        "groups_set_aside": len(lines),
        "groups_set_aside_share": _share(len(lines), groups),
        "groups_merged": len(joined),
        "groups_lost": groups - accepted.height - len(lines) - len(joined),
        "comparisons": comparisons,
        "comparisons_kept": total("good_comparisons"),
        "comparisons_set_aside": comparisons_aside,
        "comparisons_set_aside_share": _share(comparisons_aside, comparisons),
        "comparisons_lost": comparisons - total("good_comparisons") - comparisons_aside,
        "clusters": len(np.unique(read.clusters[mask])),
        "completions": total("completions"),
        "pairs": pairs,
        "decided_pairs": decided,
        "tie_share": _share(pairs - decided, pairs),
        "contradicted_pairs": contradicted,
        "contradiction_share": _share(contradicted, len(read.judged)),
        "longer_wins_share": _share(longer, longer + shorter),
        "groups_with_cycle": total("cycle"),
        "groups_never_judged": int((accepted["comparisons"] == 0).sum()),
    }


def _share(part: int, total: int) -> float:
    return round(part / total, 6) if total else 0.0


def _contradicted(judged: np.ndarray) -> int:
    """Pairs whose prompt and two texts are judged the other way in another place."""
    frame = pl.DataFrame({"pair": judged[:, 0], "chosen": judged[:, 1]})
    both_ways = frame.group_by("pair").agg(pl.len().alias("times"), pl.col("chosen").n_unique().alias("ways"))
    return int(both_ways.filter(pl.col("ways") > 1)["times"].sum())


def _stop_if_critical(
    results: list[CheckResult], totals: dict[str, int | float], docs: Path | None, *, only_labels: bool
) -> None:
    failed = [result for result in results if result.check.severity == "critical" and not result.success]
    if failed:
        faults = "; ".join(f"{result.check.name}: {_words(result, totals)}" for result in failed)
        raise ValidationError(
            f"{len(failed)} critical checks failed: {faults}. Of {totals['groups']:,} groups "
            f"{totals['groups_kept']:,} could be kept"
            + ("; there are outcome labels, from which objective=outcome learns" if only_labels else "")
            + (f"; {docs / 'index.html'} shows every check" if docs else "")
        )


def _words(result: CheckResult, totals: dict[str, int | float]) -> str:
    """What a failed check says in an error."""
    check = result.check
    if check.column not in totals:
        return f"{len(result.failed):,} groups fail"
    named = (("at least", check.minimum), ("at most", check.maximum))
    bounds = [f"{word} {bound:g}" for word, bound in named if bound is not None]
    return f"{check.column} is {totals[check.column]:g}, {' and '.join(bounds)} wanted ({check.reason})"


def _describe(result: CheckResult, totals: dict[str, int | float]) -> dict[str, Any]:
    check = result.check
    return {
        "check": check.name,
        "severity": check.severity,
        "success": result.success,
        "column": check.column,
        "minimum": check.minimum,
        "maximum": check.maximum,
        "failed_rows": len(result.failed),
        "value": totals.get(check.column),
    }
