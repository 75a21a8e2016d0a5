"""The decision record: a folder that carries a verdict together with everything it was computed from.

decision.json           verdict, checks, digests, thresholds, facts, versions; its `digest` covers all the rest of it
rows.parquet            every judged pair with the scores of candidate, champion and baselines
texts.parquet           every completion's score, and those of the repeated scoring
probes.parquet          the scores of texts that must not win
seeds.parquet           the scores of the same recipe with other seeds, where there are any
cross_fit.parquet       the scores of the folds' models, where the data is small
train_prompts.txt       digests of the training prompts, for the day when this model is the champion
disagreements.json      the pairs where the model contradicts the labels most, in text
outcomes.parquet        every labelled completion with the rewards of candidate and champion and the baselines' log
                        odds, where the model learnt from outcome labels
chains.parquet          every labelled chain with its steps' values by candidate and champion, and the errors that the
                        baselines find, where the model learnt from step labels; rows.parquet is empty then
asked.parquet           pairs beside the holdout that people were asked about, with both models' scores and the votes
decision.html           the same for people; computed from the above, so no digest covers it
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer, PlainValidator

from touchstone.errors import GateError
from touchstone.gate import holdout_ledger
from touchstone.gate.checks import Check, Verdict, needed
from touchstone.gate.facts import Facts, Part, absent
from touchstone.runtime.files import digest_file, digest_value, pretty_json, write_atomic
from touchstone.settings.gates import Gates, Policy

SCHEMA_VERSION = 3
FILE, PAGE = "decision.json", "decision.html"
ROWS, TEXTS, PROBES = "rows.parquet", "texts.parquet", "probes.parquet"
SEEDS, CROSS_FIT, ASKED, OUTCOMES = "seeds.parquet", "cross_fit.parquet", "asked.parquet", "outcomes.parquet"
CHAINS = "chains.parquet"
SEEDS, CROSS_FIT, ASKED = "seeds.parquet", "cross_fit.parquet", "asked.parquet"
VERDICTS = "verdicts.parquet"
TRAIN_PROMPTS, DISAGREEMENTS = "train_prompts.txt", "disagreements.json"
EVIDENCE = frozenset({ROWS, TEXTS, PROBES, TRAIN_PROMPTS, DISAGREEMENTS})
"""What every decision has."""

_CHECK_KEYS = {field.name for field in fields(Check)}


def check_from(value: Mapping[str, Any]) -> Check:
    """A check from its JSON.

    Raises:
        ValueError: it has other keys than a check.
    """
    if value.keys() != _CHECK_KEYS:
        raise ValueError(f"a check has the keys {', '.join(sorted(_CHECK_KEYS))}, not {', '.join(sorted(value))}")
    interval = value["interval"]
    bounds = None if interval is None else (interval[0], interval[1])
    return Check(**{**value, "interval": bounds, "table": tuple(value["table"]), "sizes": tuple(value["sizes"])})


def check_to(check: Check) -> dict[str, Any]:
    """A check as plain JSON values."""
    bounds = None if check.interval is None else list(check.interval)
    return {**asdict(check), "interval": bounds, "table": list(check.table), "sizes": list(check.sizes)}


# Numbers of a check stay as they are spelled: a count is no float, and a recomputed check must come out the same.
RecordedCheck = Annotated[
    Check,
    PlainValidator(lambda value: value if isinstance(value, Check) else check_from(value)),
    PlainSerializer(check_to),
]


def _absent(value: object) -> bool:
    """Of a field that only some records have: without it they are spelled as ever."""
    return value is None


class Accuracy(Part):
    """Agreement with the labels, and its 95% interval."""

    accuracy: float
    accuracy_low: float
    accuracy_high: float


class AxisAccuracy(Part):
    """Agreement with the labels on one axis of the preference."""

    accuracy: float
    pairs: int
    clusters: int


class SpreadMetrics(Part):
    """What `evaluation.metrics.spread_metrics` gives for an ensemble, and explains."""

    mean: float
    error_area: float | None
    error_area_low: float | None
    error_area_high: float | None
    pair_area: float | None
    pair_area_low: float | None
    pair_area_high: float | None
    margin_area: float | None
    margin_area_low: float | None
    margin_area_high: float | None
    # Of a record from before these were measured: None.
    like_area: float | None = None
    like_area_low: float | None = None
    like_area_high: float | None = None


class ClassifierMetrics(Part):
    """How well correct answers are told from wrong ones, each number with its 95% interval."""

    auc: float
    auc_low: float
    auc_high: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    brier: float
    brier_low: float
    brier_high: float
    log_loss: float
    log_loss_low: float
    log_loss_high: float


class OutcomeMetrics(ClassifierMetrics):
    """What `evaluation.outcomes.measure_outcomes` gives for one set, and explains."""

    completions: int
    prompts: int
    clusters: int
    correct_share: float
    calibration_error: float
    calibration_error_null: float
    slope: float | None
    slope_low: float | None
    slope_high: float | None
    level: float
    best_of: list[dict[str, float | int]]
    baselines: dict[str, ClassifierMetrics]


class Metrics(Accuracy):
    """What `evaluation.metrics.measure` gives for one set, and explains.

    Attributes:
        calibration_error_null_q95: of older records, another null: it took correlated pairs for independent ones.
        spread: of an ensemble.
        outcome: the same completions as a classifier sees them; None for a model that learnt from comparisons.
    """

    pairs: int
    labelled_ties: int
    clusters: int
    model_ties: float
    truncated_share: float
    margin: float
    log_loss: float
    brier: float
    calibration_error: float
    calibration_error_null: float | None = Field(default=None, exclude_if=absent)
    calibration_error_null_q95: float | None = Field(default=None, exclude_if=absent)
    slope: float
    length_correlation: float | None
    axes: dict[str, AxisAccuracy]
    baselines: dict[str, Accuracy]
    gap_closed: float | None
    missing: dict[str, str]
    spread: SpreadMetrics | None = Field(default=None, exclude_if=absent)
    outcome: OutcomeMetrics | None = Field(default=None, exclude_if=absent)

    @property
    def null_error(self) -> float:
        """The calibration error that a calibrated model reads at most, by the null of the record's time."""
        return self.calibration_error_null or self.calibration_error_null_q95 or 0.0


class SetMetrics(Part):
    """Metrics by set; None where it wasn't opened, or its scores aren't finite."""

    holdout: Metrics | None
    confirm: Metrics | None


class Digests(Part):
    """Digests of all that was decided on.

    Attributes:
        artifact, champion: of the sealed artifacts; None: there is no champion.
        train, calibration, holdout, confirm: of the sets' content (groups.set_digest).
        thresholds: of the gate's settings.
        champion_prompts: of the list of the champion's training prompts; None where nobody kept it.
        seeds: of the artifacts of the same recipe with other seeds; None where there are none.
        alarms: of the alarms that the audit raised.
        leaks: of what the check of leaks looks at besides the sets.
        pool: of what cross-fitting learns from, and its recipe; None under other policies than small_data.
        settings: of all settings. It is for the reader: of them the thresholds decide, and they have their own.
        asked: of what people answered about pairs beside the holdout; None where nobody was asked, and then it isn't
            written, so that such a decision has the key that it had before anybody could be asked.
        budgets: of how far candidate and champion may be optimised; None where nobody has measured it, and then it
            isn't written.
    """

    artifact: str
    train: str
    calibration: str
    holdout: str
    confirm: str
    thresholds: str
    champion: str | None
    champion_prompts: str | None
    seeds: str | None
    alarms: str
    leaks: str
    pool: str | None
    settings: str
    asked: str | None = Field(default=None, exclude_if=_absent)
    budgets: str | None = Field(default=None, exclude_if=_absent)


class LedgerPlace(Part):
    """The entry that opened the holdout for a decision.

    Attributes:
        uses: how many decisions had used this lineage of holdouts by then, this one included.
    """

    sequence: int
    digest: str
    uses: int


class EarlierUse(Part):
    """One of the decisions that used this lineage of holdouts."""

    sequence: int
    time: str
    who: str
    name: str
    artifact: str


class Provenance(Part):
    """Where the candidate comes from; nothing is decided by it. None: nobody knows."""

    run: str | None = None
    commit: str | None = None
    data: str | None = None


class Alarm(Part):
    """An alarm about the data, as the audit raised it."""

    kind: str
    name: str
    sentence: str


class JudgedModel(Part):
    """The model itself, for the page.

    Attributes:
        rule: how a text is scored, as in the artifact's card.
        centering: the card's statistics without the quantiles.
        files: SHA-256 of the artifact's files, by path.
    """

    base: str
    rule: dict[str, Any]
    temperature: float
    noise_floor: float | None = Field(default=None, exclude_if=absent)
    centering: dict[str, Any]
    files: dict[str, str]


class LabelsToCollect(Part):
    """Of older records: how many prompts labels_to_collect.jsonl lists, and what they were taken from."""

    count: int
    pool: str


class Needed(Part):
    """How many more labelled prompts would decide, as the check that takes most of them asks for.

    Attributes:
        check: its name.
        prompts: independent prompts in the set that the check is about.
        set_name: that set, holdout or confirm.
        slice_name: the slice that they must lie in; None: any prompt counts.
        labelled_prompts: labelled prompts as they come in, of which so many reach that set and slice; None where the
            split gives that set none of them.
        labels: labels where people are asked about disagreements only; None where every prompt needs its labels.
    """

    check: str
    prompts: int
    set_name: Literal["holdout", "confirm"]
    slice_name: str | None
    labelled_prompts: int | None
    labels: int | None


def needed_of(checks: Sequence[Check], shares: Mapping[str, float]) -> Needed | None:
    """How many more labelled prompts would decide; None where labels don't help.

    Args:
        shares: of new prompts, those that the split gives each set.
    """
    check = needed(checks)
    if check is None or check.needed is None:
        return None
    name: Literal["holdout", "confirm"] = "confirm" if check.name == "confirm" else "holdout"
    share = check.needed_share * shares[name]
    return Needed(
        check=check.name,
        prompts=check.needed,
        set_name=name,
        slice_name=check.needed_slice,
        labelled_prompts=math.ceil(check.needed / share) if share else None,
        labels=check.needed_labels,
    )


class Content(Part):
    """What a decision says; `Record` is the same once it is written.

    Attributes:
        key: names what was decided on: candidate, champion, sets and thresholds.
        summary: the sentence for a manager.
        needed: how many more labelled prompts would decide; None where that isn't the question.
        new_prompt_shares: of new prompts, those that the split gives each set.
        thresholds: the gate's settings as they were; `limits` reads them.
        champion_version: the label of the version compared with; None for the first of its name.
        seeds: of the candidate's training and sealing by name, and the gate's own.
        libraries: versions of what computed the numbers, by name.
        ledger: the entry that opened the holdout.
        holdout_history: every use of this lineage of holdouts, the oldest first.
        who: the person or service that asked.
    """

    key: str
    name: str
    verdict: Verdict
    policy: Policy
    summary: str
    needed: Needed | None
    new_prompt_shares: dict[str, float]
    checks: tuple[RecordedCheck, ...]
    metrics: SetMetrics
    facts: Facts
    thresholds: dict[str, Any]
    digests: Digests
    champion_version: str | None
    seeds: dict[str, int]
    libraries: dict[str, str]
    ledger: LedgerPlace
    holdout_history: tuple[EarlierUse, ...]
    provenance: Provenance
    alarms: tuple[Alarm, ...]
    model: JudgedModel
    labels_to_collect: LabelsToCollect | None = Field(default=None, exclude_if=_absent)
    who: str
    created_at: str

    @property
    def limits(self) -> Gates:
        """The thresholds with their types.

        Raises:
            ValidationError: the gate has other settings now; a decision under older ones can be read, not recomputed.
        """
        return Gates.model_validate(self.thresholds)


class Record(Content):
    """decision.json.

    Attributes:
        files: SHA-256 of every file of the evidence, by name.
        digest: of all the rest.
    """

    schema_version: Literal[3]
    files: dict[str, str]
    digest: str

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON values."""
        return self.model_dump(mode="json")


@dataclass(frozen=True)
class Decision:
    """A decision's record, and where it lies.

    Attributes:
        path: the folder with decision.json, decision.html and the evidence.
        reused: the decision had been taken before; nothing was opened again.
    """

    path: Path
    record: Record
    reused: bool

    @property
    def verdict(self) -> Verdict:
        return self.record.verdict

    @property
    def summary(self) -> str:
        """The sentence for a manager."""
        return self.record.summary

    @property
    def key(self) -> str:
        """Names what was decided on."""
        return self.record.key

    @property
    def digest(self) -> str:
        """Of the record."""
        return self.record.digest

    @property
    def artifact_digest(self) -> str:
        return self.record.digests.artifact

    @property
    def checks(self) -> tuple[Check, ...]:
        return self.record.checks

    @property
    def needed(self) -> Needed | None:
        """How many more labelled prompts would decide; None where that isn't the question."""
        return self.record.needed


def key_of(name: str, digests: Digests) -> str:
    """What names a decision: the model's name and the digests of all that is decided on (so not of all settings)."""
    decided_on = digests.model_dump(exclude={"settings"})
    return digest_value({"name": name, "schema_version": SCHEMA_VERSION, **decided_on})[:32]


def write(folder: Path, content: Content) -> Record:
    """Write decision.json over the evidence that lies in `folder`; returns the record as a reader has it.

    Raises:
        ValueError: a number isn't finite.
    """
    plain = {
        **content.model_dump(mode="json", include=set(Content.model_fields)),
        "schema_version": SCHEMA_VERSION,
        "files": {path.name: digest_file(path) for path in sorted(folder.iterdir()) if path.name not in (FILE, PAGE)},
    }
    text = pretty_json({**plain, "digest": digest_value(plain)})
    record = Record.model_validate_json(text)
    write_atomic(folder / FILE, text)
    return record


def load_decision(folder: Path, *, reused: bool = True) -> Decision:
    """The decision in a folder, its digests verified.

    Raises:
        GateError: the record is missing, of another schema version, or isn't what was written.
    """
    path = folder / FILE
    try:
        # Read.
        text = path.read_text(encoding="utf-8")
        version = json.loads(text)["schema_version"]
        if version != SCHEMA_VERSION:
            raise GateError(f"{path} has schema version {version}, not {SCHEMA_VERSION}; judge again")
        record = Record.model_validate_json(text)
        # Verify. Compared as text too: a digest of values doesn't see how they are spelled.
        values = record.to_json()
        content = {key: value for key, value in values.items() if key != "digest"}
        if record.digest != digest_value(content) or text != pretty_json(values):
            raise GateError(f"{path} was changed after it was written; judge again")
        if missing := EVIDENCE - record.files.keys():
            raise GateError(f"{path} lists no {', '.join(sorted(missing))}; judge again")
        for name, digest in record.files.items():
            if digest_file(folder / name) != digest:
                raise GateError(f"{folder / name} is not the evidence of this decision; judge again")
    except FileNotFoundError as error:
        raise GateError(f"{error.filename} does not exist: there is no decision to rely on; judge first") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GateError(f"{path} is no decision record ({type(error).__name__}); judge again") from None
    return Decision(folder, record, reused)


def verify_record(folder: Path, ledger_file: Path) -> Decision:
    """`load_decision`, and the ledger must know this very record as the outcome: an edited one has no entry.

    Raises:
        GateError: as for `load_decision`, or the ledger has no such verdict.
        LedgerError: the ledger's chain is broken.
    """
    decision = load_decision(folder)
    if not holdout_ledger.has_record(ledger_file, decision.key, decision.digest):
        raise GateError(f"{ledger_file.name} knows no verdict with the record {decision.digest[:12]}; judge again")
    return decision
