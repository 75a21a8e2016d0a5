"""Process models: the head is read behind each step, and nowhere else; what is sealed of it says what it means."""

from __future__ import annotations

import copy
import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification

from tests.worlds.shapes import QWEN
from tests.worlds.steps import make_chain_groups, make_process_artifact, process_artifact, seal_chains
from tests.worlds.tiny import make_tiny_tokenizer
from touchstone.errors import ArtifactError, ModelError
from touchstone.groups import (
    STEP_SEPARATOR,
    Completion,
    Message,
    chain_outcome,
    labelled_steps,
    steps_of,
    text_of_steps,
)
from touchstone.model.aggregation import aggregate
from touchstone.model.layout import make_batches, not_wrong, padded_batch, shares_prompt, token_log_odds
from touchstone.model.network import RewardModel, head_of, load_reward_model, read_every_step
from touchstone.model.scores import RawScore, as_item, read_scores, write_scores
from touchstone.model.scoring import Scorer, padded_scores, raw_scores
from touchstone.model.templating import ScoringRule, encode, encode_many
from touchstone.statistics.first_error import NO_ERROR, detection, first_error, found_errors

PROMPT = (Message("user", "How do I boil an egg?"),)
CHAIN = ("Boil the water.", "Put the egg in.", "Wait for six minutes.")
STEPS = st.lists(st.text(st.sampled_from("ab \n\t.é"), max_size=12).filter(str.strip), min_size=1, max_size=5)


def step_model(classes: Literal[2, 3] = 2, max_tokens: int = 200) -> RewardModel:
    torch.manual_seed(3)
    tokenizer, config = make_tiny_tokenizer(), copy.deepcopy(QWEN)
    config.vocab_size = len(tokenizer)
    network = AutoModelForSequenceClassification.from_config(config)
    model = RewardModel(network.train(False), tokenizer, ScoringRule(max_tokens, "", text_form=1))
    read_every_step(model, classes, seed=1)
    head_of(model.network).weight.data.normal_(generator=torch.Generator().manual_seed(1))
    return model


@given(STEPS)
def test_as_many_steps_come_out_as_went_in(steps: list[str]) -> None:
    text = text_of_steps(steps)
    assert len(steps_of(text)) == len(steps)
    assert text_of_steps(steps_of(text)) == text
    assert [step.split() for step in steps_of(text)] == [step.split() for step in steps]


@pytest.mark.parametrize("steps", [[], [""], ["a", "\u200b"], ["a", " \n"]])
def test_a_step_without_content_is_none(steps: list[str]) -> None:
    with pytest.raises(ValueError, match="step"):
        text_of_steps(steps)


def test_labels_that_fit_no_steps_are_about_none() -> None:
    assert labelled_steps(Completion("First do this, then that.", steps=(1.0, 0.0))) is None
    assert labelled_steps(Completion("This.\n\nThat.", steps=(1.0, 0.0))) == [("This.", 1.0), ("That.", 0.0)]
    assert chain_outcome(Completion("This.\n\nThat.", steps=(1.0, 0.5))) == 1.0
    assert chain_outcome(Completion("This.\n\nThat.", steps=(0.0, None))) == 0.0
    assert chain_outcome(Completion("This.\n\nThat.", steps=(None, 0.0))) is None


def test_a_step_s_value_is_read_at_its_separator_and_doesn_t_see_what_follows() -> None:
    model = step_model()
    whole, *beginnings = (text_of_steps(CHAIN[:end]) for end in (3, 1, 2))
    encoded = encode(model.tokenizer, model.rule, PROMPT, [whole])
    assert encoded.reads is not None
    ids, reads = encoded.completion_ids[0], encoded.reads[0]
    decoded = [model.tokenizer.decode(ids[: place + 1]) for place in reads]
    assert decoded == [STEP_SEPARATOR.join(CHAIN[:end]) + STEP_SEPARATOR for end in (1, 2, 3)]
    scores = raw_scores(model, [(PROMPT, [whole, *beginnings])], values=True)[0]
    values = scores[0].values
    assert values is not None
    assert len(values) == 3
    for beginning in scores[1:]:
        assert beginning.values == pytest.approx(values[: len(beginning.values or ())], abs=1e-5)


def test_a_text_without_steps_still_has_a_value() -> None:
    model = step_model()
    for score in raw_scores(model, [(PROMPT, ["", "\n\n", "\u200b"])], values=True)[0]:
        assert score.values is not None
        assert len(score.values) == 1
        assert math.isfinite(score.reward)


def test_steps_beyond_the_limit_have_no_value() -> None:
    model = step_model(max_tokens=40)
    encoded = encode(model.tokenizer, model.rule, PROMPT, [text_of_steps(CHAIN * 9), "a" * 200])
    assert encoded.reads is not None
    assert 0 < len(encoded.reads[0]) < 27
    assert encoded.truncated == [True, True]
    empty = encode(model.tokenizer, model.rule, PROMPT, [""])
    assert empty.reads is not None
    closing = len(empty.completion_ids[0]) - 1 - empty.reads[0][0]
    assert encoded.reads[1] == [len(encoded.completion_ids[1]) - closing - 1]


@pytest.mark.parametrize("classes", [2, 3])
def test_neither_padding_nor_packing_nor_order_changes_a_step_s_value(classes: Literal[2, 3]) -> None:
    model = step_model(classes)
    assert shares_prompt(model)
    items = [as_item(group) for group in make_chain_groups(12, seed=5)]
    encoded = encode_many(model.tokenizer, model.rule, items)
    alone = {}
    with torch.inference_mode():
        for item, group in enumerate(encoded):
            for place in range(len(group.completion_ids)):
                batch = padded_batch(encoded, [(item, place)])
                alone[item, place] = token_log_odds(model, batch).tolist()
        for shared in (True, False):
            for batch in make_batches(encoded, 300, shared=shared):
                parts = token_log_odds(model, batch).split(batch.sizes)
                for owner, part in zip(batch.owners, parts, strict=True):
                    assert part.tolist() == pytest.approx(alone[owner], abs=1e-5)
    forwards = raw_scores(model, items)
    backwards = raw_scores(model, items[::-1])[::-1]
    padded = padded_scores(model, items, rows=4)
    for rows in (backwards, padded):
        assert [[score.reward for score in row] for row in rows] == [
            pytest.approx([score.reward for score in row], abs=1e-5) for row in forwards
        ]


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=2, max_size=6), st.data())
def test_masking_a_step_moves_each_aggregate_as_it_should(values: list[float], data: st.DataObject) -> None:
    """What is masked has no part: min and product can only rise, mean moves away from it, last hears the last."""
    place = data.draw(st.integers(0, len(values) - 1))
    whole = torch.tensor(values, dtype=torch.float64)
    rest = torch.cat([whole[:place], whole[place + 1 :]])
    low = 1e-9
    assert aggregate(rest, "min") >= aggregate(whole, "min") - low
    assert aggregate(rest, "product") >= aggregate(whole, "product") - low
    moved = aggregate(rest, "mean") - aggregate(whole, "mean")
    assert moved * (aggregate(whole, "mean") - whole[place]) >= -low
    assert aggregate(rest, "last") == (whole[-1] if place < len(values) - 1 else whole[-2])


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=6))
def test_product_is_least_and_the_last_lies_between(values: list[float]) -> None:
    odds = torch.tensor(values, dtype=torch.float64)
    product, least, mean, last = (float(aggregate(odds, name)) for name in ("product", "min", "mean", "last"))
    assert product <= least + 1e-9
    assert least <= mean + 1e-9
    assert mean <= max(values) + 1e-9
    assert least <= last <= max(values)


def test_a_neutral_step_is_not_wrong() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, -1.0, 0.0]])
    chances = logits.softmax(-1)
    assert torch.allclose(torch.sigmoid(not_wrong(logits)), chances[:, 1] + chances[:, 2])
    assert not_wrong(torch.tensor([0.5, -2.0])).tolist() == [0.5, -2.0]


@pytest.fixture(scope="module", params=[2, 3], ids=["two classes", "three classes"])
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == 2:
        return process_artifact()
    return make_process_artifact(tmp_path_factory.mktemp("process"), classes=3)


@pytest.mark.slow
def test_a_trained_model_finds_the_first_wrong_step(artifact: Path) -> None:
    scorer = Scorer.load(artifact)
    assert scorer.card.process is not None
    assert scorer.card.process.f1 > 0.8
    groups = make_chain_groups(40, seed=9)
    rows = scorer.raw([as_item(group) for group in groups], values=True)
    chains, truths = [], []
    for group, row in zip(groups, rows, strict=True):
        for completion, score in zip(group.completions, row, strict=True):
            truth = first_error(completion.steps or ())
            if truth is not None:
                chains.append(score.values or ())
                truths.append(truth)
                assert score.reward == pytest.approx(min(score.values or ()), abs=1e-6)
    assert NO_ERROR in truths
    assert detection(found_errors(chains, scorer.card.process.threshold), truths).f1 > 0.8


def test_the_aggregation_is_sealed_and_changes_nothing_else(artifact: Path, tmp_path: Path) -> None:
    model = artifact.parent / "build" / "model"
    sealed = {name: Scorer.load(seal_chains(model, tmp_path / name, name)) for name in ("product", "mean", "last")}  # type: ignore[arg-type]
    sealed["min"] = Scorer.load(artifact)
    item = as_item(make_chain_groups(1, seed=4)[0])
    by_name = {name: scorer.raw([item], values=True)[0] for name, scorer in sealed.items()}
    assert len({row[0].values for row in by_name.values()}) == 1
    for name, row in by_name.items():
        for score in row:
            assert score.reward == pytest.approx(float(aggregate(torch.tensor(score.values), name)), abs=1e-5)  # type: ignore[arg-type]
    assert len({scorer.card.digest for scorer in sealed.values()}) == 4
    assert len({scorer.card.process.threshold for scorer in sealed.values() if scorer.card.process}) == 1


def test_stock_loaders_refuse_it(artifact: Path) -> None:
    with pytest.raises(ValueError, match="TokenwiseConfig"):
        AutoModelForSequenceClassification.from_pretrained(artifact)


def test_another_rule_than_the_sealed_one_is_refused(artifact: Path) -> None:
    model = load_reward_model(artifact)
    assert model.rule.unit == "step"
    with pytest.raises(ModelError, match="seal the model again"):
        load_reward_model(artifact, rule=replace(model.rule, aggregation="mean"))
    with pytest.raises(ModelError, match="unknown"):
        ScoringRule.from_json({**model.rule.to_json(), "classes": 4})


def test_a_calibration_set_without_errors_seals_nothing(artifact: Path, tmp_path: Path) -> None:
    from touchstone.model.sealing import seal

    groups = make_chain_groups(60, seed=2)
    right = [
        replace(group, completions=tuple(c for c in group.completions if chain_outcome(c) == 1.0), comparisons=())
        for group in groups
    ]
    right = [group for group in right if group.completions]
    with pytest.raises(ArtifactError, match="calibration set"):
        seal(
            artifact.parent / "build" / "model",
            right,
            groups,
            precision="fp32",
            self_test_vectors=4,
            seeds={},
            folder=tmp_path / "artifact",
            aggregation="min",
        )


def test_the_odds_of_two_chains_give_their_comparison(artifact: Path) -> None:
    """Exactly one of two being right, it is A with odds p_A (1 - p_B) : (1 - p_A) p_B."""
    scorer = Scorer.load(artifact)
    outcome = scorer.card.outcome
    assert outcome is not None
    source = random.Random(3)
    for _ in range(5):
        a, b = source.uniform(-3, 3), source.uniform(-3, 3)
        p_a, p_b = (1 / (1 + math.exp(-outcome.intercept - outcome.slope * reward)) for reward in (a, b))
        expected = p_a * (1 - p_b) / (p_a * (1 - p_b) + (1 - p_a) * p_b)
        assert scorer.probability(a, b) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("members", [(), (0.5, -0.25)])
def test_values_of_steps_and_of_members_come_out_of_a_file_of_scores_as_they_went_in(
    members: tuple[float, ...], tmp_path: Path
) -> None:
    groups = make_chain_groups(3, seed=6)
    scores = [
        [
            RawScore(1.5, False, 7, "seen", members, (2.0, -1.0) if place % 2 else None)
            for place in range(len(g.completions))
        ]
        for g in groups
    ]
    write_scores(tmp_path / "scores.parquet", groups, scores, "digest")
    assert read_scores(tmp_path / "scores.parquet", groups) == scores


def test_the_card_is_read_again(artifact: Path) -> None:
    card = json.loads((artifact / "reward.json").read_text())
    assert card["schema_version"] == 3
    assert card["rule"]["unit"] == "step"
    assert set(card["process"]) == {
        "intercept",
        "slope",
        "error",
        "threshold",
        "f1",
        "steps",
        "chains",
        "n_prompts",
    }
