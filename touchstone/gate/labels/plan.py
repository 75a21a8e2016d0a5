"""What was asked about one candidate and one champion, and what was answered: believed by its digests.

<state>/labels/<id>/plan.json         digests of candidate, champion and pool; the order's seed; counts; ids
<state>/labels/<id>/sample.parquet    every sampled pair with both models' scores, and no text
<state>/labels/<id>/quarantine.jsonl  the pool's lines that can't be used
<state>/labels/<id>/ask.csv ...       the questions (`touchstone.data.exports`)
<state>/labels/<id>/answers.json      what `touchstone labels take` has brought
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from touchstone.data.answers import Side
from touchstone.errors import GateError
from touchstone.gate.facts import Part
from touchstone.gate.labels.sample import SAMPLE_SCHEMA
from touchstone.runtime.files import digest_file, digest_value, write_json

PLAN, SAMPLE, ANSWERS, QUARANTINE = "plan.json", "sample.parquet", "answers.json", "quarantine.jsonl"


def labels_folder(state: Path) -> Path:
    """The folder of all plans."""
    return state / "labels"


class PoolCounts(Part):
    """The pool that was asked from.

    Attributes:
        file, digest: its name and the SHA-256 of its bytes.
        prompts: lines that can be used.
        families: of these, what can be sampled: near duplicates count once.
        left_out: prompts that the sets or an earlier list hold already, by which.
        quarantined: lines that can't be used, by reason.
    """

    file: str
    digest: str
    prompts: int
    families: int
    left_out: dict[str, int]
    quarantined: dict[str, int]


class Counts(Part):
    """How many prompts were sampled, and on how many of them the two models agree and disagree."""

    prompts: int
    agreements: int
    disagreements: int


class PlanContent(Part):
    """What plan.json says; `Plan` is the same once it is written.

    Attributes:
        id: of the plan: candidate, champion, pool and seed.
        name: of the registered model.
        candidate, champion: digests of the artifacts.
        seed: of the order, and of the pairs.
        random: how many pairs of the order are asked about whatever the models say.
        parts: of the sample: all prompts, and critical slices that were sampled further than that.
        slices: of the sample of all prompts, as far as the pool knows them.
        ids: pairs that people are asked about, sorted.
    """

    id: str
    name: str
    candidate: str
    champion: str
    pool: PoolCounts
    seed: int
    random: int
    parts: dict[str, Counts]
    slices: dict[str, Counts]
    ids: tuple[str, ...]


class Plan(PlanContent):
    """plan.json.

    Attributes:
        sample: SHA-256 of sample.parquet.
        digest: of all the rest.
    """

    schema_version: Literal[1]
    sample: str
    digest: str


class Answers(Part):
    """answers.json.

    Attributes:
        plan: id of the plan.
        answers: (pair, annotator's hash or None, side), sorted, one per pair and annotator.
        digest: of the rest.
    """

    plan: str
    answers: tuple[tuple[str, str | None, Side], ...]
    digest: str


def plan_id(candidate: str, champion: str, pool: str, seed: int) -> str:
    """Names a plan: the same question to the same pool goes on where it was."""
    return digest_value({"candidate": candidate, "champion": champion, "pool": pool, "seed": seed})[:16]


def write_plan(folder: Path, content: PlanContent, sample: pa.Table) -> Plan:
    """Write plan.json and sample.parquet into an existing folder."""
    pq.write_table(sample, folder / SAMPLE, compression="zstd")
    plain = {**content.model_dump(mode="json"), "schema_version": 1, "sample": digest_file(folder / SAMPLE)}
    write_json(folder / PLAN, {**plain, "digest": digest_value(plain)})
    return read_plan(folder)


def read_plan(folder: Path) -> Plan:
    """The plan in a folder, its digests verified.

    Raises:
        GateError: it is missing, or not what was written.
    """
    try:
        plan = Plan.model_validate_json((folder / PLAN).read_text(encoding="utf-8"))
        plain = plan.model_dump(mode="json", exclude={"digest"})
        named = plan_id(plan.candidate, plan.champion, plan.pool.digest, plan.seed)
        intact = plan.digest == digest_value(plain) and plan.id == named
        if not intact or digest_file(folder / SAMPLE) != plan.sample:
            raise GateError(f"{folder} was changed after it was written; ask again with the same pool")
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise GateError(f"{folder} holds no plan that can be read ({type(error).__name__}); ask again") from None
    return plan


def read_sample(folder: Path) -> pa.Table:
    """The sample of a plan that `read_plan` has verified, SAMPLE_SCHEMA."""
    return pq.read_table(folder / SAMPLE, schema=SAMPLE_SCHEMA)


def plans(labels: Path) -> Iterator[tuple[Path, Plan]]:
    """Every plan below a folder, by name.

    Raises:
        GateError: as for `read_plan`.
    """
    for path in sorted(labels.glob(f"[!.]*/{PLAN}")):
        yield path.parent, read_plan(path.parent)


def plans_about(labels: Path, candidate: str, champion: str) -> list[tuple[Path, Plan]]:
    """The plans about these two artifacts; of others nothing but the digests is read.

    Raises:
        GateError: as for `read_plan`.
    """
    found = []
    for path in sorted(labels.glob(f"[!.]*/{PLAN}")):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            about = (values["candidate"], values["champion"])
        except (ValueError, KeyError, TypeError) as error:
            raise GateError(f"{path} is no plan ({type(error).__name__}); ask again, or remove its folder") from None
        if about == (candidate, champion):
            found.append((path.parent, read_plan(path.parent)))
    return found


def write_answers(folder: Path, answers: Answers) -> None:
    """Write answers.json, atomically."""
    write_json(folder / ANSWERS, answers.model_dump(mode="json"))


def make_answers(plan: str, answers: dict[tuple[str, str | None], Side]) -> Answers:
    """Answers by pair and annotator, in their one order and with their digest."""
    rows = tuple(
        (pair, annotator, side)
        for (pair, annotator), side in sorted(answers.items(), key=lambda item: (item[0][0], item[0][1] or ""))
    )
    return Answers(plan=plan, answers=rows, digest=digest_value([plan, rows]))


def read_answers(folder: Path, plan: Plan) -> dict[tuple[str, str | None], Side]:
    """What was answered so far, by pair and annotator; empty where nothing was taken.

    Raises:
        GateError: answers.json is not what was written.
    """
    path = folder / ANSWERS
    if not path.exists():
        return {}
    try:
        stored = Answers.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise GateError(
            f"{path} can't be read ({type(error).__name__}); remove it and take the answers again"
        ) from None
    if stored.plan != plan.id or stored.digest != digest_value([stored.plan, stored.answers]):
        raise GateError(f"{path} was changed after it was written; remove it and take the answers again")
    return {(pair, annotator): side for pair, annotator, side in stored.answers}
