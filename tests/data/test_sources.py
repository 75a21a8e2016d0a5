"""Sources: what becomes of each format, and of each fault, on the way into data/."""

from __future__ import annotations

import gzip
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.places import REAL_DATA, ROOT
from touchstone import settings as settings_module
from touchstone.data.importing import import_source
from touchstone.data.sources import Quarantined, hh_rlhf, preference
from touchstone.data.sources.rows import MAX_LINE
from touchstone.errors import QuarantineError, SourceError
from touchstone.groups import Group, Message, judged_pairs, read_jsonl
from touchstone.runtime.files import digest_folder
from touchstone.settings import Settings
from touchstone.settings.data import PreferenceData, TranscriptData

GOOD = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}


def settings_for(data: dict[str, Any], max_share: float = 0.5) -> Settings:
    base = settings_module.load(ROOT / "params.yaml").model_dump()
    return settings_module.parse({**base, "data": data, "importing": {"max_quarantine_share": max_share}})


def read(root: Path, path: str, **more: Any) -> list[Group | Quarantined]:
    return list(preference.read(PreferenceData(source="preference", name="mine", path=path, **more), root))


def lines(path: Path, *rows: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


QUESTION, BLUE, SEVEN = said("user", "Name a colour."), said("assistant", "Blue."), said("assistant", "Seven.")


@pytest.mark.parametrize(
    "row",
    [
        GOOD,
        {"prompt": [QUESTION], "chosen": [BLUE], "rejected": [SEVEN]},
        {"chosen": [QUESTION, BLUE], "rejected": [QUESTION, SEVEN], "score_chosen": 9.0},
        {"prompt": [QUESTION], "chosen": [QUESTION, BLUE], "rejected": [QUESTION, SEVEN]},
        {"prompt": "Name a colour.", "chosen": [QUESTION, BLUE], "rejected": [QUESTION, SEVEN]},
        {"chosen": "Name a colour. Blue.", "rejected": "Name a colour. Seven."},
    ],
    ids=["standard", "conversational", "implicit dialogue", "repeated prompt", "mixed", "implicit text"],
)
def test_every_preference_format_means_the_same(tmp_path: Path, row: dict[str, Any]) -> None:
    lines(tmp_path / "pairs.jsonl", row)
    (group,) = read(tmp_path, "pairs.jsonl")
    assert isinstance(group, Group)
    assert group.prompt == (Message("user", "Name a colour."),)
    assert [completion.text for completion in group.completions] == ["Blue.", "Seven."]
    assert judged_pairs(group)[0].chosen == 0


def test_an_implicit_prompt_never_ends_within_a_word(tmp_path: Path) -> None:
    lines(
        tmp_path / "a.jsonl",
        {"chosen": "He said undo", "rejected": "He said under"},
        {"chosen": "A B C", "rejected": "A B"},
    )
    words, prefix = read(tmp_path, "a.jsonl")
    assert isinstance(words, Group)
    assert isinstance(prefix, Group)
    assert (words.prompt[0].content, words.completions[0].text) == ("He said", "undo")
    assert (prefix.prompt[0].content, prefix.completions[1].text) == ("A", "B")


def test_a_longer_dialogue_keeps_all_its_turns(tmp_path: Path) -> None:
    start = [said("system", "Be brief."), QUESTION, BLUE, said("user", "Another?")]
    lines(tmp_path / "a.jsonl", {"chosen": [*start, said("assistant", "Red.")], "rejected": [*start, SEVEN]})
    (group,) = read(tmp_path, "a.jsonl")
    assert isinstance(group, Group)
    assert [message.role for message in group.prompt] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.parquet", "a.parquet.gz"])
def test_the_same_rows_in_every_container(tmp_path: Path, name: str) -> None:
    import polars as pl

    rows = [{**GOOD, "margin": 1.5}, {"prompt": "Two?", "chosen": "2", "rejected": "3", "margin": 0.5}]
    if ".parquet" in name:
        pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet")
        if name.endswith(".gz"):
            (tmp_path / name).write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    elif ".jsonl" in name:
        lines(tmp_path / name, *rows)
    else:
        lines(tmp_path / name, json.dumps(rows, indent=1))
    first, second = read(tmp_path, name, margin_field="margin")
    assert isinstance(first, Group)
    assert isinstance(second, Group)
    assert first.comparisons[0].margin == 1.5
    assert second.completions[1].text == "3"
    assert len(read(tmp_path, name, limit=1)) == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "a", "chosen": "b", "rej', "not valid JSON"),
        (json.dumps(GOOD) + " garbage\n", "not valid JSON"),
        ('{"prompt": "a", "chosen": "b", "chosen": "c", "rejected": "d"}\n', "repeated key"),
        ('{"prompt": "a", "chosen": "b", "rejected": NaN}\n', "'rejected' is not text"),
        ('{"prompt": -Infinity, "chosen": "b", "rejected": "c"}\n', "'prompt' is not text"),
        ('{"prompt": "a", "chosen": "b", "rejected": "\\ud800"}\n', "lone surrogate"),
        ("\ufeff" + json.dumps(GOOD) + "\n", "byte order mark"),
        ("[1, 2]\n", "not a JSON object"),
        ("[" * 100_000 + "\n", "not valid JSON"),
        ({**GOOD, "chosen": True}, "'chosen' is not text"),
        ({**GOOD, "rejected": None}, "no field 'rejected'"),
        ({**GOOD, "rejected": " \n"}, "'rejected' is empty"),
        ({**GOOD, "prompt": ""}, "'prompt' is empty"),
        ({"chosen": "One.", "rejected": "Two."}, "share no beginning"),
        ({"prompt": [QUESTION, BLUE], "chosen": [BLUE], "rejected": [SEVEN]}, "out of order"),
        ({"prompt": [BLUE, QUESTION], "chosen": [BLUE], "rejected": [SEVEN]}, "out of order"),
        ({"prompt": [QUESTION], "chosen": [BLUE, QUESTION], "rejected": [SEVEN]}, "not one assistant turn"),
        ({"prompt": [said("wizard", "x")], "chosen": [BLUE], "rejected": [SEVEN]}, "without a role"),
        ({"prompt": [QUESTION], "chosen": [{**BLUE, "tool_calls": [{}]}], "rejected": [SEVEN]}, "tool calls"),
        ({"prompt": [QUESTION], "chosen": [said("assistant", None)], "rejected": [SEVEN]}, "not text"),  # type: ignore[arg-type]
    ],
)
def test_a_bad_row_is_set_aside_with_its_line(tmp_path: Path, line: Any, reason: str) -> None:
    lines(tmp_path / "pairs.jsonl", GOOD, "\n", line)
    good, bad = read(tmp_path, "pairs.jsonl")
    assert isinstance(good, Group)
    assert isinstance(bad, Quarantined)
    assert (bad.file, bad.line) == ("pairs.jsonl", 3)
    assert reason in bad.reason


@pytest.mark.parametrize("margin", [-1, "NaN", "3", True, 1e999, math.nan, None])
def test_a_margin_is_a_finite_number_or_the_row_goes(tmp_path: Path, margin: Any) -> None:
    text = json.dumps({**GOOD, "margin": margin}).replace("Infinity", "1e999") + "\n"
    lines(tmp_path / "a.jsonl", text)
    (bad,) = read(tmp_path, "a.jsonl", margin_field="margin")
    assert isinstance(bad, Quarantined)
    assert "'margin'" in bad.reason


@pytest.mark.parametrize("field", ["prompt", "chosen"])
def test_messages_inside_a_text_are_no_text(tmp_path: Path, field: str) -> None:
    """In a file without types they were the question and the answers, braces and all."""
    row = {"prompt": "Which?", "chosen": "This one.", "rejected": "That one."}
    lines(tmp_path / "rows.jsonl", {**row, field: json.dumps([said("user", "Which?")])}, {**row, field: '[{"a": 1}]'})
    (aside,) = [group for group in read(tmp_path, "rows.jsonl") if isinstance(group, Quarantined)]
    assert (aside.line, aside.reason) == (1, f"'{field}' holds messages as JSON inside a text; data=table reads them")


def test_invalid_utf8_and_an_endless_line_cost_one_row_each(tmp_path: Path) -> None:
    good = json.dumps(GOOD).encode() + b"\n"
    with gzip.open(tmp_path / "a.jsonl.gz", "wb", compresslevel=1) as file:
        file.write(good + b'{"prompt": "\xff"}\n')
        file.write(b'{"prompt": "' + b"x" * (MAX_LINE + 5) + b'"}\n' + good)
    first, utf8, endless, last = read(tmp_path, "a.jsonl.gz")
    assert isinstance(first, Group)
    assert isinstance(last, Group)
    assert isinstance(utf8, Quarantined)
    assert isinstance(endless, Quarantined)
    assert (utf8.line, utf8.reason) == (2, "not valid UTF-8")
    assert (endless.line, endless.reason) == (3, "line longer than 16 MiB")


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.parquet"])
def test_a_file_without_rows_is_an_error(tmp_path: Path, name: str) -> None:
    import polars as pl

    if name.endswith(".parquet"):
        pl.DataFrame(schema={"chosen": pl.String}).write_parquet(tmp_path / name)
    else:
        lines(tmp_path / name, "[]" if name == "a.json" else "")
    with pytest.raises(SourceError, match="empty"):
        read(tmp_path, name)


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl.gz", *[{**GOOD, "prompt": os.urandom(200).hex()} for _ in range(50)])
    (tmp_path / "a.jsonl.gz").write_bytes((tmp_path / "a.jsonl.gz").read_bytes()[:-500])
    (tmp_path / "b.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(SourceError, match=r"a\.jsonl\.gz is damaged gzip"):
        read(tmp_path, "a.jsonl.gz")
    with pytest.raises(SourceError, match=r"b\.parquet is damaged"):
        read(tmp_path, "b.parquet")


def test_a_folder_named_after_splits_is_read_for_one(tmp_path: Path) -> None:
    for name in ("train-0", "train-1", "test"):
        lines(tmp_path / "set" / f"{name}.jsonl", {**GOOD, "prompt": name})
    prompts = [row.prompt[0].content for row in read(tmp_path, "set") if isinstance(row, Group)]
    assert prompts == ["train-0", "train-1"]
    assert len(read(tmp_path, "set", split="test")) == 1
    with pytest.raises(SourceError, match="no split validation; its splits are test, train"):
        read(tmp_path, "set", split="validation")


@pytest.mark.parametrize("path", ["./org/name", "/org/name", "../name", "org/name.jsonl", "name", "a/b/c"])
def test_what_is_neither_a_path_nor_a_hub_id_is_said_so(tmp_path: Path, path: str) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        read(tmp_path, path)


def test_an_existing_path_wins_over_a_hub_id(tmp_path: Path) -> None:
    lines(tmp_path / "org" / "name" / "a.jsonl", GOOD)
    assert len(read(tmp_path, "org/name")) == 1


def test_a_hub_that_cannot_be_reached_is_one_sentence_and_fast(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from touchstone.settings.data import PreferenceData as P\n"
        "from touchstone.data.sources import preference\n"
        "list(preference.read(P(source='preference', name='x', path='nobody/nothing'), Path('.')))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.returncode == 1
    assert "SourceError: data.path: nobody/nothing is no local path, and the Hugging Face hub" in answer.stderr


def dialogue(*turns: str) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[n % 2]}: {turn}" for n, turn in enumerate(turns))


def transcripts(root: Path, *pairs: tuple[str, str]) -> list[Group | Quarantined]:
    lines(root / "t" / "test.jsonl.gz", *[{"chosen": chosen, "rejected": rejected} for chosen, rejected in pairs])
    return list(hh_rlhf.read(TranscriptData(source="hh_rlhf", name="hh", path="t", axis="harmlessness"), root))


def test_transcripts_are_split_into_turns(tmp_path: Path) -> None:
    (group,) = transcripts(
        tmp_path, (dialogue("Hi", "Hello", "Why?", "So."), dialogue("Hi", "Hello", "Why?", "Dunno."))
    )
    assert isinstance(group, Group)
    assert group.prompt == (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Why?"))
    assert [completion.text for completion in group.completions] == ["So.", "Dunno."]
    assert group.axis == "harmlessness"


def test_a_speaker_with_two_turns_in_a_row_is_joined_within_the_prompt(tmp_path: Path) -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Hello\n\nAssistant: Well?\n\nHuman: Why?\n\nAssistant:"
    (group,) = transcripts(tmp_path, (start + " So.", start + " Dunno."))
    assert isinstance(group, Group)
    assert group.prompt[1] == Message("assistant", "Hello\n\nWell?")


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (dialogue("Hi", ""), dialogue("Hi", "Hello"), "'chosen' is empty"),
        (dialogue("Hi", "Hello", "A", "B"), dialogue("Hi", "Other", "A", "B"), "part before"),
        (dialogue("Hi", "Hello") + "\n\nAssistant: More", dialogue("Hi", "Hello"), "part before"),
        (dialogue("Hi", "Hello", "Bye"), dialogue("Hi", "Hello", "Ciao"), "end with an Assistant"),
        ("Hi there", dialogue("Hi", "Hello"), "begin with a Human"),
        ("Preface" + dialogue("Hi", "Yo"), dialogue("Hi", "Hello"), "begin with a Human"),
        (
            "\n\nAssistant: a\n\nHuman: b\n\nAssistant: c",
            "\n\nAssistant: a\n\nHuman: b\n\nAssistant: d",
            "out of order",
        ),
    ],
)
def test_a_malformed_transcript_is_set_aside(tmp_path: Path, chosen: str, rejected: str, reason: str) -> None:
    (bad,) = transcripts(tmp_path, (chosen, rejected))
    assert isinstance(bad, Quarantined)
    assert reason in bad.reason


def test_import_writes_the_same_bytes_twice_and_loses_no_row(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", *[{**GOOD, "prompt": f"Question {n}?"} for n in range(9)], "not json\n")
    settings = settings_for({"source": "preference", "name": "mine", "path": str(tmp_path / "a.jsonl")})
    summary = import_source(settings, tmp_path, tmp_path / "data")
    first = digest_folder(tmp_path / "data")
    import_source(settings, tmp_path, tmp_path / "data")
    assert digest_folder(tmp_path / "data") == first
    assert set(first) == {"groups.jsonl", "quarantine.jsonl", "source.json"}
    assert (summary.groups, sum(summary.quarantined.values()), summary.quarantine_share) == (9, 1, 0.1)
    assert len(list(read_jsonl(tmp_path / "data" / "groups.jsonl"))) == 9
    assert json.loads((tmp_path / "data" / "quarantine.jsonl").read_text())["line"] == 10
    source = json.loads((tmp_path / "data" / "source.json").read_text())
    assert source["counts"]["comparisons"] == 9
    assert str(tmp_path) not in json.dumps(source)


def test_a_file_of_which_no_row_can_be_used_is_refused_whole(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", *[{"prompt": f"Question {n}?"} for n in range(40)])
    settings = settings_for({"source": "preference", "name": "mine", "path": "a.jsonl"})
    with pytest.raises(QuarantineError, match=r"^40 of 40 rows of mine can't be used \(100%, allowed ") as refused:
        import_source(settings, tmp_path, tmp_path / "data")
    assert "max_quarantine_share" not in str(refused.value)


@pytest.mark.parametrize("calls", [None, []])
def test_tool_calls_that_are_null_are_an_absent_field(tmp_path: Path, calls: object) -> None:
    chosen, rejected = ([QUESTION, {**answer, "tool_calls": calls}] for answer in (BLUE, SEVEN))
    lines(tmp_path / "a.jsonl", {"chosen": chosen, "rejected": rejected})
    lines(tmp_path / "b.jsonl", {"chosen": [QUESTION, BLUE], "rejected": [QUESTION, SEVEN]})
    assert read(tmp_path, "a.jsonl") == read(tmp_path, "b.jsonl")


def test_importing_more_appends_and_another_source_replaces(tmp_path: Path) -> None:
    """Twins within a file are both kept: that they repeat is for validation to see."""
    rows = [{**GOOD, "prompt": f"Question {n}?"} for n in (1, 2, 2)]
    lines(tmp_path / "a.jsonl", *rows, "not json\n")
    lines(tmp_path / "b.jsonl", {**GOOD, "prompt": "Question 0?"}, *rows[1:], "not json\n", rows[1])
    data = {"source": "preference", "name": "mine", "path": "a.jsonl"}
    target = tmp_path / "data"
    import_source(settings_for(data), tmp_path, target)
    before = (target / "groups.jsonl").read_text()
    summary = import_source(settings_for({**data, "path": "b.jsonl"}), tmp_path, target)
    after = (target / "groups.jsonl").read_text()
    assert after.startswith(before)
    prompts = [group.prompt[0].content for group in read_jsonl(target / "groups.jsonl")]
    assert prompts == [f"Question {n}?" for n in (1, 2, 2, 0, 2)]
    assert (summary.groups, summary.quarantined) == (
        5,
        {"not valid JSON (cut short, or followed by something else)": 2},
    )
    assert len((target / "quarantine.jsonl").read_text().splitlines()) == 2
    import_source(settings_for({**data, "path": "b.jsonl"}), tmp_path, target)
    assert (target / "groups.jsonl").read_text() == after
    summary = import_source(settings_for({**data, "name": "other", "path": "b.jsonl"}), tmp_path, target)
    assert (summary.groups, len(list(read_jsonl(target / "groups.jsonl")))) == (4, 4)


def test_texts_come_in_one_normal_form(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", {"prompt": "Un cafe\u0301?", "chosen": "Oui\r\n\u202emadame\x00", "rejected": "Non"})
    settings = settings_for({"source": "preference", "name": "mine", "path": "a.jsonl"})
    summary = import_source(settings, tmp_path, tmp_path / "data")
    (group,) = read_jsonl(tmp_path / "data" / "groups.jsonl")
    assert (group.prompt[0].content, group.completions[0].text) == ("Un caf\u00e9?", "Oui\nmadame")
    assert sum(summary.normalised.values()) > 0


def test_too_many_bad_rows_stop_the_import_and_change_nothing(tmp_path: Path) -> None:
    lines(tmp_path / "good.jsonl", GOOD)
    lines(tmp_path / "bad.jsonl", GOOD, {"prompt": "secret words", "chosen": 7, "rejected": "x"})
    data = {"source": "preference", "name": "mine", "path": "good.jsonl"}
    import_source(settings_for(data), tmp_path, tmp_path / "data")
    before = digest_folder(tmp_path / "data")
    with pytest.raises(QuarantineError, match=r"'chosen' is not text: 1 \(first bad\.jsonl, line 2\)") as error:
        import_source(settings_for({**data, "path": "bad.jsonl"}, 0.005), tmp_path, tmp_path / "data")
    assert "secret" not in str(error.value)
    assert digest_folder(tmp_path / "data") == before
    assert not list(tmp_path.glob(".data*"))


@pytest.mark.skipif(not (REAL_DATA / "hh-rlhf").is_dir(), reason="real data is not at ../shared/data")
def test_real_transcripts(tmp_path: Path) -> None:
    settings = settings_for({"source": "hh_rlhf", "name": "hh", "path": str(REAL_DATA / "hh-rlhf")}, 0.005)
    summary = import_source(settings, ROOT, tmp_path / "data")
    assert summary.groups == 1136
    assert summary.quarantined == {"'chosen' is empty": 3, "the dialogues part before their last turn": 2}
