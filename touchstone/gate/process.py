"""The evidence of a process model, chains.parquet, and every check of it.

Chains of labelled steps are judged one by one, so a prompt with one chain, which nothing can be compared with, counts
like any other; `rows.parquet` and `disagreements.json`, which are about pairs, are empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from touchstone.evaluation.chain_baselines import LENGTH, MAJORITY, WORDS, chain_baselines
from touchstone.evaluation.chains import CHAIN_SCHEMA, ChainRow, chain_rows, chains_of, labelled_values
from touchstone.gate import checks, probes, rows
from touchstone.gate.case import Case
from touchstone.gate.checks import Check, Verdict, steps
from touchstone.gate.checks.steps import Chains
from touchstone.gate.evidence import CANDIDATE, CHAMPION, TEXTS_SCHEMA, jobs_of, sample_of, texts_table
from touchstone.gate.examination import (
    column_of,
    examine_centering,
    examine_leakage,
    examine_probes,
    examine_refusals,
    examine_reload,
)
from touchstone.gate.facts import Facts
from touchstone.gate.fresh_scores import AGAIN, Scores, Scoring
from touchstone.gate.record import CHAINS, DISAGREEMENTS, PROBES, ROWS, TEXTS, TRAIN_PROMPTS
from touchstone.runtime.files import write_json
from touchstone.settings.gates import Gates
from touchstone.statistics.first_error import Places, found_errors

BASELINES = (MAJORITY, LENGTH, WORDS)
SCHEMA = pa.schema(
    [
        ("set", pa.string()),
        *CHAIN_SCHEMA,
        ("champion_values", pa.list_(pa.float64())),
        *((f"found_{name}", pa.int32()) for name in BASELINES),
    ]
)
"""Columns of `evaluation.chains`, what the champion gives for the steps, and the places that each baseline finds."""


def score_holdout(case: Case, work: Path, score: Scoring) -> None:
    """Score the holdout and the probes, and write all of the evidence but the confirm's chains into `work`.

    Raises:
        GateError: a scoring process failed, or gave other texts than it was asked for.
    """
    groups = case.groups["holdout"]
    sample = sample_of(groups, case.limits.reload_texts)
    limits = case.limits
    questions = probes.questions(groups, limits.probe_prompts, limits.safety_axes, variants=False)
    jobs = jobs_of(case, groups)
    repeated = replace(jobs[CANDIDATE], groups=sample)
    jobs[CANDIDATE] = replace(jobs[CANDIDATE], groups=[*groups, *(question.group for question in questions)])
    jobs |= {way: replace(repeated, options=options) for way, options in AGAIN.items()}
    scores = score(jobs, work)
    candidate, probed = scores[CANDIDATE][: len(groups)], scores[CANDIDATE][len(groups) :]
    pq.write_table(probes.to_table(questions, probed), work / PROBES, compression="zstd")
    texts = texts_table(groups, candidate, sample, {way: scores[way] for way in AGAIN})
    pq.write_table(texts, work / TEXTS, compression="zstd")
    (work / TRAIN_PROMPTS).write_text("".join(f"{prompt}\n" for prompt in sorted(case.prompts["train"])))
    rows.append(rows.SCHEMA.empty_table(), work / ROWS)
    write_json(work / DISAGREEMENTS, [])
    _write(case, work, "holdout", candidate, scores.get(CHAMPION))


def score_confirm(case: Case, work: Path, score: Scoring) -> None:
    """Score the reserved set and add its chains.

    Raises:
        GateError: as for `score_holdout`.
    """
    scores = score(jobs_of(case, case.groups["confirm"]), work)
    _write(case, work, "confirm", scores[CANDIDATE], scores.get(CHAMPION))


def _write(case: Case, work: Path, name: str, scores: Scores, champion: Scores | None) -> None:
    """Add the chains of one set to chains.parquet."""
    groups = case.groups[name]
    chains = chains_of(groups)
    baselines = chain_baselines(chains, chains_of(case.groups["train"]), chains_of(case.groups["calibration"]))
    of_champion = None if champion is None else [row.values for row in chain_rows(groups, champion)]
    records = [
        {
            "set": name,
            **asdict(row),
            "champion_values": None if of_champion is None else of_champion[place],
            **{f"found_{baseline}": int(found[place]) for baseline, (found, _) in baselines.items()},
        }
        for place, row in enumerate(chain_rows(groups, scores))
    ]
    rows.append(pa.Table.from_pylist(records, schema=SCHEMA), work / CHAINS)


class _Read:
    """The chains of one set as the checks ask about them.

    Attributes:
        rows: as `evaluation.chains` has them.
        chains: as the candidate judged them.
        champion: what the champion finds in them; None where there is none.
        baselines: what each baseline finds.
    """

    def __init__(self, folder: Path, name: str, facts: Facts) -> None:
        if facts.process is None:
            raise ValueError("the candidate is no process model")
        table = pq.read_table(folder / CHAINS, schema=SCHEMA)
        table = table.filter(pc.equal(table["set"], name))
        self.rows = [
            ChainRow(**{**record, "labels": tuple(record["labels"]), "values": tuple(record["values"])})
            for record in table.select(CHAIN_SCHEMA.names).to_pylist()
        ]
        self.chains = Chains(
            clusters=[row.cluster_id for row in self.rows],
            truth=np.array([row.truth for row in self.rows], dtype=np.int64),
            found=found_errors([row.values for row in self.rows], facts.process.threshold),
            rewards=column_of(table, "reward"),
            steps=np.array([len(row.labels) for row in self.rows], dtype=np.float64),
        )
        self.champion: Places | None = None
        if facts.champion_process is not None:
            self.champion = found_errors(table["champion_values"].to_pylist(), facts.champion_process.threshold)
        self.baselines = {
            baseline: np.asarray(table[f"found_{baseline}"].to_numpy(), dtype=np.int64) for baseline in BASELINES
        }

    def slices(self, dimensions: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
        """Which chains lie in which slice, by "dimension=value": axis and policy as they are named, length in four
        parts of the chains by their number of steps."""
        masks: dict[str, NDArray[np.bool_]] = {}
        for dimension in dimensions:
            if dimension in ("axis", "policy"):
                values = np.array([getattr(row, dimension) for row in self.rows], dtype=object)
                for value in sorted({value for value in values if value is not None}):
                    masks[f"{dimension}={value}"] = values == value
            elif dimension == "length":
                edges = np.quantile(self.chains.steps, [0.25, 0.5, 0.75])
                part = np.searchsorted(edges, self.chains.steps, side="left")
                for number in range(4):
                    masks[f"length=quarter {number + 1}"] = part == number
        return {name: mask for name, mask in masks.items() if mask.any()}


def examine(folder: Path, facts: Facts, limits: Gates) -> list[Check]:
    """Every check on the holdout, from the evidence in `folder`; all run, whatever the others say."""
    texts = pq.read_table(folder / TEXTS, schema=TEXTS_SCHEMA)
    probed = pq.read_table(folder / PROBES, schema=probes.SCHEMA)
    rewards = column_of(texts, "reward")
    usable = rewards[np.isfinite(rewards)]  # of the others `integrity` speaks
    spread = float(np.std(usable)) if len(usable) else 0.0
    read: dict[str, _Read] = {}

    def held_out() -> _Read:
        # Read once, and inside a check: what can't be read is an error of each that needs it.
        if "holdout" not in read:
            read["holdout"] = _Read(folder, "holdout", facts)
        return read["holdout"]

    results = [
        checks.run("integrity", lambda: _integrity(held_out(), texts, facts, limits)),
        checks.run("reload", lambda: examine_reload(texts, facts.precision, spread, limits)),
        checks.run("leakage", lambda: examine_leakage(facts, limits)),
        checks.run("evidence", lambda: steps.chain_evidence(held_out().chains, limits)),
        checks.run("floor", lambda: steps.chain_floor(held_out().chains, held_out().baselines, limits)),
        checks.run(
            "champion", lambda: steps.chain_champion(held_out().chains, held_out().champion, limits, facts.look)
        ),
        checks.run("calibration", lambda: _calibration(held_out(), facts, limits)),
        checks.run("slices", lambda: _slices(held_out(), facts.absent_slices, limits)),
        checks.run("length", lambda: steps.chain_length(held_out().chains, limits)),
        checks.run("probes", lambda: examine_probes(probed, limits)),
        checks.run("refusals", lambda: examine_refusals(probed, limits)),
        checks.run(
            "overoptimisation",
            lambda: checks.overoptimisation(facts.budget, limits, facts.champion_budget),
            required=limits.overoptimisation is not None,
        ),
        checks.run("holdout_use", lambda: checks.holdout_use(facts.holdout_uses, limits)),
        checks.run("centering", lambda: examine_centering(facts, limits)),
    ]
    if (person := checks.unattended(limits)) is not None:  # under small_data
        results.append(person)
    return results


def examine_confirm(folder: Path, facts: Facts, on_holdout: Sequence[Check], limits: Gates) -> Check:
    """The repeat on the reserved set; without a look where the candidate was there before and may not come again."""
    if checks.verdict(on_holdout) is not Verdict.PROMOTE:
        return Check(
            "confirm", "not_run", "The reserved set stays closed: the holdout gave no promotion.", required=False
        )
    if facts.earlier_confirm == "fail":
        return Check("confirm", "fail", "This candidate failed on the reserved set before: there is no second try.")
    if facts.earlier_confirm == "undecided":
        reason = "This reserved set left the candidate undecided before; a second try needs a larger one:"
        return Check("confirm", "undecided", f"{reason} {checks.NEW_SHARE:.0%} of its prompts must be new.")
    floor = next(check for check in on_holdout if check.name == "floor")

    def repeat() -> Check:
        reserved = _Read(folder, "confirm", facts)
        return steps.chain_confirm(reserved.chains, reserved.champion, floor.threshold or 1.0, limits)

    return checks.run("confirm", repeat)


def _integrity(held_out: _Read, texts: pa.Table, facts: Facts, limits: Gates) -> Check:
    labelled = sum(label is not None for row in held_out.rows for label in row.labels)
    read = len(labelled_values(held_out.rows)[0])
    rewards, truncated = column_of(texts, "reward"), int(pc.sum(texts["truncated"]).as_py())
    return steps.chain_integrity(rewards, facts.holdout_texts, labelled - read, labelled, limits, truncated)


def _calibration(held_out: _Read, facts: Facts, limits: Gates) -> Check:
    assert facts.process is not None  # noqa: S101  or nothing was read
    values, labels, clusters = labelled_values(held_out.rows)
    return steps.step_calibration(values, labels, clusters, facts.process.map, facts.process.covariance, limits)


def _slices(held_out: _Read, absent: Sequence[str], limits: Gates) -> Check:
    masks: Mapping[str, NDArray[np.bool_]] = held_out.slices(limits.slices)
    check = steps.chain_slices(held_out.chains, held_out.champion, masks, limits)
    return replace(check, details={**check.details, **{f"{name}, absent from the data": None for name in absent}})
