"""Splits: a cluster's place is its own affair."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from touchstone.errors import SplitError
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
from touchstone.settings.data import SETS, Split
from touchstone.splits import assign, main, split_groups, summarise

ROOT = Path(__file__).resolve().parent.parent
SHARES = dict.fromkeys(SETS, 0.1) | {"train": 0.4}
SPLIT = Split(salt="s", shares=SHARES)


def group(number: int, cluster: str | None = None) -> Group:
    return make_group(
        prompt=[Message("user", f"Question {number}?")],
        completions=[Completion("Yes."), Completion("No.")],
        comparisons=[Comparison(0, 1, 1.0, 0.0)],
        source="test",
        cluster_id=cluster or f"cluster {number // 2}",
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1000, 9999), max_size=60), st.integers(0, 2**32), st.lists(st.integers(10_000, 99_999)))
def test_row_order_and_later_data_move_no_group(extra: list[int], seed: int, later: list[int]) -> None:
    groups = [group(number) for number in [*range(200), *extra]]
    shuffled = [*groups, *(group(number) for number in later)]
    random.Random(seed).shuffle(shuffled)
    before, after = split_groups(groups, SPLIT), split_groups(shuffled, SPLIT)
    known = {item.id for item in groups}
    for name in SETS:
        assert set_digest(before[name]) == set_digest(item for item in after[name] if item.id in known)


@given(st.text(), st.text())
def test_every_cluster_has_exactly_one_place(cluster: str, salt: str) -> None:
    assert assign(cluster, Split(salt=salt, shares=SHARES)) in SETS


def test_shares_are_met_and_clusters_stay_whole() -> None:
    sets = split_groups([group(number) for number in range(20_000)], SPLIT)
    for name, groups in sets.items():
        assert len(groups) / 20_000 == pytest.approx(SHARES[name], abs=0.02)
    clusters = [{item.cluster_id for item in groups} for groups in sets.values()]
    assert sum(map(len, clusters)) == len(set.union(*clusters)) == 10_000


def test_the_place_is_fixed_for_ever() -> None:
    """Golden values: another assignment would mix earlier holdouts into training."""
    split = Split(salt="touchstone-1", shares=SHARES)
    places = [assign(f"cluster {number}", split) for number in range(8)]
    assert places == ["validation", "train", "calibration", "reference", "holdout", "train", "validation", "confirm"]


def test_hands_come_before_hashes() -> None:
    assert assign("a", SPLIT.model_copy(update={"assign": {"a": "confirm"}})) == "confirm"


def test_an_empty_set_is_an_error_that_names_it() -> None:
    by_hand = {f"c{n}": name for n, name in enumerate(SETS[:-2])}
    groups = [group(n, cluster) for n, cluster in enumerate(by_hand)]
    with pytest.raises(SplitError, match=r"sets empty: reference, canary.*split\.shares.*split\.assign"):
        split_groups(groups, SPLIT.model_copy(update={"assign": by_hand}))
    with pytest.raises(SplitError, match="sets empty: train"):
        split_groups([], SPLIT)


def test_a_misspelt_cluster_is_an_error() -> None:
    with pytest.raises(SplitError, match="don't hold: gost"):
        split_groups([group(n) for n in range(200)], SPLIT.model_copy(update={"assign": {"gost": "holdout"}}))


def test_the_stage_writes_seven_files_and_a_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    groups = sorted((group(number) for number in range(600)), key=lambda item: item.id)
    write_parquet(Path("build/groups.parquet"), groups)
    main()
    first = {path.name: path.read_bytes() for path in Path("build/splits").iterdir()}
    main()
    assert first == {path.name: path.read_bytes() for path in Path("build/splits").iterdir()}
    assert set(first) == {f"{name}.parquet" for name in SETS} | {"summary.json"}
    sets = {name: read_parquet(Path(f"build/splits/{name}.parquet")) for name in SETS}
    assert sum(map(len, sets.values())) == 600
    assert all(ids == sorted(ids) for ids in ([item.id for item in groups] for groups in sets.values()))
    assert summarise(sets)["holdout"]["digest"] == set_digest(sets["holdout"])
