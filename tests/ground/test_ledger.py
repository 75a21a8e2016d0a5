"""The ledger keeps what happened: in order, unedited, once, whatever the writers do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from touchstone.errors import LedgerError
from touchstone.runtime import ledger


def _three(path: Path) -> list[ledger.Entry]:
    return [ledger.append(path, {"kind": "open", "who": "ada", "model": f"m{i}"}) for i in range(3)]


def test_entries_come_back_in_order_and_linked(tmp_path: Path) -> None:
    written = _three(tmp_path / "deep" / "use.jsonl")
    assert ledger.read(tmp_path / "deep" / "use.jsonl") == written
    assert [entry["sequence"] for entry in written] == [0, 1, 2]
    assert written[0]["previous"] == ledger.START
    assert written[2]["previous"] == written[1]["digest"]


def test_no_file_is_an_empty_ledger(tmp_path: Path) -> None:
    assert ledger.read(tmp_path / "use.jsonl") == []


@pytest.mark.parametrize(
    "tamper",
    [
        pytest.param(lambda lines: [lines[0].replace("m0", "m9"), *lines[1:]], id="edited"),
        pytest.param(lambda lines: [lines[1], lines[0], lines[2]], id="reordered"),
        pytest.param(lambda lines: [lines[0], lines[2]], id="one removed"),
        pytest.param(lambda lines: lines[1:], id="first removed"),
        pytest.param(lambda lines: [*lines, lines[2]], id="one repeated"),
        pytest.param(lambda lines: ["[]\n", *lines], id="not an entry"),
        pytest.param(lambda lines: [*lines[:2], "\n", lines[2]], id="empty line"),
        pytest.param(lambda lines: [*lines[:2], lines[2].replace("}", "") + "\n"], id="not JSON"),
    ],
)
def test_a_broken_chain_is_named_and_takes_no_more_entries(tmp_path: Path, tamper) -> None:
    path = tmp_path / "use.jsonl"
    _three(path)
    path.write_text("".join(tamper(path.read_text().splitlines(keepends=True))))
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=r"use\.jsonl, line \d"):
        ledger.read(path)
    with pytest.raises(LedgerError, match=r"use\.jsonl, line \d"):
        ledger.append(path, {"kind": "open"})
    assert path.read_bytes() == before


def test_an_interrupted_append_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "use.jsonl"
    written = _three(path)
    with path.open("a") as file:
        file.write('{"kind":"open","seq')
    assert ledger.read(path) == written
    fourth = ledger.append(path, {"kind": "verdict"})
    assert ledger.read(path) == [*written, fourth]


@pytest.mark.parametrize("entry", [{"x": float("nan")}, {"x": {1, 2}}, {"digest": "0"}, {"sequence": 7}])
def test_an_entry_that_could_not_be_verified_later_is_refused(tmp_path: Path, entry: dict[str, object]) -> None:
    with pytest.raises(LedgerError):
        ledger.append(tmp_path / "use.jsonl", entry)
    assert ledger.read(tmp_path / "use.jsonl") == []


def test_a_decision_sees_what_is_there_and_may_add_nothing(tmp_path: Path) -> None:
    path = tmp_path / "use.jsonl"
    _three(path)
    assert ledger.update(path, lambda entries: None) is None
    assert ledger.update(path, lambda entries: {"seen": len(entries)})["seen"] == 3
    assert len(ledger.read(path)) == 4


def test_an_unwritable_place_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match="can't be written"):
        ledger.append(tmp_path / "file" / "use.jsonl", {"kind": "open"})


def test_many_processes_lose_and_repeat_nothing(tmp_path: Path) -> None:
    path = tmp_path / "use.jsonl"
    code = (
        "import sys; from pathlib import Path; from touchstone.runtime import ledger\n"
        "for i in range(10): ledger.append(Path(sys.argv[1]), {'who': sys.argv[2], 'i': i})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), str(number)]) for number in range(3)]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
    entries = ledger.read(path)
    assert sorted((entry["who"], entry["i"]) for entry in entries) == [
        (str(w), i) for w in range(3) for i in range(10)
    ]
    assert len(path.read_text().splitlines()) == 30
    assert json.loads(path.read_text().splitlines()[-1])["sequence"] == 29


@pytest.mark.parametrize("lines", [1, 2])
def test_lines_cut_off_the_end_are_missed(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "ledger.jsonl"
    for number in range(3):
        ledger.append(path, {"number": number})
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:-lines]))
    with pytest.raises(LedgerError, match=f"ends with line {3 - lines}, and line 3 was written"):
        ledger.read(path)
    with pytest.raises(LedgerError, match="its end was cut off"):
        ledger.append(path, {"number": 3})
    path.write_bytes(whole)
    assert len(ledger.read(path)) == 3


def test_an_entry_whose_head_was_not_noted_stands(tmp_path: Path) -> None:
    """Killed between the two: the entry is on the disk, and the head says less."""
    path = tmp_path / "ledger.jsonl"
    ledger.append(path, {"number": 0})
    head = (tmp_path / "ledger.jsonl.head").read_bytes()
    ledger.append(path, {"number": 1})
    (tmp_path / "ledger.jsonl.head").write_bytes(head)
    assert [entry["number"] for entry in ledger.read(path)] == [0, 1]
    ledger.append(path, {"number": 2})
    assert len(ledger.read(path)) == 3


def test_a_ledger_of_before_heads_is_read(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger.append(path, {"number": 0})
    (tmp_path / "ledger.jsonl.head").unlink()
    assert len(ledger.read(path)) == 1
