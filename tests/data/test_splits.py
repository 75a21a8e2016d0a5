"""Splits: a cluster's place is its own affair, what nearly repeats another set gives way, and families count once."""

from __future__ import annotations

import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.places import ROOT
from touchstone.data.neighbours import sequences, similarity
from touchstone.data.prompts import words_of
from touchstone.data.splits import assign, is_held_out, main, split_groups
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
from touchstone.settings import compose, dump
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


def near(number: int, ending: str) -> str:
    """A near duplicate of a sentence: one word in forty differs."""
    return f"{sentence(number).rsplit(' ', 1)[0]} {ending}"


def split(
    groups: list[Group], how: Split = SPLIT, axis: str | None = None
) -> tuple[dict[str, list[Group]], dict[str, Any], pl.DataFrame]:
    """The sets, the summary and the quarantine."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_parquet(path / "groups.parquet", groups)
        summary = split_groups(path / "groups.parquet", how, path, axis)
        sets = {name: read_parquet(path / f"{name}.parquet") for name in SETS}
        return sets, summary, pl.read_parquet(path / "quarantine.parquet")


copies = st.lists(st.tuples(st.integers(0, 199), st.integers(0, 5)), max_size=60)


def world(near_copies: list[tuple[int, int]]) -> list[Group]:
    """Two hundred prompts, and near copies of some under cluster ids of their own, chains of copies among them."""
    groups = [group(number, prompt=sentence(number)) for number in range(200)]
    groups += [
        group(10_000 + n, f"copy {number}-{n}", near(number, f"ending {n % 3}"))
        for number, n in dict.fromkeys(near_copies)
    ]
    return list({item.id: item for item in groups}.values())


def content(groups: list[Group]) -> tuple[dict[str, set[tuple[str, str]]], list[str], dict[str, Any]]:
    """Who lies in which set and family, who is set aside, and the summary: all that a split says."""
    sets, summary, aside = split(groups)
    members = {name: {(item.id, item.cluster_id) for item in sets[name]} for name in SETS}
    return members, sorted(aside["group_id"].to_list()), summary


@settings(max_examples=8, deadline=None)
@given(copies, st.randoms(use_true_random=False))
def test_any_order_of_the_file_gives_the_same_sets(near_copies: list[tuple[int, int]], dice: random.Random) -> None:
    groups = world(near_copies)
    expected = content(groups)
    assert content(groups[::-1]) == expected
    dice.shuffle(groups)
    assert content(groups) == expected


@settings(max_examples=8, deadline=None)
@given(copies, copies)
def test_later_data_move_no_group(near_copies: list[tuple[int, int]], later: list[tuple[int, int]]) -> None:
    """At worst a group that is no training data is set aside, because training data nearly repeat it now."""
    groups = world(near_copies)
    more = [group(20_000 + n, f"later {n}", near(number, f"ending {n}")) for number, n in dict.fromkeys(later)]
    more += [group(30_000 + n, f"new {n}", sentence(1_000 + n)) for _, n in later]
    before, after = split(groups)[0], split([*groups, *{item.id: item for item in more}.values()])[0]
    known = {item.id for item in groups}
    for name in SETS:
        stayed = {item.id for item in after[name]} & known
        assert stayed <= {item.id for item in before[name]}
        assert name != "train" or stayed == {item.id for item in before[name]}


@settings(max_examples=8, deadline=None)
@given(copies, copies)
def test_a_model_of_an_earlier_version_has_seen_nothing_of_a_later_holdout(
    near_copies: list[tuple[int, int]], later: list[tuple[int, int]]
) -> None:
    """Else no candidate could be compared with a champion once a week's data nearly repeat what it learnt from."""
    groups = world(near_copies)
    more = [group(20_000 + n, f"later {n}", near(number, f"ending {n}")) for number, n in dict.fromkeys(later)]
    learnt = [pieces(item) for item in split(groups)[0]["train"]]
    after = split([*groups, *{item.id: item for item in more}.values()])[0]
    judged = [pieces(item) for name in SETS[1:] for item in after[name]]
    assert not any(similarity(one, other) >= 0.8 for one in learnt for other in judged)


def pieces(item: Group) -> frozenset[int]:
    return sequences(words_of(item.prompt[0].content))


@pytest.mark.parametrize("threshold", [0.8, 0.84])
def test_no_set_holds_what_is_nearly_in_another_one(threshold: float) -> None:
    """Prompts from one template with two gaps: with one of them filled alike two are at 0.841, otherwise at 0.706."""
    template, dice = WORDS[:60], random.Random(17)
    groups = []
    for number in range(700):
        gaps = dice.randrange(1_200), dice.randrange(1_200)
        words = [*template[:20], f"first{gaps[0]}", *template[20:40], f"second{gaps[1]}", *template[40:]]
        groups.append(group(number, f"cluster {number}", " ".join(words)))
    sets, summary, _ = split(groups, SPLIT.model_copy(update={"near_duplicate": threshold}))
    assert summary["groups_set_aside"] > 100
    placed = [(name, pieces(item)) for name in SETS for item in sets[name]]
    for number, (name, words) in enumerate(placed):
        for other, others in placed[:number]:
            assert name == other or similarity(words, others) < threshold


@given(st.text(), st.text())
def test_every_cluster_has_exactly_one_place(cluster: str, salt: str) -> None:
    assert assign(cluster, SPLIT.model_copy(update={"salt": salt})) in SETS


def test_shares_are_met() -> None:
    places = [assign(f"cluster {number}", SPLIT) for number in range(10_000)]
    for name in SETS:
        assert places.count(name) / 10_000 == pytest.approx(SHARES[name], abs=0.02)


def test_the_place_is_fixed_for_ever() -> None:
    """Golden values: another assignment would mix earlier holdouts into training."""
    fixed = SPLIT.model_copy(update={"salt": "touchstone-1"})
    places = [assign(f"cluster {number}", fixed) for number in range(8)]
    assert places == ["validation", "train", "calibration", "reference", "holdout", "train", "validation", "confirm"]


def test_hands_come_before_hashes() -> None:
    assert assign("a", SPLIT.model_copy(update={"assign": {"a": "confirm"}})) == "confirm"


def test_a_rotated_holdout_is_the_reference_set_and_nothing_else_moves() -> None:
    """Also of near duplicates: what nearly stood in the old holdout isn't fresh, and stays set aside."""
    texts = [near(number // 2, f"ending {number}") for number in range(1_000)]
    groups = [group(number, f"cluster {number}", text) for number, text in enumerate(texts)]
    by_hand = SPLIT.model_copy(update={"assign": {groups[0].cluster_id: "holdout"}})
    before, _, aside = split(groups, by_hand)
    after, _, rotated_aside = split(groups, by_hand.model_copy(update={"rotated": True}))
    assert before["holdout"]
    assert (after["holdout"], after["reference"]) == (before["reference"], before["holdout"])
    assert all(after[name] == before[name] for name in SETS if name not in ("holdout", "reference"))
    assert len(aside) == len(rotated_aside) > 0


def test_clusters_stay_whole_and_nothing_is_lost() -> None:
    groups = [group(number, prompt=sentence(number)) for number in range(1_000)]
    sets, summary, aside = split(groups)
    clusters = [{item.cluster_id for item in members} for members in sets.values()]
    assert sum(map(len, clusters)) == len(set.union(*clusters)) == 500
    assert sum(map(len, sets.values())) == 1_000
    assert aside.is_empty()
    for name, members in sets.items():
        counts = summary["sets"][name]
        assert counts["digest"] == set_digest(members)
        assert counts["clusters"] == counts["families"] == len({item.cluster_id for item in members})
        assert (counts["groups"], counts["set_aside"]) == (len(members), 0)


def test_a_shared_system_message_joins_nobody() -> None:
    system = Message("system", sentence(7))
    groups = [
        make_group(
            prompt=[system, Message("user", sentence(number))],
            completions=[Completion("Yes."), Completion("No.")],
            comparisons=[Comparison(0, 1, 1.0, 0.0)],
            source="test",
        )
        for number in range(400)
    ]
    sets, summary, aside = split(groups)
    assert aside.is_empty()
    assert sum(counts["families"] for counts in summary["sets"].values()) == sum(map(len, sets.values())) == 400


@pytest.mark.parametrize("copy", [near(0, "else"), sentence(0).upper().replace(" ", "\n")], ids=["nearly", "equal"])
@pytest.mark.parametrize(
    ("earlier", "later"), [("train", "holdout"), ("holdout", "confirm"), ("calibration", "train")]
)
def test_of_two_sets_the_later_one_gives_way(copy: str, earlier: str, later: str) -> None:
    """Training comes first: what a champion has learnt from never turns up in what judges its successors."""
    if SETS.index(earlier) > SETS.index(later):
        earlier, later = later, earlier
    clusters = {assign(f"c{number}", SPLIT): f"c{number}" for number in range(300)}
    groups = [group(number, prompt=sentence(number)) for number in range(2, 400, 2)]
    pair = [group(0, clusters[later], copy), group(1, clusters[earlier], sentence(0))]
    more = group(3, clusters[later], "Quite another question of the same cluster?")
    sets, summary, aside = split([*groups, *pair, more])
    assert {item.cluster_id for item in sets[earlier]} >= {clusters[earlier]}
    assert clusters[later] not in {item.cluster_id for item in sets[later]}
    assert summary["sets"][later]["set_aside"] == summary["groups_set_aside"] == 2
    assert [(row["line"], row["group_id"], row["check"]) for row in aside.to_dicts()] == [
        (200, pair[0].id, "near_duplicate"),
        (202, more.id, "near_duplicate"),
    ]
    assert set(aside["reason"]) == {
        f"its place is {later}, and near duplicates of its cluster's prompts lie in {earlier}"
    }


def test_clusters_that_near_duplicates_join_are_one_family_however_long_the_chain() -> None:
    """Ten prompts, each nearly the next and no other; and what is set aside joins nobody."""
    words = WORDS[:60]
    chain = [
        " ".join(f"new{k}" if k % 5 == 0 and 0 < k <= 5 * step else word for k, word in enumerate(words))
        for step in range(10)
    ]
    assert similarity(*(sequences(words_of(text)) for text in (chain[0], chain[2]))) < 0.8
    groups = [group(number, prompt=sentence(number)) for number in range(2, 400, 2)]
    links = [group(900 + number, f"link {number}", text) for number, text in enumerate(chain)]
    by_hand = {item.cluster_id: "holdout" for item in links}
    how = SPLIT.model_copy(update={"assign": by_hand})
    sets, summary, _ = split([*groups, *links], how)
    named = {item.id: item.cluster_id for item in sets["holdout"]}
    assert {named[item.id] for item in links} == {"link 0"}
    assert summary["sets"]["holdout"]["clusters"] - summary["sets"]["holdout"]["families"] == 9
    # The middle of the chain is placed after the holdout and gives way: two families are left.
    middle = next(f"m{number}" for number in range(300) if assign(f"m{number}", SPLIT) == "canary")
    parted = [replace(item, cluster_id=middle) if item is links[5] else item for item in links]
    how = SPLIT.model_copy(update={"assign": {item.cluster_id: "holdout" for item in parted if item is not parted[5]}})
    named = {item.id: item.cluster_id for item in split([*groups, *parted], how)[0]["holdout"]}
    assert [named.get(item.id) for item in links] == [*["link 0"] * 5, None, *["link 6"] * 4]


def test_a_newcomer_near_to_two_sets_leaves_the_first_of_them_whole() -> None:
    groups = [group(number, prompt=sentence(number)) for number in range(0, 200, 2)]
    places = {item.cluster_id: assign(item.cluster_id, SPLIT) for item in groups}
    train = next(item for item in groups if places[item.cluster_id] == "train")
    canary = next(item for item in groups if places[item.cluster_id] == "canary")
    name = next(f"bridge {number}" for number in range(300) if assign(f"bridge {number}", SPLIT) == "holdout")
    bridge = [group(9_000 + k, name, f"{item.prompt[0].content} more") for k, item in enumerate((train, canary))]
    sets, _, aside = split([*groups, *bridge])
    assert set(aside["group_id"]) == {canary.id, *(item.id for item in bridge)}
    assert sum(map(len, sets.values())) == 99
    assert train.id in {item.id for item in sets["train"]}


def test_what_a_hand_has_placed_is_not_set_aside_in_silence() -> None:
    groups = [group(number, prompt=sentence(number)) for number in range(0, 400, 2)]
    first = next(item for item in groups if assign(item.cluster_id, SPLIT) == "train")
    twin = group(9_000, "twin", first.prompt[0].content + " more")
    with pytest.raises(SplitError, match=f"twin into holdout, .* those of {first.cluster_id} in train"):
        split([*groups, twin], SPLIT.model_copy(update={"assign": {"twin": "holdout"}}))
    both = {"twin": "holdout", first.cluster_id: "holdout"}
    sets, _, aside = split([*groups, twin], SPLIT.model_copy(update={"assign": both}))
    assert aside.is_empty()
    assert {twin.id, first.id} <= {item.id for item in sets["holdout"]}


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
        split([group(n) for n in range(200)], SPLIT.model_copy(update={"assign": {"gost": "holdout"}}))


def test_data_of_copies_alone_leave_sets_empty_and_the_error_says_why() -> None:
    groups = [group(n, f"c{n}", f"{sentence(0)} {n}") for n in range(300)]
    with pytest.raises(SplitError, match=r"sets empty: validation, .* near duplicates .* one cluster_id"):
        split(groups)
    whole = [
        replace(item, cluster_id=f"c{n % 100}", prompt=group(n, prompt=sentence(n % 100)).prompt)
        for n, item in enumerate(groups)
    ]
    assert split(whole)[1]["groups_set_aside"] == 0


def test_a_policy_that_was_chosen_is_not_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(dump(compose(["gates=small_data"], ROOT / "configs")))
    write_parquet(Path("build/groups.parquet"), [group(number, prompt=sentence(number)) for number in range(300)])
    main()
    warning = capsys.readouterr().err
    assert "gates.min_clusters" in warning
    assert "gates=small_data" not in warning


def test_the_stage_writes_the_same_files_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    with pytest.raises(DataError, match="dvc repro"):
        main()
    groups = [group(number, prompt=sentence(number)) for number in range(600)]
    write_parquet(Path("build/groups.parquet"), groups)
    main()
    assert "gates.min_clusters" in (warning := capsys.readouterr().err), "no promotion can come of 60 prompts"
    assert "gates=small_data" in warning
    first = {path.name: path.read_bytes() for path in Path("build/splits").iterdir()}
    main()
    assert first == {path.name: path.read_bytes() for path in Path("build/splits").iterdir()}
    assert set(first) == {f"{name}.parquet" for name in SETS} | {"quarantine.parquet", "summary.json"}
    sets = {name: read_parquet(Path(f"build/splits/{name}.parquet")) for name in SETS}
    order = {item.id: place for place, item in enumerate(groups)}
    for members in sets.values():
        places = [order[item.id] for item in members]
        assert places == sorted(places)


def test_sets_of_one_axis_hold_no_other_and_move_nothing() -> None:
    both = [replace(group(number), axis=("helpfulness", "safety")[number % 2]) for number in range(400)]
    whole, _, _ = split(both)
    for axis in ("helpfulness", "safety"):
        sets, summary, _ = split(both, axis=axis)
        for name in SETS:
            assert [g.id for g in sets[name]] == [g.id for g in whole[name] if g.axis == axis]
        assert (summary["axis"], summary["groups_of_other_axes"]) == (axis, 200)
    with pytest.raises(SplitError, match="no group is of this axis; these are: helpfulness, safety"):
        split(both, axis="tone")


def test_one_configuration_per_axis_names_the_model_after_it() -> None:
    names = {
        axis: (chosen.name, chosen.selection.axis)
        for axis in ("all", "helpfulness", "safety")
        for chosen in [compose([f"axis={axis}", "data.name=mine"], ROOT / "configs")]
    }
    assert names == {
        "all": ("reward-mine", None),
        "helpfulness": ("reward-mine-helpfulness", "helpfulness"),
        "safety": ("reward-mine-safety", "safety"),
    }
