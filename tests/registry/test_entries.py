"""A release ledger that was written before its entries had types: read, and written again, byte for byte.

stored/release.jsonl was written by the commands when entries were plain dictionaries (2026-11-28): two overrides, a
refused and a released version, a champion moved by hand and back, and a rollback. It is never written anew: it stands
for the ledgers that people have.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from touchstone.errors import LedgerError
from touchstone.registry import entries
from touchstone.registry.entries import AliasesDecided, AliasesFound, Move, Released, ReleaseEntry, Why, stamp
from touchstone.runtime import ledger

STORED = Path(__file__).with_name("stored") / "release.jsonl"


def test_a_stored_ledger_is_read_and_written_again_byte_for_byte(tmp_path: Path) -> None:
    for entry in entries.read(STORED):
        assert entries.append(tmp_path / "release.jsonl", entry) == entry
    assert (tmp_path / "release.jsonl").read_bytes() == STORED.read_bytes()


def test_the_stored_ledger_holds_every_kind_of_entry() -> None:
    union, _ = get_args(ReleaseEntry)
    assert {type(entry) for entry in entries.read(STORED)} == set(get_args(union))


def test_who_was_champion_is_read_from_the_entries() -> None:
    history = entries.read(STORED)
    moves = [(type(entry), entry.moves["champion"]) for entry in entries.all_moves(history)]
    assert moves == [
        (AliasesDecided, Move(from_=None, to=1)),
        (AliasesDecided, Move(from_=1, to=2)),
        (AliasesFound, Move(from_=2, to=1)),
        (AliasesFound, Move(from_=1, to=2)),
        (AliasesDecided, Move(from_=2, to=1)),
    ]
    assert [entry.sequence for entry in entries.decided_moves(history)] == [1, 7, 14]
    assert entries.decided_moves(history)[-1].why.rollback == "answers in the wrong language"
    assert entries.recorded(history) == {"champion": 1, "previous": 2, "challenger": None}


def test_what_a_move_does_not_rest_on_has_no_key() -> None:
    def why(**known: Any) -> Any:
        return AliasesDecided(name="reward", moves={}, why=Why(**known), **stamp()).content()["why"]

    assert why() == {}
    assert why(artifact="a", override=0) == {"artifact": "a", "override": 0}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"event": "renamed"}, "does not match any of the expected tags"),
        ({"version": "1"}, "rolled_back.version: Input should be a valid integer"),
        ({"mood": "good"}, "rolled_back.mood: Extra inputs"),
    ],
)
def test_an_entry_of_another_kind_is_named_by_its_line(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    path = tmp_path / "release.jsonl"
    shutil.copyfile(STORED, path)
    content = {key: value for key, value in ledger.read(path)[-1].items() if key not in ledger.RESERVED}
    ledger.append(path, {**content, **change})
    with pytest.raises(LedgerError, match=rf"release.jsonl, line 18 is no entry .*{fault}"):
        entries.read(path)
    with pytest.raises(LedgerError, match="line 18"):
        entries.append(path, entries.read(STORED)[0])
    assert len(path.read_text().splitlines()) == 18


def test_an_entry_that_is_wrong_is_never_written(tmp_path: Path) -> None:
    line = json.loads(STORED.read_text().splitlines()[-1])
    with pytest.raises(ValidationError, match="version"):
        entries.RolledBack.model_validate({**line, "version": "one"})
    released = next(entry for entry in entries.read(STORED) if isinstance(entry, Released))
    checks = ({**released.checks[0], "value": math.nan},)
    with pytest.raises(LedgerError, match="not plain JSON"):
        entries.append(tmp_path / "release.jsonl", released.model_copy(update={"checks": checks}))
    assert not (tmp_path / "release.jsonl").exists()
