"""Training on outcome labels: what the loss is, what is masked, and that neither batches nor ranks change it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.places import ROOT
from tests.worlds.first_step import encoded_of, loss_of
from tests.worlds.outcomes import make_outcome_groups, outcome_settings, outcome_world, without_labels
from touchstone.errors import SettingsError, TrainingError
from touchstone.groups import Group
from touchstone.model.layout import read_token_log_odds, shares_prompt
from touchstone.model.network import RewardModel, load_reward_model
from touchstone.model.templating import EncodedGroup
from touchstone.pipeline.overrides import apply
from touchstone.settings import compose, load
from touchstone.training.curve import SUMS, sums_of
from touchstone.training.decoys import is_decoy, with_decoys
from touchstone.training.outcome import IGNORED, TokenMicroBatch, token_loss
from touchstone.training.plan import make_steps, micro_batches, share_of


@pytest.fixture(scope="module")
def model() -> RewardModel:
    model = load_reward_model(outcome_world() / "build" / "model")
    assert shares_prompt(model)
    return model


def by_hand(model: RewardModel, group: Group, encoded: EncodedGroup) -> list[Tensor]:
    """The mean loss per token of each labelled completion: the whole sequence is read, and all but it is masked."""
    losses = []
    for place, completion in enumerate(group.completions):
        if completion.outcome is None:
            continue
        prompt, answer = encoded.prompt(place), encoded.completion_ids[place]
        labels = torch.tensor([IGNORED] * len(prompt) + [completion.outcome] * len(answer))
        ids = torch.tensor([prompt + answer])
        states = model.network.base_model(
            input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False
        ).last_hidden_state
        log_odds = model.network.score(states)[0].squeeze(-1)
        kept = labels != IGNORED
        losses.append(functional.binary_cross_entropy_with_logits(log_odds[kept], labels[kept]))
    return losses


def test_the_loss_is_the_cross_entropy_of_the_completions_tokens_alone(model: RewardModel) -> None:
    groups = make_outcome_groups(4, seed=5, sizes=(2, 4))
    settings = outcome_settings(comparisons_per_step=100)
    value, divisor = loss_of(model, groups, settings, 512)
    pairs = zip(groups, encoded_of(model, groups), strict=True)
    losses = [loss for group, ids in pairs for loss in by_hand(model, group, ids)]
    assert divisor == len(losses)
    assert value.item() == pytest.approx(torch.stack(losses).sum().item(), rel=1e-5)


def gradient(model: RewardModel, loss: Tensor) -> Tensor:
    parameters = [parameter for parameter in model.network.parameters() if parameter.requires_grad]
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])


def test_budget_layout_and_ranks_change_neither_loss_nor_gradient(model: RewardModel) -> None:
    groups = make_outcome_groups(6, seed=6)
    settings = outcome_settings(comparisons_per_step=100)
    whole, divisor = loss_of(model, groups, settings, 4096)
    expected = gradient(model, whole)
    for budget, shared, ranks in ((64, True, 1), (4096, False, 1), (128, True, 2), (96, False, 3)):
        value, same = loss_of(model, groups, settings, budget, shared=shared, ranks=ranks)
        assert same == divisor
        assert value.item() == pytest.approx(whole.item(), rel=1e-5)
        torch.testing.assert_close(gradient(model, value), expected, rtol=1e-3, atol=1e-5)


def test_a_mean_of_the_ranks_means_would_be_another_loss(model: RewardModel) -> None:
    groups = make_outcome_groups(5, seed=8, sizes=(1, 4))
    settings = outcome_settings(comparisons_per_step=100)
    encoded = encoded_of(model, groups)
    step = make_steps(groups, settings.objective, settings.train)[0]
    parts = []
    for rank in range(2):
        chunks, _ = share_of(step, encoded, rank, 2)
        (micro,) = micro_batches(chunks, encoded, 4096, shared=True)
        assert isinstance(micro, TokenMicroBatch)
        loss = token_loss(read_token_log_odds(model.network, micro.batches[0]), micro)
        parts.append((float(loss.detach()), float(micro.weights.sum())))
    whole = sum(loss for loss, _ in parts) / sum(weight for _, weight in parts)
    assert loss_of(model, groups, settings, 4096)[0].item() / step.divisor == pytest.approx(whole, rel=1e-5)
    assert sum(loss / weight for loss, weight in parts) / 2 != pytest.approx(whole, rel=1e-3)


def test_every_completion_weighs_the_same_or_every_group(model: RewardModel) -> None:
    groups = make_outcome_groups(12, seed=4)
    labelled = [sum(text.outcome is not None for text in group.completions) for group in groups]
    settings = outcome_settings(comparisons_per_step=1000)
    (step,) = make_steps(groups, settings.objective, settings.train)
    assert step.weight == step.comparisons == sum(labelled)
    by_group = settings.objective.model_copy(update={"weighting": "group"})
    (step,) = make_steps(groups, by_group, settings.train)
    assert step.weight == pytest.approx(sum(count > 0 for count in labelled))
    for chunk in step.chunks:
        assert sum(element.weight for element in chunk.pairs) == pytest.approx(1)


def test_completions_without_a_label_teach_nothing() -> None:
    settings = outcome_settings()
    groups = make_outcome_groups(30, seed=4)
    for step in make_steps(groups, settings.objective, settings.train):
        assert step.comparisons <= settings.train.comparisons_per_step
        for chunk in step.chunks:
            for element in chunk.pairs:
                assert groups[chunk.group].completions[element.completions[0]].outcome is not None
    with pytest.raises(TrainingError, match="no completion with an outcome label"):
        make_steps(without_labels(groups), settings.objective, settings.train)


def test_ignored_tokens_and_unlabelled_neighbours_weigh_nothing() -> None:
    micro = TokenMicroBatch(
        batches=(),
        labels=torch.tensor([1.0, IGNORED, 0.0]),
        sizes=[2, 1],
        weights=torch.ones(2),
        targets=torch.tensor([1.0, 0.0]),
        decoys=torch.zeros(2, dtype=torch.bool),
        groups=[0, 0],
        counts=True,
    )
    log_odds = torch.tensor([0.3, 9.0, -0.2])
    expected = functional.softplus(torch.tensor(-0.3)) + functional.softplus(torch.tensor(-0.2))
    assert float(token_loss(log_odds, micro)) == pytest.approx(float(expected))
    padding = replace(micro, weights=torch.zeros(2), counts=False)
    assert float(token_loss(log_odds, padding)) == 0
    assert not sums_of(padding, torch.zeros(()), log_odds).any()


def test_the_curve_counts_labelled_completions(model: RewardModel) -> None:
    rows = [json.loads(line) for line in (outcome_world() / "build" / "curve.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.5 < rows[0]["loss"]
    assert rows[-1]["accuracy"] > 0.85
    assert len(SUMS) == 11


def test_decoys_are_labelled() -> None:
    groups = with_decoys(make_outcome_groups(40, seed=3, sizes=(4,)), 1.0, 17, ())
    decoys = [text for group in groups for text in group.completions if is_decoy(text)]
    assert decoys
    assert {text.outcome for text in decoys} == {0.0}


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["objective.centering=0.1"], "centering pulls pairs"),
        (["objective.labels=votes"], "labels=votes speaks of comparisons"),
        (["objective.agreement=weight"], "agreement=weight speaks of comparisons"),
        (["objective.noise_rate=0.1"], "noise_rate goes with name=bradley_terry only"),
        (["train=head_only"], "reads each token"),
    ],
)
def test_what_speaks_of_pairs_does_not_go_with_outcomes(overrides: list[str], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        compose(["objective=outcome", *overrides], ROOT / "configs")


def test_aggregation_goes_with_outcomes_only() -> None:
    assert compose(["objective=outcome", "seal.aggregation=product"], ROOT / "configs").seal.aggregation == "product"
    assert compose(["objective=outcome"], ROOT / "configs").name == "reward-sandbox-outcome"
    with pytest.raises(SettingsError, match=r"seal\.aggregation=mean combines values"):
        compose(["seal.aggregation=mean"], ROOT / "configs")


def test_the_name_follows_the_objective() -> None:
    """Models of different objectives have champions of their own."""
    current = load(ROOT / "params.yaml")
    for choices, name in (
        (["objective=outcome"], "reward-sandbox-outcome"),
        (["objective=process"], "reward-sandbox-process"),
        (["objective=outcome", "data=gsm8k", "data.path=x"], "reward-gsm8k-outcome"),
    ):
        changed = apply(current, choices, ROOT / "configs")
        assert changed.name == name
        assert apply(changed, ["objective=bradley_terry"], ROOT / "configs").name == f"reward-{changed.data.name}"
