"""The table source: paths, forms of prompts and completions, every kind of judgement, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from pydantic import TypeAdapter, ValidationError

from tests.worlds.tables import encoded, judged_tables, lines
from touchstone.data.sources import Quarantined, about, read_source, table
from touchstone.data.sources.paths import value_at
from touchstone.data.sources.rows import Unusable
from touchstone.errors import SourceError
from touchstone.groups import Comparison, Group, Message, judged_pairs, prompt_digest
from touchstone.settings.data import Data
from touchstone.settings.table import TableData

PAIR = {"question": "Name a colour.", "answer_a": "Blue.", "answer_b": "Seven."}
COLUMNS = {"prompt": "question", "completions": ["answer_a", "answer_b"]}


def data(judgement: dict[str, Any] | None = None, **more: Any) -> TableData:
    settings = {"source": "table", "name": "mine", "path": "rows.jsonl", **COLUMNS, **more}
    settings.setdefault("judgements", {"helpfulness": judgement or {"kind": "order"}})
    parsed = TypeAdapter(Data).validate_python(settings)
    assert isinstance(parsed, TableData)
    return parsed


def read(root: Path, settings: TableData, *rows: Any) -> list[Group | Quarantined]:
    (root / "rows.jsonl").write_text(lines(rows))
    return list(read_source(settings, root))


def groups(root: Path, settings: TableData, *rows: Any) -> list[Group]:
    read_rows = read(root, settings, *rows)
    assert all(isinstance(row, Group) for row in read_rows), read_rows
    return [row for row in read_rows if isinstance(row, Group)]


def reason(root: Path, settings: TableData, *rows: Any) -> str:
    """Why the last row was set aside; the ones before it are fine."""
    *_, bad = sorted(read(root, settings, *rows), key=lambda row: isinstance(row, Quarantined))
    assert isinstance(bad, Quarantined)
    assert bad.line == len(rows)
    return bad.reason


def winners(group: Group) -> list[tuple[int, int, float]]:
    """(winner or first, loser or second, ties) of each comparison."""
    return [(e.i, e.j, e.ties) if e.wins_i >= e.wins_j else (e.j, e.i, e.ties) for e in group.comparisons]


# Paths


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a", 1),
        ("b.c", 2),
        ("d.e", "a name with a dot"),
        ("f.g.h", "inside a name with a dot"),
        ("list[].x", [1, None, 3]),
        ("list[0].x", 1),
        ("list[-1].x", 3),
        ("list[7].x", None),
        ("nested[].ys[]", [[1, 2], [3]]),
        ("matrix[][]", [[1], [2, 3]]),
        ("odd[]", "a name that ends like a step"),
        ("coded.k[].z", [5]),
        ("nowhere.at.all", None),
        ("a.deeper", None),
        ("nan", None),
    ],
)
def test_a_path_leads_to_its_value(path: str, value: Any) -> None:
    row = {
        "a": 1,
        "b": {"c": 2},
        "d.e": "a name with a dot",
        "d": {"e": "not this one"},
        "f.g": {"h": "inside a name with a dot"},
        "list": [{"x": 1}, {}, {"x": 3}],
        "nested": [{"ys": [1, 2]}, {"ys": [3]}],
        "matrix": [[1], [2, 3]],
        "odd[]": "a name that ends like a step",
        "coded": '{"k": [{"z": 5}]}',
        "nan": float("nan"),
    }
    assert value_at(row, path) == value


@pytest.mark.parametrize("path", ["a[]", "text.x", "text[]"])
def test_a_path_through_what_holds_nothing_is_unusable(path: str) -> None:
    with pytest.raises(Unusable, match="'"):
        value_at({"a": {"b": 1}, "text": "no JSON"}, path)


# Labels


@pytest.mark.parametrize(
    ("label", "place"),
    [
        ("a", 0), ("B", 1), ("answer_b", 1), ("Answer A", 0), ("model_a", 0), ("response-b", 1), ("left", 0),
        ("second", 1), ("gpt-7", 0), ("tie", None), ("Both bad", None), ("tie (bothbad)", None),
    ],
)  # fmt: skip
def test_a_label_names_a_column_a_policy_or_a_place(tmp_path: Path, label: str, place: int | None) -> None:
    settings = data({"kind": "label", "field": "winner"}, policies=["who_a", "who_b"])
    (group,) = groups(tmp_path, settings, {**PAIR, "winner": label, "who_a": "gpt-7", "who_b": "small"})
    (pair,) = judged_pairs(group)
    assert pair.chosen == place
    assert [completion.policy for completion in group.completions] == ["gpt-7", "small"]


def test_a_columns_own_name_goes_before_its_place(tmp_path: Path) -> None:
    turned = data({"kind": "label", "field": "winner"}, completions=["answer_b", "answer_a"])
    (group,) = groups(tmp_path, turned, {**PAIR, "winner": "a"})
    assert group.completions[1].text == "Blue."
    assert winners(group) == [(1, 0, 0.0)]
    zero = data({"kind": "label", "field": "winner"}, completions=["answer_0", "answer_1"])
    row = {"question": "?", "answer_0": "Blue.", "answer_1": "Seven."}
    assert winners(*groups(tmp_path, zero, {**row, "winner": "answer_1"})) == [(1, 0, 0.0)]
    # The second by its name, the first by its place: nobody can know.
    assert "names no completion" in reason(
        tmp_path, zero, {**row, "winner": "answer_0"}, {**row, "winner": "option 1"}
    )


@pytest.mark.parametrize("label", [0, 1, 2, 1.0, "0", "1", "2.0", True, False, "true", "False"])
def test_a_bare_number_or_truth_value_needs_a_map(tmp_path: Path, label: Any) -> None:
    bad = reason(tmp_path, data({"kind": "label", "field": "y"}), {**PAIR, "y": "a"}, {**PAIR, "y": label})
    assert "'y' holds bare numbers or truth values" in bad
    assert "data.judgements.helpfulness.labels" in bad


@pytest.mark.parametrize(
    ("first", "second"), [(1, 0), (0, 1), (True, False), ("1", "0"), (1.0, 0.0), ("True", "FALSE")]
)
def test_a_map_says_what_a_label_means(tmp_path: Path, first: Any, second: Any) -> None:
    settings = data({"kind": "label", "field": "y", "labels": {first: 1, second: 2, "skip": "none", "x": "both_bad"}})
    labels = [first, second, "skip", "X ", "tie", None, " "]
    read_groups = groups(tmp_path, settings, *({**PAIR, "y": label} for label in labels))
    assert [winners(group) for group in read_groups] == [
        [(0, 1, 0.0)], [(1, 0, 0.0)], [], [(0, 1, 1.0)], [(0, 1, 1.0)], [], []
    ]  # fmt: skip
    assert "labels doesn't name" in reason(tmp_path, settings, {**PAIR, "y": first}, {**PAIR, "y": 7})


def test_a_label_that_names_nothing_is_set_aside_by_its_field_and_without_its_text(tmp_path: Path) -> None:
    settings = data({"kind": "label", "field": "verdict.winner"})
    bad = reason(tmp_path, settings, {**PAIR, "verdict": {"winner": "a"}}, {**PAIR, "verdict": {"winner": "zebra"}})
    assert "'verdict.winner'" in bad
    assert "zebra" not in bad


def test_votes_of_several_annotators_stay_several(tmp_path: Path) -> None:
    listed = data({"kind": "label", "field": "votes[].best", "annotator": "votes[].user"})
    votes = [{"best": "a", "user": "ann"}, {"best": "b", "user": 7}, {"best": None, "user": "eve"}, {"best": "a"}]
    (group,) = groups(tmp_path, listed, {**PAIR, "votes": votes})
    assert winners(group) == [(0, 1, 0.0), (1, 0, 0.0), (0, 1, 0.0)]
    names = [edge.annotator for edge in group.comparisons]
    assert names[2] is None
    assert len({*names}) == 3
    assert "ann" not in str(names)
    columns = data({"kind": "label", "field": ["one", "two"]})
    (group,) = groups(tmp_path, columns, {**PAIR, "one": "a", "two": "tie"})
    assert winners(group) == [(0, 1, 0.0), (0, 1, 1.0)]
    assert len({edge.annotator for edge in group.comparisons}) == 2
    again = groups(tmp_path, columns, {**PAIR, "one": "b", "two": None})
    assert again[0].comparisons[0].annotator == group.comparisons[0].annotator


def test_one_hot_columns_and_their_ties(tmp_path: Path) -> None:
    settings = data({"kind": "one_hot", "field": ["win_a", "win_b"], "ties": ["neither"]})
    rows = [
        {"win_a": 1, "win_b": 0, "neither": 0},
        {"win_a": "0", "win_b": "1", "neither": "0"},
        {"win_a": False, "win_b": False, "neither": True},
        {"win_a": None, "win_b": None, "neither": None},
    ]
    read_groups = groups(tmp_path, settings, *({**PAIR, **row} for row in rows))
    assert [winners(group) for group in read_groups] == [[(0, 1, 0.0)], [(1, 0, 0.0)], [(0, 1, 1.0)], []]
    fine = {**PAIR, **rows[0]}
    for bad in ({"win_a": 1, "win_b": 1}, {"win_a": 0, "win_b": 0}, {"win_a": 1, "win_b": 0, "neither": 1}):
        assert "not exactly one is 1" in reason(tmp_path, settings, fine, {**PAIR, **bad})
    assert "neither 0 nor 1" in reason(tmp_path, settings, fine, {**PAIR, "win_a": 0.7, "win_b": 0.3})


def test_a_strengths_sign_is_the_winner_and_its_size_the_margin(tmp_path: Path) -> None:
    settings = data({"kind": "strength", "field": "s", "first_is": "negative"})
    read_groups = groups(tmp_path, settings, *({**PAIR, "s": s} for s in (-3, "2", 0, None)))
    assert [group.comparisons for group in read_groups] == [
        (Comparison(0, 1, 1.0, 0.0, margin=3.0),),
        (Comparison(0, 1, 0.0, 1.0, margin=2.0),),
        (Comparison(0, 1, 0.0, 0.0, 1.0),),
        (),
    ]
    turned = data({"kind": "strength", "field": "s", "first_is": "positive", "tie_below": 1.5})
    assert [winners(group) for group in groups(tmp_path, turned, {**PAIR, "s": 3}, {**PAIR, "s": -1})] == [
        [(0, 1, 0.0)],
        [(0, 1, 1.0)],
    ]
    assert "'s' is not a number" in reason(tmp_path, turned, {**PAIR, "s": 3}, {**PAIR, "s": "much"})


def test_ratings_in_a_list_in_columns_and_of_several_annotators(tmp_path: Path) -> None:
    listed = {
        "completions": ["answers[].text"],
        "policies": ["answers[].model"],
        "judgements": {
            "quality": {
                "kind": "ratings",
                "field": "answers[].overall",
                "labels": {"N/A": "none"},
                "aspects": {"style": "answers[].notes.style", "all": "answers[].notes"},
            }
        },
    }
    answers = [
        {"text": "Blue.", "model": "m1", "overall": "4.5", "notes": {"style": 3}},
        {"text": "Red.", "model": None, "overall": 4.5, "notes": {"style": "N/A"}},
        {"text": "Seven.", "model": "m2", "overall": 1, "notes": {"style": 2}},
        {"text": "Eight.", "model": "m2", "overall": "N/A", "notes": {"style": 1}},
    ]
    (group,) = groups(tmp_path, data(**listed), {"question": "?", "answers": answers})
    assert group.axis == "quality"
    assert [completion.policy for completion in group.completions] == ["m1", None, "m2", "m2"]
    assert winners(group) == [(0, 1, 1.0), (0, 2, 0.0), (1, 2, 0.0)]
    assert [edge.margin for edge in group.comparisons] == [None, 3.5, 3.5]
    assert group.completions[0].ratings == {"overall": 4.5, "style": 3.0, "all.style": 3.0}
    assert group.completions[1].ratings == {"overall": 4.5}
    columns = data({"kind": "ratings", "field": ["score_a", "score_b"], "tie_below": 0.5})
    (group,) = groups(tmp_path, columns, {**PAIR, "score_a": 1, "score_b": 3})
    assert group.comparisons == (Comparison(0, 1, 0.0, 1.0, margin=2.0),)
    assert [completion.ratings for completion in group.completions] == [{"helpfulness": 1.0}, {"helpfulness": 3.0}]
    parallel = data({"kind": "ratings", "field": "scores"}, completions=["texts[]"])
    (group,) = groups(tmp_path, parallel, {"question": "?", "texts": ["Blue.", "Seven."], "scores": [2, 1]})
    assert winners(group) == [(0, 1, 0.0)]
    bad = {"question": "?", "texts": ["Blue.", "Seven."], "scores": [2]}
    assert "'scores' has not one value for each completion" in reason(
        tmp_path, parallel, {**bad, "scores": [1, 2]}, bad
    )
    people = data({"kind": "ratings", "field": "votes[].stars", "annotator": "votes[].who"})
    votes = [{"who": "ann", "stars": [5, 1]}, {"who": "bob", "stars": [2, 3]}, {"who": "eve", "stars": [2, None]}]
    (group,) = groups(tmp_path, people, {**PAIR, "votes": votes})
    assert winners(group) == [(0, 1, 0.0), (1, 0, 0.0)]
    assert group.completions[0].ratings == {"stars": 3.0}


def test_ranks_count_places(tmp_path: Path) -> None:
    settings = data({"kind": "ranks", "field": "ranks"}, completions=["texts[]"])
    row = {"question": "?", "texts": ["a", "b", "c", "d"], "ranks": [2, 1, 2, None]}
    (group,) = groups(tmp_path, settings, row)
    assert winners(group) == [(1, 0, 0.0), (0, 2, 1.0), (1, 2, 0.0)]
    assert {edge.margin for edge in group.comparisons} == {None}


def test_order_is_a_ranking_within_one_list_and_columns_in_their_order(tmp_path: Path) -> None:
    ranking = data(completions=["texts[]"])
    (group,) = groups(tmp_path, ranking, {"question": "?", "texts": ["a", "b", "c"]})
    assert winners(group) == [(0, 1, 0.0), (0, 2, 0.0), (1, 2, 0.0)]
    mixed = data(completions=["chosen", "rejected[]"])
    (group,) = groups(tmp_path, mixed, {"question": "?", "chosen": "a", "rejected": ["b", "c"]})
    assert winners(group) == [(0, 1, 0.0), (0, 2, 0.0)]
    several = data(completions=["chosen[]", "rejected[]"])
    rows = [
        {"question": "?", "chosen": [], "rejected": ["b", "c"]},
        {"question": "?", "chosen": ["a"], "rejected": ["b"]},
    ]
    none, one = groups(tmp_path, several, *rows)
    assert winners(none) == []
    assert winners(one) == [(0, 1, 0.0)]


def test_margins_of_a_label_and_what_a_negative_one_means(tmp_path: Path) -> None:
    scores = data(
        {"kind": "label", "field": "w", "margin": ["score_a", "score_b"], "aspects": {"s": ["score_a", "score_b"]}}
    )
    fine = {**PAIR, "w": "b", "score_a": 0, "score_b": 8}
    (group, tied) = groups(tmp_path, scores, fine, {**fine, "w": "tie"})
    assert group.comparisons == (Comparison(0, 1, 0.0, 1.0, margin=8.0),)
    assert group.completions[1].ratings == {"s": 8.0}
    assert tied.comparisons[0].margin is None
    bad = reason(tmp_path, scores, fine, {**fine, "w": "a"})
    assert "'score_a, score_b' is below 0" in bad
    assert "the judgement prefers is the worse one" in bad
    single = data({"kind": "order", "margin": "m"})
    assert groups(tmp_path, single, {**PAIR, "m": 0})[0].comparisons[0].margin == 0.0
    assert "'m' is below 0" in reason(tmp_path, single, {**PAIR, "m": 1}, {**PAIR, "m": -2.5})
    assert "no field 'm'" in reason(tmp_path, single, {**PAIR, "m": 1}, PAIR)
    votes = data({"kind": "label", "field": "votes[].w", "margin": "votes[].m"})
    (group,) = groups(tmp_path, votes, {**PAIR, "votes": [{"w": "a", "m": 3}, {"w": "b", "m": 1}]})
    assert [edge.margin for edge in group.comparisons] == [3.0, 1.0]


def test_a_map_of_labels_says_nothing_about_aspects(tmp_path: Path) -> None:
    judgement = {"kind": "label", "field": "y", "labels": {1: 1, 0: 2}, "aspects": {"level": ["la", "lb"]}}
    (group,) = groups(tmp_path, data(judgement), {**PAIR, "y": 0, "la": 0, "lb": 1})
    assert [completion.ratings["level"] for completion in group.completions] == [0.0, 1.0]


# Axes, clusters, times


def test_two_judgements_are_two_axes(tmp_path: Path) -> None:
    judgements = {name: {"kind": "label", "field": name} for name in ("helpfulness", "safety")}
    rows = [{**PAIR, "helpfulness": "a", "safety": "b"}, {**PAIR, "helpfulness": None, "safety": "a"}, PAIR]
    read_groups = groups(tmp_path, data(judgements=judgements), *rows)
    assert [(group.axis, winners(group)) for group in read_groups] == [
        ("helpfulness", [(0, 1, 0.0)]),
        ("safety", [(1, 0, 0.0)]),
        ("safety", [(0, 1, 0.0)]),
        ("helpfulness", []),
    ]
    assert "'safety'" in reason(tmp_path, data(judgements=judgements), rows[0], {**rows[0], "safety": "zebra"})


def test_a_row_may_name_its_axis_cluster_and_time(tmp_path: Path) -> None:
    settings = data({"kind": "order"}, axis_field="about", cluster="topic", time="at")
    rows = [
        {**PAIR, "about": "safety", "topic": "sea", "at": "2024-03-01T10:00:00"},
        {**PAIR, "about": "tone", "topic": "sea", "at": 1_600_000_000},
        {**PAIR, "about": "tone", "topic": 7, "at": None},
    ]
    first, second, third = groups(tmp_path, settings, *rows)
    assert [group.axis for group in (first, second, third)] == ["safety", "tone", "tone"]
    assert first.cluster_id == second.cluster_id != third.cluster_id
    assert first.cluster_id not in ("sea", prompt_digest(first.prompt))
    assert [group.created_at for group in (first, second, third)] == [
        "2024-03-01T10:00:00",
        "2020-09-13T12:26:40+00:00",
        None,
    ]
    assert "'about' names no axis" in reason(tmp_path, settings, rows[0], {**rows[0], "about": None})
    assert "'topic' names no cluster" in reason(tmp_path, settings, rows[0], {**rows[0], "topic": None})
    assert "'at' is no date" in reason(tmp_path, settings, rows[0], {**rows[0], "at": "yesterday"})


# Prompts


def dialogue(*texts: str, first: str = "user") -> list[dict[str, str]]:
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]


ASKED = (Message("user", "Name a colour."),)
LONG = (Message("user", "Hi."), Message("assistant", "Hello."), Message("user", "Name a colour."))


@pytest.mark.parametrize(
    ("row", "settings", "prompt"),
    [
        ({"prompt": "Name a colour."}, {}, ASKED),
        ({"prompt": dialogue("Name a colour.")}, {}, ASKED),
        ({"prompt": {"role": "user", "content": "Name a colour."}}, {}, ASKED),
        ({"prompt": json.dumps(dialogue("Name a colour."))}, {}, ASKED),
        ({"prompt": '[{"x": 1}]'}, {}, (Message("user", '[{"x": 1}]'),)),
        ({"prompt": json.dumps(dialogue("Name a colour."))}, {"prompt_form": "json"}, ASKED),
        ({"prompt": '"Name a colour."'}, {"prompt_form": "json"}, ASKED),
        ({"prompt": '["Name a colour."]'}, {"prompt_form": "json"}, ASKED),
        ({"prompt": '["Name a colour."]'}, {}, (Message("user", '["Name a colour."]'),)),
        ({"prompt": "\n\nHuman: Name a colour.\n\nAssistant: "}, {}, ASKED),
        (
            {"prompt": "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: Name\n\nHuman: a colour.\n\nAssistant:"},
            {"prompt_form": "transcript"},
            (*LONG[:2], Message("user", "Name\n\na colour.")),
        ),
        ({"prompt": [{"from": "human", "value": "Name a colour."}]}, {}, ASKED),
        (
            {"prompt": [{"who": "Guest", "says": "Name a colour."}]},
            {"role_key": "who", "content_key": "says", "roles": {"Guest": "user"}},
            ASKED,
        ),
        ({"prompt": [{"role": "user", "content": [{"type": "text", "text": "Name a colour."}]}]}, {}, ASKED),
        ({"prompt": "Name a colour.", "rules": "Brief."}, {"system": "rules"}, (Message("system", "Brief."), *ASKED)),
        ({"prompt": "Name a colour.", "rules": ""}, {"system": "rules"}, ASKED),
        ({"prompt": "Name", "input": "a colour."}, {"input": "input"}, (Message("user", "Name\n\na colour."),)),
        ({"prompt": "Name a colour.", "past": [["Hi.", "Hello."]]}, {"history": "past"}, LONG),
        ({"prompt": "Name a colour.", "past": dialogue("Hi.", "Hello.")}, {"history": "past"}, LONG),
        ({"prompt": "Name a colour.", "past": '[["Hi.", "Hello."]]'}, {"history": "past"}, LONG),
        ({"info": {"title": "Name", "post": "a colour.", "x": None}},
         {"prompt": ["info.title", "info.post", "info.x"]},
         (Message("user", "Name\n\na colour."),)),
    ],
)  # fmt: skip
def test_prompts_in_many_forms(tmp_path: Path, row: Any, settings: Any, prompt: tuple[Message, ...]) -> None:
    settings = {"prompt": "prompt", **settings}
    (group,) = groups(tmp_path, data(**settings), {"answer_a": "Blue.", "answer_b": "Seven.", **row})
    assert group.prompt == prompt
    assert [completion.text for completion in group.completions] == ["Blue.", "Seven."]


@pytest.mark.parametrize(
    ("row", "settings"),
    [
        ({"a": dialogue("Name a colour.", "Blue."), "b": dialogue("Name a colour.", "Seven.")}, {"prompt": None}),
        ({"q": "Name a colour.", "a": dialogue("Name a colour.", "Blue."),
          "b": dialogue("Name a colour.", "Seven.")}, {}),
        ({"q": "Name a colour.", "a": dialogue("Blue.", first="assistant"), "b": "Seven."}, {}),
        ({"q": "Name a colour.", "a": {"from": "gpt", "value": "Blue."}, "b": {"from": "gpt", "value": "Seven."}}, {}),
        ({"a": dialogue("Name a colour.", "Blue."), "b": "Seven."}, {"prompt": None}),
        ({"a": "Name a colour. Blue.", "b": "Name a colour. Seven."}, {"prompt": None}),
        ({"a": "\n\nHuman: Name a colour.\n\nAssistant: Blue.", "b": "\n\nHuman: Name a colour.\n\nAssistant: Seven."},
         {"prompt": None}),
        ({"a": json.dumps(dialogue("Name a colour.", "Blue.")), "b": json.dumps(dialogue("Name a colour.", "Seven."))},
         {"prompt": None}),
        ({"q": '["Name a colour."]', "a": '["Blue."]', "b": '["Seven."]'},
         {"prompt_form": "json", "completion_form": "json"}),
        ({"q": ["Name a colour."], "a": ["Blue."], "b": ["Seven."]}, {}),
        ({"a": dialogue("Name a colour.", "Blue.", "More?", "Red."), "b": dialogue("Name a colour.", "Seven."),
          "turn": 1}, {"prompt": None, "turn": "turn"}),
    ],
)  # fmt: skip
def test_completions_in_many_forms_mean_the_same(tmp_path: Path, row: Any, settings: Any) -> None:
    settings = {"prompt": "q", "completions": ["a", "b"], **settings}
    (group,) = groups(tmp_path, data(**settings), row)
    assert group.prompt == ASKED
    assert [completion.text for completion in group.completions] == ["Blue.", "Seven."]
    assert winners(group) == [(0, 1, 0.0)]


def test_a_prompt_may_lack_what_the_dialogues_have_before_or_after_it(tmp_path: Path) -> None:
    settings = data(prompt="q", completions=["a", "b"])
    rules = {"role": "system", "content": "Be brief."}
    system = {"q": "Name a colour.", "a": [rules, *dialogue("Name a colour.", "Blue.")],
              "b": [rules, *dialogue("Name a colour.", "Seven.")]}  # fmt: skip
    history = {"q": "Name a colour.", "a": dialogue("Hi.", "Hello.", "Name a colour.", "Blue."),
               "b": dialogue("Hi.", "Hello.", "Name a colour.", "Seven.")}  # fmt: skip
    first, second = groups(tmp_path, settings, system, history)
    assert first.prompt == (Message("system", "Be brief."), *ASKED)
    assert second.prompt == LONG
    assert "set data.prompt to null" in reason(tmp_path, settings, system, {**system, "q": "Another."})


@pytest.mark.parametrize(
    ("row", "settings", "why"),
    [
        ({"a": "x"}, {}, "no field 'b'"),
        ({"a": "x", "b": " "}, {}, "'b' is empty"),
        ({"a": "x", "b": 7}, {}, "'b' is neither text nor messages"),
        ({"a": "x", "b": ["y", "z"]}, {}, "name its items with 'b[]'"),
        ({"a": "x", "b": "y", "q": None}, {}, "no field 'q'"),
        ({"a": "x", "b": "y", "q": []}, {}, "'q' is neither text nor messages"),
        ({"a": "x", "b": "y", "q": dialogue("Hi.", "Hello.")}, {}, "turns are out of order"),
        ({"a": "x", "b": "y", "q": [{"role": "oracle", "content": "Hm."}]}, {}, "data.roles"),
        ({"a": "x", "b": "y", "q": [{"role": "user", "content": None}]}, {}, "data.content_key"),
        ({"a": "x", "b": "y", "q": "no"}, {"prompt_form": "json"}, "'q' holds no valid JSON"),
        ({"a": "x", "b": "y", "q": "no"}, {"prompt_form": "messages"}, "'q' is text, not messages"),
        ({"a": [{"role": "assistant", "content": "x", "tool_calls": [{}]}], "b": "y"}, {}, "tool calls"),
        ({"a": dialogue("Name a colour.", "Blue.", "And?"), "b": "y"}, {}, "'a' doesn't end with an assistant turn"),
        ({"a": dialogue("Q", "1", "R", "2"), "b": dialogue("Q", "3", "R", "4")}, {"prompt": None}, "part before"),
        ({"q": ["Q", "R"], "a": ["1", "2"], "b": ["3", "4"]}, {}, "part before their last turn"),
        ({"q": ["Q", "R"], "a": ["1", "2"], "b": ["3"]}, {}, "'b' has not one answer for each turn of the prompt"),
        ({"a": "x", "b": "y", "c": "z"}, {"prompt": None, "completions": ["a", "b", "c"]}, "no prompt"),
        ({"a": "x", "b": "y", "who": 7}, {"policies": ["who", "who"]}, "'who, who' is not text"),
    ],
)  # fmt: skip
def test_a_row_of_another_shape_is_set_aside_with_its_field(tmp_path: Path, row: Any, settings: Any, why: str) -> None:
    fine = {"q": "Name a colour.", "a": dialogue("Name a colour.", "Blue."), "b": dialogue("Name a colour.", "Seven."),
            "c": dialogue("Name a colour.", "Red."), "who": "m"}  # fmt: skip
    if "q" not in row:
        row = {"q": "Name a colour.", **row}
    if settings.get("prompt_form") == "json":
        fine["q"] = '"Name a colour."'
    elif settings.get("prompt_form") == "messages":
        fine["q"] = dialogue("Name a colour.")
    assert why in reason(tmp_path, data(**{"prompt": "q", "completions": ["a", "b"], **settings}), fine, row)


def test_null_tool_calls_are_absent_and_other_columns_mean_nothing(tmp_path: Path) -> None:
    turn = {"role": "user", "content": "Name a colour.", "tool_calls": None, "name": "x"}
    (group,) = groups(tmp_path, data(), {**PAIR, "question": [turn], "else": {"a": [1]}})
    assert group.prompt == ASKED


# Rows that belong together


def test_rows_with_one_prompt_are_merged_where_that_is_asked_for(tmp_path: Path) -> None:
    judgement = {"kind": "label", "field": "w", "annotator": "who"}
    turned = {"question": "Name a colour.", "answer_a": "Seven.", "answer_b": "Blue."}
    rows = [
        {**PAIR, "w": "a", "who": "ann"},
        {**PAIR, "question": "Name a shape.", "w": "b", "who": "ann"},
        {**turned, "w": "b", "who": "bob"},
        {**PAIR, "answer_b": "Red.", "w": "tie", "who": "bob"},
    ]
    colour, shape = groups(tmp_path, data(judgement, merge=True), *rows)
    assert [completion.text for completion in colour.completions] == ["Blue.", "Seven.", "Red."]
    assert winners(colour) == [(0, 1, 0.0), (0, 1, 0.0), (0, 2, 1.0)]
    assert [edge.annotator for edge in colour.comparisons[1:]] == [colour.comparisons[1].annotator] * 2
    assert len(shape.completions) == 2
    same = {**rows[0], "answer_b": "Blue."}
    assert "two of the row's completions are the same" in reason(tmp_path, data(judgement, merge=True), rows[0], same)
    assert len(groups(tmp_path, data(judgement), *rows)) == 4


def completion_rows(judgement: dict[str, Any], **more: Any) -> TableData:
    return data(judgement, rows="completion", prompt="q", completions=["a"], **more)


def test_a_row_may_be_one_completion(tmp_path: Path) -> None:
    booleans = completion_rows({"kind": "ratings", "field": "label"})
    rows = [
        {"q": "Name a colour.", "a": "Blue.", "label": True},
        {"q": "Name a shape.", "a": "Round.", "label": "true"},
        {"q": "Name a colour.", "a": "Seven.", "label": False},
        {"q": "Name a colour.", "a": "Red.", "label": True},
        {"q": "Name a colour.", "a": "Green.", "label": None},
    ]
    colour, shape = groups(tmp_path, booleans, *rows)
    assert [completion.text for completion in colour.completions] == ["Blue.", "Seven.", "Red.", "Green."]
    assert winners(colour) == [(0, 1, 0.0), (0, 2, 1.0), (2, 1, 0.0)]
    assert shape.comparisons == ()
    assert "'label' is not a number" in reason(tmp_path, booleans, rows[0], rows[2], {**rows[0], "label": "good"})
    words = completion_rows({"kind": "ratings", "field": "label", "labels": {"good": 2, "bad": 0}})
    (group,) = groups(tmp_path, words, {**rows[0], "label": "bad"}, {**rows[2], "label": "Good"})
    assert group.comparisons == (Comparison(0, 1, 0.0, 1.0, margin=2.0),)


def test_rows_of_a_group_field_share_a_prompt(tmp_path: Path) -> None:
    settings = completion_rows({"kind": "ranks", "field": "rank"}, group_field="id")
    rows = [{"id": n // 2, "q": "Name a colour.", "a": f"Answer {n}.", "rank": n} for n in range(4)]
    first, second = groups(tmp_path, settings, *rows)
    assert winners(first) == winners(second) == [(0, 1, 0.0)]
    assert "its prompt is not that of the other rows" in reason(
        tmp_path, settings, *rows, {**rows[0], "q": "Another."}
    )
    assert "'id' names no group" in reason(tmp_path, settings, *rows, {**rows[0], "id": None})


def test_each_annotators_ratings_are_compared_among_themselves(tmp_path: Path) -> None:
    settings = completion_rows({"kind": "ratings", "field": "stars", "annotator": "who"})
    rows = [
        {"q": "?", "a": text, "who": who, "stars": stars}
        for text, who, stars in [("Blue.", "ann", 5), ("Seven.", "ann", 1), ("Blue.", "bob", 2), ("Seven.", "bob", 4)]
    ]
    (group,) = groups(tmp_path, settings, *rows)
    assert [completion.ratings["stars"] for completion in group.completions] == [3.5, 2.5]
    assert winners(group) == [(0, 1, 0.0), (1, 0, 0.0)]
    assert "an annotator rated the same completion twice" in reason(tmp_path, settings, *rows, rows[0])


def test_a_tree_is_a_group_for_each_message_that_was_answered(tmp_path: Path) -> None:
    settings = data(
        {"kind": "ranks", "field": "rank"},
        rows="tree",
        completions=None,
        cluster="id",
        tree={"leave_out": {"deleted": [True], "review_result": [False]}},
    )

    def message(text: str, role: str, *replies: Any, **more: Any) -> dict[str, Any]:
        return {"text": text, "role": role, "review_result": True, "replies": list(replies), **more}

    later = message("And?", "prompter", message("Red.", "assistant", rank=1), message("Teal.", "assistant", rank=0))
    root = message(
        "Name a colour.",
        "prompter",
        message("Blue.", "assistant", later, rank=0),
        message("Seven.", "assistant", rank=1),
        message("Spam.", "assistant", message("More?", "prompter"), deleted=True, rank=2),
        message("Hm.", "assistant", rank=None),
        message("Bad.", "assistant", review_result=False, rank=3),
    )
    left_out = read(tmp_path, settings, {"id": "t1", "prompt": root})
    assert [row.reason for row in left_out if isinstance(row, Quarantined)] == [
        "a reply left out by its 'deleted'",
        "a reply left out by its 'review_result'",
    ]
    first, second = (row for row in left_out if isinstance(row, Group))
    assert [completion.text for completion in first.completions] == ["Blue.", "Seven.", "Hm."]
    assert winners(first) == [(0, 1, 0.0)]
    assert second.prompt == (Message("user", "Name a colour."), Message("assistant", "Blue."), Message("user", "And?"))
    assert winners(second) == [(1, 0, 0.0)]
    assert first.cluster_id == second.cluster_id
    assert "no message" in reason(tmp_path, settings, {"id": "t1", "prompt": root}, {"id": "t2", "prompt": None})


# What is refused whole


def test_a_table_without_a_judgement_is_an_error_that_names_its_columns(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no row of rows\.jsonl holds a judgement in w; the columns are answer_a"):
        read(tmp_path, data({"kind": "label", "field": "w"}), {**PAIR, "w": None}, PAIR)
    with pytest.raises(SourceError, match=r"2 rows were set aside, most because 'w' holds bare numbers"):
        read(tmp_path, data({"kind": "label", "field": "w"}), *({**PAIR, "w": w} for w in (1, 0, None)))


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"judgement": {"kind": "label", "field": "winer"}}, "judgements.helpfulness.field"),
        ({"judgement": {"kind": "order", "annotator": "woker"}}, "judgements.helpfulness.annotator"),
        ({"policies": ["mdl.a", "mdl.b"]}, "policies"),
        ({"cluster": "tpic"}, "cluster"),
        ({"time": "tme"}, "time"),
    ],
)
def test_a_column_that_no_row_has_is_an_error_that_names_the_setting(
    tmp_path: Path, settings: dict[str, Any], setting: str
) -> None:
    with pytest.raises(SourceError, match=rf"data\.{setting}: no row of rows\.jsonl has .* the columns are answer_a"):
        read(tmp_path, data(**settings), PAIR)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"judgement": {"kind": "label"}}, "kind=label needs field"),
        ({"judgement": {"kind": "order", "field": "x"}}, "kind=order has no field"),
        ({"judgement": {"kind": "strength", "field": "x"}}, "needs first_is"),
        ({"judgement": {"kind": "label", "field": "x", "labels": {0: 0, 1: 1}}}, "counted from 1"),
        ({"judgement": {"kind": "label", "field": "x", "labels": {"a": 1, "A ": 2}}}, "the same but for case"),
        ({"judgement": {"kind": "ranks", "field": "x", "labels": {"a": 1}}}, "labels go with"),
        ({"judgement": {"kind": "ratings", "field": "x", "margin": "m"}}, "margin goes with"),
        ({"rows": "completion"}, "one path without a list step"),
        ({"rows": "completion", "completions": ["a"]}, "ratings or ranks, not order"),
        ({"completions": None}, "name the columns"),
        ({"merge": True, "rows": "tree", "judgement": {"kind": "ranks", "field": "r"}}, "merge goes with rows=group"),
        ({"rows": "tree", "judgement": {"kind": "ranks", "field": "r", "annotator": "x"}}, "neither axis_field nor"),
        ({"group_field": "id"}, "group_field goes with rows=completion"),
        (
            {"axis_field": "x", "judgements": {"a": {"kind": "order"}, "b": {"kind": "order"}}},
            "axis_field goes with one",
        ),
    ],
)
def test_settings_that_contradict_themselves_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        data(**settings)


def test_the_licence_is_what_the_settings_state() -> None:
    assert about(data(licence="CC0")).licence == "CC0"
    assert about(data()).licence == table.ABOUT.licence
    assert "hashed" in about(data({"kind": "label", "field": "x", "annotator": "who"})).annotators


def test_rows_of_groups_are_streamed(tmp_path: Path) -> None:
    """The first group comes before the last row was read, which here is no JSON."""
    (tmp_path / "rows.jsonl").write_text(lines([PAIR]) * 1_000 + "{")
    rows = read_source(data(), tmp_path)
    assert isinstance(next(rows), Group)
    assert sum(isinstance(row, Quarantined) for row in rows) == 1


# The readers that it can stand for


def test_the_readers_of_one_shape_are_the_table_with_settings(tmp_path: Path) -> None:
    """Same groups, labels and margins."""
    pair = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven.", "margin": 2}
    transcript = {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: No"}
    judged_by = {"judgements": {"helpfulness": {"kind": "order"}}}
    cases: list[tuple[list[Any], dict[str, Any], dict[str, Any]]] = [
        ([pair], {"source": "preference", "margin_field": "margin"},
         {"prompt": "prompt", "completions": ["chosen", "rejected"],
          "judgements": {"helpfulness": {"kind": "order", "margin": "margin"}}}),
        ([transcript], {"source": "hh_rlhf", "axis": "helpfulness"},
         {"prompt": None, "completions": ["chosen", "rejected"], **judged_by}),
    ]  # fmt: skip
    for rows, reader, settings in cases:
        (tmp_path / "rows.jsonl").write_text(lines(rows))
        where = {"name": "mine", "path": "rows.jsonl"}
        both = [
            list(read_source(TypeAdapter(Data).validate_python({**each, **where}), tmp_path))
            for each in (reader, {"source": "table", **settings})
        ]
        first, second = ([row for row in read_rows if isinstance(row, Group)] for read_rows in both)
        assert len(first) == len(second) == 1
        assert [(g.id, g.cluster_id, g.prompt, g.comparisons, g.axis) for g in first] == [
            (g.id, g.cluster_id, g.prompt, g.comparisons, g.axis) for g in second
        ]


# Whatever the table, labels in are labels out


@hypothesis_settings(max_examples=150, deadline=None)
@given(judged_tables())
def test_labels_out_are_the_labels_in(tmp_path_factory: pytest.TempPathFactory, world: Any) -> None:
    """Random tables of every kind of judgement, in any column order, under any names, in several encodings."""
    root = tmp_path_factory.mktemp("table")
    name, content = encoded(world.rows, world.encoding)
    (root / name).write_bytes(content)
    settings = TypeAdapter(Data).validate_python({"source": "table", "name": "mine", "path": name, **world.settings})
    try:
        read_rows = list(read_source(settings, root))
    except SourceError:
        assert not any(world.expected.values())
        return
    read_groups = [row for row in read_rows if isinstance(row, Group)]
    aside = [row for row in read_rows if isinstance(row, Quarantined)]
    assert world.carried(read_groups) + len(aside) == len(world.rows)
    assert len(aside) == world.broken
    assert all(row.reason for row in aside)
    outcomes = {
        (group.prompt[-1].content, *sorted((group.completions[p.first].text, group.completions[p.second].text))): (
            None if p.chosen is None else group.completions[p.chosen].text
        )
        for group in read_groups
        for p in judged_pairs(group)
    }
    assert outcomes == world.expected
