"""Answers brought back: from any file that `touchstone.data.answers` reads into the plans that asked."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from touchstone.data.answers import Answer, Side, read_answers
from touchstone.data.sources.rows import Quarantined
from touchstone.errors import GateError
from touchstone.gate.labels import plan as plan_files
from touchstone.gate.labels import union
from touchstone.gate.labels.plan import QUARANTINE, Plan, plans
from touchstone.runtime.files import canonical_json, write_atomic

UNKNOWN = "no plan asks about this pair"
CONTRADICTS = "the same annotator has answered this pair otherwise"
Taken = dict[tuple[str, str | None], Side]
"""Answers by pair and annotator."""


@dataclass(frozen=True, slots=True)
class PlanAnswers:
    """How far a plan is answered.

    Attributes:
        asked, answered: pairs that people were asked about, and those that somebody has answered.
        shares: of the disagreements that are answered, by part of the sample; they count from
            gates.min_answered_share on.
    """

    id: str
    name: str
    asked: int
    answered: int
    shares: dict[str, float]


@dataclass(slots=True)
class Report:
    """What a file brought.

    Attributes:
        new, known: answers that were stored, and that were there already.
        quarantined: rows set aside, by reason.
        plans: that the answers belong to.
    """

    new: int = 0
    known: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    plans: list[PlanAnswers] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """For another program."""
        return asdict(self)


def take(labels: Path, files: Sequence[Path]) -> Report:
    """Store the answers beside the plans that asked for them; the same file twice changes nothing.

    An answer counts for every plan that asks about its pair. Of two answers of one annotator to one pair the first
    stands; answers without a name count as one annotator's. What can't be used goes to quarantine.jsonl.

    Args:
        labels: the folder of the plans.

    Raises:
        DataError: a file can't be read.
        GateError: there is no plan, a plan or its answers were changed, or no row can be used.
    """
    # Read: the plans with what they have, and the files.
    known = dict(plans(labels))
    if not known:
        raise GateError("nobody was asked yet: `touchstone labels ask --pool FILE` writes the questions")
    asking: defaultdict[str, list[Path]] = defaultdict(list)
    for folder, plan in known.items():
        for pair in plan.ids:
            asking[pair].append(folder)
    stored: dict[Path, Taken] = {folder: plan_files.read_answers(folder, plan) for folder, plan in known.items()}

    # Sort every answer to its plans.
    report, set_aside, touched = Report(), [], set[Path]()
    for row in (row for path in files for row in read_answers(path)):
        reason = row.reason if isinstance(row, Quarantined) else _enter(row, asking, stored, report)
        if reason is not None:
            report.quarantined[reason] += 1
            set_aside.append(Quarantined(row.file, row.line, reason))
        elif isinstance(row, Answer):
            touched |= {*asking[row.id]}
    if not touched:
        first = f"; first: {set_aside[0].file}, line {set_aside[0].line}: {set_aside[0].reason}" if set_aside else ""
        raise GateError(f"no answer in {', '.join(path.name for path in files)} can be used{first}")

    # Write.
    for folder in sorted(touched):
        plan = known[folder]
        plan_files.write_answers(folder, plan_files.make_answers(plan.id, stored[folder]))
        report.plans.append(_progress(folder, plan, stored[folder]))
    write_atomic(labels / QUARANTINE, "".join(canonical_json(asdict(row)) + "\n" for row in set_aside))
    return report


def _enter(answer: Answer, asking: dict[str, list[Path]], stored: dict[Path, Taken], report: Report) -> str | None:
    """Enter an answer into the plans that ask for it; returns why it can't be used."""
    folders = asking.get(answer.id, [])
    if not folders:
        return UNKNOWN
    key = (answer.id, answer.annotator)
    before = {stored[folder].get(key) for folder in folders}
    if before - {None, answer.side}:
        return CONTRADICTS
    for folder in folders:
        stored[folder][key] = answer.side
    if None in before:
        report.new += 1
    else:
        report.known += 1
    return None


def _progress(folder: Path, plan: Plan, answers: Taken) -> PlanAnswers:
    table = union.with_votes(plan.id, plan_files.read_sample(folder), answers)
    answered = {pair for pair, _ in answers}
    return PlanAnswers(plan.id, plan.name, len(plan.ids), len(answered), union.answered_shares(table))
