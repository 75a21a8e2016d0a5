"""Splits: a cluster's place is its own affair, unless it repeats what came before."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.places import ROOT
from touchstone.data.splits import assign, is_held_out, main, place, split_groups
from touchstone.errors import DataError, SplitError
from touchstone.groups import (
    Comparison,
    Completion,
    Group,
    Message,
    make_group,
    read_parquet,
    set_digest,
    write_parquet,
)
from touchstone.settings.checks import SETS, Split

SHARES = dict.fromkeys(SETS, 0.1) | {"train": 0.4}
SPLIT = Split(salt="s", near_duplicate=0.8, held_out_annotators=0.0, shares=SHARES)
WORDS = [f"word{number}" for number in range(2_000)]


def group(number: int, cluster: str | None = None, prompt: str | None = None, annotator: str | None = None) -> Group:
    return make_group(
        prompt=[Message("user", prompt or f"Question {number}?")],
        completions=[Completion("Yes."), Completion("No.")],
        comparisons=[Comparison(0, 1, 1.0, 0.0, annotator=annotator)],
        source="test",
        cluster_id=cluster or f"cluster {number // 2}",
    )


def sentence(number: int) -> str:
    """Forty words of its own."""
    return " ".join(random.Random(number).choices(WORDS, k=40))


def split(groups: list[Group], how: Split = SPLIT) -> tuple[dict[str, list[Group]], dict[str, Any], pl.DataFrame]:
    """The sets, the summary and the quarantine."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_parquet(path / "groups.parquet", groups)
        summary = split_groups(path / "groups.parquet", how, path)
        sets = {name: read_parquet(path / f"{name}.parquet") for name in SETS}
        return sets, summary, pl.read_parquet(path / "quarantine.parquet")


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 9_999), max_size=60), st.lists(st.integers(0, 9_999), max_size=60))
def test_later_data_move_no_group(near: list[int], later: list[int]) -> None:
    """Whatever comes later, near duplicates and bridges among it."""
    groups = [group(number, prompt=sentence(number)) for number in range(200)]
    more = [group(10_000 + n, f"near {n}", sentence(n % 200).rsplit(" ", 1)[0] + f" {n}") for n in near]
    more += [group(20_000 + n, f"later {n}", sentence(1_000 + n)) for n in later]
    before, after = split(groups)[0], split([*groups, *more])[0]
    known = {item.id for item in groups}
    for name in SETS:
        assert before[name] == [item for item in after[name] if item.id in known]


@given(st.text(), st.text())
def test_every_cluster_has_exactly_one_place(cluster: str, salt: str) -> None:
    assert assign(cluster, SPLIT.model_copy(update={"salt": salt})) in SETS


def test_shares_are_met() -> None:
    places = place([f"cluster {number}" for number in range(10_000)], {}, SPLIT)
    for name in SETS:
        assert places.count(name) / 10_000 == pytest.approx(SHARES[name], abs=0.02)


def test_the_place_is_fixed_for_ever() -> None:
    """Golden values: another assignment would mix earlier holdouts into training."""
    fixed = SPLIT.model_copy(update={"salt": "touchstone-1"})
    places = [assign(f"cluster {number}", fixed) for number in range(8)]
    assert places == ["validation", "train", "calibration", "reference", "holdout", "train", "validation", "confirm"]


def test_hands_come_before_hashes() -> None:
    assert assign("a", SPLIT.model_copy(update={"assign": {"a": "confirm"}})) == "confirm"


def test_clusters_stay_whole_and_nothing_is_lost() -> None:
    groups = [group(number, prompt=sentence(number)) for number in range(1_000)]
    sets, summary, aside = split(groups)
    clusters = [{item.cluster_id for item in members} for members in sets.values()]
    assert sum(map(len, clusters)) == len(set.union(*clusters)) == 500
    assert sum(map(len, sets.values())) == 1_000
    assert aside.is_empty()
    assert {name: counts["digest"] for name, counts in summary["sets"].items()} == {
        name: set_digest(members) for name, members in sets.items()
    }


def test_a_near_duplicate_goes_where_the_first_one_is() -> None:
    """One word in forty differs, or case and blanks alone; a shared system message joins nobody."""
    groups = [group(number, prompt=sentence(number)) for number in range(0, 800, 2)]
    near = [group(1_000 + n, f"near {n}", sentence(n).rsplit(" ", 1)[0] + " else") for n in range(0, 800, 2)]
    same = [group(3_000 + n, f"same {n}", sentence(n).upper().replace(" ", "\n")) for n in range(0, 800, 2)]
    sets, summary, aside = split([*groups, *near, *same])
    where = {item.cluster_id: name for name, members in sets.items() for item in members}
    for number in range(0, 800, 2):
        assert where[f"near {number}"] == where[f"same {number}"] == where[f"cluster {number // 2}"]
    assert summary["clusters_joined"] == 800
    assert aside.is_empty()
    system = Message("system", sentence(7))
    polite = []
    for item in groups:
        said = {"completions": item.completions, "comparisons": item.comparisons, "source": "test"}
        polite.append(make_group(prompt=[system, *item.prompt], **said))
    assert split(polite)[1]["clusters_joined"] == 0


def test_a_newcomer_that_joins_two_sets_is_set_aside() -> None:
    groups = [group(number, prompt=sentence(number)) for number in range(0, 200, 2)]
    places = {item.cluster_id: assign(item.cluster_id, SPLIT) for item in groups}
    train = next(item for item in groups if places[item.cluster_id] == "train")
    holdout = next(item for item in groups if places[item.cluster_id] == "holdout")
    bridge = [
        group(9_000, "bridge", train.prompt[0].content + " more"),
        group(9_001, "bridge", holdout.prompt[0].content + " more"),
    ]
    sets, summary, aside = split([*groups, *bridge])
    assert sum(map(len, sets.values())) == 100
    assert summary["groups_set_aside"] == 2
    assert [(row["line"], row["group_id"], row["check"]) for row in aside.to_dicts()] == [
        (101, bridge[0].id, "bridges_sets"),
        (102, bridge[1].id, "bridges_sets"),
    ]


def test_hands_may_not_part_near_duplicates() -> None:
    groups = [group(number, prompt=sentence(number)) for number in range(0, 400, 2)]
    twin = group(9_000, "twin", groups[0].prompt[0].content + " more")
    home = assign(groups[0].cluster_id, SPLIT)
    away = next(name for name in SETS if name != home)
    with pytest.raises(SplitError, match=f"twin into {away}, .* cluster 0 in {home}"):
        split([*groups, twin], SPLIT.model_copy(update={"assign": {"twin": away}}))


def test_annotators_may_be_kept_from_training() -> None:
    groups = [group(n, prompt=sentence(n), annotator=f"annotator {n % 10}") for n in range(1_000)]
    strict = SPLIT.model_copy(update={"held_out_annotators": 0.3})
    sets, summary, _ = split(groups, strict)
    left_out = {f"annotator {n}" for n in range(10) if is_held_out(f"annotator {n}", strict)}
    assert 0 < len(left_out) < 10
    taught = {edge.annotator for item in sets["train"] for edge in item.comparisons}
    assert taught == {f"annotator {n}" for n in range(10)} - left_out
    asked = {edge.annotator for item in sets["holdout"] for edge in item.comparisons}
    assert asked & left_out
    assert summary["comparisons_held_out"] == sum(not item.comparisons for item in sets["train"]) > 0


def test_an_empty_set_is_an_error_that_names_it() -> None:
    by_hand = {f"c{n}": name for n, name in enumerate(SETS[:-2])}
    groups = [group(n, cluster) for n, cluster in enumerate(by_hand)]
    with pytest.raises(SplitError, match=r"sets empty: reference, canary.*split\.shares.*split\.assign"):
        split(groups, SPLIT.model_copy(update={"assign": by_hand}))
    with pytest.raises(SplitError, match="holds no groups"):
        split([])


def test_a_misspelt_cluster_is_an_error() -> None:
    with pytest.raises(SplitError, match="don't hold: gost"):
        place([f"cluster {n}" for n in range(200)], {}, SPLIT.model_copy(update={"assign": {"gost": "holdout"}}))


def test_the_stage_writes_the_same_files_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    with pytest.raises(DataError, match="dvc repro"):
        main()
    groups = [group(number, prompt=sentence(number)) for number in range(600)]
    write_parquet(Path("build/groups.parquet"), groups)
    main()
    first = {path.name: path.read_bytes() for path in Path("build/splits").iterdir()}
    main()
    assert first == {path.name: path.read_bytes() for path in Path("build/splits").iterdir()}
    assert set(first) == {f"{name}.parquet" for name in SETS} | {"quarantine.parquet", "summary.json"}
    sets = {name: read_parquet(Path(f"build/splits/{name}.parquet")) for name in SETS}
    order = {item.id: place for place, item in enumerate(groups)}
    for members in sets.values():
        places = [order[item.id] for item in members]
        assert places == sorted(places)
