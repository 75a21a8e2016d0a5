"""Records and holdout ledgers that were written before they had types: read, and written again, byte for byte.

The judge wrote what lies in stored/ when records were plain dictionaries (2026-11-28): `rejected/` with all of
its evidence and the ledger holdout_use.jsonl, and the records of a PROMOTE against a champion (whose ledger is
promoted_use.jsonl) and of an ERROR. None of it is ever written anew: it stands for the decisions that people have.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from touchstone.errors import GateError, LedgerError
from touchstone.gate import holdout_ledger
from touchstone.gate.checks import Verdict
from touchstone.gate.facts import Facts
from touchstone.gate.record import FILE, Record, key_of, load_decision, verify_record, write
from touchstone.runtime import ledger
from touchstone.runtime.files import digest_value, pretty_json

STORED = Path(__file__).with_name("stored")
RECORDS = {
    STORED / "rejected" / FILE: Verdict.REJECT,
    STORED / "promoted.json": Verdict.PROMOTE,
    STORED / "error.json": Verdict.ERROR,
}
LEDGERS = (STORED / "holdout_use.jsonl", STORED / "promoted_use.jsonl")


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
