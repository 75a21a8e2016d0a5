"""What helps an encoder of little data: a head fitted first, layers that stay, words and length beside it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from tests.places import CONFIGS
from tests.worlds.encoders import make_encoder
from tests.worlds.sealed import make_tiny_groups
from tests.worlds.tiny import make_tiny_base
from tests.worlds.trained import configure, make_build, make_groups
from touchstone.errors import SettingsError, TrainingError
from touchstone.model.encoder import EncoderRewardModel, LinearPart, surface, token_shares, token_traits
from touchstone.model.network import head_of, load_base, load_reward_model
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer, padded_scores, raw_scores
from touchstone.model.sealing import seal
from touchstone.settings import Settings, compose, parse
from touchstone.training.run import train

GROUPS = make_groups(20)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("base") / "base")


def settings_of(**values: Any) -> Settings:
    dumped = configure(checkpoint_steps=0, **values).model_dump(mode="json")
    return parse(dumped)


@given(st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=12), min_size=2, max_size=6), st.integers(0, 5))
@hypothesis_settings(max_examples=60, deadline=None)
def test_the_linear_part_is_scikit_learns_tf_idf(texts: list[list[int]], prompt: int) -> None:
    """Equal whatever the padding is, and whatever stands in the prompt."""
    vectorizer = TfidfVectorizer(token_pattern=r"\S+", sublinear_tf=True)
    matrix = vectorizer.fit_transform([" ".join(map(str, ids)) for ids in texts]).toarray()
    part = LinearPart(20)
    source = torch.Generator().manual_seed(1)
    part.words.copy_(torch.randn(20, generator=source))
    part.traits[:, 0] = torch.arange(20) + 1  # so many characters
    part.surface[0] = 0.3
    for word, column in vectorizer.vocabulary_.items():
        part.idf[int(word)] = vectorizer.idf_[column]
    columns = [int(word) for word in vectorizer.get_feature_names_out()]
    expected = matrix @ part.words[columns].double().numpy() + 0.3 * np.log1p(
        [sum(number + 1 for number in ids) for ids in texts]
    )
    width = prompt + max(map(len, texts)) + 2
    rows = [[7] * prompt + ids + [0] * (width - prompt - len(ids)) for ids in texts]
    segments = [[0] * prompt + [1] * len(ids) + [0] * (width - prompt - len(ids)) for ids in texts]
    rewards = part(torch.tensor(rows), torch.tensor(segments))
    assert rewards.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    shares = token_shares(torch.tensor(rows), torch.tensor(segments), part.idf)
    assert bool((shares * (1 - torch.tensor(segments)) == 0).all())


def test_the_surface_counts_characters_marks_and_pieces_of_the_completion_alone() -> None:
    vocabulary = ["[PAD]", "[CLS]", "[SEP]", "egg", "##s", "boil", "!", ",", "?"]
    backend = Tokenizer(
        models.WordPiece({piece: number for number, piece in enumerate(vocabulary)}, unk_token="[PAD]")
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[PAD]"
    )
    traits = token_traits(tokenizer, len(vocabulary) + 1)  # a vocabulary may be padded
    # [CLS] boil [SEP] egg ##s ! ! , [SEP] [PAD]
    ids = torch.tensor([[1, 5, 2, 3, 4, 6, 6, 7, 2, 0], [1, 5, 2, 2, 0, 0, 0, 0, 0, 0]])
    segments = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]])
    told, empty = surface(ids, segments, traits).tolist()
    characters, marks = len(" eggs!!,"), 3
    expected = [
        math.log1p(characters),
        characters / 5,
        math.log1p(marks),
        marks / 5,
        1 / 5,
        math.log(3),
        0,
        math.log(2),
    ]
    assert told == pytest.approx(expected)
    assert empty == [0.0] * 8


@pytest.mark.slow
def test_words_and_length_stand_beside_the_encoder_in_the_share_that_was_asked(base: Path, tmp_path: Path) -> None:
    """Trained, saved, sealed and scored; the parts' spreads over training comparisons are as the share says."""
    build = make_build(tmp_path / "build", base, GROUPS)
    train(settings_of(linear_share=0.25, learning_rate=5e-3), build)
    model = load_reward_model(build / "model")
    network = model.network
    assert isinstance(network, EncoderRewardModel)
    items = [as_item(group) for group in GROUPS]
    both = [[score.reward for score in row] for row in raw_scores(model, items)]
    apart = [[score.reward for score in row] for row in padded_scores(model, items, rows=5)]
    for first, second in zip(both, apart, strict=True):
        assert first == pytest.approx(second, abs=1e-5)

    part, network.linear = network.linear, None
    assert part is not None
    alone = [[score.reward for score in row] for row in raw_scores(model, items)]
    network.linear = part
    spreads = []
    for rewards in (alone, [[a - b for a, b in zip(*rows, strict=True)] for rows in zip(both, alone, strict=True)]):
        differences = [
            rewards[number][pair.i] - rewards[number][pair.j]
            for number, group in enumerate(GROUPS)
            for pair in group.comparisons
            if not pair.ties
        ]
        spreads.append(float(np.sqrt(np.mean(np.square(differences)))))
    assert spreads == pytest.approx([0.75, 0.25], rel=0.05)

    sets = [make_tiny_groups(20, seed=seed) for seed in (101, 102)]
    seal(build / "model", *sets, precision="fp32", self_test_vectors=8, seeds={"train": 1}, folder=tmp_path / "sealed")
    sealed = Scorer.load(tmp_path / "sealed").raw(items)
    for row, rewards in zip(sealed, both, strict=True):
        assert [score.reward for score in row] == pytest.approx(rewards, abs=1e-5)
    # A new model on this one begins with neither its head nor its words.
    again = load_base(build / "model", max_tokens=64, seed=1).network
    assert isinstance(again, EncoderRewardModel)
    assert again.linear is None


@pytest.mark.slow
def test_an_encoder_without_a_linear_part_says_no_word_of_it(base: Path, tmp_path: Path) -> None:
    build = make_build(tmp_path / "build", base, GROUPS)
    train(settings_of(head_first=True, frozen_layers=1), build)
    config = (build / "model" / "config.json").read_text()
    assert "linear" not in json.loads(config)
    assert str(base.parent) not in config  # what is sealed says nothing of where its base lay
    before, after = load_base(base, max_tokens=64, seed=1).network, load_reward_model(build / "model").network
    moved = {
        name.removeprefix("encoder.").split(".weight")[0].split(".bias")[0]
        for name, weight in before.named_parameters()
        if not torch.equal(weight, after.get_parameter(name))
    }
    assert moved
    assert not any(name.startswith(("embeddings", "encoder.layer.0.")) for name in moved)
    assert any(name.startswith("encoder.layer.1.") for name in moved)


@pytest.mark.slow
def test_a_head_fitted_first_is_where_training_begins(base: Path, tmp_path: Path) -> None:
    build = make_build(tmp_path / "build", base, GROUPS)
    fitted = make_build(tmp_path / "fitted", base, GROUPS)
    rows = train(settings_of(head_first=True, learning_rate=1e-9, warmup_share=0.0), build)
    expected = train(settings_of(method="head_only"), fitted)
    assert rows[0]["loss"] < 0.69
    assert np.mean([row["loss"] for row in rows]) == pytest.approx(expected[-1]["loss"], abs=0.05)
    weights = [head_of(load_reward_model(folder / "model").network).weight for folder in (build, fitted)]
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_decoder_has_no_linear_part_and_more_layers_than_there_are_cant_be_frozen(
    base: Path, tmp_path: Path
) -> None:
    decoder = make_build(tmp_path / "decoder", make_tiny_base(tmp_path / "base"), GROUPS)
    with pytest.raises(TrainingError, match=r"train\.linear_share is for encoders"):
        train(settings_of(linear_share=0.5), decoder)
    with pytest.raises(TrainingError, match="leaves nothing to train of the 2 layers"):
        train(settings_of(frozen_layers=2), make_build(tmp_path / "encoder", base, GROUPS))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train=lora", "train.frozen_layers=1"], "frozen_layers goes with method=full"),
        (["train=head_only", "train.head_first=true"], "head_first goes with method=full"),
        (["train.linear_share=1"], r"train\.linear_share"),
        (["objective=length_head", "train.linear_share=0.5"], "puts length into the reward"),
    ],
)
def test_what_makes_no_sense_together_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        compose(overrides, CONFIGS)
