"""Label Studio exports: JSON and JSON_MIN, each kind of control, and what is no label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.places import ROOT
from touchstone import settings as settings_module
from touchstone.data.importing import import_source
from touchstone.data.sources import Quarantined, label_studio
from touchstone.data.sources.labels import hash_annotator
from touchstone.groups import Comparison, Group, judged_pairs
from touchstone.settings.data import LabelStudioData

DATA = {"prompt": "Name a colour.", "answer1": "Blue.", "answer2": "Seven."}


def result(
    kind: str, value: dict[str, Any], to_name: str = "answer1,answer2", from_name: str = "pw"
) -> dict[str, Any]:
    return {"id": "x1", "from_name": from_name, "to_name": to_name, "type": kind, "value": value, "origin": "manual"}


def annotation(*results: dict[str, Any], by: Any = 1, cancelled: bool = False) -> dict[str, Any]:
    return {
        "id": 1001,
        "completed_by": by,
        "result": list(results),
        "was_cancelled": cancelled,
        "ground_truth": False,
        "created_at": "2024-03-09T22:16:08.728353Z",
        "lead_time": 4.288,
        "prediction": {},
    }


def task(*annotations: dict[str, Any], **data: Any) -> dict[str, Any]:
    """A task as the JSON export writes it."""
    predicted = {"result": [result("pairwise", {"selected": "right"})], "model_version": "m"}
    return {"id": 7, "data": {**DATA, **data}, "annotations": list(annotations), "predictions": [predicted]}


def minimal(annotator: Any, task_id: int = 7, **answers: Any) -> dict[str, Any]:
    """A row as the JSON_MIN export writes it."""
    times = {"created_at": "2024-03-09T22:16:08Z", "updated_at": "2024-03-09T22:16:08Z", "lead_time": 4.2}
    return {**DATA, "id": task_id, **answers, "annotator": annotator, "annotation_id": 1001, **times}


def read(root: Path, *tasks: Any, **more: Any) -> list[Group | Quarantined]:
    (root / "export.json").write_text(json.dumps(tasks))
    values: Any = {"prompt_field": "prompt", "completion_fields": ["answer1", "answer2"], **more}
    settings = LabelStudioData(source="label_studio", name="mine", path="export.json", **values)
    return list(label_studio.read(settings, root))


def one(root: Path, *tasks: Any, **more: Any) -> Group:
    (group,) = read(root, *tasks, **more)
    assert isinstance(group, Group), group
    return group


def reason(root: Path, *tasks: Any, **more: Any) -> str:
    (row,) = read(root, *tasks, **more)
    assert isinstance(row, Quarantined), row
    assert (row.file, row.line) == ("export.json", 1)
    return row.reason


def choice(*labels: Any) -> dict[str, Any]:
    return result("choices", {"choices": list(labels)}, from_name="best")


LEFT, RIGHT = (result("pairwise", {"selected": side}) for side in ("left", "right"))
VOTES = (
    Comparison(0, 1, 1.0, 0.0, annotator=hash_annotator("label_studio", "1")),
    Comparison(0, 1, 0.0, 1.0, annotator=hash_annotator("label_studio", "2")),
)


@pytest.mark.parametrize(
    "tasks",
    [
        [task(annotation(LEFT, by=1), annotation(RIGHT, by={"id": 2, "email": "b@example.org", "first_name": "B"}))],
        [minimal(1, pw=[{"selected": "left"}]), minimal(2, pw=[{"selected": "right"}])],
        [minimal(1, best="answer1"), minimal(2, best="Answer 2")],
        [task(annotation(choice("A")), annotation(choice("2"), by=2))],
        [{"id": 7, "data": DATA, "completions": [annotation(LEFT), annotation(RIGHT, by=2)]}],
    ],
    ids=["json", "json_min", "json_min choices", "choices", "old json"],
)
def test_annotators_become_comparisons_whatever_the_export(tmp_path: Path, tasks: list[Any]) -> None:
    group = one(tmp_path, *tasks)
    assert group.prompt[0].content == "Name a colour."
    assert [completion.text for completion in group.completions] == ["Blue.", "Seven."]
    assert group.comparisons == VOTES


def test_rows_of_json_min_of_other_tasks_stay_apart(tmp_path: Path) -> None:
    rows = read(tmp_path, *[minimal(1, number, pw=[{"selected": "left"}]) for number in (1, 1, 2)])
    assert [type(row) for row in rows] == [Quarantined, Group, Group]
    assert rows[0] == Quarantined("export.json", 2, "an annotator judged the task twice")


def test_a_row_of_json_min_whose_texts_differ_is_set_aside_alone(tmp_path: Path) -> None:
    other = {**minimal(2, pw=[{"selected": "left"}]), "answer1": "Red."}
    bad, group = read(tmp_path, minimal(1, pw=[{"selected": "left"}]), other)
    assert isinstance(group, Group)
    assert group.comparisons == VOTES[:1]
    assert bad == Quarantined("export.json", 2, "a text differs from an earlier row's of the same task")


def test_cancelled_and_empty_annotations_are_counted_and_no_labels(tmp_path: Path) -> None:
    *aside, group = read(tmp_path, task(annotation(RIGHT, cancelled=True), annotation(by=3), annotation(LEFT)))
    assert isinstance(group, Group)
    assert group.comparisons == VOTES[:1]
    assert aside == [
        Quarantined("export.json", 1, "an annotation was cancelled"),
        Quarantined("export.json", 1, "an annotation has no result"),
    ]


def test_predictions_are_no_judgements_and_an_unjudged_task_is_a_group(tmp_path: Path) -> None:
    assert one(tmp_path, task()).comparisons == ()
    unjudged = {**DATA, "id": 7, "annotator": None, "annotation_id": None, "created_at": None, "lead_time": None}
    assert one(tmp_path, unjudged).comparisons == ()


def test_a_ranker_orders_the_items_of_a_list(tmp_path: Path) -> None:
    items = [{"id": name, "title": name, "body": f"{name} text"} for name in ("blog", "mdn", "wiki")]
    fields = {"completion_fields": [f"items.{number}.body" for number in range(3)]}
    ranked = result("ranker", {"ranker": ["mdn", "wiki", "blog"]}, "results", "rank")
    group = one(tmp_path, task(annotation(ranked), items=items), **fields)
    assert [pair.chosen for pair in judged_pairs(group)] == [1, 2, 1]
    assert one(tmp_path, {**minimal(1, rank=[{"ranker": ["mdn", "wiki", "blog"]}]), "items": items}, **fields) == group
    buckets = result("ranker", {"ranker": {"best": ["mdn"], "rest": ["wiki", "blog"]}}, "results", "rank")
    assert "buckets have no order" in reason(tmp_path, task(annotation(buckets), items=items), **fields)


def test_ratings_of_each_completion_become_margins(tmp_path: Path) -> None:
    ratings = [result("rating", {"rating": n}, name, "quality") for n, name in ((2, "answer1"), (5, "answer2"))]
    group = one(tmp_path, task(annotation(*ratings, result("textarea", {"text": ["so"]}))))
    assert [(edge.wins_j, edge.margin) for edge in group.comparisons] == [(1.0, 3.0)]
    assert [completion.ratings for completion in group.completions] == [{"rating": 2.0}, {"rating": 5.0}]
    assert one(tmp_path, minimal(1, answer1_q=[{"rating": 2}], answer2_q=[{"rating": 5}])) == group


def test_of_several_controls_the_settings_name_the_one_with_the_preference(tmp_path: Path) -> None:
    topic = result("choices", {"choices": ["answer2"]}, from_name="topic")
    exports = task(annotation(choice("answer1"), topic)), minimal(1, best="answer1", topic="answer2")
    for export in exports:
        assert "name the control in data.control" in reason(tmp_path, export)
        assert [edge.wins_i for edge in one(tmp_path, export, control="best").comparisons] == [1.0]


def test_labels_say_what_a_choice_means(tmp_path: Path) -> None:
    labels = {"Yes": 1, "no": 2, "Hm": "both_bad", "Skip": "none"}
    for label, edges in (("yes", [(1.0, 0.0)]), ("No", [(0.0, 1.0)]), ("hm", [(0.0, 0.0)]), ("skip", [])):
        for export in (task(annotation(choice(label))), minimal(1, best=label)):
            comparisons = one(tmp_path, export, labels=labels).comparisons
            assert [(edge.wins_i, edge.wins_j) for edge in comparisons] == edges
    assert "names a completion that isn't there" in reason(
        tmp_path, task(annotation(choice("Yes"))), labels={"Yes": 3}
    )
    with pytest.raises(ValueError, match="counted from 1"):
        one(tmp_path, task(annotation(choice("Yes"))), labels={"Yes": 0})


def test_both_bad_is_a_tie(tmp_path: Path) -> None:
    group = one(tmp_path, task(annotation(choice("Both bad"))))
    assert group.comparisons[0].ties == 1.0


@pytest.mark.parametrize(
    ("record", "what"),
    [
        (task(annotation(result("pairwise", {"selected": "middle"}))), "neither left nor right"),
        (task(annotation(result("pairwise", {"selected": None}))), "neither left nor right"),
        (task(annotation(result("pairwise", {}))), "has no 'selected'"),
        (task(annotation(result("pairwise", None))), "has no 'selected'"),  # type: ignore[arg-type]
        (task(annotation(LEFT, LEFT)), "more than one pairwise"),
        (task(annotation(LEFT), annotation(LEFT)), "judged the task twice"),
        (task(annotation(LEFT), annotation(LEFT, by={"id": 1})), "judged the task twice"),
        (task(annotation(LEFT, by=True)), "neither a number nor a name"),
        (task(annotation(LEFT, by=[1])), "neither a number nor a name"),
        (task(annotation(choice("answer3"))), "names none of the completions"),
        (task(annotation(choice("A", "B"))), "not one label"),
        (task(annotation(choice(7))), "a label is not text"),
        (task(annotation(result("ranker", {"ranker": ["1", "1"]}))), "each completion once"),
        (task(annotation(result("ranker", {"ranker": ["1"]}))), "each completion once"),
        (task(annotation(result("rating", {"rating": 3}, "answer1"))), "fewer than two"),
        (task(annotation(result("rating", {"rating": "3"}, "answer1"))), "not a number"),
        (task(annotation(*[result("rating", {"rating": 3}, "answer1")] * 2)), "more than one rating"),
        (task(annotation(result("textarea", {"text": ["x"]}))), "neither names, ranks nor rates"),
        (minimal(1), "neither names, ranks nor rates"),
        (minimal(1, a="answer1", b="answer2"), "more than one choices"),
        (minimal(1, pw=[{"selected": "up"}]), "neither left nor right"),
        ({**task(), "annotations": {"id": 1}}, "no list of annotations"),
        ({**task(), "annotations": [{"result": "left"}]}, "result is no list"),
        (task(annotation(LEFT), answer1=None), "'answer1' is not text"),
        (task(annotation(LEFT), prompt=" "), "'prompt' is empty"),
        ({"id": 7, "data": {}}, "'answer1' is not text"),
        ({"id": [7]}, "'answer1' is not text"),
    ],
)
def test_a_bad_task_is_set_aside(tmp_path: Path, record: Any, what: str) -> None:
    assert what in reason(tmp_path, record)


def test_no_name_or_address_reaches_the_data(tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text(json.dumps([task(annotation(LEFT, by={"email": "anne@example.org"}))]))
    settings = settings_module.compose(["data=label_studio", f"data.path={tmp_path / 'e.json'}"], ROOT / "configs")
    assert import_source(settings, ROOT, tmp_path / "data").comparisons == 1
    assert "anne@example.org" not in (tmp_path / "data" / "groups.jsonl").read_text()


def test_chat_messages_are_the_prompt(tmp_path: Path) -> None:
    said = [{"author": "Human", "text": "Name a colour."}]
    group = one(tmp_path, task(annotation(LEFT), prompt=said), role_key="author")
    assert [(message.role, message.content) for message in group.prompt] == [("user", "Name a colour.")]
    row = {**minimal(1, best="answer1"), "prompt": said}
    assert one(tmp_path, row, role_key="author").prompt == group.prompt
    assert "unknown role" in reason(tmp_path, task(annotation(LEFT), prompt=said))
