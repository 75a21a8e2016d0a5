"""Uses of a holdout, as the ledger has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from touchstone.gate import holdout_ledger
from touchstone.gate.checks import Status, Verdict
from touchstone.gate.holdout_ledger import Question, VerdictReached


def question(key: str, **changes: str | None) -> Question:
    """What is asked of the judge about one candidate, without a champion."""
    digests = {"artifact": "a" * 64, "champion": None, "holdout": "b" * 64, "confirm": "c" * 64}
    about = {"who": "ada", "time": "2026-01-01T00:00:00+00:00", "name": "reward-sandbox", "thresholds": "d" * 64}
    return Question.model_validate({"key": key, **about, **digests, **changes})


def outcome(key: str, record: str, verdict: Verdict, confirm_status: Status = "not_run") -> VerdictReached:
    """The verdict on that question."""
    return VerdictReached(
        key=key,
        time="2026-01-01T00:00:00+00:00",
        who="ada",
        verdict=verdict,
        artifact="a" * 64,
        confirm="c" * 64,
        confirm_status=confirm_status,
        accuracy=None,
        difference=None,
        checks=(),
        record=record,
    )


def open_holdout(path: Path, key: str, clusters: Sequence[str]) -> int:
    """Note a use of a holdout with those clusters of prompts; which use of its lineage it is, from 1."""
    return holdout_ledger.open_holdout(path, question(key), clusters).count
