"""The decision record: a folder that carries a verdict together with everything it was computed from.

decision.json           verdict, checks, digests, thresholds, facts, versions; its `digest` covers all the rest of it
rows.parquet            every judged pair with the scores of candidate, champion and baselines
texts.parquet           every completion's score, and those of the repeated scoring
probes.parquet          the scores of texts that must not win
seeds.parquet           the scores of the same recipe with other seeds, where there are any
cross_fit.parquet       the scores of the folds' models, where the data is small
train_prompts.txt       digests of the training prompts, for the day when this model is the champion
disagreements.json      the pairs where the model contradicts the labels most, in text
labels_to_collect.jsonl the prompts whose labels would decide, in text; empty where that isn't the question
decision.html           the same for people; computed from the above, so no digest covers it
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from touchstone.errors import GateError
from touchstone.gate import holdout_ledger
from touchstone.gate.checks import Check, Verdict
from touchstone.runtime.files import digest_file, digest_value, pretty_json, write_atomic

SCHEMA_VERSION = 2
FILE, PAGE = "decision.json", "decision.html"
ROWS, TEXTS, PROBES = "rows.parquet", "texts.parquet", "probes.parquet"
SEEDS, CROSS_FIT = "seeds.parquet", "cross_fit.parquet"
TRAIN_PROMPTS, DISAGREEMENTS, LABELS = "train_prompts.txt", "disagreements.json", "labels_to_collect.jsonl"
EVIDENCE = frozenset({ROWS, TEXTS, PROBES, TRAIN_PROMPTS, DISAGREEMENTS, LABELS})
"""What every decision has."""


@dataclass(frozen=True)
class Decision:
    """A verdict and where its record lies.

    Attributes:
        summary: the sentence for a manager.
        key: names what was decided on: candidate, champion, sets and thresholds.
        digest: of the record.
        needed_clusters: how many more labelled prompts would decide; None where that isn't the question.
        path: the folder with decision.json, decision.html and the evidence.
        record: decision.json as it is.
        reused: the decision had been taken before; nothing was opened again.
    """

    verdict: Verdict
    summary: str
    key: str
    digest: str
    artifact_digest: str
    checks: tuple[Check, ...]
    needed_clusters: int | None
    path: Path
    record: dict[str, Any]
    reused: bool


def key_of(name: str, digests: Mapping[str, Any]) -> str:
    """What names a decision: the model's name and the digests of all that is decided on."""
    return digest_value({"name": name, "schema_version": SCHEMA_VERSION, **digests})[:32]


def write(folder: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write decision.json over the evidence that lies in `folder`; returns the record with its digest."""
    record = {
        **content,
        "schema_version": SCHEMA_VERSION,
        "files": {path.name: digest_file(path) for path in sorted(folder.iterdir()) if path.name not in (FILE, PAGE)},
    }
    # Through JSON once: what is hashed is what a reader will read back.
    plain = json.loads(json.dumps(record, allow_nan=False))
    text = pretty_json({**plain, "digest": digest_value(plain)})
    write_atomic(folder / FILE, text)
    whole: dict[str, Any] = json.loads(text)  # in the order in which a reader has it, for the page
    return whole


def load_decision(folder: Path, *, reused: bool = True) -> Decision:
    """The decision in a folder, its digests verified.

    Raises:
        GateError: the record is missing, of another schema version, or isn't what was written.
    """
    path = folder / FILE
    try:
        text = path.read_text(encoding="utf-8")
        record = json.loads(text)
        content = {key: value for key, value in record.items() if key != "digest"}
        if record["schema_version"] != SCHEMA_VERSION:
            raise GateError(f"{path} has schema version {record['schema_version']}, not {SCHEMA_VERSION}; judge again")
        # Compared as text too: a digest of values doesn't see how they are spelled.
        if record["digest"] != digest_value(content) or text != pretty_json(record):
            raise GateError(f"{path} was changed after it was written; judge again")
        if missing := EVIDENCE - record["files"].keys():
            raise GateError(f"{path} lists no {', '.join(sorted(missing))}; judge again")
        for name, digest in record["files"].items():
            if digest_file(folder / name) != digest:
                raise GateError(f"{folder / name} is not the evidence of this decision; judge again")
        return Decision(
            verdict=Verdict(record["verdict"]),
            summary=record["summary"],
            key=record["key"],
            digest=record["digest"],
            artifact_digest=record["digests"]["artifact"],
            checks=tuple(check_from(value) for value in record["checks"]),
            needed_clusters=record["needed_clusters"],
            path=folder,
            record=record,
            reused=reused,
        )
    except FileNotFoundError as error:
        raise GateError(f"{error.filename} does not exist: there is no decision to rely on; judge first") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GateError(f"{path} is no decision record ({type(error).__name__}); judge again") from None


def verify_record(folder: Path, ledger_file: Path) -> Decision:
    """`load`, and the ledger must know this very record as the outcome: an edited one has no entry.

    Raises:
        GateError: as for `load`, or the ledger has no such verdict.
        LedgerError: the ledger's chain is broken.
    """
    decision = load_decision(folder)
    if not holdout_ledger.has_record(ledger_file, decision.key, decision.digest):
        raise GateError(f"{ledger_file.name} knows no verdict with the record {decision.digest[:12]}; judge again")
    return decision


def check_from(value: Mapping[str, Any]) -> Check:
    """A check from its JSON."""
    interval = value["interval"]
    bounds = None if interval is None else (interval[0], interval[1])
    return Check(**{**value, "interval": bounds, "table": tuple(value["table"])})


def check_to(check: Check) -> dict[str, Any]:
    """A check as plain JSON values."""
    bounds = None if check.interval is None else list(check.interval)
    return {**asdict(check), "interval": bounds, "table": list(check.table)}


def summarise(
    name: str,
    verdict: Verdict,
    checks: Sequence[Check],
    needed: int | None,
    champion: str | None,
    policy: str = "strict",
) -> str:
    """The verdict in one or two sentences for somebody who has never heard of a reward model."""
    found = {check.name: check for check in checks}
    if verdict is Verdict.PROMOTE:
        floor = found["floor"]
        beaten = {key: floor.details[f"accuracy, {key}"] for key in ("longer_wins", "linear")}
        how = "is not worse than" if policy == "refresh" else "is better than"
        against = f" and {how} the champion, version {champion}" if champion else " and is the first of its name"
        return (
            f"{name} may be promoted: on prompts it never saw it agrees with the labels in {floor.value:.1%} of the "
            f"comparisons (length alone {beaten['longer_wins']:.1%}, words and length {beaten['linear']:.1%})"
            f"{against}."
        )
    words = {
        Verdict.REJECT: ("fail",),
        Verdict.ERROR: ("error",),
        Verdict.INCONCLUSIVE: ("undecided", "not_run"),
    }[verdict]
    causes = [check for check in checks if check.status in words and (check.required or check.status == "error")]
    names = ", ".join(check.name.replace("_", " ") for check in causes) or "a required check that is missing"
    # Scores that aren't finite stop most checks: then integrity says why.
    first = next(check for check in (found["integrity"], *causes) if check.status in ("fail", *words))
    if verdict is Verdict.REJECT:
        return f"{name} is rejected; it fails on: {names}. {first.reason}"
    if verdict is Verdict.ERROR:
        return f"{name} has no verdict and stays out; not computed: {names}. {first.reason}"
    more = f" About {needed:,} more labelled prompts would decide." if needed else ""
    return f"{name} can't be decided on yet; open: {names}. {first.reason}{more}"
