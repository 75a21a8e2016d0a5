"""Every preset of the table source, on invented rows of its shape: the better answer always says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.places import ROOT
from tests.worlds.preset_rows import ASKED, BAD, FAIR, GOOD, RANK, ROWS, copied
from touchstone import settings as settings_module
from touchstone.data.importing import import_source
from touchstone.data.sources import Quarantined, about, read_source
from touchstone.groups import Group, Message, judged_pairs
from touchstone.settings.table import UNKNOWN_LICENCE, TableData

PRESETS = sorted(
    path.stem for path in (ROOT / "configs" / "data").glob("*.yaml") if "defaults: [table]" in path.read_text()
)


def imported(name: str, root: Path, *overrides: str) -> tuple[list[Group], list[str]]:
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
    settings = settings_module.compose(
        [f"data={name}", "data.path=rows.jsonl", "data.revision=null", *overrides], ROOT / "configs"
    )
    rows = list(read_source(settings.data, root))
    return (
        [row for row in rows if isinstance(row, Group)],
        [row.reason for row in rows if isinstance(row, Quarantined)],
    )


def outcomes(groups: list[Group]) -> list[tuple[str, str, str | None]]:
    """(axis, text, text, the better one) of every judged pair."""
    return [
        (
            group.axis,
            group.completions[pair.first].text,
            group.completions[pair.second].text,
            None if pair.chosen is None else group.completions[pair.chosen].text,
        )
        for group in groups
        for pair in judged_pairs(group)
    ]


def test_every_preset_has_rows_here_and_a_line_in_the_table() -> None:
    page = (ROOT / "docs" / "data_sets.md").read_text()
    assert sorted(ROWS) == PRESETS
    assert [name for name in PRESETS if f"`{name}`" not in page] == []


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_prefers_what_its_rows_prefer(name: str, tmp_path: Path) -> None:
    groups, aside = imported(name, tmp_path)
    pairs = [pair for pair in outcomes(groups) if pair[0] == "helpfulness"]
    assert any(better is not None for *_, better in pairs)
    for _, first, second, better in pairs:
        if better is not None:
            assert better == max(first, second, key=RANK.__getitem__)
        else:
            assert {first, second} in ({GOOD, FAIR}, {BAD, BAD + "!"})
    assert all(group.prompt[-1].role == "user" for group in groups)
    assert len(aside) == {"oasst_trees": 2, "chatbot_arena": 1, "mt_bench_human": 1}.get(name, 0)
    assert {group.source for group in groups} == {name}


@pytest.mark.parametrize("name", PRESETS)
def test_clean_rows_of_a_preset_raise_no_alarm(name: str, tmp_path: Path) -> None:
    many = [copied(row, number) for number in range(12) for row in ROWS[name]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many))
    settings = settings_module.compose(
        [f"data={name}", "data.path=rows.jsonl", "data.revision=null", "importing.suspicion=warn"], ROOT / "configs"
    )
    assert [str(alarm) for alarm in import_source(settings, tmp_path, tmp_path / "data").alarms] == []


def test_two_axes_of_pku_disagree_where_its_rows_do(tmp_path: Path) -> None:
    groups, _ = imported("pku_saferlhf", tmp_path)
    assert [(axis, better) for axis, _, _, better in outcomes(groups)] == [
        ("helpfulness", GOOD),
        ("safety", GOOD),
        ("helpfulness", GOOD),
        ("safety", BAD),
    ]
    assert [completion.ratings for completion in groups[0].completions] == [{"severity": 0.0}, {"severity": 2.0}]
    safety, _ = imported("pku_saferlhf", tmp_path, "~data.judgements.helpfulness")
    assert {group.axis for group in safety} == {"safety"}


def test_several_judges_of_a_pair_stay_several(tmp_path: Path) -> None:
    (posts,), _ = imported("summarize_from_feedback", tmp_path)
    assert posts.prompt == (Message("user", f"Winter\n\n{ASKED}"),)
    assert len(posts.completions) == 3
    names = [edge.annotator for edge in posts.comparisons]
    assert names[0] == names[2] != names[1]
    (question,), (why,) = imported("mt_bench_human", tmp_path)
    assert why == "the dialogues part before their last turn"
    assert len(question.completions) == 2
    assert [(edge.i, edge.wins_i) for edge in question.comparisons] == [(0, 1.0), (1, 0.0)]
    assert len({edge.annotator for edge in question.comparisons}) == 2


def test_margins_and_ratings_are_carried(tmp_path: Path) -> None:
    groups, _ = imported("helpsteer2_preference", tmp_path)
    assert [edge.margin for group in groups for edge in group.comparisons] == [3.0, 1.0, None]
    groups, _ = imported("shp", tmp_path)
    assert [edge.margin for group in groups for edge in group.comparisons] == [35.0, 35.0]
    assert groups[0].cluster_id == groups[1].cluster_id
    (group,), _ = imported("ultrafeedback_raw", tmp_path)
    assert group.completions[1].ratings == {
        "fine-grained_score": 4.5, "helpfulness": 4.0, "instruction_following": 4.0, "truthfulness": 4.0
    }  # fmt: skip
    (group,), _ = imported("helpsteer2", tmp_path)
    assert group.completions[1].ratings["correctness"] == 4.0
    each, _ = imported("helpsteer3", tmp_path, 'data.judgements.helpfulness.field="individual_preference[].score"')
    assert [edge.margin for group in each for edge in group.comparisons] == [2.0, 3.0, None]


def test_context_is_part_of_the_prompt(tmp_path: Path) -> None:
    first, second = imported("llamafactory_alpaca", tmp_path)[0]
    assert first.prompt == (Message("user", f"Answer the question below.\n\n{ASKED}"),)
    assert [message.role for message in second.prompt] == ["system", "user", "assistant", "user"]
    (group,), _ = imported("ms_swift", tmp_path)
    assert group.prompt == (Message("system", "Be brief."), Message("user", ASKED))
    first, second = imported("orca_dpo_pairs", tmp_path)[0]
    assert [len(first.prompt), len(second.prompt)] == [2, 1]
    groups, aside = imported("oasst_trees", tmp_path)
    assert [len(group.prompt) for group in groups] == [1, 3]
    assert aside == ["a reply left out by its 'deleted'", "a reply left out by its 'review_result'"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_states_the_licence_of_its_data(name: str) -> None:
    settings = settings_module.compose([f"data={name}", "data.path=x"], ROOT / "configs")
    assert isinstance(settings.data, TableData)
    own = name in ("kto", "llamafactory_alpaca", "llamafactory_sharegpt", "ms_swift", "ranked", "rated")
    unstated = name in ("webgpt", "summarize_from_feedback")
    assert (about(settings.data).licence == UNKNOWN_LICENCE) == (own or unstated)
    assert settings.data.name == name


@pytest.mark.parametrize("name", PRESETS)
def test_the_commands_of_a_presets_head_compose(name: str) -> None:
    """What the head tells people to type is read as it stands."""
    import shlex

    head = [line.removeprefix("#").strip() for line in (ROOT / f"configs/data/{name}.yaml").read_text().splitlines()]
    text = "\n".join(line for line in head).replace("\\\n", " ")
    commands = [line for line in text.splitlines() if line.startswith(("make retrain", "touchstone data import"))]
    assert len(commands) == 2
    for command in commands:
        words = shlex.split(command, comments=True)
        if words[0] == "make":
            overrides = words[2].removeprefix("OVERRIDES=").split()
        else:
            overrides = [f"data={words[3]}", *words[4:]]
        settings_module.compose(overrides, ROOT / "configs")


def test_the_base_of_the_presets_names_every_setting() -> None:
    """Hydra overrides only what stands in a configuration."""
    base = yaml.safe_load((ROOT / "configs" / "data" / "table.yaml").read_text())["data"]
    assert set(base) == set(TableData.model_fields)
    assert set(base["judgements"]["helpfulness"]) == set(
        TableData.model_fields["judgements"].annotation.__args__[1].model_fields
    )
    assert set(base["tree"]) == set(TableData.model_fields["tree"].annotation.model_fields)
