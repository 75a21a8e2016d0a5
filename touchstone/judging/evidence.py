"""The evidence folder: scores of every text and row written down, and the checks over what was written.

The checks read this folder and nothing else, so a decision can be computed again from its own record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from touchstone import evaluation, gates, statistics
from touchstone.card import Centering
from touchstone.gates import Check, Pairs, Verdict
from touchstone.groups import Group, judged_pairs
from touchstone.judging.case import Case
from touchstone.judging.record import ROWS, TEXTS, TRAIN_PROMPTS
from touchstone.judging.scores import AGAIN, Job, Scores, Scoring
from touchstone.settings.gates import Gates
from touchstone.statistics import Floats

_TEXTS = pa.schema(
    [
        ("group_id", pa.string()),
        ("completion", pa.int32()),
        ("tokens", pa.int32()),
        ("truncated", pa.bool_()),
        ("reward", pa.float64()),
        *((way, pa.float64()) for way in AGAIN),
    ]
)
BASELINES = ("longer_wins", "linear", evaluation.BEST_POSSIBLE)
"""Columns of rows.parquet with a baseline's D."""

_ROWS = pa.schema(
    [
        ("set", pa.string()),
        *evaluation.ROW_SCHEMA,
        ("champion_first", pa.float64()),
        ("champion_second", pa.float64()),
        *((name, pa.float64()) for name in BASELINES),
    ]
)


def judge_baselines(case: Case) -> dict[str, dict[str, Floats]]:
    """D of every judged pair of holdout and confirm by set and baseline; the linear one is fitted once."""
    holdout, confirm = case.groups["holdout"], case.groups["confirm"]
    found = evaluation.baseline_differences([*holdout, *confirm], case.groups["train"], case.groups["calibration"])
    border = sum(len(judged_pairs(group)) for group in holdout)
    return {
        "holdout": {name: values[:border] for name, values in found.items()},
        "confirm": {name: values[border:] for name, values in found.items()},
    }


def score_holdout(case: Case, work: Path, score: Scoring, baselines: Mapping[str, Floats]) -> None:
    """Score the holdout into `work`: rows.parquet, texts.parquet and train_prompts.txt.

    Raises:
        GateError: a scoring process failed, or gave other texts than it was asked for.
    """
    groups = case.groups["holdout"]
    sample = _sample(groups, case.limits.reload_texts)
    candidate, *others = _jobs(case, groups)
    repeats = [replace(candidate, groups=sample, options=options) for options in AGAIN.values()]
    scores = score([candidate, *repeats, *others], work)
    champion = scores[1 + len(AGAIN)] if case.champion is not None else None
    again = {
        way: {
            (group.id, place): score.reward
            for group, found in zip(sample, scores[1 + number], strict=True)
            for place, score in enumerate(found)
        }
        for number, way in enumerate(AGAIN)
    }
    texts = [
        {
            "group_id": group.id,
            "completion": place,
            "tokens": score.tokens,
            "truncated": score.truncated,
            "reward": score.reward,
            **{way: rewards.get((group.id, place)) for way, rewards in again.items()},
        }
        for group, found in zip(groups, scores[0], strict=True)
        for place, score in enumerate(found)
    ]
    pq.write_table(pa.Table.from_pylist(texts, schema=_TEXTS), work / TEXTS, compression="zstd")
    (work / TRAIN_PROMPTS).write_text("".join(f"{prompt}\n" for prompt in sorted(case.prompts["train"])))
    _write_rows(case, work, "holdout", scores[0], champion, baselines)


def score_confirm(case: Case, work: Path, score: Scoring, baselines: Mapping[str, Floats]) -> None:
    """Score the reserved set and add its rows to rows.parquet.

    Raises:
        GateError: as for `score_holdout`.
    """
    groups = case.groups["confirm"]
    scores = score(_jobs(case, groups), work)
    _write_rows(case, work, "confirm", scores[0], scores[1] if case.champion else None, baselines)


def _jobs(case: Case, groups: Sequence[Group]) -> list[Job]:
    """One job for the candidate, and one for the champion where there is one."""
    jobs = [Job(case.artifact, case.card.digest, groups, case.threads)]
    if case.champion is not None and case.champion_card is not None:
        jobs.append(Job(case.champion.artifact, case.champion_card.digest, groups, case.threads))
    return jobs


def _sample(groups: Sequence[Group], texts: int) -> list[Group]:
    """Groups spread evenly over the set that hold at least `texts` completions (all, where there are fewer)."""
    total = sum(len(group.completions) for group in groups)
    step = max(1, total // texts)
    taken = list(groups[::step])
    while sum(len(group.completions) for group in taken) < min(texts, total):
        taken.append(next(group for group in groups if group not in taken))
    return taken


def _write_rows(
    case: Case,
    work: Path,
    name: str,
    scores: Scores,
    champion: Scores | None,
    baselines: Mapping[str, Floats],
) -> None:
    """Add the rows of one set to rows.parquet."""
    groups = case.groups[name]
    rows = evaluation.score_rows(groups, scores)
    others = evaluation.score_rows(groups, champion) if champion is not None else [None] * len(rows)
    records = [
        {
            "set": name,
            **asdict(row),
            "champion_first": other.reward_first if other else None,
            "champion_second": other.reward_second if other else None,
            **{baseline: float(values[place]) for baseline, values in baselines.items()},
        }
        for place, (row, other) in enumerate(zip(rows, others, strict=True))
    ]
    table = pa.Table.from_pylist(records, schema=_ROWS)
    if (work / ROWS).exists():
        table = pa.concat_tables([pq.read_table(work / ROWS, schema=_ROWS), table])
    pq.write_table(table, work / ROWS, compression="zstd")


@dataclass(frozen=True)
class Rows:
    """The rows of one set: for `evaluation.measure`, and as the columns that the checks read."""

    table: pa.Table

    def candidate(self, temperature: float) -> Pairs:
        """The candidate's pairs."""
        return self._pairs("reward_first", "reward_second", temperature)

    def champion(self, temperature: float | None) -> Pairs | None:
        """The champion's pairs; None where there is no champion."""
        return None if temperature is None else self._pairs("champion_first", "champion_second", temperature)

    def baselines(self) -> dict[str, Floats]:
        """D of every pair by baseline; without the best possible one where nobody knows it."""
        return {name: self._column(name) for name in BASELINES if self.table[name].null_count == 0}

    def plain(self) -> list[evaluation.Row]:
        """The candidate's rows as `evaluation` has them."""
        return [evaluation.Row(**row) for row in self.table.select(evaluation.ROW_SCHEMA.names).to_pylist()]

    def _column(self, name: str) -> Floats:
        return np.asarray(self.table[name].to_numpy(), dtype=np.float64)

    def _pairs(self, first: str, second: str, temperature: float) -> Pairs:
        swapped = pc.fill_null(pc.equal(self.table["chosen"], self.table["second"]), False).to_numpy()
        # Two infinities give NaN here: the checks see it and stop.
        with np.errstate(invalid="ignore"):
            differences = (self._column(first) - self._column(second)) * np.where(swapped, -1.0, 1.0)
        return Pairs(self.table["cluster_id"].to_pylist(), differences, self._column("strength"), temperature)


def read_rows(folder: Path, name: str) -> Rows:
    """The rows of one set ("holdout" or "confirm")."""
    table = pq.read_table(folder / ROWS, schema=_ROWS)
    return Rows(table.filter(pc.equal(table["set"], name)))


def examine(folder: Path, facts: Mapping[str, Any], limits: Gates) -> list[Check]:
    """Every check on the holdout, from the evidence in `folder`; all run, whatever the others say."""
    rows = read_rows(folder, "holdout")
    candidate, champion = rows.candidate(facts["temperature"]), rows.champion(facts["champion_temperature"])
    texts = pq.read_table(folder / TEXTS, schema=_TEXTS)
    rewards = np.asarray(texts["reward"].to_numpy(), dtype=np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        spread = float(np.std(rewards))
    truncated = int(pc.sum(texts["truncated"]).as_py())
    return [
        gates.run(
            "integrity",
            lambda: gates.integrity(
                rewards,
                facts["holdout_texts"],
                candidate,
                limits,
                filtered=facts["pairs_without_judgement"],
                truncated=truncated,
            ),
        ),
        gates.run("reload", lambda: _reload(texts, facts["precision"], spread, limits)),
        gates.run(
            "leakage",
            lambda: gates.leakage(
                facts["shared_prompts"],
                facts["champion_shared_prompts"],
                first=facts["first_model"],
                train=facts["train_prompts"],
            ),
        ),
        gates.run("evidence", lambda: gates.evidence(candidate, champion, limits)),
        gates.run("floor", lambda: gates.floor(candidate, _accuracies(rows, candidate), limits)),
        gates.run("champion", lambda: gates.champion(candidate, champion, limits)),
        gates.run("calibration", lambda: gates.calibration(candidate, limits), required=False),
        gates.run("holdout_use", lambda: gates.holdout_use(facts["holdout_uses"], limits)),
        gates.run(
            "centering", lambda: gates.centering(Centering.model_validate_json(json.dumps(facts["centering"])), limits)
        ),
    ]


def examine_confirm(folder: Path, facts: Mapping[str, Any], checks: Sequence[Check], limits: Gates) -> Check:
    """The repeat on the reserved set: a fail without a look where the candidate failed there before."""
    if gates.verdict(checks) is not Verdict.PROMOTE:
        return Check(
            "confirm", "not_run", "The reserved set stays closed: the holdout gave no promotion.", required=False
        )
    if facts["failed_confirm_before"]:
        return Check("confirm", "fail", "This candidate failed on the reserved set before: there is no second try.")
    rows = read_rows(folder, "confirm")
    candidate, champion = rows.candidate(facts["temperature"]), rows.champion(facts["champion_temperature"])
    floor = next(check for check in checks if check.name == "floor")
    return gates.run("confirm", lambda: gates.confirm(candidate, champion, floor.threshold or 1.0, limits))


def _reload(texts: pa.Table, precision: str, spread: float, limits: Gates) -> Check:
    sampled = texts.filter(pc.is_valid(texts["one by one"]))
    columns = {way: np.asarray(sampled[way].to_numpy(), dtype=np.float64) for way in ("reward", *AGAIN)}
    return gates.reload(columns.pop("reward"), columns, precision, spread, limits)


def _accuracies(rows: Rows, candidate: Pairs) -> dict[str, float]:
    """Accuracy of every baseline on the candidate's decided pairs."""
    _, clusters = candidate.credits()
    return {
        name: statistics.accuracy(statistics.credit(values[candidate.decided]), clusters)
        for name, values in rows.baselines().items()
    }
