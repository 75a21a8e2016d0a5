"""Records and holdout ledgers that were stored: read, and written again, byte for byte.

What lies in stored/ stands for the decisions that people have: `rejected/` with all of its evidence and the ledger
holdout_use.jsonl, and the records of a PROMOTE against a champion (its ledger is promoted_use.jsonl) and of an ERROR.
It is written anew when SCHEMA_VERSION goes up, and only then, with
`TOUCHSTONE_WRITE_RECORD=1 pytest tests/gate/test_records.py`; version_2.json is one from before.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.worlds import graded
from touchstone.errors import GateError, LedgerError
from touchstone.gate import holdout_ledger, judge
from touchstone.gate.case import Champion
from touchstone.gate.checks import Verdict
from touchstone.gate.facts import Facts
from touchstone.gate.record import FILE, PAGE, Decision, Record, key_of, load_decision, verify_record, write
from touchstone.groups import Group, write_parquet
from touchstone.runtime import ledger
from touchstone.runtime.files import digest_value, pretty_json

STORED = Path(__file__).with_name("stored")
RECORDS = {
    STORED / "rejected" / FILE: Verdict.REJECT,
    STORED / "promoted.json": Verdict.PROMOTE,
    STORED / "error.json": Verdict.ERROR,
}
LEDGERS = (STORED / "holdout_use.jsonl", STORED / "promoted_use.jsonl")


def decide(
    folder: Path, rule: graded.Rule, sizes: dict[str, int], *, with_champion: bool, **artifact: float
) -> Decision:
    """A decision in a folder that keeps the ledger of those before it."""
    build = folder / f"build-{len(list(folder.glob('build-*')))}"
    for name, count in sizes.items():
        (build / "splits").mkdir(parents=True, exist_ok=True)
        write_parquet(build / "splits" / f"{name}.parquet", graded.make_set(name, count))
    graded.make_artifact(build / "artifact", **artifact)
    champion = None
    if with_champion:
        champion = Champion("1", graded.make_artifact(build / "champion", seed=18), None)
    return judge.judge(
        build=build,
        state=folder / "runs",
        output=folder / f"{build.name}-decision",
        settings=graded.SETTINGS,
        champion=champion,
        who="ada",
        score=graded.Scorer(folder / "runs", artifact=rule, champion=graded.shuffled),
    )


def write_anew() -> None:
    """Everything in stored/ but what stands for older versions."""

    def not_finite(group: Group, place: int) -> float:
        return math.nan

    small = {**graded.SIZES, "holdout": 30, "confirm": 10}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in ("first", "second", "third"):
            (folder / name).mkdir()
        decide(folder / "first", graded.gold, small, with_champion=False, seed=3)
        rejected = decide(folder / "first", graded.gold, small, with_champion=True, se=0.1)
        shutil.rmtree(STORED / "rejected", ignore_errors=True)
        shutil.copytree(rejected.path, STORED / "rejected", ignore=shutil.ignore_patterns(PAGE))
        promoted = decide(folder / "second", graded.gold, graded.SIZES, with_champion=True)
        failed = decide(folder / "third", not_finite, small, with_champion=False)
        shutil.copyfile(judge.ledger_file(folder / "first" / "runs"), STORED / "holdout_use.jsonl")
        shutil.copyfile(judge.ledger_file(folder / "second" / "runs"), STORED / "promoted_use.jsonl")
        shutil.copyfile(promoted.path / FILE, STORED / "promoted.json")
        shutil.copyfile(failed.path / FILE, STORED / "error.json")


if os.environ.get("TOUCHSTONE_WRITE_RECORD"):
    write_anew()


def read(path: Path) -> Record:
    return Record.model_validate_json(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.parent.name + path.stem)
def test_a_stored_record_is_read_and_written_again_byte_for_byte(path: Path) -> None:
    record = read(path)
    assert pretty_json(record.to_json()) == path.read_text(encoding="utf-8")
    assert record.verdict is RECORDS[path]
    assert record.digest == digest_value({key: value for key, value in record.to_json().items() if key != "digest"})
    assert record.key == key_of(record.name, record.digests)
    assert record.digests.thresholds == digest_value(record.thresholds)


def test_a_stored_decision_still_verifies_and_the_judge_would_write_the_same(tmp_path: Path) -> None:
    path = STORED / "holdout_use.jsonl"
    decision = verify_record(STORED / "rejected", path)
    place = decision.record.ledger
    assert holdout_ledger.may_stand(path, key=decision.key, opened=place.digest, record=decision.digest)
    entries = holdout_ledger.read(path)
    opened = entries[place.sequence]
    assert isinstance(opened, holdout_ledger.HoldoutOpened)
    use = holdout_ledger.use_of(entries, opened)
    assert (use.count, use.look) == (decision.record.facts.holdout_uses, decision.record.facts.look)
    assert [entry.sequence for entry in use.history] == [use.sequence for use in decision.record.holdout_history]

    shutil.copytree(decision.path, tmp_path, dirs_exist_ok=True)
    (tmp_path / FILE).unlink()
    assert write(tmp_path, decision.record) == decision.record
    assert (tmp_path / FILE).read_bytes() == (decision.path / FILE).read_bytes()


@pytest.mark.parametrize("path", LEDGERS, ids=lambda path: path.stem)
def test_a_stored_ledger_is_read_and_written_again_byte_for_byte(path: Path, tmp_path: Path) -> None:
    entries = holdout_ledger.read(path)
    assert [entry.sequence for entry in entries] == list(range(len(entries)))
    for entry in entries:
        ledger.append(tmp_path / path.name, entry.content())
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_the_stored_ledgers_hold_every_kind_of_entry() -> None:
    kinds = {entry.kind for path in LEDGERS for entry in holdout_ledger.read(path)}
    assert kinds == {"open", "confirm", "verdict"}


def test_a_record_of_an_older_version_says_so_and_what_to_do(tmp_path: Path) -> None:
    shutil.copyfile(STORED / "version_2.json", tmp_path / FILE)
    with pytest.raises(GateError, match="has schema version 2, not 3; judge again"):
        load_decision(tmp_path)


@pytest.mark.parametrize("change", [{"luck": 1}, {"look": None}, {"look": 1.5}, {"precision": "int8"}])
def test_a_fact_that_is_unknown_missing_or_of_another_type_is_an_error(change: dict[str, object]) -> None:
    facts = json.loads((STORED / "promoted.json").read_text())["facts"] | change
    with pytest.raises(ValidationError, match=next(iter(change))):
        Facts.model_validate_json(json.dumps(facts))


@pytest.mark.parametrize("part", ["", "facts", "digests", "metrics", "model", "ledger"])
def test_a_record_with_another_key_is_none(tmp_path: Path, part: str) -> None:
    shutil.copytree(STORED / "rejected", tmp_path, dirs_exist_ok=True)
    content = json.loads((tmp_path / FILE).read_text())
    (content[part] if part else content)["luck"] = 1
    del content["digest"]
    (tmp_path / FILE).write_text(pretty_json({**content, "digest": digest_value(content)}))
    with pytest.raises(GateError, match="is no decision record"):
        load_decision(tmp_path)


def test_a_number_that_is_spelled_otherwise_is_a_change(tmp_path: Path) -> None:
    shutil.copytree(STORED / "rejected", tmp_path, dirs_exist_ok=True)
    content = json.loads((tmp_path / FILE).read_text())
    content["facts"]["temperature"] = 1  # what the type would read as 1.0
    del content["digest"]
    (tmp_path / FILE).write_text(pretty_json({**content, "digest": digest_value(content)}))
    with pytest.raises(GateError, match="was changed after it was written"):
        load_decision(tmp_path)


def test_a_record_never_holds_a_number_that_is_not_finite(tmp_path: Path) -> None:
    record = read(STORED / "rejected" / FILE)
    check = replace(record.checks[0], value=math.nan)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path, record.model_copy(update={"checks": (check, *record.checks[1:])}))
    assert not (tmp_path / FILE).exists()


def test_an_entry_of_another_kind_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "holdout_use.jsonl"
    shutil.copyfile(STORED / "holdout_use.jsonl", path)
    verdict = ledger.read(path)[-1]
    content = {key: value for key, value in verdict.items() if key not in ledger.RESERVED}
    ledger.append(path, {**content, "mood": "good"})
    with pytest.raises(LedgerError, match=r"holdout_use.jsonl, line 5 is no entry .*verdict.mood: Extra inputs"):
        holdout_ledger.read(path)
