"""Shared rows give the rewards of one-by-one scoring, whatever the batching."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Sequence

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from tests.worlds.shapes import QWEN, SHAPE, VOCABULARY
from tests.worlds.tiny import make_tiny_tokenizer
from touchstone.errors import ModelError
from touchstone.model.attention import Prefix
from touchstone.model.layout import (
    lay_out,
    make_batches,
    padded_batch,
    padded_tokens,
    plan_batches,
    rewards,
    shares_prompt,
)
from touchstone.model.network import RewardModel, head_of
from touchstone.model.templating import EncodedGroup, ScoringRule


def reward_model(config: PretrainedConfig, max_tokens: int = 200) -> RewardModel:
    torch.manual_seed(3)
    network = AutoModelForSequenceClassification.from_config(copy.deepcopy(config))
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


def with_prefixes(
    model: RewardModel, groups: Sequence[EncodedGroup], budget: int, prefixes: list[Prefix]
) -> dict[tuple[int, int], float]:
    """`batched` in shared rows, where what the layers made of a prompt before is used."""
    found = {}
    with torch.inference_mode():
        for rows in plan_batches(groups, budget, prefixes=prefixes):
            batch = lay_out(groups, rows, prefixes=prefixes)
            found.update(zip(batch.owners, rewards(model, batch).tolist(), strict=True))
    return found


def largest_difference(a: dict[tuple[int, int], float], b: dict[tuple[int, int], float]) -> float:
    assert a.keys() == b.keys()
    return max(abs(a[key] - b[key]) for key in a)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("truncated", [False, True])
def test_rewards_equal_one_by_one_scoring(dtype: torch.dtype, tolerance: float, truncated: bool) -> None:
    model = reward_model(QWEN)
    assert shares_prompt(model)
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


def test_padding_moves_no_reward_and_the_last_column_would_be_wrong() -> None:
    """A padded row's last column is its padding's: what stands there depends on the longest text of the batch."""
    model = reward_model(QWEN)
    source = random.Random(5)
    groups = [group(source, 3) for _ in range(4)]
    owners = [(number, k) for number in range(4) for k in range(3)]
    batch, alone = padded_batch(groups, owners), one_by_one(model, groups)
    assert batch.attention_mask is not None
    longest = batch.columns == batch.input_ids.shape[1] - 1
    with torch.inference_mode():
        backbone = getattr(model.network, model.network.base_model_prefix)
        hidden = backbone(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        found, last = rewards(model, batch), head_of(model.network)(hidden[:, -1]).squeeze(-1)
    expected = torch.tensor([alone[owner] for owner in owners])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(last[longest], expected[longest], rtol=0, atol=1e-5)
    assert 0 < longest.sum() < len(owners)
    assert bool(((last - expected).abs()[~longest] > 1e-2).all())


def test_shared_rows_compute_the_prompt_once() -> None:
    groups = [group(random.Random(seed), 2) for seed in range(20)]
    batches = make_batches(groups, 1000)
    assert sum(batch.tokens for batch in batches) == sum(
        len(item.prompt_ids) + sum(map(len, item.completion_ids)) for item in groups
    )
    assert sum(batch.separate_tokens for batch in batches) == sum(item.tokens(k) for item in groups for k in (0, 1))


@pytest.mark.parametrize("together", [False, True])
def test_padded_batches_keep_to_the_budget_and_pad_little(together: bool) -> None:
    source = random.Random(7)
    groups = [group(source, source.randint(1, 4)) for _ in range(200)]
    budget = 600
    batches = make_batches(groups, budget, shared=False, together=together)
    assert all(batch.input_ids.numel() <= budget or batch.input_ids.shape[0] == 1 for batch in batches)
    padded = sum(batch.input_ids.numel() for batch in batches)
    # Whole groups have rows of unlike length.
    assert 1 - sum(batch.tokens for batch in batches) / padded < (0.2 if together else 0.1)
    if together:
        homes: dict[int, set[int]] = {}
        for number, batch in enumerate(batches):
            for item, _ in batch.owners:
                homes.setdefault(item, set()).add(number)
        assert all(len(home) == 1 for home in homes.values())
    assert padded_tokens(groups[0], budget, shared=False) >= sum(
        groups[0].tokens(k) for k in range(len(groups[0].truncated))
    )


@pytest.mark.parametrize("together", [False, True])
def test_packed_batches_keep_to_the_budget_and_hold_everything_once(together: bool) -> None:
    source = random.Random(7)
    groups = [group(source, source.randint(1, 4)) for _ in range(200)]
    batches = make_batches(groups, 600, together=together)
    assert all(batch.input_ids.shape == (1, batch.tokens) and batch.tokens <= 600 for batch in batches)
    owners = [owner for batch in batches for owner in batch.owners]
    assert len(owners) == len(set(owners)) == sum(len(item.truncated) for item in groups)
    # Full bins: no two neighbours would fit into one.
    assert len(batches) <= 1.2 * sum(batch.tokens for batch in batches) / 600 + 1
    assert [batch.owners for batch in make_batches(groups, 600, together=together)] == [b.owners for b in batches]


def test_nothing_gives_no_batches() -> None:
    assert make_batches([], 100) == []
    assert make_batches([EncodedGroup([1], [], [], [])], 100) == []


BLOOM = BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, num_labels=1, pad_token_id=0)
GPT2 = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, num_labels=1, pad_token_id=0)
NEOX = GPTNeoXConfig(**{**SHAPE, "num_key_value_heads": 4}, rotary_pct=0.5)
GEMMA3 = Gemma3TextConfig(**SHAPE, head_dim=8, query_pre_attn_scalar=8)
WINDOWS = ["sliding_attention", "full_attention"]


@pytest.mark.parametrize(
    ("config", "max_tokens", "shares"),
    [
        (QWEN, 200, True),
        (Qwen2Config(**SHAPE), 200, True),
        (LlamaConfig(**SHAPE), 200, True),
        (MistralConfig(**SHAPE, sliding_window=4096), 200, True),
        (GEMMA3, 200, True),
        (Phi3Config(**SHAPE, sliding_window=None), 200, True),
        (GPT2, 200, True),
        (NEOX, 200, True),
        # Windows narrower than the texts: exact, because the layers ask for them.
        (MistralConfig(**SHAPE, sliding_window=16), 200, True),
        (Phi3Config(**SHAPE, sliding_window=16), 200, True),
        (Qwen3Config(**SHAPE, head_dim=8, use_sliding_window=True, sliding_window=16, max_window_layers=1), 200, True),
        (
            Gemma3TextConfig(**SHAPE, head_dim=8, query_pre_attn_scalar=8, sliding_window=16, layer_types=WINDOWS),
            200,
            True,
        ),
        # Capped scores, and ALiBi, which reads distances off a mask of two dimensions.
        (Gemma2Config(**SHAPE, head_dim=8, query_pre_attn_scalar=8), 200, False),
        (BLOOM, 200, False),
    ],
    ids=[
        *("qwen3", "qwen2", "llama", "mistral", "gemma3", "phi3", "gpt2", "gpt-neox"),
        *("mistral-window", "phi3-window", "qwen3-window", "gemma3-window", "gemma2-capped", "bloom-alibi"),
    ],
)
def test_every_decoder_gives_the_scores_of_one_by_one_scoring(
    config: PretrainedConfig, max_tokens: int, shares: bool, caplog: pytest.LogCaptureFixture
) -> None:
    stock, model = reward_model(config, max_tokens), reward_model(config, max_tokens)
    with caplog.at_level(logging.WARNING):
        assert shares_prompt(model) is shares
    assert ("can't share a prompt" in caplog.text) is not shares
    stock.network.double()
    model.network.double()
    groups = [group(random.Random(seed), 3) for seed in range(6)]
    expected = one_by_one(stock, groups)
    assert max(map(abs, expected.values())) > 0.1
    # The attention of those that refuse computes its softmax in fp32 whatever it is given.
    for shared in {shares, False}:
        assert largest_difference(batched(model, groups, 150, shared), expected) < (1e-10 if shares else 1e-5)
    if shares:
        prefixes = [Prefix() for _ in groups]
        for _ in ("written down", "known"):
            assert largest_difference(with_prefixes(model, groups, 150, prefixes), expected) < 1e-10


@pytest.mark.parametrize("unit", [1e-4, 1e4])
@pytest.mark.parametrize(("config", "shares"), [(QWEN, True), (BLOOM, False)], ids=["qwen3", "bloom-alibi"])
def test_who_can_share_a_prompt_does_not_depend_on_the_reward_s_unit(
    config: PretrainedConfig, shares: bool, unit: float
) -> None:
    model = reward_model(config)
    with torch.no_grad():
        head_of(model.network).weight.mul_(unit)
    assert shares_prompt(model) is shares


def test_packed_rows_are_refused_before_a_network_is_known_to_take_them() -> None:
    model = reward_model(QWEN)
    (batch,) = make_batches([group(random.Random(0), 2)], 1000)
    with pytest.raises(ModelError, match="shares_prompt"):
        rewards(model, batch)


def test_the_head_stays_fp32_under_bf16() -> None:
    model = reward_model(QWEN)
    assert shares_prompt(model)
    groups = [group(random.Random(seed), 4) for seed in range(50)]
    (batch, *_) = make_batches(groups, 100_000)
    with torch.inference_mode():
        low, full = rewards(model, batch, "bf16"), rewards(model, batch)
    assert low.dtype == torch.float32
    assert not torch.equal(low, low.bfloat16().float())
    assert (low - full).abs().max() < 0.3
    assert not torch.equal(low, full)
