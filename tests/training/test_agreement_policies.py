"""What becomes of how far judges agreed: each policy's plan, to the comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.places import CONFIGS
from tests.worlds.comparisons import compared, encode, group_of, random_groups
from tests.worlds.tiny import make_tiny_base
from touchstone.errors import SettingsError, TrainingError
from touchstone.groups import Comparison, Group, judged_pairs, write_parquet
from touchstone.settings import Settings, compose
from touchstone.training.agreement import for_evaluation
from touchstone.training.decoys import is_decoy, with_decoys
from touchstone.training.objective import total_loss
from touchstone.training.plan import MicroBatch, Pair, left_out, make_steps, micro_batches, share_of, used_pairs
from touchstone.training.run import train

POLICIES = ("bradley_terry", "agreement", "curriculum", "filter", "hard_negatives")
SETTINGS = {stem: compose([f"objective={stem}", "objective.decoys=0"], CONFIGS) for stem in POLICIES}
KEEP = SETTINGS["bradley_terry"].objective

VOTED = group_of(
    "voted",
    4,
    [
        Comparison(0, 1, 4, 0),  # strength 1
        Comparison(2, 0, 1, 3),  # 0.75
        Comparison(0, 3, 2, 1),  # 0.67
        Comparison(1, 2, 2, 1, 1),  # 0.625
        Comparison(1, 3, 1, 1),  # a tie
        Comparison(2, 3, 0, 5),  # 1
    ],
)


def settings_for(stem: str, comparisons_per_step: int = 16, **changes: object) -> Settings:
    """Settings of a file in configs/objective/; further changes are to the objective, or to how training runs."""
    settings = SETTINGS[stem]
    ours = {name: value for name, value in changes.items() if name in type(settings.objective).model_fields}
    others = {name: value for name, value in changes.items() if name not in ours}
    training = settings.train.model_copy(update={"comparisons_per_step": comparisons_per_step, **others})
    return settings.model_copy(
        update={"objective": settings.objective.model_copy(update=ours), "train": training},
    )


def sides(pairs: Sequence[Pair]) -> list[tuple[int, int]]:
    return [(pair.chosen, pair.rejected) for pair in pairs]


def met(groups: Sequence[Group], settings: Settings) -> list[tuple[int, Pair]]:
    """All comparisons of the plan in the order of their steps, with their groups."""
    steps = make_steps(groups, settings.objective, settings.train)
    return [(chunk.group, pair) for step in steps for chunk in step.chunks for pair in chunk.pairs]


def test_filter_learns_from_what_judges_agreed_on() -> None:
    settings = settings_for("filter", weighting="group")
    pairs = used_pairs(VOTED, settings.objective)
    assert sides(pairs) == [(0, 1), (0, 2), (3, 2)]
    assert [pair.weight for pair in pairs] == pytest.approx([1 / 3] * 3), "a group counts once, whatever is left out"
    assert left_out([VOTED, VOTED], settings.objective) == 4, "a tie carries no gradient and is not counted"
    everything = settings_for("filter", agreement_threshold=0.51).objective
    assert used_pairs(VOTED, everything) == used_pairs(VOTED, KEEP)
    assert left_out([VOTED], everything) == left_out([VOTED], KEEP) == 0


def test_filter_that_leaves_nothing_names_its_settings() -> None:
    contested = group_of("contested", 2, [Comparison(0, 1, 2, 1)])
    settings = settings_for("filter")
    with pytest.raises(TrainingError, match=r"agreement=filter .* of 1 comparisons .*agreement_threshold=0\.75"):
        make_steps([contested], settings.objective, settings.train)
    assert make_steps([contested, VOTED], settings.objective, settings.train)[0].comparisons == 3


def test_hard_negatives_compare_a_winner_with_the_best_that_it_beats() -> None:
    objective = SETTINGS["hard_negatives"].objective
    ranking = group_of("ranking", 4, [Comparison(i, j, 1, 0) for j in range(4) for i in range(j)])
    assert sides(used_pairs(ranking, objective)) == [(0, 1), (1, 2), (2, 3)]
    assert left_out([ranking], objective) == 3
    # Net wins: 0 has three, 1 and 3 have none, 2 has lost three.
    assert sides(used_pairs(VOTED, objective)) == [(0, 1), (1, 2), (3, 2)]

    margins = [Comparison(0, 1, 1, 0, margin=0.9), Comparison(0, 2, 1, 0, margin=0.2), Comparison(0, 3, 1, 0)]
    assert sides(used_pairs(group_of("margins", 4, margins), objective)) == [(0, 2)]
    equal = [Comparison(3, 2, 1, 0), Comparison(3, 1, 1, 0)]
    assert sides(used_pairs(group_of("equal", 4, equal), objective)) == [(3, 1)]
    pair = group_of("pair", 2, [Comparison(1, 0, 1, 0), Comparison(1, 0, 1, 0)])
    assert used_pairs(pair, objective) == used_pairs(pair, KEEP)


@pytest.mark.parametrize("policy", ["hard_negatives", "filter"])
def test_decoys_stay_whatever_judges_agreed_on(policy: str) -> None:
    """They have no rank among what people judged, and nobody disagreed on them."""
    objective = SETTINGS[policy].objective
    ranking = group_of("ranking", 4, [Comparison(i, j, 1, 0) for j in range(4) for i in range(j)])
    pair = group_of("pair", 2, [Comparison(0, 1, 1, 0)])
    contested = group_of("contested", 2, [Comparison(0, 1, 3, 2)])
    groups = [VOTED, ranking, pair, contested]
    for before, after in zip(groups, with_decoys(groups, 2.0, 17, []), strict=True):
        judged, learned = used_pairs(before, objective), used_pairs(after, objective)
        assert sides([pair for pair in learned if not pair.decoy]) == sides(judged)
        decoys = [place for place, completion in enumerate(after.completions) if is_decoy(completion)]
        assert [pair.rejected for pair in learned if pair.decoy] == decoys
        assert len(decoys) == 2
    assert left_out(with_decoys(groups, 2.0, 17, []), objective) == left_out(groups, objective)


@given(st.integers(0, 10_000))
@hypothesis_settings(max_examples=40, deadline=None)
def test_every_winner_keeps_one_comparison_and_none_is_harder(seed: int) -> None:
    objective = SETTINGS["hard_negatives"].objective
    for group in random_groups(6, seed, most=9):
        kept, usable = sides(used_pairs(group, objective)), sides(used_pairs(group, KEEP))
        if len(group.completions) == 2:
            assert kept == usable
            continue
        net = {name: 0 for pair in usable for name in pair}
        for winner, loser in usable:
            net[winner] += 1
            net[loser] -= 1
        assert sorted(winner for winner, _ in kept) == sorted({winner for winner, _ in usable})
        for winner, loser in kept:
            assert net[loser] == max(net[other] for w, other in usable if w == winner)


def test_the_curriculum_sorts_by_strength_and_then_by_margin() -> None:
    votes = [(3, 1, 0.5), (4, 0, 0.1), (2, 1, None), (4, 0, 0.7), (3, 1, None), (4, 0, None)]
    groups = [group_of(k, 2, [Comparison(1, 0, *wins, margin=margin)]) for k, (*wins, margin) in enumerate(votes)]
    one_by_one = settings_for("curriculum", 1, agreement_buckets=6)
    assert [number for number, _ in met(groups, one_by_one)] == [3, 1, 5, 0, 4, 2]
    cut = [settings_for("curriculum", 1, agreement_buckets=2, seed=seed) for seed in range(20)]
    plans = [[number for number, _ in met(groups, settings)] for settings in cut]
    assert {frozenset(plan[:3]) for plan in plans} == {frozenset({3, 1, 5})}
    assert len({tuple(plan) for plan in plans}) > 5, "shuffled inside a bucket"


@given(st.integers(0, 10_000), st.integers(2, 7), st.integers(1, 20))
@hypothesis_settings(max_examples=40, deadline=None)
def test_an_epoch_goes_from_the_most_agreed_bucket_to_the_least(seed: int, buckets: int, size: int) -> None:
    groups = [*random_groups(15, seed), VOTED]
    settings = settings_for("curriculum", size, agreement_buckets=buckets, seed=seed)
    order = met(groups, settings)
    assert order == met(groups, settings)
    keep = settings_for("bradley_terry", size)
    learned = compared(make_steps(groups, settings.objective, settings.train))
    assert learned == compared(make_steps(groups, keep.objective, keep.train)), "nothing is left out, nothing is twice"
    best = sorted((pair.agreement for _, pair in order), reverse=True)
    ends = [math.ceil(bucket * len(best) / buckets) for bucket in range(buckets + 1)]
    seen: list[tuple[float, float]] = []
    for step in make_steps(groups, settings.objective, settings.train):
        seen = sorted([*seen, *(pair.agreement for chunk in step.chunks for pair in chunk.pairs)], reverse=True)
        done = max(end for end in ends if end <= len(seen))
        begun = min(end for end in ends if end >= len(seen))
        assert seen[:done] == best[:done], "a bucket is done before the next one begins"
        assert seen[-1] >= best[begun - 1]


def test_equal_agreement_is_in_another_order_each_epoch() -> None:
    groups = [group_of(k, 2, [Comparison(0, 1, 1, 0)]) for k in range(40)]
    numbers = [number for number, _ in met(groups, settings_for("curriculum", 1, epochs=2))]
    assert sorted(numbers[:40]) == sorted(numbers[40:]) == list(range(40))
    assert numbers[:40] != numbers[40:]
    assert set(numbers[:10]) != set(range(10)), "a bucket's border falls among equals at random"


def test_rankings_stay_whole_in_the_curriculum() -> None:
    overrides = ["objective=plackett_luce", "objective.agreement=bucket", "objective.agreement_buckets=2"]
    settings = compose([*overrides, "train.comparisons_per_step=1"], CONFIGS)
    sure = group_of("sure", 3, [Comparison(0, 1, 3, 0), Comparison(1, 2, 3, 0)])
    unsure = group_of("unsure", 3, [Comparison(0, 1, 3, 2), Comparison(1, 2, 3, 3)])
    steps = make_steps([unsure, sure], settings.objective, settings.train)
    assert [[chunk.group for chunk in step.chunks] for step in steps] == [[1], [0]]
    assert [step.comparisons for step in steps] == [2, 2]


def rewards_of(micro: MicroBatch) -> torch.Tensor:
    """A reward per completion that follows from its last token, whatever the layout."""
    ends = [
        int(batch.input_ids[row, column])
        for batch in micro.batches
        for row, column in zip(batch.rows, batch.columns, strict=True)
    ]
    return torch.tensor(ends, dtype=torch.float64).sin()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("weighting", ["comparison", "group"])
@given(st.integers(0, 10_000))
@hypothesis_settings(max_examples=10, deadline=None)
def test_a_steps_loss_is_the_same_for_any_ranks_and_micro_batches(policy: str, weighting: str, seed: int) -> None:
    groups = [*random_groups(8, seed), VOTED]
    encoded = encode(groups, seed)
    settings = settings_for(policy, 7, weighting=weighting)
    for step in make_steps(groups, settings.objective, settings.train):
        losses = []
        for ranks, budget in ((1, 10_000), (1, 120), (2, 10_000), (2, 120)):
            loss, weight = 0.0, 0.0
            for rank in range(ranks):
                chunks, counts = share_of(step, encoded, rank, ranks)
                for micro in micro_batches(chunks, encoded, budget, shared=True, counts=counts):
                    loss += total_loss(settings.objective, rewards_of(micro), micro).item()
                    weight += micro.weights.double().sum().item()
            assert weight == pytest.approx(step.weight, rel=1e-6)
            losses.append(loss / step.weight)
        assert losses == pytest.approx([losses[0]] * 4, rel=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.agreement=none"], "objective.agreement"),
        (["objective.agreement=filter"], "agreement=filter needs agreement_threshold"),
        (["objective=filter", "objective.agreement_threshold=0.5"], "objective.agreement_threshold"),
        (["objective=filter", "objective.agreement_threshold=nan"], "objective.agreement_threshold"),
        (["objective.agreement_threshold=0.8"], "agreement_threshold goes with agreement=filter only"),
        (["objective.agreement=bucket"], "agreement=bucket needs agreement_buckets"),
        (["objective=curriculum", "objective.agreement_buckets=1"], "objective.agreement_buckets"),
        (["objective=filter", "objective.agreement_buckets=3"], "agreement_buckets goes with agreement=bucket only"),
        (["objective=davidson", "objective.agreement=hard_negatives"], "agreement=hard_negatives goes with name=brad"),
        (["objective=soft_labels", "objective.agreement=hard_negatives"], "agreement=hard_negatives leaves out"),
    ],
)
def test_what_makes_no_sense_together_is_refused_by_name(overrides: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match="objective") as caught:
        compose(overrides, CONFIGS)
    assert message in str(caught.value)


@pytest.mark.parametrize("objective", ["soft_labels", "davidson", "rao_kupper", "margin", "noise_rate", "instructgpt"])
def test_a_curriculum_goes_with_any_objective(objective: str) -> None:
    overrides = ["objective.agreement=bucket", "objective.agreement_buckets=3"]
    assert compose([f"objective={objective}", *overrides], CONFIGS).objective.agreement == "bucket"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base") / "base")


def small(stem: str, **changes: object) -> Settings:
    settings = settings_for(stem, threads=1, tokens_per_microbatch=512, **changes)
    return settings.model_copy(update={"model": settings.model.model_copy(update={"max_tokens": 128})})


def make_build(folder: Path, base: Path, **sets: Sequence[Group]) -> Path:
    (folder / "splits").mkdir(parents=True)
    (folder / "base").symlink_to(base)
    for name, groups in sets.items():
        write_parquet(folder / "splits" / f"{name}.parquet", groups)
    return folder


def test_what_is_left_out_is_in_the_curve_and_the_log_and_still_evaluated(
    tmp_path: Path, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    contested = [group_of(f"contested {k}", 2, [Comparison(0, 1, 3, 2)]) for k in range(3)]
    build = make_build(tmp_path / "build", base, train=[VOTED, *contested], validation=contested)
    rows = train(small("filter", epochs=2, checkpoint_steps=0, early_stopping_steps=1), build)
    assert [row["left_out"] for row in rows] == [5, 5]
    assert [row["comparisons"] for row in rows] == [3, 3]
    assert all(row["validation_loss"] > 0 for row in rows), "validation holds nothing but what training leaves out"
    assert "objective.agreement=filter leaves 5 comparisons out of training" in caplog.text
    assert all(for_evaluation(SETTINGS[stem].objective) == KEEP for stem in POLICIES if stem != "agreement")

    head = train(small("filter", method="head_only"), make_build(tmp_path / "head", base, train=[VOTED, *contested]))
    assert {row["left_out"] for row in head} == {5}
    kept = train(small("bradley_terry", method="head_only"), make_build(tmp_path / "all", base, train=[VOTED]))
    assert all("left_out" not in row for row in kept)
    with pytest.raises(SettingsError, match=r"train\.method=head_only has no steps for objective\.agreement=bucket"):
        compose(["objective=curriculum", "train=head_only"], CONFIGS)


def test_strength_is_what_groups_say() -> None:
    strengths = {(pair.first, pair.second): pair.strength for pair in judged_pairs(VOTED)}
    for pair in used_pairs(VOTED, KEEP):
        first, second = sorted((pair.chosen, pair.rejected))
        assert pair.agreement == (strengths[first, second], 0.0)
