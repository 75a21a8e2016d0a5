"""Shared rows give the rewards of one-by-one scoring, whatever the batching."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BloomConfig,
    GPT2Config,
    MistralConfig,
    PretrainedConfig,
    Qwen3Config,
)

from tests.tiny import make_tiny_tokenizer
from touchstone.layout import make_batches, padded_tokens, rewards, shares_prompt
from touchstone.model import RewardModel, head_of
from touchstone.templating import EncodedGroup, ScoringRule

VOCABULARY = 97
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_labels": 1,
    "pad_token_id": 0,
}
QWEN = Qwen3Config(**SHAPE, head_dim=8)


def reward_model(config: PretrainedConfig, max_tokens: int = 200) -> RewardModel:
    torch.manual_seed(3)
    network = AutoModelForSequenceClassification.from_config(config)
    head_of(network).weight.data.normal_(generator=torch.Generator().manual_seed(1))
    return RewardModel(network.train(False), make_tiny_tokenizer(), ScoringRule(max_tokens, ""))


def group(random_: random.Random, completions: int, *, longest: int = 30, truncated: bool = False) -> EncodedGroup:
    def ids(size: int) -> list[int]:
        return [random_.randrange(VOCABULARY) for _ in range(size)]

    prompt = ids(random_.randint(1, 40))
    starts = [random_.randint(0, len(prompt)) if truncated else 0 for _ in range(completions)]
    texts = [ids(random_.randint(1, longest)) for _ in range(completions)]
    return EncodedGroup(prompt, texts, starts, [start > 0 for start in starts])


def one_by_one(model: RewardModel, groups: Sequence[EncodedGroup]) -> dict[tuple[int, int], float]:
    """Straight from the network: no batch, no mask, no padding."""
    found = {}
    with torch.inference_mode():
        for number, item in enumerate(groups):
            for k, ids in enumerate(item.completion_ids):
                whole = torch.tensor([item.prompt_ids[item.prompt_starts[k] :] + ids])
                hidden = getattr(model.network, model.network.base_model_prefix)(whole).last_hidden_state
                found[number, k] = head_of(model.network)(hidden[0, -1]).item()
    return found


def batched(
    model: RewardModel, groups: Sequence[EncodedGroup], budget: int, shared: bool
) -> dict[tuple[int, int], float]:
    found = {}
    with torch.inference_mode():
        for batch in make_batches(groups, budget, shared=shared):
            found.update(zip(batch.owners, rewards(model, batch).tolist(), strict=True))
    return found


def largest_difference(a: dict[tuple[int, int], float], b: dict[tuple[int, int], float]) -> float:
    assert a.keys() == b.keys()
    return max(abs(a[key] - b[key]) for key in a)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("truncated", [False, True])
def test_rewards_equal_one_by_one_scoring(dtype: torch.dtype, tolerance: float, truncated: bool) -> None:
    model = reward_model(QWEN)
    model.network.to(dtype)
    source = random.Random(5)
    groups = [group(source, k, truncated=truncated) for k in (1, 2, 3, 4, 5, 6, 7, 8) * 2]
    expected = one_by_one(model, groups)
    for budget in (1, 60, 300, 10_000):
        for shared in (True, False):
            assert largest_difference(batched(model, groups, budget, shared), expected) < tolerance
    order = list(range(len(groups)))
    source.shuffle(order)
    shuffled = batched(model, [groups[number] for number in order], 300, True)
    assert largest_difference({(order[i], k): value for (i, k), value in shuffled.items()}, expected) < tolerance


def test_shared_rows_compute_the_prompt_once() -> None:
    groups = [group(random.Random(seed), 2) for seed in range(20)]
    batches = make_batches(groups, 1000)
    assert sum(batch.tokens for batch in batches) == sum(
        len(item.prompt_ids) + sum(map(len, item.completion_ids)) for item in groups
    )
    assert sum(batch.separate_tokens for batch in batches) == sum(item.tokens(k) for item in groups for k in (0, 1))


def test_many_long_completions_of_a_tiny_prompt_are_not_one_row() -> None:
    wide = EncodedGroup([1, 2], [[3] * 200 for _ in range(30)], [0] * 30, [False] * 30)
    batches = make_batches([wide], 16_384)
    assert max(batch.input_ids.shape[1] for batch in batches) < 1000
    best_of = EncodedGroup([1] * 400, [[3] * 20 for _ in range(16)], [0] * 16, [False] * 16)
    assert [batch.input_ids.shape for batch in make_batches([best_of], 16_384)] == [(1, 720)]


@pytest.mark.parametrize("together", [False, True])
def test_batches_keep_to_the_budget_and_pad_little(together: bool) -> None:
    source = random.Random(7)
    groups = [group(source, source.randint(1, 4)) for _ in range(200)]
    budget = 600
    batches = make_batches(groups, budget, together=together)
    assert all(batch.input_ids.numel() <= budget or batch.input_ids.shape[0] == 1 for batch in batches)
    padded = sum(batch.input_ids.numel() for batch in batches)
    assert 1 - sum(batch.tokens for batch in batches) / padded < 0.1
    if together:
        homes: dict[int, set[int]] = {}
        for number, batch in enumerate(batches):
            for item, _ in batch.owners:
                homes.setdefault(item, set()).add(number)
        assert all(len(home) == 1 for home in homes.values())
    assert padded_tokens(groups[0], budget, shared=False) >= sum(
        groups[0].tokens(k) for k in range(len(groups[0].truncated))
    )


def test_nothing_gives_no_batches() -> None:
    assert make_batches([], 100) == []
    assert make_batches([EncodedGroup([1], [], [], [])], 100) == []


@pytest.mark.parametrize(
    ("config", "max_tokens", "shares"),
    [
        (QWEN, 200, True),
        (GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, num_labels=1, pad_token_id=0), 200, True),
        # ALiBi reads distances off a mask of two dimensions.
        (
            BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, num_labels=1, pad_token_id=0),
            200,
            False,
        ),
        # A window that can be exceeded: our own mask would take its place.
        (MistralConfig(**SHAPE, sliding_window=16), 200, False),
        (MistralConfig(**SHAPE, sliding_window=4096), 200, True),
        (
            Qwen3Config(**SHAPE, head_dim=8, use_sliding_window=True, sliding_window=16, max_window_layers=1),
            200,
            False,
        ),
    ],
    ids=["qwen3", "gpt2", "bloom", "mistral-window", "mistral-wide", "qwen3-window"],
)
def test_models_that_can_not_share_fall_back(
    config: PretrainedConfig, max_tokens: int, shares: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = reward_model(config, max_tokens)
    with caplog.at_level(logging.WARNING):
        assert shares_prompt(model) is shares
    assert ("can't share a prompt" in caplog.text) is not shares
    groups = [group(random.Random(seed), 3) for seed in range(6)]
    assert largest_difference(batched(model, groups, 500, shares_prompt(model)), one_by_one(model, groups)) < 1e-5


def test_the_head_stays_fp32_under_bf16() -> None:
    model = reward_model(QWEN)
    groups = [group(random.Random(seed), 4) for seed in range(50)]
    (batch, *_) = make_batches(groups, 100_000)
    with torch.inference_mode():
        low, full = rewards(model, batch, "bf16"), rewards(model, batch)
    assert low.dtype == torch.float32
    assert not torch.equal(low, low.bfloat16().float())
    assert (low - full).abs().max() < 0.3
    assert not torch.equal(low, full)
