"""A step of training equals one-by-one scoring in float64: rewards, loss and every gradient.

The reference is written down here without batches, masks or padding: each completion goes through the network by
itself, and the loss is the formula. The largest errors are printed (`pytest -rP`).
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    Gemma3TextConfig,
    GPT2Config,
    PretrainedConfig,
    Qwen3Config,
)

from tests.places import ROOT
from tests.worlds.shapes import QWEN, SHAPE, VOCABULARY
from tests.worlds.tiny import make_tiny_tokenizer
from touchstone.groups import Comparison, Completion, Group, Message, judged_pairs, make_group
from touchstone.model.network import RewardModel, head_of
from touchstone.model.templating import EncodedGroup, ScoringRule
from touchstone.settings import Settings, load, parse
from touchstone.training.trainer import Examples, Places, PreferenceTrainer

CENTERING = 0.01


def configure(**objective: object) -> Settings:
    values = load(ROOT / "params.yaml").model_dump(mode="json")
    values["objective"] |= {"centering": CENTERING, "decoys": 0.0, **objective}
    values["train"] |= {"comparisons_per_step": 10_000, "checkpoint_steps": 0}
    return parse(values)


def make_examples(seed: int, *, truncated: bool) -> Examples:
    """Groups of 2 to 8 completions of ragged lengths, some pairs tied, labels at random."""
    dice = random.Random(seed)

    def ids(size: int) -> list[int]:
        return [dice.randrange(1, VOCABULARY) for _ in range(size)]

    groups, encoded = [], []
    for number, size in enumerate((2, 3, 4, 5, 6, 7, 8, 2, 2)):
        edges = []
        for i in range(size):
            for j in range(i + 1, size):
                wins = dice.choice([(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
                edges.append(Comparison(i, j, *wins, ties=float(sum(wins) == 0)))
        texts = [Completion(f"{number} {k}") for k in range(size)]
        groups.append(make_group(prompt=[Message("user", "x")], completions=texts, comparisons=edges, source="t"))
        prompt = ids(dice.randint(1, 40))
        starts = [dice.randint(0, len(prompt)) if truncated else 0 for _ in range(size)]
        answers = [ids(dice.randint(1, 30)) for _ in range(size)]
        encoded.append(EncodedGroup(prompt, answers, starts, [start > 0 for start in starts]))
    return Examples(groups, encoded)


def reward_model(config: PretrainedConfig) -> RewardModel:
    torch.manual_seed(3)
    network = AutoModelForSequenceClassification.from_config(type(config).from_dict(config.to_dict()))
    head_of(network).weight.data.normal_(generator=torch.Generator().manual_seed(1))
    network.double()
    # transformers' own computes in fp32 whatever it is given: a last bit of float64 becomes one of fp32.
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ == "Qwen3RMSNorm":
                exact = nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon, dtype=torch.float64)
                exact.weight = child.weight
                setattr(module, name, exact)
    return RewardModel(network, make_tiny_tokenizer(), ScoringRule(400, ""))


def one_by_one(model: RewardModel, examples: Examples) -> Tensor:
    """The loss, straight from the formulas: Bradley-Terry with centering, a mean over decided comparisons."""
    losses = []
    backbone = getattr(model.network, model.network.base_model_prefix)
    for group, item in zip(examples.groups, examples.encoded, strict=True):
        rewards = []
        for start, answer in zip(item.prompt_starts, item.completion_ids, strict=True):
            whole = torch.tensor([item.prompt_ids[start:] + answer])
            rewards.append(head_of(model.network)(backbone(input_ids=whole).last_hidden_state[0, -1]).squeeze())
        losses += [_loss(rewards, chosen, rejected) for chosen, rejected in _decided(group)]
    return torch.stack(losses).mean()


def _decided(group: Group) -> list[tuple[int, int]]:
    pairs = judged_pairs(group)
    return [(pair.chosen, pair.rejected) for pair in pairs if pair.chosen is not None and pair.rejected is not None]


def _loss(rewards: list[Tensor], chosen: int, rejected: int) -> Tensor:
    difference = rewards[chosen] - rewards[rejected]
    centred = CENTERING * (rewards[chosen] + rewards[rejected]).square()
    return torch.log1p(torch.exp(-difference)) + centred


def errors(config: PretrainedConfig, examples: Examples, budget: int, folder: Path) -> tuple[float, float]:
    """Relative errors of the loss and of the worst gradient."""
    reference = reward_model(config)
    expected = one_by_one(reference, examples)
    expected.backward()
    model = reward_model(config)
    trainer = PreferenceTrainer(model, examples, None, configure(), Places(folder))
    trainer.progress.token_budget = budget
    (inputs,) = trainer.get_train_dataloader()
    trainer.training_step(trainer.model, inputs)
    # What is returned is fp32; what was added up is not.
    wrong_loss = abs(trainer._sums["loss"] / trainer.steps[0].weight / expected.item() - 1)
    found = dict(model.network.named_parameters())
    scale = max(part.grad.abs().max().item() for part in reference.network.parameters() if part.grad is not None)
    wrong_gradient = max(
        float((found[name].grad - part.grad).abs().max())
        for name, part in reference.network.named_parameters()
        if part.grad is not None
    )
    return wrong_loss, wrong_gradient / scale


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("budget", [1, 60, 300, 10_000])
def test_a_step_equals_one_by_one_scoring_for_any_budget(budget: int, truncated: bool, tmp_path: Path) -> None:
    worst = max(errors(QWEN, make_examples(seed, truncated=truncated), budget, tmp_path) for seed in (0, 1))
    print(f"budget {budget}, truncated {truncated}: loss {worst[0]:.1e}, gradient {worst[1]:.1e}")
    assert max(worst) < 1e-10


WINDOWS = ["sliding_attention", "full_attention"]
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "num_labels": 1, "pad_token_id": 0}


@pytest.mark.parametrize(
    ("config", "tolerance"),
    [
        (Qwen3Config(**SHAPE, head_dim=8, use_sliding_window=True, sliding_window=16, max_window_layers=1), 1e-10),
        (GPT2Config(**GPT2, **NO_DROPOUT), 1e-10),
        # Its norm computes in fp32.
        (Gemma3TextConfig(**SHAPE, head_dim=8, query_pre_attn_scalar=8, sliding_window=16, layer_types=WINDOWS), 1e-6),
    ],
    ids=["qwen3-window", "gpt2", "gemma3-window"],
)
def test_other_decoders_are_trained_exactly_too(config: PretrainedConfig, tolerance: float, tmp_path: Path) -> None:
    worst = errors(config, make_examples(2, truncated=True), 150, tmp_path)
    print(f"{type(config).__name__}: loss {worst[0]:.1e}, gradient {worst[1]:.1e}")
    assert max(worst) < tolerance
