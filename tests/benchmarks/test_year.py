"""The year's parts: what a night brings, batches that are read as they were made, a holdout that gives way."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.year.project import SHARES, rotate
from benchmarks.year.world import LAUNCHES, TABLE, Plan, batch, night_of, policies, write_batch
from tests.places import ROOT
from touchstone import settings as settings_module
from touchstone.data.sources import read_source
from touchstone.data.sources.sandbox_gold import read_prompt
from touchstone.data.splits import place, read_prompts
from touchstone.groups import Group, write_parquet

PLAN = Plan(
    nights=60, first=60, nightly=30, week=7, gold_groups=10, traffic=10, holdout_uses=3, warmup_steps=1, seed=17
)


def settings(path: Path) -> settings_module.Settings:
    values = settings_module.load(ROOT / "params.yaml").model_dump(mode="json")
    values["data"] = {**TABLE, "path": str(path)}
    values["split"]["shares"] = SHARES
    return settings_module.parse(values)


def test_a_year_has_every_kind_of_night() -> None:
    nights = [night_of(PLAN, number) for number in range(61)]
    assert {night.trouble for night in nights} == {"none", "kill", "double"}
    assert [night.number for night in nights if night.scheduled] == list(range(0, 61, 7))
    assert all(night.scheduled for night in nights if night.trouble != "none")
    for kind in ([n.groups == 0 for n in nights], [n.label_noise > 0 for n in nights], [n.poisoned for n in nights]):
        assert 3 <= sum(kind) <= 12
    assert policies(1.0)[0].wrong < policies(0.0)[0].wrong


def test_people_ask_about_a_subject_from_its_launch_on() -> None:
    plan = replace(PLAN, nightly=200)

    def topics(number: int) -> Counter[int | None]:
        groups = batch(plan, night_of(plan, number))
        return Counter(read_prompt(group.prompt).topic for group in groups)

    launches = [math.ceil(launch * PLAN.nights) for launch in LAUNCHES]
    before, after = topics(launches[0] - 1), topics(launches[0])
    (launched,) = set(after) - set(before)
    assert 0.3 < after[launched] / 200 < 0.5
    assert topics(launches[1])[launched] < 0.2 * 200
    assert len(set(topics(PLAN.nights))) == len(set(before)) + len(launches)


@pytest.mark.parametrize("number", [0, 15])
def test_a_batch_is_read_as_it_was_made(tmp_path: Path, number: int) -> None:
    night = night_of(PLAN, number)
    made = batch(PLAN, night)
    write_batch(tmp_path / "night.jsonl", made, night)
    read = list(read_source(settings(tmp_path / "night.jsonl").data, tmp_path))
    assert len(read) == len(made) > 0
    for group, was in zip(read, made, strict=True):
        assert isinstance(group, Group)
        assert (group.id, group.cluster_id, group.axis) == (was.id, was.cluster_id, was.axis)
        assert [c.policy for c in group.completions] == [c.policy for c in was.completions]
        outcomes = [(e.wins_i, e.wins_j, e.ties) for e in group.comparisons]
        assert outcomes == [(e.wins_i, e.wins_j, e.ties) for e in was.comparisons]


def test_a_spent_holdout_gives_way_to_prompts_that_nothing_learnt_from(tmp_path: Path) -> None:
    groups = tmp_path / "groups.parquet"
    write_parquet(groups, batch(PLAN, night_of(PLAN, 0)))
    path = tmp_path / "params.yaml"
    path.write_text(settings_module.dump(settings(tmp_path / "inbox")))

    def sets() -> list[str | None]:
        return place(read_prompts(groups), groups, settings_module.load(path).split).sets

    before = sets()
    assert rotate(tmp_path)
    turned: dict[str | None, str | None] = {"holdout": "reference", "reference": "holdout"}
    assert {"holdout", "reference", "train"} <= set(before)
    assert sets() == [turned.get(name, name) for name in before]
    assert not rotate(tmp_path)  # its prompts have judged before, too
