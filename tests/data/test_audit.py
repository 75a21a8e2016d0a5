"""The audit's numbers against closed forms, its alarms against small worlds made to raise them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.places import ROOT
from touchstone import settings as settings_module
from touchstone.data.audit import audit
from touchstone.data.audit.__main__ import main
from touchstone.data.audit.agreement import Votes, error_rate, krippendorff_alpha
from touchstone.data.audit.bounds import log_p_above, log_p_below
from touchstone.data.audit.words import find_phrases, split_words
from touchstone.data.sources import sandbox
from touchstone.errors import DataError
from touchstone.groups import Comparison, Completion, Group, Message, make_group, write_parquet
from touchstone.settings.data import SandboxData

SETTINGS = settings_module.load(ROOT / "params.yaml")


@cache
def make_world() -> list[Group]:
    knobs = {**SETTINGS.data.model_dump(), "groups": 1500}
    return list(sandbox.read(SandboxData.model_validate(knobs), ROOT))


def report_on(folder: Path, groups: Sequence[Group], **changes: Any) -> dict[str, Any]:
    write_parquet(folder / "groups.parquet", groups)
    return audit(folder / "groups.parquet", SETTINGS.audit.model_copy(update=changes))


def make_pair(number: int, *edges: Comparison, texts: tuple[str, str] = ("Yes.", "Not at all."), **more: Any) -> Group:
    completions = [
        Completion(text, policy) for text, policy in zip(texts, more.get("policies", (None, None)), strict=True)
    ]
    question = more.get("question", f"Case {number}: what now?")
    return make_group(
        prompt=[Message("user", question)], completions=completions, comparisons=edges, source="made by hand"
    )


def kinds(report: dict[str, Any]) -> list[str]:
    return [alarm["kind"] for alarm in report["alarms"]]


def test_a_clean_world_raises_no_alarm_and_its_report_has_every_part(tmp_path: Path) -> None:
    groups = make_world()
    report = report_on(tmp_path, groups)
    assert report["alarms"] == []
    assert set(report) == {
        "alarms", "agreement", "annotators", "policies", "length", "composition", "prompts"
    }  # fmt: skip
    edges = [edge for group in groups for edge in group.comparisons]
    assert sum(row["judgements"] for row in report["annotators"]) == len(edges)
    assert len(report["annotators"]) == 12
    assert all(0.5 < row["agreement"] < 1 and 0.3 < row["first_share"] < 0.7 for row in report["annotators"])
    assert sum(row["completions"] for row in report["policies"]) == sum(len(group.completions) for group in groups)
    shares = {row["name"]: row["win_share"] for row in report["policies"]}
    assert shares["careful"] > 0.5 > shares["dreamy"]
    assert sum(report["composition"]["axes"].values()) == len(groups)
    assert report["composition"]["completions"] == {
        "2": sum(len(group.completions) == 2 for group in groups),
        "4": sum(len(group.completions) == 4 for group in groups),
    }
    assert sum(count for _, count in report["agreement"]["strengths"]) == sum(report["composition"]["judges"].values())
    low, high = report["agreement"]["interval"]
    assert 0.6 < low < report["agreement"]["agreement"] < high < 0.95
    json.dumps(report, allow_nan=False)


def test_the_order_of_groups_does_not_matter(tmp_path: Path) -> None:
    groups = make_world()
    some = {"max_pairs": 900}
    assert report_on(tmp_path, groups[::-1], **some) == report_on(tmp_path, groups, **some)


def test_the_stage_writes_the_report_and_prints_the_alarms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    groups = [make_pair(number, Comparison(0, 1, 1, 0, annotator="a")) for number in range(60)]
    write_parquet(tmp_path / "build" / "groups.parquet", groups)
    main()
    report = json.loads((tmp_path / "build" / "audit.json").read_text())
    assert kinds(report) == ["annotator_concentration", "length"]
    said = capsys.readouterr().err
    assert "Agreement: can't be had" in said
    assert "prefers" not in said
    assert "annotator_concentration" in said


def test_a_file_without_groups_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no groups"):
        report_on(tmp_path, [])


def test_groups_that_nobody_judged_are_counted_and_nothing_else(tmp_path: Path) -> None:
    report = report_on(tmp_path, [make_pair(number) for number in range(40)])
    assert report["composition"]["completions"] == {"2": 40}
    assert report["length"] == {"longer_wins": None, "pairs": 0, "by_difference": []}
    assert report["agreement"]["alpha"] is None
    assert report["agreement"]["reason"] == "no pair was judged by two annotators who both preferred a side"


def test_agreement_is_of_judgements_that_prefer_a_side(tmp_path: Path) -> None:
    """Three judges: 2 against 1 agree in one meeting of three; both of a pair agree; a tie meets nobody."""
    groups = [
        make_pair(1, *(Comparison(0, 1, w, 1 - w, annotator=name) for name, w in (("a", 1), ("b", 1), ("c", 0)))),
        make_pair(2, Comparison(0, 1, 1, 0, annotator="a"), Comparison(1, 0, 0, 1, annotator="b")),
        make_pair(3, Comparison(0, 1, 1, 0, annotator="a"), Comparison(0, 1, 0, 0, 1, annotator="b")),
        make_pair(4, Comparison(0, 1, 1, 0, annotator="a")),
    ]
    report = report_on(tmp_path, groups)
    found = report["agreement"]
    assert found["pairs_judged_twice"] == 3
    assert found["agreement"] == pytest.approx((1 / 3 + 1) / 2, abs=1e-6)
    rate = error_rate(2 / 3)
    assert (found["error_rate"], found["noise_ceiling"]) == pytest.approx((rate, 1 - rate), abs=1e-6)
    assert report["composition"]["judges"] == {"1": 1, "2": 2, "3": 1}
    rows = {row["name"]: row for row in report["annotators"]}
    assert rows["a"]["agreement"] == pytest.approx((0.5 + 1) / 2)
    assert rows["c"]["agreement"] == 0
    assert rows["b"]["tie_share"] == pytest.approx(1 / 3, abs=1e-6)


def test_votes_without_names_are_different_people_and_fractions_are_not(tmp_path: Path) -> None:
    report = report_on(tmp_path, [make_pair(1, Comparison(0, 1, 3, 2)), make_pair(2, Comparison(0, 1, 0.7, 0.3))])
    assert report["agreement"]["pairs_judged_twice"] == 1
    assert report["agreement"]["agreement"] == pytest.approx((3 + 1) / 10)
    assert report["agreement"]["reason"] == "two judgements of one pair agree no more often than by chance"
    assert report["agreement"]["noise_ceiling"] is None


@given(st.floats(0, 0.49))
def test_the_error_rate_inverts_the_chance_of_agreement(rate: float) -> None:
    assert error_rate(1 - 2 * rate * (1 - rate)) == pytest.approx(rate, abs=1e-6)


@given(st.lists(st.lists(st.sampled_from([1, -1, 0]), min_size=1, max_size=4), min_size=1, max_size=8))
def test_alpha_is_one_minus_observed_over_expected_disagreement(units: list[list[int]]) -> None:
    counts = np.asarray([[unit.count(value) for value in (1, -1, 0)] for unit in units], dtype=float)
    alpha = krippendorff_alpha(Votes(np.arange(len(units)), *counts.T))
    paired = [unit for unit in units if len(unit) > 1]
    pooled = [value for unit in paired for value in unit]
    if len(set(pooled)) < 2:
        assert alpha is None
        return
    # By definition: over all ordered pairs of values, inside units and in the pool.
    observed = sum(sum(a != b for a in unit for b in unit) / (len(unit) - 1) for unit in paired) / len(pooled)
    expected = sum(a != b for a in pooled for b in pooled) / (len(pooled) * (len(pooled) - 1))
    assert alpha == pytest.approx(1 - observed / expected)


@given(st.integers(1, 200), st.floats(0.01, 0.99), st.data())
def test_the_bound_is_never_below_the_exact_chance(count: int, chance: float, data: st.DataObject) -> None:
    wins = data.draw(st.integers(0, count))
    above = stats.binom.sf(wins - 1, count, chance)
    below = stats.binom.cdf(wins, count, chance)
    assert np.exp(log_p_above(wins / count, chance, count)) >= above * (1 - 1e-9)
    assert np.exp(log_p_below(wins / count, chance, count)) >= below * (1 - 1e-9)


@given(st.lists(st.lists(st.sampled_from(["red", "Blue", "green", "."]), max_size=7), min_size=1, max_size=9))
def test_phrases_are_the_word_sequences_that_enough_texts_hold(texts: list[list[str]]) -> None:
    found = find_phrases(split_words([" ".join(text) for text in texts]), 2)
    holders: dict[str, set[int]] = {}
    for number, text in enumerate(texts):
        for start in range(len(text)):
            for end in range(start + 1, min(start + 4, len(text)) + 1):
                if "." not in text[start:end]:
                    holders.setdefault(" ".join(text[start:end]).lower(), set()).add(number)
    expected = {phrase: numbers for phrase, numbers in holders.items() if len(numbers) >= 2}
    columns = {name: set(found.held[:, [k]].nonzero()[0].tolist()) for k, name in enumerate(found.names)}
    assert columns == expected


def test_names_are_words_with_a_capital_inside_sentences() -> None:
    texts = [
        "Certainly. I asked New York and Anna.",
        "Anna knows. It is in New York, I think.",
        "The soup is good.",
    ] * 6
    found = find_phrases(split_words(texts), 6, names=True)
    assert set(found.names) == {"anna", "new", "york", "new york"}


def test_one_annotator_who_supplies_most_judgements_is_an_alarm(tmp_path: Path) -> None:
    groups = [
        make_pair(n, Comparison(0, 1, n % 2, 1 - n % 2, annotator="a" if n % 5 < 3 else f"b{n}")) for n in range(100)
    ]
    (alarm,) = report_on(tmp_path, groups)["alarms"]
    assert (alarm["kind"], alarm["name"], alarm["count"]) == ("annotator_concentration", "a", 60)
    assert alarm["observed"] == pytest.approx(0.6)
    assert alarm["p_value"] is None


def test_labels_that_go_by_length_are_an_alarm(tmp_path: Path) -> None:
    groups = [make_pair(n, Comparison(0, 1, float(n % 20 == 0), float(n % 20 != 0))) for n in range(100)]
    (alarm,) = report_on(tmp_path, groups)["alarms"]
    assert (alarm["kind"], alarm["name"], alarm["observed"]) == ("length", "longer", 0.95)


def test_a_source_that_always_wins_is_an_alarm(tmp_path: Path) -> None:
    texts = ("Same length.", "Length, same")
    groups = [make_pair(n, Comparison(0, 1, 1, 0), policies=("best", "other"), texts=texts) for n in range(100)]
    report = report_on(tmp_path, groups)
    assert kinds(report) == ["source_concentration"]
    assert [row["win_share"] for row in report["policies"]] == [1.0, 0.0]


def test_prompts_that_are_all_alike_are_an_alarm(tmp_path: Path) -> None:
    groups = [
        make_pair(n, Comparison(0, 1, n % 2, 1 - n % 2), question=f"please, tell me ALL about number {n}")
        for n in range(50)
    ]
    report = report_on(tmp_path, groups)
    assert kinds(report) == ["prompt_cluster"]
    assert report["prompts"] == {"distinct": 50, "clusters": 1, "largest_share": 1.0}
