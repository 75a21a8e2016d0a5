"""What is asked comes back from every tool as the same answers."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from touchstone.data.answers import Answer, read_answers
from touchstone.data.exports import AskedPair, write_questions
from touchstone.data.sources.labels import hash_annotator
from touchstone.data.sources.rows import Quarantined
from touchstone.errors import SourceError
from touchstone.groups import Message

PAIRS = [
    AskedPair("helpfulness", (Message("user", "Why?"),), "Because.", "No idea, sorry."),
    AskedPair(
        "safety",
        (
            Message("system", "Be brief."),
            Message("user", "How?"),
            Message("assistant", "So."),
            Message("user", "And?"),
        ),
        '=1+1 is two,\nhe said; "really"',
        "  Nothing  ",
    ),
    AskedPair("helpfulness", (Message("user", "什么？"),), "-1", "@home"),
]
IDS = [pair.id for pair in PAIRS]


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    write_questions(tmp_path, PAIRS)
    return tmp_path


def answers(path: Path) -> list[tuple[str, str | None, str]]:
    found = list(read_answers(path))
    assert all(isinstance(row, Answer) for row in found), found
    return [(row.id, row.annotator, row.side) for row in found if isinstance(row, Answer)]


def quarantined(path: Path) -> list[tuple[int, str]]:
    return [(row.line, row.reason) for row in read_answers(path) if isinstance(row, Quarantined)]


def test_ids_say_what_was_shown_and_nothing_else() -> None:
    (first, *_) = PAIRS
    assert len(set(IDS)) == len(IDS)
    turned = AskedPair(first.axis, first.prompt, first.second, first.first)
    assert turned.id != first.id
    assert AskedPair("safety", first.prompt, first.first, first.second).id == first.id


def test_the_sheet_comes_back_with_its_answers_whatever_a_spreadsheet_did_to_it(asked: Path) -> None:
    with (asked / "ask.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == IDS
    assert not any(row[name].startswith(("=", "+", "-", "@")) for row in rows for name in row)
    for row, answer in zip(rows, ("first", " B ", ""), strict=True):
        row["answer"], row["annotator"] = answer, "Ada"
    for delimiter, encoding in ((",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-8")):
        with (asked / "back.csv").open("w", newline="", encoding=encoding) as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            table.writeheader()
            table.writerows(rows)
        ada = hash_annotator("labels", "Ada")
        assert answers(asked / "back.csv") == [(IDS[0], ada, "first"), (IDS[1], ada, "second")]


def test_lines_of_json_need_an_id_and_an_answer(asked: Path) -> None:
    rows = [json.loads(line) for line in (asked / "ask.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == IDS
    assert rows[1]["prompt"][0] == {"role": "system", "content": "Be brief."}
    given = [
        {**rows[0], "answer": "tie", "annotator": 7},
        {"id": IDS[1], "answer": 2},
        {"id": IDS[2], "answer": "maybe"},
        {"id": "", "answer": "first"},
        {"id": IDS[2], "answer": ["first"]},
    ]
    (asked / "back.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    found = [row for row in read_answers(asked / "back.jsonl") if isinstance(row, Answer)]
    assert [(row.id, row.annotator, row.side, row.line) for row in found] == [
        (IDS[0], hash_annotator("labels", "7"), "tie", 1),
        (IDS[1], None, "second", 2),
    ]
    assert quarantined(asked / "back.jsonl") == [
        (3, "a label names none of the completions, and is no tie"),
        (4, "no id"),
        (5, "'id', 'answer' or 'annotator' is neither text nor a number"),
    ]


def test_label_studio_gives_back_what_was_asked_by_its_texts(asked: Path) -> None:
    tasks = json.loads((asked / "label_studio.json").read_text())
    assert [task["data"]["pair"] for task in tasks] == IDS
    assert set(tasks[0]["data"]) == {"pair", "axis", "prompt", "first", "second"}

    def choice(label: str, who: int) -> dict[str, object]:
        result = {"type": "choices", "from_name": "preference", "to_name": "prompt", "value": {"choices": [label]}}
        return {"completed_by": who, "result": [result]}

    exported = [
        {"id": 1, **tasks[0], "annotations": [choice("second", 3), choice("first", 4)]},
        {"id": 2, **tasks[1], "annotations": [choice("tie", 3), {"completed_by": 4, "was_cancelled": True}]},
        {"id": 3, **tasks[2], "annotations": []},
    ]
    (asked / "export.json").write_text(json.dumps(exported))
    three, four = (hash_annotator("label_studio", str(who)) for who in (3, 4))
    found = [
        (row.id, row.annotator, row.side) for row in read_answers(asked / "export.json") if isinstance(row, Answer)
    ]
    assert found == [(IDS[0], three, "second"), (IDS[0], four, "first"), (IDS[1], three, "tie")]
    assert quarantined(asked / "export.json") == [(2, "an annotation was cancelled")]

    small = [
        {"id": number, **task["data"], "preference": label, "annotator": 3, "annotation_id": number}
        for number, (task, label) in enumerate(zip(tasks, ("first", "tie", "second"), strict=True))
    ]
    (asked / "min.json").write_text(json.dumps(small))
    sides = ("first", "tie", "second")
    assert answers(asked / "min.json") == [(pair, three, side) for pair, side in zip(IDS, sides, strict=True)]


def test_argilla_gives_back_what_was_asked_in_both_layouts(asked: Path) -> None:
    records = json.loads((asked / "argilla.json").read_text())
    assert [record["id"] for record in records] == IDS
    for record, labels in zip(records, (("first", "tie"), ("second",), ()), strict=True):
        record["responses"] = {
            "preference": [{"value": label, "user_id": f"user {k}"} for k, label in enumerate(labels)]
        }
    (asked / "nested.json").write_text(json.dumps(records))
    users = [hash_annotator("argilla", f"user {k}") for k in range(2)]
    expected = [(IDS[0], users[0], "first"), (IDS[0], users[1], "tie"), (IDS[1], users[0], "second")]
    assert answers(asked / "nested.json") == expected

    flat = [
        {
            **record["fields"],
            "preference.responses": [row["value"] for row in record["responses"]["preference"]],
            "preference.responses.users": [row["user_id"] for row in record["responses"]["preference"]],
        }
        for record in records
    ]
    (asked / "flat.json").write_text(json.dumps(flat))
    assert answers(asked / "flat.json") == expected


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("back.csv", b"pair,answer\n1,first\n", "holds no answers"),
        ("back.csv", b"\xff\xfe", "UTF-8"),
        ("back.jsonl", b'{"id": "x", "vote": 1}\n', "holds no answers"),
        ("back.txt", b"x", "is none of"),
    ],
)
def test_a_file_of_another_kind_says_what_is_missing(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=words):
        list(read_answers(tmp_path / name))
