"""What smells of misreading: every alarm has a case that raises it, and clean rows of every source raise none."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.places import ROOT
from touchstone import settings as settings_module
from touchstone.data.importing import ImportSummary, import_source
from touchstone.data.reading import Frequent
from touchstone.data.sources import gsm8k
from touchstone.data.sources.columns import EVERY, WHOLE, tally
from touchstone.data.sources.files import raw_rows
from touchstone.data.sources.ukpconvarg1 import ARCHIVES
from touchstone.errors import SettingsError, SuspicionError
from touchstone.settings import Settings
from touchstone.settings.checks import ALARMS

COUNT = 24
PAIRS = {"source": "preference", "name": "mine", "path": "rows.jsonl"}
AS_PAIRS = {**PAIRS, "chosen_field": "response_a", "rejected_field": "response_b"}


def parse(data: Mapping[str, Any], **importing: Any) -> Settings:
    values = settings_module.load(ROOT / "params.yaml").model_dump(mode="json")
    values["data"] = dict(data)
    values["importing"] |= importing
    return settings_module.parse(values)


def imported(root: Path, rows: Sequence[Any], data: Mapping[str, Any], **importing: Any) -> ImportSummary:
    lines = [row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows]
    (root / "rows.jsonl").write_text("".join(lines))
    return import_source(parse(data, **importing), root, root / "data")


def raised(root: Path, rows: Sequence[Any], data: Mapping[str, Any], **importing: Any) -> list[str]:
    """Names of the alarms that rows raise; one stop is one with the same alarms said."""
    summary = imported(root, rows, data, suspicion="warn", **importing)
    names = [alarm.name for alarm in summary.alarms]
    if names:
        with pytest.raises(SuspicionError, match=names[0]):
            imported(root, rows, data, suspicion="stop", **importing)
    assert names == sorted(names, key=ALARMS.index)
    return names


def two(**more: Callable[[int], Any]) -> list[dict[str, Any]]:
    """Rows of a prompt and two answers, with further columns by the row's number."""
    texts: dict[str, Callable[[int], Any]] = {
        "prompt": lambda n: f"How would you look after kettle {n}?",
        "response_a": lambda n: f"Dry kettle {n} first, then cover it.",
        "response_b": lambda n: f"I don't know about {n}.",
    }
    return [{name: make(number) for name, make in (texts | more).items()} for number in range(COUNT)]


def pairs(**more: Callable[[int], Any]) -> list[dict[str, Any]]:
    """The same as chosen and rejected texts."""
    names = {"response_a": "chosen", "response_b": "rejected"}
    return [{names.get(name, name): value for name, value in row.items()} for row in two(**more)]


# Every alarm.


def message(root: Path, rows: Sequence[Any], data: Mapping[str, Any], **importing: Any) -> str:
    """What stops the import, in one line; nothing is written."""
    root = root / "new"
    root.mkdir(exist_ok=True)
    with pytest.raises(SuspicionError) as stop:
        imported(root, rows, data, **importing)
    assert not (root / "data").exists()
    assert max(map(len, str(stop.value).splitlines()[1:-1])) <= 80
    return " ".join(str(stop.value).split())


def test_a_label_that_stands_unused_beside_what_always_wins(tmp_path: Path) -> None:
    rows = two(winner=lambda n: "ab"[n % 2], annotator=lambda n: f"w{n % 3}")
    assert raised(tmp_path, rows, AS_PAIRS) == ["always_first"]
    text = message(tmp_path, rows, AS_PAIRS)
    assert f"the first completion wins all {COUNT} comparisons, and 'winner'" in text
    assert "data=table data.judgements.helpfulness.kind=label data.judgements.helpfulness.field=winner" in text
    assert "importing.allow=[always_first]" in text
    assert "columns read prompt, response_a, response_b not read winner, annotator" in text
    assert "kettle" not in text


def test_a_label_that_is_read_as_something_else(tmp_path: Path) -> None:
    rows = two(labels=lambda n: n % 2)
    assert raised(tmp_path, rows, {**AS_PAIRS, "margin_field": "labels"}) == ["always_first"]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("winner", lambda n: ("model_a", "model_b", "tie", "both_bad")[n % 4]),
        ("labels", lambda n: n % 2),
        ("choice", lambda n: str(n % 2)),
        ("better_response_id", lambda n: n % 2),
        ("saferResponseId", lambda n: n % 2),
        ("preference_strength", lambda n: n % 7 - 3),
        ("is_chosen", lambda n: n % 2 == 0),
        ("chosen_index", lambda n: n % 2),
        ("preference", lambda n: [{"user_id": "u", "value": {"rank": [1, 2]}}]),
        ("column 7", lambda n: ("left", "right")[n % 2]),
        ("result", lambda n: ("Model A", "Model B", "Tie")[n % 3]),
    ],
)
def test_what_looks_like_a_label(column: str, value: Callable[[int], Any], tmp_path: Path) -> None:
    rows = two(**{column: value})
    assert raised(tmp_path, rows, AS_PAIRS) == ["always_first"]
    assert raised(tmp_path, rows[:6], AS_PAIRS) == ["unused_label"], "six wins of the first may be chance"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("score_A", lambda n: n),
        ("rating", lambda n: str(n % 5 + 1)),
        ("chosen-rating", lambda n: 0.5 * n),
        ("ratings", lambda n: [n, 1]),
    ],
)
def test_what_looks_like_a_score(column: str, value: Callable[[int], Any], tmp_path: Path) -> None:
    assert raised(tmp_path, pairs(**{column: value}), PAIRS) == ["unused_score"]


@pytest.mark.parametrize(
    ("column", "setting"),
    [
        ("input", "input"),
        ("history", "history"),
        ("chatHistory", "history"),
        ("system", "system"),
        ("context", "input"),
    ],
)
@pytest.mark.parametrize("value", ["An earlier word.", [["Hi", "Hello"]], [{"role": "user", "content": "Hi"}]])
def test_what_looks_like_a_context(column: str, setting: str, value: Any, tmp_path: Path) -> None:
    rows = pairs(**{column: lambda _: value})
    assert raised(tmp_path, rows, PAIRS) == ["unused_context"]
    assert f"data=table data.{setting}={column}" in message(tmp_path, rows, PAIRS)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("winner", lambda n: None),
        ("winner", lambda n: float("nan") if n < 0 else None),
        ("preference_reason", lambda n: f"Because number {n} says what to do, at some length."),
        ("preference_statement", lambda n: "slightly better"),
        ("chosen_model", lambda n: ("m1", "m2")[n % 2]),
        ("label_id", lambda n: f"row-{n}"),
        ("score_comment", lambda n: f"good {n}"),
        ("context_id", lambda n: f"c{n}"),
        ("input_tokens", lambda n: n),
        ("system", lambda n: " "),
        ("history", lambda n: []),
        ("best.suggestion", lambda n: ("chosen", "rejected")[n % 2]),
        ("best.suggestion.score", lambda n: 0.5),
        ("id", lambda n: n),
        ("split", lambda n: ("train", "test")[n % 2]),
        ("note", lambda n: "x"),
    ],
)
def test_what_only_has_such_a_name(column: str, value: Callable[[int], Any], tmp_path: Path) -> None:
    more = {"rejected_model": lambda n: "m3"} if column == "chosen_model" else {}
    assert raised(tmp_path, pairs(**{column: value, **more}), PAIRS) == []


def test_one_prompt_in_most_rows(tmp_path: Path) -> None:
    rows = pairs(instruction=lambda n: "Answer the question." if n % 8 else f"Question {n}?")
    data = {**PAIRS, "prompt_field": "instruction"}
    assert raised(tmp_path, rows, data) == ["one_prompt"]
    assert "'prompt' is not read; to use it: data.prompt_field=prompt" in message(tmp_path, rows, data)
    bare = [{name: value for name, value in row.items() if name != "prompt"} for row in rows]
    assert "name the column of the question in data.prompt_field" in message(tmp_path, bare, data)
    renamed = [{**{k: v for k, v in row.items() if k != "prompt"}, "input": row["prompt"]} for row in rows]
    assert raised(tmp_path, renamed, data) == ["one_prompt", "unused_context"]
    text = message(tmp_path, renamed, data)
    assert "'input' is not read; to use it: data=table data.input=input" in text
    own = {"source": "table", "name": "mine", "path": "rows.jsonl", "prompt": "instruction"}
    own |= {"completions": ["output[]"], "judgements": {"helpfulness": {"kind": "order"}}}
    lists = [{"instruction": "Do it.", "input": f"Item {n}", "output": ["a", "b"]} for n in range(COUNT)]
    assert "to use it: data.input=input" in message(tmp_path, lists, own)


def records(answer: Callable[[int], Any]) -> list[dict[str, Any]]:
    """Rows as Argilla 2 writes them flat, with one answer each."""
    return [
        {**row, "best.responses": [answer(number)], "best.responses.users": ["ann"], "best.responses.status": None}
        for number, row in enumerate(two())
    ]


ARGILLA = {"source": "argilla", "name": "mine", "path": "rows.jsonl", "prompt_field": "prompt", "question": None}
ARGILLA |= {"completion_fields": ["response_a", "response_b"]}


def test_no_judgement_and_only_ties(tmp_path: Path) -> None:
    assert raised(tmp_path, records(lambda n: "tie"), ARGILLA) == ["only_ties"]
    assert raised(tmp_path, records(lambda n: None), ARGILLA) == ["no_judgement"]
    old = two(preference=lambda n: [{"user": "u", "value": {"rank": [1, 2]}}])
    assert raised(tmp_path, old, ARGILLA) == ["no_judgement", "unused_label"]
    text = message(tmp_path, old, ARGILLA)
    assert f"no_judgement: none of {COUNT} groups holds a comparison, and 'preference' is not read" in text


def test_a_quarantine_of_one_reason_only(tmp_path: Path) -> None:
    answers = ["response_a", "response_b", "?"]
    rows = records(lambda n: answers[n % 3])
    assert raised(tmp_path, rows, ARGILLA, max_quarantine_share=0.5) == ["one_reason"]
    assert raised(tmp_path, [*rows, "not json\n"], ARGILLA, max_quarantine_share=0.5) == []
    few = records(lambda n: "?" if n == 5 else answers[n % 2])
    assert raised(tmp_path, few, ARGILLA, max_quarantine_share=0.5) == []
    gaps = [row if n % 4 else {**row, "chosen": None} for n, row in enumerate(pairs())]
    text = message(tmp_path, gaps, PAIRS, max_quarantine_share=0.5)
    assert "6 of 24 rows were set aside, all because of: no field 'chosen'; look at data.chosen_field" in text
    drafts = [
        {**row, "best.responses.status": [("draft", "submitted")[n % 2]]}
        for n, row in enumerate(records(lambda n: "response_a"))
    ]
    assert raised(tmp_path, drafts, ARGILLA, max_quarantine_share=0.9) == [], "a draft is no label, and says so"


def test_the_convention_of_chosen_and_rejected_is_no_alarm(tmp_path: Path) -> None:
    assert raised(tmp_path, pairs(), PAIRS) == []


# What is done about an alarm.


def test_an_alarm_stops_is_said_is_allowed_or_is_not_looked_for(tmp_path: Path) -> None:
    rows = two(labels=lambda n: n % 2, score_a=lambda n: n, score_b=lambda n: 1)
    message(tmp_path, rows, AS_PAIRS)
    message(tmp_path, rows, AS_PAIRS, allow=["always_first"])
    message(tmp_path, rows, AS_PAIRS, allow=["always_first", "unused_score:score_a"])
    for allow in (
        ["always_first", "unused_score"],
        ["always_first:labels", "unused_score:score_a", "unused_score:score_b"],
    ):
        assert imported(tmp_path, rows, AS_PAIRS, allow=allow).alarms == []
    record = json.loads((tmp_path / "data" / "source.json").read_text())
    assert record["alarms"] == ["always_first:labels", "unused_score:score_a", "unused_score:score_b"]
    summary = imported(tmp_path, rows, AS_PAIRS, suspicion="warn")
    assert "always_first" in summary.render()
    assert "unused_score" in summary.render()
    summary = imported(tmp_path, rows, AS_PAIRS, suspicion="off")
    assert summary.alarms == []
    assert "alarms" not in json.loads((tmp_path / "data" / "source.json").read_text())


def test_only_alarms_can_be_allowed() -> None:
    with pytest.raises(SettingsError, match=r"importing\.allow: there is no alarm unused_scores; there are no_judge"):
        parse(PAIRS, allow=["unused_scores"])
    overrides = ["data=preference", "data.path=x", "importing.allow=[one_prompt,unused_score:score_A]"]
    composed = settings_module.compose(overrides, ROOT / "configs")
    assert composed.importing.allow == ["one_prompt", "unused_score:score_A"]


def test_an_import_that_is_stopped_leaves_what_was_there(tmp_path: Path) -> None:
    imported(tmp_path, pairs(), PAIRS)
    before = (tmp_path / "data" / "groups.jsonl").read_bytes()
    with pytest.raises(SuspicionError):
        imported(tmp_path, pairs(system=lambda n: "Be brief."), PAIRS)
    assert (tmp_path / "data" / "groups.jsonl").read_bytes() == before
    assert not list(tmp_path.glob(".data*"))


def test_a_column_s_name_does_nothing_to_the_terminal(tmp_path: Path) -> None:
    text = message(tmp_path, pairs(**{"winner\x1b[2J\n": lambda n: n % 2}), PAIRS)
    assert "\x1b" not in text
    assert "'winner␛[2J␊'" in text


def test_what_was_understood_is_said_in_one_screen(tmp_path: Path) -> None:
    more = {f"field {number} of a wide table": lambda n: n for number in range(200)}
    screen = imported(tmp_path, pairs(**more), PAIRS).render()
    assert len(screen.splitlines()) <= 24
    assert max(map(len, screen.splitlines())) <= 80
    flat = " ".join(screen.split())
    assert f"groups read {COUNT}, {2 * COUNT} completions comparisons {COUNT}, 0 with a tie" in flat
    assert f"the first wins {COUNT} of {COUNT} that prefer a side (100%) annotators unnamed axes helpfulness" in flat
    assert "columns read prompt, chosen, rejected not read field 0 of a wide table," in flat
    flat = " ".join(
        imported(tmp_path, records(lambda n: ("response_a", "response_b", "tie")[n % 3]), ARGILLA).render().split()
    )
    assert f"comparisons {COUNT}, 8 with a tie the first wins 8 of 16 that prefer a side (50.0%) annotators 1" in flat


# Clean rows of every source.


def archive(member: str, lines: list[str]) -> bytes:
    packed, content = io.BytesIO(), "".join(lines)
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        info = tarfile.TarInfo(member)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content.encode()))
    return packed.getvalue()


def dialogue(*turns: str) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[n % 2]}: {turn}" for n, turn in enumerate(turns))


def fifth(n: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Hi {n}"}]


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def rows(make: Callable[[int], Any]) -> bytes:
    return "".join(json.dumps(make(number)) + "\n" for number in range(COUNT)).encode()


TASK = {"prompt_field": "prompt", "completion_fields": ["a1", "a2"]}
RATED = {
    "prompt": ["context", "source"],
    "rows": "completion",
    "completions": ["system_output"],
    "policies": ["system_id"],
}
RATED |= {"judgements": {"helpfulness": {"kind": "ratings", "field": "scores.overall", "tie_below": 0.01}}}
RANKED = {"prompt": "instruction", "input": "input", "history": "history", "completions": ["output[]"]}
RANKED |= {"judgements": {"helpfulness": {"kind": "order"}}}
CLEAN: dict[str, tuple[str, dict[str, Any], bytes]] = {
    "preference": (
        "preference",
        {"margin_field": "margin"},
        rows(lambda n: {"prompt": f"Q{n}?", "chosen": "Yes.", "rejected": "No.", "margin": n, "id": n}),
    ),
    "preference, dialogues": (
        "preference",
        {},
        rows(lambda n: {"chosen": fifth(n) + answer("Hello."), "rejected": fifth(n) + answer("What?")}),
    ),
    "hh_rlhf": (
        "hh_rlhf",
        {},
        rows(lambda n: {"chosen": dialogue(f"Q{n}?", "Yes."), "rejected": dialogue(f"Q{n}?", "No.")}),
    ),
    "ukpconvarg1": (
        "ukpconvarg1",
        {},
        archive("S/tea_yes.csv", [f"arg{n}_arg{n + 1}\ta{n % 2 + 1}\tTea {n}\tTea {n + 1}\n" for n in range(COUNT)]),
    ),
    "pandalm": (
        "pandalm",
        {},
        rows(lambda n: {
            "idx": n, "motivation_app": "Gmail", "cmp_key": "opt-7b_llama-7b", "instruction": f"Do {n}.", "input": "",
            "response1": "Done.", "response2": "No.", "annotator1": 1, "annotator2": n % 3, "annotator3": 1,
        }),
    ),
    "finegrained_qa": (
        "finegrained_qa",
        {},
        rows(lambda n: {
            "question": f"Q{n}?", "passages": [["Tea", "It is hot."]], "gold": "Hot.",
            **{f"prediction {k}": f"Answer {k}." for k in (1, 2, 3, 4)},
            "feedback": {"errors": [], "missing-info": []}, "prediction 1 corrected": "Hot.",
            "preference": [1, 2, 0, 1, 2, 1],
        }),
    ),
    "bigbench_mistake": (
        "bigbench_mistake",
        {},
        rows(lambda n: {
            "input": f"{n} + 1 =", "steps": ["Add.", f"It is {n}."], "answer": f"{n}", "target": f"{n + 1}",
            "mistake_index": 1,
        }),
    ),
    "prmbench": (
        "prmbench",
        {},
        rows(lambda n: {
            "question": f"What is {n} + 1?", "classification": "circular", "original_process": ["Add.", f"{n + 1}."],
            "modified_process": ["It is what it is.", f"{n + 1}."], "error_steps": [1], "modified_steps": [1],
            "original_question": f"What is {n} + 1?", "modified_question": f"What is {n} + 1?", "idx": f"q_{n}",
            "reason": "Step 1 goes in a circle.",
        }),
    ),
    "gsm8k": (
        "gsm8k",
        {},
        rows(lambda n: {
            "question": f"Q{n}?", "ground_truth": "Hot.",
            **{policy: {"is_correct": (n + k) % 2 == 0, "solution": f"{n} by {policy}"}
               for k, policy in enumerate(gsm8k.POLICIES)},
        }),
    ),
    "ranked": (
        "table",
        RANKED,
        rows(lambda n: {"instruction": f"Do {n}.", "input": "", "output": ["Done.", "No.", "?"], "history": []}),
    ),
    "rated": (
        "table",
        RATED,
        rows(lambda n: {
            "source": f"Talk {n // 2}", "system_id": "gpt", "system_output": f"Word {n}", "context": "A fact.",
            "scores": {"overall": n % 5, "coherence": 3},
        }),
    ),
    "argilla, nested": (
        "argilla",
        {**TASK, "question": None},
        rows(lambda n: {
            "id": str(n), "status": "completed", "fields": {"prompt": f"Q{n}?", "a1": "Yes.", "a2": "No."},
            "metadata": {"source": "web"}, "vectors": {}, "suggestions": {"best": {"value": "a1", "score": 0.5}},
            "responses": {"best": [{"user_id": "ann", "value": ("a1", "a2")[n % 2]}]},
        }),
    ),
    "argilla, flat": (
        "argilla",
        {**TASK, "question": None},
        rows(lambda n: {
            "id": str(n), "_server_id": str(n), "status": "completed", "prompt": f"Q{n}?", "a1": "Yes.", "a2": "No.",
            "best.responses": [("a1", "a2")[n % 2]], "best.responses.users": ["ann"],
            "best.responses.status": ["submitted"], "best.suggestion": "a1", "best.suggestion.score": 0.5,
            "best.suggestion.agent": "gpt", "why.responses": None, "why.responses.users": None,
        }),
    ),
    "label_studio": (
        "label_studio",
        TASK,
        rows(lambda n: {
            "id": n, "data": {"prompt": f"Q{n}?", "a1": "Yes.", "a2": "No."}, "predictions": [], "drafts": [],
            "annotations": [
                {"completed_by": 1, "result": [{"type": "pairwise", "value": {"selected": ("left", "right")[n % 2]}}]}
            ],
            "total_annotations": 1, "meta": {}, "inner_id": n,
        }),
    ),
    "label_studio, min": (
        "label_studio",
        TASK,
        rows(lambda n: {
            "id": n, "prompt": f"Q{n}?", "a1": "Yes.", "a2": "No.", "best": ("a1", "a2")[n % 2], "annotator": 1,
            "annotation_id": n, "created_at": "2024-01-01", "updated_at": "2024-01-01", "lead_time": 3.5,
        }),
    ),
    "reward_bench_2": (
        "reward_bench_2",
        {},
        rows(lambda n: {
            "id": str(n), "prompt": f"Q{n}?", "chosen": ["Yes."], "rejected": ["No.", "?", "!"], "num_correct": 1,
            "num_incorrect": 3, "total_completions": 4, "models": list("abcd"), "subset": "Math",
            "additional_metadata": None,
        }),
    ),
    "rm_bench": (
        "rm_bench",
        {},
        rows(lambda n: {"id": n, "prompt": f"Q{n}?", "chosen": [*"abc"], "rejected": [*"def"], "domain": "chat"}),
    ),
    "llm_bar": (
        "llm_bar",
        {},
        rows(lambda n: {"input": f"Q{n}?", "output_1": "Yes.", "output_2": "No.", "label": n % 2 + 1}),
    ),
    "judge_bench": (
        "judge_bench",
        {},
        rows(lambda n: {
            "pair_id": str(n), "original_id": str(n), "source": "mmlu-pro-law", "question": f"Q{n}?",
            "response_model": "gpt-4o", "response_A": "Yes.", "response_B": "No.", "label": ("A>B", "B>A")[n % 2],
        }),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CLEAN)
def test_clean_rows_of_every_source_raise_nothing(name: str, tmp_path: Path) -> None:
    source, data, content = CLEAN[name]
    path = ARCHIVES["strict"] if source == "ukpconvarg1" else "rows.jsonl"
    (tmp_path / path).write_bytes(content)
    summary = import_source(
        parse({"source": source, "name": "mine", "path": path, **data}), tmp_path, tmp_path / "data"
    )
    assert summary.alarms == []
    assert "alarms" not in json.loads((tmp_path / "data" / "source.json").read_text())


def test_the_sandbox_raises_nothing_and_every_source_is_tried(tmp_path: Path) -> None:
    settings = settings_module.load(ROOT / "params.yaml")
    small = settings.model_copy(update={"data": settings.data.model_copy(update={"groups": 300})})
    assert import_source(small, tmp_path, tmp_path / "data").alarms == []
    table = (ROOT / "touchstone" / "data" / "sources" / "__init__.py").read_text()
    assert all(f'"{source}":' in table for source, _, _ in CLEAN.values())


# What the alarms count with.


def test_a_tally_looks_at_some_rows_of_many_and_counts_all(tmp_path: Path) -> None:
    count = WHOLE + 10 * EVERY
    late = {"winner": "a"}
    lines = (json.dumps({"prompt": "x", **(late if number > WHOLE else {})}) + "\n" for number in range(count))
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    with tally() as columns:
        prompts = [row.values["prompt"] for row in raw_rows("rows.jsonl", tmp_path)]
    assert (len(prompts), columns.rows, columns.read) == (count, count, {"prompt"})
    assert (columns.columns["prompt"].filled, columns.columns["winner"].filled) == (WHOLE + 10, 10)
    assert list(columns.unread()) == ["winner"]
    assert [row.values for row in raw_rows("rows.jsonl", tmp_path)][:1] == [{"prompt": "x"}], "none looks on any more"
    assert columns.rows == count


@given(st.lists(st.integers(0, 200), max_size=600))
@hypothesis_settings(max_examples=60, deadline=None)
def test_a_frequent_thing_is_counted_nearly_right_and_never_too_high(things: list[int]) -> None:
    frequent = Frequent()
    for thing in things:
        frequent.add(thing)
    most = max((things.count(thing) for thing in set(things)), default=0)
    assert most - len(things) / (Frequent.SLOTS + 1) <= frequent.most <= most
