"""One model on one benchmark: rows from local files, a reward for each completion, scores with intervals, files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from touchstone.data.sources import Quarantined, read_source
from touchstone.errors import ModelError, SourceError
from touchstone.evaluation.benchmarks.formulas import BENCHMARKS
from touchstone.evaluation.benchmarks.intervals import interval
from touchstone.evaluation.benchmarks.picture import chart
from touchstone.evaluation.metrics import DRAWS, LEVEL, SEED, rounded
from touchstone.groups import Group, set_digest
from touchstone.model.scores import RawScore, as_item
from touchstone.model.scoring import Scorer
from touchstone.runtime.files import write_atomic, write_folder, write_json
from touchstone.settings.data import BenchmarkData

NO_EVIDENCE = (
    "A public benchmark is no evidence for a promotion: its prompts are not the project's, and anybody may have "
    "trained on them. The holdout was not opened."
)

_ROWS = pa.schema(
    [
        ("group_id", pa.string()),
        ("cluster_id", pa.string()),
        ("subset", pa.string()),
        ("completion", pa.int32()),
        ("correct", pa.bool_()),
        ("style", pa.float64()),
        ("tied", pa.float64()),
        ("reward", pa.float64()),
        ("tokens", pa.int32()),
        ("truncated", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class Result:
    """A model's scores on a benchmark.

    Attributes:
        benchmark: its name in BENCHMARKS.
        facts: what results.json holds.
        groups, scores: what they were computed from.
    """

    benchmark: str
    facts: dict[str, Any]
    groups: Sequence[Group]
    scores: Sequence[Sequence[RawScore]]


def run(benchmark: str, data: str, root: Path, scorer: Scorer, *, model: str) -> Result:
    """Score every completion of a benchmark once and compute its published scores.

    Args:
        data: its local file or folder; relative paths count from `root`.
        model: what the model is called in the results.

    Raises:
        SourceError: nothing can be read there.
        DataError: the rows are not those that the formula is for.
        ModelError: a reward is not finite; it is compared with nothing.
    """
    about = BENCHMARKS[benchmark]
    groups, set_aside = _read(benchmark, data, root)
    scores = scorer.raw([as_item(group) for group in groups], description=f"score {len(groups):,} prompts")
    _check_finite(groups, scores)
    scored = [(group, [score.reward for score in row]) for group, row in zip(groups, scores, strict=True)]
    published = about.scores(scored)
    # Beside the published scores: ties, which no formula shows, and subsets that the files lack.
    edges = [(r[edge.i], r[edge.j]) for group, r in scored for edge in group.comparisons]
    texts = [score for row in scores for score in row]
    present = {score.name for score in published}
    facts = {
        "benchmark": benchmark,
        "title": about.title,
        "formula": about.formula,
        "model": {"name": model, "digest": scorer.card.digest, "rule": scorer.card.rule},
        "scores": [
            rounded(
                {
                    "name": score.name,
                    "kind": score.kind,
                    "value": score.value,
                    **interval(score, LEVEL, DRAWS, SEED)._asdict(),
                    "prompts": score.clusters,
                }
            )
            for score in published
        ],
        "absent_subsets": [name for name in about.subsets if name not in present],
        "rows": len(groups),
        "rows_set_aside": dict(sorted(set_aside.items())),
        "completions": len(texts),
        "truncated_share": sum(score.truncated for score in texts) / len(texts),
        "tied_comparisons": sum(first == second for first, second in edges),
        "comparisons": len(edges),
        "data_digest": set_digest(groups),
        "interval": {"level": LEVEL, "draws": DRAWS, "seed": SEED, "unit": "cluster"},
        "note": NO_EVIDENCE,
    }
    return Result(benchmark, rounded(facts), groups, scores)


def _read(benchmark: str, data: str, root: Path) -> tuple[list[Group], Counter[str]]:
    groups: list[Group] = []
    set_aside: Counter[str] = Counter()
    source = BenchmarkData(source=cast(Any, benchmark), name=benchmark, path=data)
    for row in read_source(source, root):
        if isinstance(row, Quarantined):
            set_aside[row.reason] += 1
        else:
            groups.append(row)
    if not groups:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in set_aside.most_common(3))
        raise SourceError(f"{data} holds no row of {BENCHMARKS[benchmark].title} that can be used ({reasons})")
    return groups, set_aside


def _check_finite(groups: Sequence[Group], scores: Sequence[Sequence[RawScore]]) -> None:
    bad = [
        (group.id, place)
        for group, row in zip(groups, scores, strict=True)
        for place, score in enumerate(row)
        if not math.isfinite(score.reward)
    ]
    if bad:
        group, place = bad[0]
        raise ModelError(
            f"{len(bad)} rewards are not finite, the first of completion {place} of group {group}; nothing is "
            "computed from the others: leaving rows out would make another benchmark of it"
        )


def write(result: Result, folder: Path) -> None:
    """Write results.json, rows.parquet (one row per completion) and plot.png, all or none."""
    records = [
        {
            "group_id": group.id,
            "cluster_id": group.cluster_id,
            "subset": group.axis,
            "completion": place,
            "correct": completion.outcome == 1.0,
            "style": completion.ratings.get("style"),
            "tied": completion.ratings.get("tied"),
            "reward": score.reward,
            "tokens": score.tokens,
            "truncated": score.truncated,
        }
        for group, row in zip(result.groups, result.scores, strict=True)
        for place, (completion, score) in enumerate(zip(group.completions, row, strict=True))
    ]

    def fill(partial: Path) -> None:
        write_json(partial / "results.json", result.facts)
        pq.write_table(pa.Table.from_pylist(records, schema=_ROWS), partial / "rows.parquet", compression="zstd")
        write_atomic(partial / "plot.png", chart(result.facts, guess=BENCHMARKS[result.benchmark].guess))

    write_folder(folder, fill)


def table(facts: dict[str, Any]) -> str:
    """The scores as aligned plain text, and what they stand on."""
    names = [
        ("  " + score["name"].split(": ")[-1] if score["kind"] == "part" else score["name"])
        for score in facts["scores"]
    ]
    width = max(26, 2 + max(map(len, names)))
    lines = [
        f"{facts['title']}: {facts['model']['name']} (digest {facts['model']['digest'][:12]})",
        "",
        f"{'':<{width}}{'score':>7}   {'95% interval':<16}{'prompts':>9}",
    ]
    for name, score in zip(names, facts["scores"], strict=True):
        between = f"{score['low']:.3f} to {score['high']:.3f}"
        lines.append(f"{name:<{width}}{score['value']:>7.3f}   {between:<16}{score['prompts']:>9,}")
    set_aside = sum(facts["rows_set_aside"].values())
    lines += [
        "",
        f"{facts['rows']:,} rows used, {set_aside:,} set aside; {facts['completions']:,} completions, "
        f"{facts['truncated_share']:.1%} truncated; {facts['tied_comparisons']:,} of {facts['comparisons']:,} "
        "comparisons tied",
    ]
    lines += [f"set aside: {reason}: {count:,}" for reason, count in facts["rows_set_aside"].items()]
    if facts["absent_subsets"]:
        lines.append(f"not in these files, so not in the total: {', '.join(facts['absent_subsets'])}")
    return "\n".join([*lines, "", facts["note"]]) + "\n"
