"""Reward benchmarks: what a published row becomes, and that their formulas can be computed from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.places import ROOT
from touchstone import settings as settings_module
from touchstone.data.importing import import_source
from touchstone.data.sources import Quarantined, read_source
from touchstone.errors import QuarantineError, SourceError
from touchstone.groups import Group
from touchstone.settings.data import BenchmarkData

FOUR = {
    "id": "12",
    "prompt": "Two and two?",
    "chosen": ["4"],
    "rejected": ["5", "3", "22"],
    "num_correct": 1,
    "num_incorrect": 3,
    "total_completions": 4,
    "models": ["a", "b", "b", "c"],
    "subset": "Math",
    "additional_metadata": {"category": None},
}
TIED = {
    **FOUR,
    "id": "tied:7",
    "subset": "Ties",
    "prompt": "Name a colour.",
    "chosen": ["Red.", "Blue."],
    "rejected": ["Seven."],
    "num_correct": 2,
    "num_incorrect": 1,
    "models": ["a"],
}
STYLED = {
    "id": "chat/3",
    "prompt": "Whose cat?",
    "chosen": ["c0", "c1", "c2"],
    "rejected": ["r0", "r1", "r2"],
    "domain": "safety-refuse",
}
OUTPUTS = {"input": "Say it again.", "output_1": "It again.", "output_2": "No.", "label": 1}
JUDGED = {
    "pair_id": "81ec57f2",
    "original_id": "10646",
    "source": "mmlu-pro-law",
    "question": "Which?",
    "response_model": "gpt-4o-2024-05-13",
    "response_A": "This.",
    "response_B": "That.",
    "label": "B>A",
}
ROWS = {"reward_bench_2": FOUR, "rm_bench": STYLED, "llm_bar": OUTPUTS, "judge_bench": JUDGED}


def read(root: Path, source: Any, *rows: Any, path: str = "set/rows.jsonl", where: str | None = None) -> list[Any]:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_source(BenchmarkData(source=source, name="bench", path=where or path), root))


def one(root: Path, source: Any, *rows: Any) -> Group:
    (group,) = read(root, source, *rows)
    assert isinstance(group, Group), group
    return group


def test_reward_bench_2_best_of_four(tmp_path: Path) -> None:
    group = one(tmp_path, "reward_bench_2", FOUR)
    assert group.axis == "Math"
    assert [(c.text, c.outcome, c.policy) for c in group.completions] == [
        ("4", 1.0, "a"), ("5", 0.0, "b"), ("3", 0.0, "b"), ("22", 0.0, "c"),
    ]  # fmt: skip
    assert [(edge.i, edge.j, edge.wins_i) for edge in group.comparisons] == [(0, 1, 1.0), (0, 2, 1.0), (0, 3, 1.0)]


def test_reward_bench_2_ties_come_in_scored_pairs(tmp_path: Path) -> None:
    ref = {**TIED, "id": "ref:7", "chosen": ["4"], "num_correct": 1, "prompt": "Two and two?"}
    tied, single, other = read(tmp_path, "reward_bench_2", TIED, ref, {**TIED, "id": "tied:8", "prompt": "Name one."})
    assert tied.cluster_id == single.cluster_id == "ties-7"
    assert other.cluster_id == "ties-8"
    assert [completion.outcome for completion in tied.completions] == [1.0, 1.0, 0.0]
    assert {completion.ratings["tied"] for completion in tied.completions} == {1.0}
    assert {completion.ratings["tied"] for completion in single.completions} == {0.0}
    assert [(edge.i, edge.j) for edge in tied.comparisons] == [(0, 2), (1, 2)]
    assert tied.completions[0].policy is None


def test_rm_bench_has_its_three_by_three_matrix(tmp_path: Path) -> None:
    group = one(tmp_path, "rm_bench", STYLED)
    assert group.axis == "safety-refuse"
    style = [completion.ratings["style"] for completion in group.completions]
    cells = {(style[edge.i], style[edge.j]) for edge in group.comparisons}
    assert cells == {(chosen, rejected) for chosen in (0, 1, 2) for rejected in (0, 1, 2)}
    assert all(group.completions[edge.i].outcome == 1.0 for edge in group.comparisons)


@pytest.mark.parametrize("where", ["bar", "bar/Adversarial/Neighbor", "bar/Adversarial/Neighbor/dataset.json"])
def test_llm_bar_takes_its_axis_from_the_folder(tmp_path: Path, where: str) -> None:
    evaluators = tmp_path / "bar" / "Adversarial" / "Neighbor" / "evaluators" / "GPT-4"
    evaluators.mkdir(parents=True)
    (evaluators / "result.json").write_text('[{"input": "x", "result": 1}]')
    (evaluators / "statistics.json").write_text('{\n "correct_average": 0.5\n}')
    path = "bar/Adversarial/Neighbor/dataset.json"
    (group,) = read(tmp_path, "llm_bar", [OUTPUTS], path=path, where=where)
    assert (group.axis, group.completions[0].outcome, group.comparisons[0].i) == ("Neighbor", 1.0, 0)


def test_judge_bench_pairs(tmp_path: Path) -> None:
    group = one(tmp_path, "judge_bench", JUDGED)
    assert (group.axis, group.comparisons[0].i) == ("mmlu-pro-law", 1)
    assert [(c.text, c.outcome, c.policy) for c in group.completions] == [
        ("This.", 0.0, "gpt-4o-2024-05-13"), ("That.", 1.0, "gpt-4o-2024-05-13"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "change", "what"),
    [
        ("reward_bench_2", {"num_correct": 2}, "'num_correct'"),
        ("reward_bench_2", {"num_incorrect": None}, "'num_incorrect'"),
        ("reward_bench_2", {"num_correct": True}, "'num_correct'"),
        ("reward_bench_2", {"rejected": []}, "'rejected' is not a list of 1"),
        ("reward_bench_2", {"chosen": "4"}, "'chosen' is not a list"),
        ("reward_bench_2", {"chosen": [4]}, "'chosen' is not text"),
        ("reward_bench_2", {"chosen": ["4", "four"], "num_correct": 2}, "more than one chosen"),
        ("reward_bench_2", {"subset": "Ties"}, "neither ref:number nor tied:number"),
        ("reward_bench_2", {"subset": "Ties", "id": "tied:x"}, "neither ref:number nor tied:number"),
        ("reward_bench_2", {"subset": None}, "'subset' is not text"),
        ("reward_bench_2", {"models": [1, 2, 3, 4]}, "'models'"),
        ("reward_bench_2", {"id": ["12"]}, "'id' is neither text nor a number"),
        ("rm_bench", {"chosen": ["c0", "c1"]}, "not 3 chosen"),
        ("rm_bench", {"rejected": ["r0", "r1", " "]}, "'rejected' is empty"),
        ("rm_bench", {"domain": 3}, "'domain' is not text"),
        ("llm_bar", {"label": 0}, "neither 1 nor 2"),
        ("llm_bar", {"label": True}, "neither 1 nor 2"),
        ("llm_bar", {"label": "1"}, "neither 1 nor 2"),
        ("llm_bar", {"output_2": None}, "'output_2' is not text"),
        ("judge_bench", {"label": "A=B"}, "neither A>B nor B>A"),
        ("judge_bench", {"label": ["A>B"]}, "neither A>B nor B>A"),
        ("judge_bench", {"response_model": 4}, "'response_model' is not text"),
        ("judge_bench", {"source": ""}, "'source' is empty"),
    ],
)
def test_a_bad_row_is_set_aside(tmp_path: Path, source: Any, change: dict[str, Any], what: str) -> None:
    good, bad = read(tmp_path, source, ROWS[source], {**ROWS[source], "id": "13", "pair_id": "82", **change})
    assert isinstance(good, Group)
    assert isinstance(bad, Quarantined)
    assert bad.line == 2
    assert what in bad.reason


@pytest.mark.parametrize("source", ["reward_bench_2", "rm_bench", "judge_bench"])
def test_the_same_rows_whole_and_in_parts_are_read_once(tmp_path: Path, source: Any) -> None:
    read(tmp_path, source, ROWS[source], path="set/a.jsonl")
    group, again = read(tmp_path, source, ROWS[source], path="set/total.jsonl", where="set")
    assert isinstance(group, Group)
    assert again == Quarantined("total.jsonl", 1, "a row of this name came before")


@pytest.mark.parametrize("source", sorted(ROWS))
def test_every_configuration_imports_and_a_hub_id_is_refused(tmp_path: Path, source: Any) -> None:
    read(tmp_path, source, ROWS[source])
    settings = settings_module.compose(
        [f"data={source}", f"data.path={tmp_path / 'set/rows.jsonl'}"], ROOT / "configs"
    )
    assert import_source(settings, ROOT, tmp_path / "data").groups == 1
    assert json.loads((tmp_path / "data" / "source.json").read_text())["about"]["licence"]
    with pytest.raises(SourceError, match="no local file or folder"):
        list(read_source(BenchmarkData(source=source, name="bench", path="a/b"), tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"holds no|is empty"):
        list(read_source(BenchmarkData(source=source, name="bench", path="empty"), tmp_path))


def test_a_folder_with_parts_stops_the_import(tmp_path: Path) -> None:
    for name in ("chat_filtered", "total_dataset"):
        read(tmp_path, "rm_bench", STYLED, path=f"set/{name}.jsonl")
    settings = settings_module.compose(["data=rm_bench", f"data.path={tmp_path / 'set'}"], ROOT / "configs")
    with pytest.raises(QuarantineError, match=r"came before: 1 \(first total_dataset\.jsonl, line 1\)"):
        import_source(settings, ROOT, tmp_path / "data")
