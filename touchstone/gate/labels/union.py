"""What labelled disagreements say of a decision: asked.parquet, and the differences of credits that follow from it."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from touchstone.data.answers import Side
from touchstone.errors import GateError
from touchstone.gate.checks import Asked
from touchstone.gate.labels.plan import plans_about, read_answers, read_sample
from touchstone.gate.labels.sample import SAMPLE_SCHEMA, WHOLE, Mask, differ, slice_masks
from touchstone.runtime.files import digest_value
from touchstone.settings.gates import Gates
from touchstone.statistics import Floats

SIDES: tuple[Side, ...] = ("first", "second", "tie")
ASKED_SCHEMA = pa.schema([("plan", pa.string()), *SAMPLE_SCHEMA, *((f"votes_{side}", pa.float64()) for side in SIDES)])
"""SAMPLE_SCHEMA of every plan about one candidate and one champion, with the votes for each side."""


def read_asked(labels: Path, candidate: str, champion: str, limits: Gates) -> pa.Table | None:
    """ASKED_SCHEMA of the plans about these two artifacts that somebody has answered; None where there are none.

    Raises:
        GateError: a plan or its answers are not what was written, or too few of the disagreements are answered.
    """
    tables = []
    for folder, plan in plans_about(labels, candidate, champion):
        answers = read_answers(folder, plan)
        if not answers:
            continue
        table = with_votes(plan.id, read_sample(folder), answers)
        for part, share in answered_shares(table).items():
            if share < limits.min_answered_share:
                raise GateError(
                    f"of the disagreements in {folder}, {part}, {share:.0%} are answered; they count from "
                    f"{limits.min_answered_share:.0%} on. Take more answers with `touchstone labels take`, or move "
                    "that folder away to judge without them"
                )
        tables.append(table)
    return pa.concat_tables(tables) if tables else None


def with_votes(plan: str, sample: pa.Table, answers: dict[tuple[str, str | None], Side]) -> pa.Table:
    """ASKED_SCHEMA of one plan: its sample with the votes that the answers give."""
    votes: defaultdict[str, dict[Side, float]] = defaultdict(lambda: dict.fromkeys(SIDES, 0.0))
    for (pair, _), side in answers.items():
        votes[pair][side] += 1.0
    columns = [sample[name] for name in SAMPLE_SCHEMA.names]
    counts = [votes[pair] for pair in sample["id"].to_pylist()]
    columns += [pa.array([count[side] for count in counts], pa.float64()) for side in SIDES]
    return pa.table([pa.array([plan] * sample.num_rows, pa.string()), *columns], schema=ASKED_SCHEMA)


def read(path: Path) -> pa.Table:
    """asked.parquet."""
    return pq.read_table(path, schema=ASKED_SCHEMA)


def digest(table: pa.Table) -> str:
    """Digest of all that was asked and answered, whatever the file's bytes."""
    return digest_value(table.to_pylist())


def _column(table: pa.Table, name: str) -> Floats:
    return np.asarray(table[name].to_numpy(), dtype=np.float64)


def leans(table: pa.Table) -> Floats:
    """Votes for the first completion minus those for the second, over all votes; NaN where nobody answered."""
    first, second, tied = (_column(table, f"votes_{side}") for side in SIDES)
    votes = first + second + tied
    return np.asarray(
        np.divide(first - second, votes, out=np.full(len(votes), np.nan), where=votes > 0), dtype=np.float64
    )


def _answered(table: pa.Table) -> Mask:
    """Where the two models disagree and somebody answered."""
    return differ(table) & np.isfinite(leans(table))


def _parts(table: pa.Table) -> dict[tuple[str, str], Mask]:
    """Which rows belong to which part of which plan."""
    plans, parts = (np.asarray(table[name].to_pylist(), dtype=object) for name in ("plan", "part"))
    keys = sorted(set(zip(plans.tolist(), parts.tolist(), strict=True)))
    return {(plan, part): (plans == plan) & (parts == part) for plan, part in keys}


def answered_shares(table: pa.Table) -> dict[str, float]:
    """The lowest share of disagreements that somebody answered, by part; 1 where there are none."""
    disagreements, answered = differ(table), _answered(table)
    shares: dict[str, float] = {}
    for (_, part), inside in _parts(table).items():
        count = int((disagreements & inside).sum())
        share = int((answered & inside).sum()) / count if count else 1.0
        shares[part] = min(share, shares.get(part, 1.0))
    return shares


def differences(table: pa.Table) -> Floats:
    """d of each row, shape (rows,): the candidate's credit minus the champion's.

    0 where they agree. Where they disagree the annotators' share for the candidate's side minus that for the
    champion's (half of it where one of the two is undecided; a labelled tie is 0), divided by the share of the
    disagreements of its plan and part that was answered; and 0 where nobody answered. Each annotator's judgement has
    the same expectation, so several of them make d more precise and leave its mean as it is.
    """
    disagreements, answered = differ(table), _answered(table)
    signs = np.sign(_column(table, "candidate")) - np.sign(_column(table, "champion"))
    values = np.where(answered, 0.5 * np.nan_to_num(leans(table)) * signs, 0.0)
    for inside in _parts(table).values():
        if count := int((answered & inside).sum()):
            values[inside] *= int((disagreements & inside).sum()) / count
    return values


def asked_whole(table: pa.Table, limits: Gates) -> Asked | None:
    """The sample of all prompts, for the check `champion`; None where only slices were sampled."""
    prompts = table.filter(pc.equal(table["part"], WHOLE))
    return _asked(prompts, slice_masks(prompts, limits.slices)) if prompts.num_rows else None


def asked_by_slice(table: pa.Table, limits: Gates) -> Asked:
    """The same for the check `slices`: a critical slice that was sampled further counts that sample instead.

    Rows may stand for one pair twice, in the sample of all prompts and in that of its slice; no mask holds both.
    """
    masks = slice_masks(table, limits.slices)
    parts = _parts(table)
    for name, mask in masks.items():
        inside = [
            rows
            for (plan, part), rows in parts.items()
            if part == name or (part == WHOLE and (plan, name) not in parts)
        ]
        masks[name] = mask & np.any([np.zeros(table.num_rows, dtype=bool), *inside], axis=0)
    return _asked(table, masks)


def _asked(table: pa.Table, masks: dict[str, Mask]) -> Asked:
    return Asked(differences(table), masks, counts(table)["labels"])


def counts(table: pa.Table) -> dict[str, int]:
    """How many pairs were sampled, on how many the models disagree, and how many of these somebody has labelled."""
    ids = table["id"]
    return {
        "prompts": len(pc.unique(ids)),
        "disagreements": len(pc.unique(ids.filter(pa.array(differ(table))))),
        "labels": len(pc.unique(ids.filter(pa.array(_answered(table))))),
    }


def random_credits(table: pa.Table) -> Floats:
    """The candidate's credit of each labelled pair of the random sample, ties left out as everywhere."""
    candidate, lean = np.sign(_column(table, "candidate")), leans(table)
    wanted = np.asarray(table["random"].to_numpy(zero_copy_only=False), dtype=bool) & (np.nan_to_num(lean) != 0)
    return np.asarray(0.5 * (1 + np.sign(lean[wanted]) * candidate[wanted]), dtype=np.float64)
