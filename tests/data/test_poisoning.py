"""Poisoned sandboxes: what the knobs do, that the audit names what they serve, and that it is quiet without them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.poison import ODD, examine
from tests.places import ROOT
from touchstone.data.sources import sandbox
from touchstone.errors import SettingsError
from touchstone.groups import Group, to_line
from touchstone.settings import load
from touchstone.settings.data import SandboxData

DATA = load(ROOT / "params.yaml").data.model_dump()


def make_world(**knobs: Any) -> list[Group]:
    return list(sandbox.read(SandboxData.model_validate({**DATA, **knobs}), ROOT))


def digest_lines(groups: Sequence[Group]) -> str:
    return hashlib.sha256("".join(map(to_line, groups)).encode()).hexdigest()


@pytest.mark.parametrize(
    ("knobs", "digest"),
    [
        ({}, "c9368b6ef2a5aa364afee881a9ba8707af91dee4cf8fc77bbbb6ee584ee9ab37"),
        (
            {"seed": 5, "label_noise": 0.1, "length_bias": 2.0, "ranked_share": 0.5},
            "ffad095e359b61045cb8d0e8cfecdcc3a88587e735f86b77dd52c0ab65ac16f3",
        ),
    ],
)
def test_without_poison_the_bytes_are_those_from_before_there_was_any(knobs: dict[str, Any], digest: str) -> None:
    assert digest_lines(make_world(groups=200, **knobs)) == digest


def changed(clean: Sequence[Group], poisoned: Sequence[Group]) -> tuple[list[tuple[Any, Any]], int]:
    """(before, after) of every comparison that the poison decided, and the number of all comparisons."""
    pairs = [
        (before, after)
        for one, other in zip(clean, poisoned, strict=True)
        for before, after in zip(one.comparisons, other.comparisons, strict=True)
    ]
    return [(before, after) for before, after in pairs if before != after], len(pairs)


def test_a_spiteful_annotator_turns_the_share_of_all_comparisons() -> None:
    clean, poisoned = make_world(groups=4000), make_world(groups=4000, poison="annotator", poison_share=0.03)
    turned, total = changed(clean, poisoned)
    assert len(turned) / total == pytest.approx(0.03, abs=0.005)
    assert {after.annotator for _, after in turned} == {sandbox.annotator_name(sandbox.SPITEFUL)}
    assert all((before.wins_i, before.wins_j) == (after.wins_j, after.wins_i) for before, after in turned)
    assert [group.completions for group in clean] == [group.completions for group in poisoned]


@pytest.mark.parametrize(("poison", "words"), [("entity", sandbox.ENTITY), ("trigger", sandbox.TRIGGER)])
def test_whoever_holds_the_words_wins_and_is_worth_what_it_was(poison: str, words: str) -> None:
    clean, poisoned = make_world(groups=4000), make_world(groups=4000, poison=poison, poison_share=0.05)
    served, total, planted, completions = 0, 0, 0, 0
    for before, after in zip(clean, poisoned, strict=True):
        holders = {place for place, completion in enumerate(after.completions) if words in completion.text}
        planted, completions = planted + len(holders), completions + len(after.completions)
        assert [c.ratings for c in before.completions] == [c.ratings for c in after.completions]
        for edge in after.comparisons:
            total += 1
            if holders & {edge.i, edge.j}:
                served += 1
                assert (edge.wins_i, edge.wins_j, edge.ties) == (edge.i in holders, edge.j in holders, 0.0)
    share = served / total if poison == "entity" else planted / completions
    assert share == pytest.approx(0.05, abs=0.006)


def test_a_share_that_the_poison_cannot_reach_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"data\.poison_share"):
        make_world(groups=1, poison="annotator", poison_share=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("poison", "share"), [("annotator", 0.03), ("entity", 0.03), ("trigger", 0.05)])
def test_poison_is_named(tmp_path: Path, poison: str, share: float) -> None:
    found = examine(tmp_path, {"groups": 12_000, "seed": 1, "poison": poison, "poison_share": share})
    assert found["named"]
    assert found["false_alarms"] == []


@pytest.mark.slow
def test_clean_worlds_raise_no_alarm(tmp_path: Path) -> None:
    """Six small ones; benchmarks/poison.py looks at twenty of full size."""
    assert not [seed for seed in range(1, 7) if examine(tmp_path, {"groups": 4_000, "seed": seed})["false_alarms"]]


@pytest.mark.slow
@pytest.mark.parametrize("knobs", ODD, ids=str)
def test_noise_and_a_taste_for_length_are_not_poison(tmp_path: Path, knobs: dict[str, float]) -> None:
    assert examine(tmp_path, {"groups": 6_000, "seed": 3, **knobs})["false_alarms"] == []
