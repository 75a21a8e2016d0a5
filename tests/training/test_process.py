"""Training on step labels: what the loss is, what is masked, and that neither batches nor ranks change it."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.places import ROOT
from tests.worlds.first_step import encoded_of, loss_of
from tests.worlds.steps import make_chain_groups, process_artifact, process_settings
from touchstone.errors import SettingsError, TrainingError
from touchstone.groups import Completion, Group, Message, make_group, text_of_steps
from touchstone.model.layout import read_token_log_odds, shares_prompt
from touchstone.model.network import RewardModel, load_reward_model, read_every_step
from touchstone.model.templating import EncodedGroup
from touchstone.settings import compose
from touchstone.training.curve import SUMS, sums_of
from touchstone.training.decoys import is_decoy, with_decoys
from touchstone.training.objective import total_loss
from touchstone.training.outcome import IGNORED
from touchstone.training.plan import make_steps, micro_batches, share_of
from touchstone.training.process import step_labels, step_targets


def process_model(classes: Literal[2, 3] = 2) -> RewardModel:
    model = load_reward_model(process_artifact().parent / "build" / "model")
    read_every_step(model, classes, seed=3)
    assert shares_prompt(model)
    return model


def by_hand(model: RewardModel, group: Group, encoded: EncodedGroup, classes: int) -> list[Tensor]:
    """The mean loss per labelled step of each chain: the whole sequence is read, all but the steps' ends masked."""
    assert encoded.reads is not None
    losses = []
    for place, completion in enumerate(group.completions):
        prompt, answer = encoded.prompt(place), encoded.completion_ids[place]
        labels = torch.full((len(prompt) + len(answer),), IGNORED)
        for end, label in zip(encoded.reads[place], completion.steps or (), strict=True):
            if label is not None:
                labels[len(prompt) + end] = label
        kept = labels != IGNORED
        states = model.network.base_model(input_ids=torch.tensor([prompt + answer]), use_cache=False).last_hidden_state
        values = model.network.score(states)[0]
        if classes == 3:
            losses.append(functional.cross_entropy(values[kept], (2 * labels[kept]).long()))
        else:
            right = (labels[kept] >= 0.5).float()
            losses.append(functional.binary_cross_entropy_with_logits(values[kept].squeeze(-1), right))
    return losses


@pytest.mark.parametrize("classes", [2, 3])
def test_the_loss_is_the_cross_entropy_at_the_labelled_steps_alone(classes: Literal[2, 3]) -> None:
    model, groups = process_model(classes), make_chain_groups(6, seed=5)
    assert any(None in (completion.steps or ()) for group in groups for completion in group.completions)
    value, divisor = loss_of(model, groups, process_settings(classes=classes, comparisons_per_step=100), 512)
    pairs = zip(groups, encoded_of(model, groups), strict=True)
    losses = [loss for group, ids in pairs for loss in by_hand(model, group, ids, classes)]
    assert divisor == len(losses)
    assert value.item() == pytest.approx(torch.stack(losses).sum().item(), rel=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_budget_layout_and_ranks_change_neither_loss_nor_gradient(classes: Literal[2, 3]) -> None:
    model, groups = process_model(classes), make_chain_groups(6, seed=6)
    settings = process_settings(classes=classes, comparisons_per_step=100)

    def gradient(loss: Tensor) -> Tensor:
        parameters = [parameter for parameter in model.network.parameters() if parameter.requires_grad]
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])

    whole, divisor = loss_of(model, groups, settings, 4096)
    expected = gradient(whole)
    for budget, shared, ranks in ((64, True, 1), (4096, False, 1), (128, True, 2)):
        value, same = loss_of(model, groups, settings, budget, shared=shared, ranks=ranks)
        assert same == divisor
        assert value.item() == pytest.approx(whole.item(), rel=1e-5)
        torch.testing.assert_close(gradient(value), expected, rtol=1e-3, atol=1e-5)


def test_what_nobody_labelled_changes_no_loss() -> None:
    model, settings = process_model(), process_settings(comparisons_per_step=100)
    chain = ("1 water good", "1 egg bad", "1 kings good")
    prompt = [Message("user", "0 boil")]

    def loss(*labels: float | None) -> float:
        group = make_group(
            prompt=prompt,
            completions=[Completion(text_of_steps(chain[: len(labels)]), steps=labels)],
            comparisons=(),
            source="test",
        )
        return loss_of(model, [group], settings, 512)[0].item()

    assert loss(1.0, 0.0, None) == pytest.approx(loss(1.0, 0.0), rel=1e-5)
    assert loss(1.0, 0.0, 1.0) != pytest.approx(loss(1.0, 0.0), rel=1e-3)


def test_a_neutral_step_is_correct_where_two_classes_are_told_apart() -> None:
    chain = Completion("a\n\nb\n\nc\n\nd", steps=(1.0, 0.5, 0.0, None))
    assert step_labels(chain, 2) == (1.0, 1.0, 0.0, IGNORED)
    assert step_labels(chain, 3) == (1.0, 0.5, 0.0, IGNORED)
    assert step_labels(Completion("a, then b.", steps=(1.0, 0.0)), 2) == ()


def test_decoys_are_wrong_in_every_step_and_parts_of_an_answer_teach_nothing() -> None:
    groups = with_decoys(make_chain_groups(60, seed=4), 3.0, 17, ())
    objective = process_settings().objective
    kinds: dict[str, set[tuple[float, ...]]] = {}
    for group in groups:
        taught = {target.completion: target for target in step_targets(group, objective)}
        for place, completion in enumerate(group.completions):
            if is_decoy(completion):
                kind = str(completion.policy).rpartition(": ")[2]
                kinds.setdefault(kind, set()).add(taught[place].steps or () if place in taught else ())
    assert kinds["cut"] == kinds["repeated"] == {()}
    assert {label for kind in ("refusal", "filler") for steps in kinds[kind] for label in steps} == {0.0}
    # Also for a prompt with one chain, which nothing was compared with.
    alone = [group for group in groups if not any(not is_decoy(text) for text in group.completions[1:])]
    assert any(len(group.completions) > 1 for group in alone)


def test_the_curve_counts_chains() -> None:
    model, groups = process_model(3), make_chain_groups(5, seed=9)
    settings = process_settings(classes=3, comparisons_per_step=100)
    encoded = encoded_of(model, groups)
    chunks, _ = share_of(make_steps(groups, settings.objective, settings.train)[0], encoded, 0, 1)
    (micro,) = micro_batches(chunks, encoded, 4096, shared=True)
    values = read_token_log_odds(model.network, micro.batches[0])
    sums = dict(zip(SUMS, sums_of(micro, total_loss(settings.objective, values, micro), values), strict=True))
    assert sums["comparisons"] == sum(len(group.completions) for group in groups)
    assert 0 <= sums["wins"] <= sums["decided"] <= sums["comparisons"]


def test_without_step_labels_there_is_nothing_to_learn() -> None:
    plain = [
        make_group(
            prompt=[Message("user", "Why?")],
            completions=[Completion("So.", outcome=1.0)],
            comparisons=(),
            source="test",
        )
    ]
    settings = process_settings()
    with pytest.raises(TrainingError, match="labels of the steps"):
        make_steps(plain, settings.objective, settings.train)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective=process", "train=head_only"], "train.method"),
        (["objective=process", "objective.centering=0.01"], "centering"),
        (["objective=process", "objective.agreement=weight"], "agreement"),
        (["objective=outcome", "objective.step_classes=3"], "step_classes"),
        (["seal.aggregation=min"], "seal.aggregation"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        compose(overrides, ROOT / "configs")
