"""Prompts that come back are computed once, in bounded memory, and no score is another for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForSequenceClassification,
    BloomConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from tests.worlds.encoders import make_encoder
from tests.worlds.sealed import make_tiny_artifact
from tests.worlds.shapes import QWEN, SHAPE, VOCABULARY
from tests.worlds.tiny import make_tiny_tokenizer
from touchstone.groups import Message
from touchstone.model import prefix_cache
from touchstone.model.network import RewardModel, load_base
from touchstone.model.prefix_cache import LEAST_TOKENS, PrefixCache, open_cache
from touchstone.model.scores import Item, RawScore
from touchstone.model.scoring import Scorer
from touchstone.model.templating import ScoringRule

TEXTS = ["egg", "boil it", "cool the egg", "because kings lived in Paris", "why", "soft " * 40, "no", ""]
LONG = [(Message("user", "boil the egg in water " * 15 + f"for {number} minutes"),) for number in range(4)]
"""They differ near their ends only."""
SHORT = [(Message("user", text),) for text in ("why", "how do I boil an egg?")]
PROMPTS = [*LONG, *SHORT]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_artifact(tmp_path_factory.mktemp("prefixes") / "artifact", max_tokens=600)


@pytest.fixture(scope="module")
def scorer(artifact: Path) -> Scorer:
    """Without a cache."""
    return Scorer.load(artifact)


def cached(scorer: Scorer, limit: int, token_budget: int | None = None) -> tuple[Scorer, PrefixCache]:
    """The same model with an empty cache."""
    cache = open_cache(scorer.model, limit)
    assert cache is not None
    return Scorer(scorer.model, scorer.card, token_budget, cache), cache


def item(prompt: Sequence[Message], *texts: str) -> Item:
    return prompt, texts


def tokens_of(scorer: Scorer, prompt: Sequence[Message], text: str = "egg") -> tuple[int, int]:
    """Tokens of a prompt, and of a completion to it."""
    (group,) = scorer.encode([(prompt, [text])])
    return len(group.prompt_ids), len(group.completion_ids[0])


def largest_difference(first: list[list[RawScore]], second: list[list[RawScore]]) -> float:
    rows = zip(first, second, strict=True)
    return max(abs(a.reward - b.reward) for row in rows for a, b in zip(*row, strict=True))


@contextmanager
def counted_tokens(network: PreTrainedModel) -> Iterator[list[int]]:
    """Within, how many tokens each forward pass computes."""
    sizes: list[int] = []

    def count(module: object, args: object, inputs: dict[str, Any]) -> None:
        sizes.append(inputs["input_ids"].numel())

    handle = network.base_model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield sizes
    finally:
        handle.remove()


CALLS = st.lists(
    st.lists(
        st.tuples(st.sampled_from(range(len(PROMPTS))), st.lists(st.sampled_from(TEXTS), min_size=1, max_size=4)),
        min_size=1,
        max_size=6,
    ),
    min_size=1,
    max_size=8,
)


@given(calls=CALLS, budget=st.sampled_from([150, 700, 4096]), prompts_held=st.sampled_from([1, 2, 10]))
@hypothesis_settings(max_examples=25, deadline=None)
def test_whatever_was_scored_before_no_score_is_another(
    scorer: Scorer, calls: list[list[tuple[int, list[str]]]], budget: int, prompts_held: int
) -> None:
    remembering, cache = cached(scorer, prompts_held * 100_000, budget)
    plain = Scorer(scorer.model, scorer.card, budget)
    looked_up = 0
    for call in calls:
        items = [item(PROMPTS[number], *texts) for number, texts in call]
        assert largest_difference(remembering.raw(items), plain.raw(items)) <= 1e-6
        looked_up += len({number for number, _ in call if PROMPTS[number] in LONG})
        assert cache.bytes <= cache.limit
        assert cache.hits + cache.misses == looked_up


def test_a_prompt_is_written_down_when_it_comes_again_and_then_never_computed(scorer: Scorer) -> None:
    remembering, cache = cached(scorer, 2**20)
    prompt_tokens, _ = tokens_of(scorer, LONG[0])
    waves = [[item(LONG[0], f"answer {number} of wave {wave}") for number in range(16)] for wave in range(4)]
    for wave in waves:
        completions = sum(tokens_of(scorer, LONG[0], texts[0])[1] for _, texts in wave)
        with counted_tokens(scorer.model.network) as sizes:
            scores = remembering.raw(wave)
        assert sizes == [completions + (prompt_tokens if wave in waves[:2] else 0)]
        assert largest_difference(scores, scorer.raw(wave)) <= 1e-6
    assert (cache.hits, cache.misses, len(cache)) == (2, 2, 1)


def test_a_prompt_whose_completions_fill_several_batches_is_computed_in_the_first_alone(scorer: Scorer) -> None:
    prompt_tokens, _ = tokens_of(scorer, LONG[0])
    remembering, _ = cached(scorer, 2**20, token_budget=prompt_tokens + 60)
    texts = [f"answer {number}" for number in range(40)]
    remembering.raw([item(LONG[0], "egg")])
    completions = sum(tokens_of(scorer, LONG[0], text)[1] for text in texts)
    with counted_tokens(scorer.model.network) as sizes:
        scores = remembering.raw([item(LONG[0], *texts)])
    assert len(sizes) > 2
    assert sum(sizes) == prompt_tokens + completions
    assert largest_difference(scores, scorer.raw([item(LONG[0], *texts)])) <= 1e-6


def test_what_was_used_least_recently_makes_room(scorer: Scorer) -> None:
    a, b, c = (item(prompt, "egg") for prompt in LONG[:3])
    remembering, cache = cached(scorer, 2**20)
    remembering.raw([a, b, c])
    assert (len(cache), cache.bytes) == (0, 0)
    remembering.raw([a, b, c])
    assert len(cache) == 3
    remembering, cache = cached(scorer, cache.bytes - 1)  # two of them
    for one in (a, a, b, b, a, c, c):
        remembering.raw([one])
    assert (cache.hits, cache.misses, len(cache)) == (1, 6, 2)
    remembering.raw([a])
    assert (cache.hits, cache.misses) == (2, 6)
    remembering.raw([b])
    assert (cache.hits, cache.misses) == (2, 7)


def test_bytes_are_those_of_keys_and_values(scorer: Scorer) -> None:
    remembering, cache = cached(scorer, 2**20)
    for _ in range(2):
        remembering.raw([item(LONG[1], "egg")])
    config = scorer.model.network.config
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    assert cache.bytes == tokens_of(scorer, LONG[1])[0] * per_token


def test_more_new_prompts_than_fit_are_scored_and_only_some_are_remembered(scorer: Scorer) -> None:
    prompts = [(Message("user", f"{number} " + "cool the yolk " * 40),) for number in range(30)]
    items = [item(prompt, "egg", "no") for prompt in prompts]
    remembering, cache = cached(scorer, 150_000)
    for _ in range(2):
        assert largest_difference(remembering.raw(items), scorer.raw(items)) <= 1e-6
    assert 0 < cache.bytes <= cache.limit
    assert 0 < len(cache) < 30
    assert largest_difference(remembering.raw(items), scorer.raw(items)) <= 1e-6
    assert cache.hits > 0


def test_prompts_that_came_once_are_forgotten_in_their_turn(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_cache, "SEEN", 2)
    remembering, cache = cached(scorer, 2**20)
    for number in (0, 1, 2, 0):
        remembering.raw([item(LONG[number], "egg")])
    assert len(cache) == 0
    remembering.raw([item(LONG[2], "egg")])
    assert len(cache) == 1


def test_short_prompts_are_neither_remembered_nor_counted(scorer: Scorer) -> None:
    remembering, cache = cached(scorer, 2**20)
    assert tokens_of(scorer, SHORT[1])[0] < LEAST_TOKENS <= tokens_of(scorer, LONG[0])[0]
    for _ in range(2):
        remembering.raw([item(prompt, "egg") for prompt in SHORT])
    assert (cache.hits, cache.misses, cache.bytes, len(cache)) == (0, 0, 0, 0)


def test_prompts_that_are_cut_for_a_completion_are_prompts_of_their_own(scorer: Scorer) -> None:
    """The long answer leaves room for the prompt's end only, which begins at position 0."""
    prompt = (Message("user", "boil the egg in water until it is soft " * 40),)
    items = [item(prompt, "egg", "soft yolk " * 60), item(prompt, "soft yolk " * 60)]
    remembering, cache = cached(scorer, 2**20)
    for _ in range(3):
        scores = remembering.raw(items)
        assert scores[0][1].truncated
        assert largest_difference(scores, scorer.raw(items)) <= 1e-6
    assert (cache.hits, cache.misses) == (2, 4)


def test_several_threads_may_score(scorer: Scorer) -> None:
    remembering, _ = cached(scorer, 250_000)
    expected = {number: scorer.raw([item(LONG[number], *TEXTS)]) for number in range(4)}
    differences: list[float] = []

    def score(first: int) -> None:
        for step in range(8):
            number = (first + step) % 4
            differences.append(largest_difference(remembering.raw([item(LONG[number], *TEXTS)]), expected[number]))

    threads = [threading.Thread(target=score, args=(first,)) for first in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(differences) == 24
    assert max(differences) <= 1e-6


def test_a_scorer_remembers_only_if_it_is_told_to(artifact: Path) -> None:
    assert Scorer.load(artifact).prefixes is None
    assert Scorer.load(artifact, prefix_cache_mib=0).prefixes is None
    scorer = Scorer.load(artifact, prefix_cache_mib=3)
    assert scorer.prefixes is not None
    assert (scorer.prefixes.limit, scorer.prefixes.hits, scorer.prefixes.misses) == (3 * 2**20, 0, 0)


def test_scores_in_bf16_are_the_same_within_its_steps(tmp_path: Path) -> None:
    plain = Scorer.load(make_tiny_artifact(tmp_path / "artifact", max_tokens=600, precision="bf16"))
    remembering, cache = cached(plain, 2**20)
    items = [item(prompt, *TEXTS) for prompt in LONG]
    for _ in range(2):
        remembering.raw(items)
    assert largest_difference(remembering.raw(items), plain.raw(items)) <= 0.02 * plain.card.centering.sd
    assert cache.hits == len(LONG)
    fp32 = open_cache(plain.model, 2**20)
    assert fp32 is not None
    exact = Scorer(plain.model, plain.card.model_copy(update={"centering": fp32_centering(plain)}), None, fp32)
    for _ in range(2):
        exact.raw(items)
    assert fp32.bytes == 2 * cache.bytes


def fp32_centering(scorer: Scorer) -> object:
    return scorer.card.centering.model_copy(update={"score_dtype": "fp32"})


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}


@pytest.mark.parametrize(
    ("config", "usable"),
    [
        (QWEN, True),
        (Qwen3Config(**SHAPE, head_dim=8, use_sliding_window=True, sliding_window=16, max_window_layers=1), True),
        (LlamaConfig(**SHAPE, rope_parameters=DYNAMIC), True),
        (BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, num_labels=1, pad_token_id=0), False),
    ],
    ids=["qwen3", "window", "angles-by-length", "own-attention"],
)
def test_a_model_that_cannot_reuse_keys_does_without(
    config: PretrainedConfig, usable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    network = AutoModelForSequenceClassification.from_config(config)
    model = RewardModel(network.train(False), make_tiny_tokenizer(), ScoringRule(200, ""))
    with caplog.at_level(logging.WARNING):
        assert (open_cache(model, 2**20) is not None) is usable
    assert ("the prefix cache is off" in caplog.text) is not usable


def test_an_encoder_s_prompt_sees_the_completion_and_is_not_reused(tmp_path: Path) -> None:
    model = load_base(make_encoder(tmp_path / "base"), max_tokens=64, seed=4)
    assert open_cache(model, 2**20) is None
