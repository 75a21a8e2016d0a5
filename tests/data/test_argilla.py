"""Argilla 2 exports: both layouts, each kind of question, and what is no label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.places import ROOT
from touchstone import settings as settings_module
from touchstone.data.importing import import_source
from touchstone.data.sources import Quarantined, argilla
from touchstone.data.sources.labels import hash_annotator
from touchstone.errors import SourceError
from touchstone.groups import Comparison, Group, judged_pairs
from touchstone.settings.data import ArgillaData

FIELDS = {"prompt": "Name a colour.", "response-1": "Blue.", "response-2": "Seven."}
ANNE, BERT = "0b0ad1f6-7a2a-4d8f-9c59-0b1c7a0e6a11", "6f1b8f0e-31a4-4d5b-8a77-1c2d3e4f5a6b"


def nested(responses: Any, **fields: str) -> dict[str, Any]:
    """A record as `records.to_json` writes it."""
    return {
        "id": "r1",
        "fields": {**FIELDS, **fields},
        "metadata": {"model": "x"},
        "suggestions": {"preference": {"value": "response-2", "score": 0.9, "agent": "m"}},
        "responses": responses,
        "vectors": {},
        "_server_id": None,
    }


def flat(question: str, *answers: tuple[Any, str | None, str | None], **fields: str) -> dict[str, Any]:
    """A record as `records.to_datasets` and `to_list(flatten=True)` write it."""
    values, users, statuses = zip(*answers, strict=True) if answers else (None, None, None)
    columns = {".responses": values, ".responses.users": users, ".responses.status": statuses}
    return {
        "id": "r1",
        "_server_id": None,
        **FIELDS,
        **fields,
        **{question + name: None if column is None else list(column) for name, column in columns.items()},
        "preference.suggestion": "response-2",
        "preference.suggestion.score": None,
    }


def by(user: str, value: Any) -> dict[str, Any]:
    return {"value": value, "user_id": user}


def read(root: Path, *records: Any, **more: Any) -> list[Group | Quarantined]:
    (root / "records.json").write_text(json.dumps(records))
    values = {"prompt_field": "prompt", "completion_fields": ["response-1", "response-2"], "question": None, **more}
    return list(argilla.read(ArgillaData(source="argilla", name="mine", path="records.json", **values), root))


def one(root: Path, *records: Any, **more: Any) -> Group:
    (group,) = read(root, *records, **more)
    assert isinstance(group, Group), group
    return group


def reason(root: Path, *records: Any, **more: Any) -> str:
    (row,) = read(root, *records, **more)
    assert isinstance(row, Quarantined), row
    assert (row.file, row.line) == ("records.json", 1)
    return row.reason


LABELS = [by(ANNE, "response-1"), by(BERT, "tie")]


@pytest.mark.parametrize(
    "record",
    [
        nested({"preference": LABELS}),
        nested({"preference": LABELS, "comment": [by(ANNE, "Well said, and it is text.")]}),
        flat("preference", ("response-1", ANNE, "submitted"), ("tie", BERT, "submitted")),
        flat("preference", ("response-1", ANNE, None), ("tie", BERT, None)),
    ],
    ids=["nested", "with a text question", "flat", "flat without status"],
)
def test_both_layouts_mean_the_same(tmp_path: Path, record: dict[str, Any]) -> None:
    group = one(tmp_path, record)
    assert group.prompt[0].content == "Name a colour."
    assert [completion.text for completion in group.completions] == ["Blue.", "Seven."]
    assert group.comparisons == (
        Comparison(0, 1, 1.0, 0.0, annotator=hash_annotator("argilla", ANNE)),
        Comparison(0, 1, 0.0, 0.0, 1.0, annotator=hash_annotator("argilla", BERT)),
    )
    assert ANNE not in str(group)


def test_the_hub_layout_in_parquet_with_ranks(tmp_path: Path) -> None:
    ranking = {"value": ["response-2", "response-1"], "rank": [1, 2]}
    columns = {"q.responses": [[ranking]], "q.responses.users": [[ANNE]], "q.responses.status": [["submitted"]]}
    pl.DataFrame({**{name: [text] for name, text in FIELDS.items()}, **columns}).write_parquet(tmp_path / "a.parquet")
    settings = {"prompt_field": "prompt", "completion_fields": ["response-1", "response-2"], "question": None}
    data = ArgillaData(source="argilla", name="mine", path="a.parquet", **settings)  # type: ignore[arg-type]
    (group,) = argilla.read(data, tmp_path)
    assert isinstance(group, Group)
    assert [(edge.wins_i, edge.wins_j) for edge in group.comparisons] == [(0.0, 1.0)]


def test_what_argilla_1_wrote_to_the_hub(tmp_path: Path) -> None:
    def answers(value: Any) -> list[dict[str, Any]]:
        return [{"user_id": ANNE, "value": value, "status": "submitted"}]

    ranking = {"value": ["response-2", "response-1"], "rank": [1, 2]}
    for value in (ranking, "response-2"):
        group = one(tmp_path, {**FIELDS, "preference": answers(value), "comment": answers(None), "metadata": "{}"})
        assert group.comparisons == (Comparison(0, 1, 0.0, 1.0, annotator=hash_annotator("argilla", ANNE)),)
    assert one(tmp_path, {**FIELDS, "preference": []}).comparisons == ()


def test_drafts_and_discarded_responses_are_counted_and_no_labels(tmp_path: Path) -> None:
    answers = ("response-1", ANNE, "submitted"), ("response-2", BERT, "discarded"), ("response-2", "c", "draft")
    *aside, group = read(tmp_path, flat("preference", *answers), limit=1)
    assert isinstance(group, Group)
    assert [edge.wins_i for edge in group.comparisons] == [1.0]
    assert aside == [
        Quarantined("records.json", 1, "a response was discarded"),
        Quarantined("records.json", 1, "a response is a draft"),
    ]


def test_a_record_that_nobody_answered_is_a_group_without_comparisons(tmp_path: Path) -> None:
    assert one(tmp_path, nested({})).comparisons == ()
    assert one(tmp_path, flat("preference")).comparisons == ()
    assert one(tmp_path, nested({"preference": None})).comparisons == ()


def test_a_ranking_keeps_its_ties(tmp_path: Path) -> None:
    ranks = [{"value": f"response-{n}", "rank": rank} for n, rank in ((1, 2), (2, 1), (3, 1))]
    fields = {"completion_fields": ["response-1", "response-2", "response-3"]}
    group = one(tmp_path, nested({"ranking": [by(ANNE, ranks)]}, **{"response-3": "Red."}), **fields)
    pairs = [(pair.first, pair.second, pair.chosen, pair.ties) for pair in judged_pairs(group)]
    assert pairs == [(0, 1, 1, 0.0), (0, 2, 2, 0.0), (1, 2, None, 1.0)]


def test_a_list_without_ranks_is_refused_until_somebody_vouches_for_its_order(tmp_path: Path) -> None:
    record = nested({"ranking": [by(ANNE, ["response-2", "response-1"])]})
    assert "a ranking without ranks" in reason(tmp_path, record)
    assert one(tmp_path, record, order_is_rank=True).comparisons[0].wins_j == 1.0


def test_ratings_of_each_completion_become_margins(tmp_path: Path) -> None:
    answers = {
        "response-1-quality": [by(ANNE, 4), by(BERT, 3)],
        "quality.response-2": [by(ANNE, 1), by(BERT, 3)],
        "overall": [by(ANNE, 5)],
    }
    group = one(tmp_path, nested(answers))
    assert [(e.wins_i, e.wins_j, e.ties, e.margin) for e in group.comparisons] == [(1, 0, 0, 3.0), (0, 0, 1, None)]
    assert [completion.ratings for completion in group.completions] == [{"quality": 3.5}, {"quality": 2.0}]


def test_a_rating_belongs_to_the_longest_name(tmp_path: Path) -> None:
    fields = {"completion_fields": ["response-1", "response-10"]}
    answers = {"response-1-rating": [by(ANNE, 1)], "response-10-rating": [by(ANNE, 2)]}
    group = one(tmp_path, nested(answers, **{"response-10": "Red."}), **fields)
    assert group.comparisons[0].wins_j == 1.0


def test_of_several_questions_one_is_named(tmp_path: Path) -> None:
    answers = {"helpful": [by(ANNE, "response-1")], "harmless": [by(ANNE, "Response 2")]}
    assert "more than one question" in reason(tmp_path, nested(answers))
    assert one(tmp_path, nested(answers), question="harmless").comparisons[0].wins_j == 1.0
    with pytest.raises(SourceError, match=r"no record of .* answers helpfull; answered are harmless, helpful"):
        read(tmp_path, nested(answers), question="helpfull")


@pytest.mark.parametrize("label", ["response-1", "Response_1", "A", "1", "response A", "left", "First"])
def test_labels_name_a_completion_by_name_or_place(tmp_path: Path, label: str) -> None:
    assert one(tmp_path, nested({"preference": [by(ANNE, label)]})).comparisons[0].wins_i == 1.0


@pytest.mark.parametrize(
    ("record", "what"),
    [
        (nested({"preference": [by(ANNE, "response-3")]}), "no question names or rates"),
        (nested({"preference": [by(ANNE, "not A")]}), "no question names or rates"),
        (nested({"preference": [by(ANNE, ["response-1"])]}), "no question names or rates"),
        (nested({"overall": [by(ANNE, 3)], "c": [by(ANNE, "good")]}), "no question names or rates"),
        (nested({"response-1-rating": [by(ANNE, 3)]}), "no question names or rates"),
        (nested({"response-1-rating": [by(ANNE, True)]}), "is not a number"),
        (nested({"response-1-rating": [by(ANNE, 10**400)]}), "is not finite"),
        (nested({"preference": [by(ANNE, "A"), by(ANNE, "B")]}), "answered twice"),
        (nested({"preference": [by(ANNE, "A"), by(BERT, "maybe")]}), "names none of the completions"),
        (nested({"preference": "A"}), "no list of values"),
        (nested({"preference": [{"user_id": ANNE}]}), "no list of values"),
        (nested(["A"]), "no dictionary of questions"),
        (nested({"preference": [by(7, "A")]}), "id is not text"),  # type: ignore[arg-type]
        (nested({"preference": LABELS}, prompt=" "), "'prompt' is empty"),
        (nested({"preference": LABELS}, **{"response-2": ""}), "'response-2' is empty"),
        ({"id": 1}, "'prompt' is neither text nor messages"),
        (flat("preference", ("A", ANNE, "pending")), "none of submitted, draft, discarded"),
        ({**flat("p", ("A", ANNE, None)), "p.responses.users": []}, "differ in length"),
        ({**flat("p", ("A", ANNE, None)), "p.responses": "A"}, "differ in length"),
        ({**flat("p", ("A", ANNE, None)), "p.responses": 7}, "differ in length"),
        (flat("q", ([{"value": "A", "rank": 1}, {"value": "A", "rank": 2}], ANNE, None)), "no question names"),
        (flat("q", ([{"value": "A", "rank": 1}, {"value": "B", "rank": None}], ANNE, None)), "no question names"),
        (flat("q", ([{"value": "A", "rank": 1}], ANNE, None)), "no question names"),
    ],
)
def test_a_bad_record_is_set_aside(tmp_path: Path, record: Any, what: str) -> None:
    assert what in reason(tmp_path, record)


def test_answers_of_one_annotator_have_one_status(tmp_path: Path) -> None:
    record = {**flat("p", ("A", ANNE, "submitted")), **flat("q", ("good", ANNE, "draft"))}
    assert "differ in status" in reason(tmp_path, record)


def test_a_hub_id_is_refused_and_the_configuration_imports(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no local file or folder"):
        list(argilla.read(settings_module.compose(["data=argilla", "data.path=a/b"], ROOT / "configs").data, tmp_path))  # type: ignore[arg-type]
    (tmp_path / "records.json").write_text(json.dumps([nested({"preference": LABELS})]))
    settings = settings_module.compose(["data=argilla", f"data.path={tmp_path / 'records.json'}"], ROOT / "configs")
    summary = import_source(settings, ROOT, tmp_path / "data")
    assert (summary.groups, summary.comparisons, summary.ties) == (1, 2, 1)


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name a colour."},
]


def test_a_chat_field_is_the_prompt(tmp_path: Path) -> None:
    group = one(tmp_path, nested({"preference": [by(ANNE, "response-1")]}, prompt=CHAT))  # type: ignore[arg-type]
    assert [(message.role, message.content) for message in group.prompt] == [
        ("system", "Be brief."),
        ("user", "Name a colour."),
    ]
    spelt = [{"from": "guest", "said": "Name a colour."}]
    settings = {"content_key": "said", "roles": {"guest": "user"}}
    record = flat("preference", ("response-1", ANNE, "submitted"), prompt=spelt)  # type: ignore[arg-type]
    assert one(tmp_path, record, **settings).prompt[0].role == "user"
    assert "unknown role" in reason(tmp_path, record)
    open_end = [*CHAT, {"role": "assistant", "content": "Blue"}]
    assert "out of order" in reason(tmp_path, nested({"preference": [by(ANNE, "response-1")]}, prompt=open_end))  # type: ignore[arg-type]


def test_labels_are_named_by_a_map(tmp_path: Path) -> None:
    answers = {"verdict": [by(ANNE, "Top"), by(BERT, "bottom"), by("C", "can't say"), by("D", "skip")]}
    labels = {"top": 1, "bottom": 2, "can't say": "tie", "skip": "none"}
    group = one(tmp_path, nested(answers), labels=labels)
    assert [(edge.wins_i, edge.wins_j, edge.ties) for edge in group.comparisons] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert "no question names" in reason(tmp_path, nested(answers))
    assert "isn't there" in reason(tmp_path, nested(answers), question="verdict", labels={**labels, "top": 3})
    with pytest.raises(ValueError, match="counted from 1"):
        read(tmp_path, nested(answers), labels={"top": 0})
