"""A reward model's folder: what is loaded is what was trained, or a sentence that says why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    CTRLConfig,
    GPT2Config,
    GPT2LMHeadModel,
    ModernBertDecoderConfig,
    PretrainedConfig,
)

from tests.worlds.sealed import make_tiny_artifact, make_tiny_model
from tests.worlds.tiny import DECODERS, make_tiny_base, make_tiny_decoder, make_tiny_tokenizer, write
from touchstone.errors import ModelError
from touchstone.groups import Message
from touchstone.model.base import pin
from touchstone.model.layout import make_batches, rewards, shares_prompt
from touchstone.model.network import RewardModel, head_of, load_base, load_base_folder, load_reward_model, save
from touchstone.model.templating import encode
from touchstone.runtime.files import digest_folder
from touchstone.settings.model import PretrainedModel


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_tiny_base(tmp_path / "base")


@pytest.fixture
def trained(tmp_path: Path, base: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    save(load_base(base, max_tokens=64, seed=4), folder)
    return folder


def score(model: RewardModel) -> torch.Tensor:
    encoded = encode(model.tokenizer, model.rule, [Message("user", "how do I boil an egg?")], ["in water", "no"])
    with torch.inference_mode():
        return torch.cat(
            [rewards(model, batch) for batch in make_batches([encoded], 1000, shared=shares_prompt(model))]
        )


def test_a_saved_model_scores_the_same(base: Path, trained: Path) -> None:
    model = load_reward_model(trained)
    assert torch.equal(score(model), score(load_base(base, max_tokens=64, seed=4)))
    assert model.rule.max_tokens == 64
    assert load_reward_model(trained, rule=model.rule).rule == model.rule


LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "factor": 4.0}


@pytest.mark.parametrize(
    ("kind", "rope", "positions"),
    [
        ("llama", {"rope_type": "dynamic", "factor": 2.0}, {"max_position_embeddings": 64}),
        (
            "phi3",
            {**LONGROPE, "original_max_position_embeddings": 64},
            {"max_position_embeddings": 256, "original_max_position_embeddings": 64},
        ),
    ],
)
def test_angles_that_follow_a_batch_s_longest_text_limit_the_texts(
    tmp_path: Path, kind: str, rope: dict[str, object], positions: dict[str, int]
) -> None:
    """Beyond that length a short text's score would depend on its neighbours, and on what another thread scores."""
    shape = {**DECODERS[kind], **positions, "rope_parameters": {**rope, "rope_theta": 10_000.0}}
    tokenizer = make_tiny_tokenizer()
    config = CONFIG_MAPPING[kind](vocab_size=len(tokenizer), pad_token_id=None, bos_token_id=None, **shape)
    write(AutoModelForCausalLM.from_config(config), tokenizer, tmp_path / "base")
    with pytest.raises(ModelError, match=r"beyond 64 tokens .* neighbours"):
        load_base(tmp_path / "base", max_tokens=65, seed=4)
    assert load_base(tmp_path / "base", max_tokens=64, seed=4).rule.max_tokens == 64


def test_the_head_follows_the_seed_alone(base: Path) -> None:
    first = head_of(load_base(base, max_tokens=64, seed=4).network).weight
    torch.manual_seed(99)
    assert torch.equal(first, head_of(load_base(base, max_tokens=64, seed=4).network).weight)
    assert not torch.equal(first, head_of(load_base(base, max_tokens=64, seed=5).network).weight)


def test_stock_loaders_read_the_same_reward(trained: Path) -> None:
    config = json.loads((trained / "config.json").read_text())
    assert config["problem_type"] == "regression"
    assert config["pad_token_id"] is not None
    model = load_reward_model(trained)
    stock = AutoModelForSequenceClassification.from_pretrained(trained, dtype=torch.float32)
    assert stock.config.num_labels == 1
    text = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": "how do I boil an egg?"}, {"role": "assistant", "content": "no"}], tokenize=False
    )
    with torch.inference_mode():
        logits = stock(torch.tensor([model.tokenizer(text, add_special_tokens=False)["input_ids"]])).logits
    encoded = encode(model.tokenizer, model.rule, [Message("user", "how do I boil an egg?")], ["no"])
    with torch.inference_mode():
        ours = rewards(model, make_batches([encoded], 1000, shared=False)[0])
    assert logits[0, 0].item() == pytest.approx(ours.item(), abs=1e-5)


def test_half_precision_weights_keep_a_full_head(base: Path, tmp_path: Path) -> None:
    model = load_base(base, max_tokens=64, seed=4)
    (tmp_path / "half").mkdir()
    save(model, tmp_path / "half", torch.bfloat16)
    weights = load_file(tmp_path / "half" / "model.safetensors")
    assert {str(tensor.dtype) for name, tensor in weights.items() if name != "score.weight"} == {"torch.bfloat16"}
    assert torch.equal(weights["score.weight"], head_of(model.network).weight)
    again = load_reward_model(tmp_path / "half")
    assert torch.equal(head_of(again.network).weight, head_of(model.network).weight)


def test_a_missing_head_is_an_error(base: Path) -> None:
    with pytest.raises(ModelError, match=r"lacks the weights score\.weight"):
        load_reward_model(base, max_tokens=64)


def test_a_head_of_another_shape_is_an_error(trained: Path) -> None:
    weights = load_file(trained / "model.safetensors")
    weights["score.weight"] = torch.zeros(2, weights["score.weight"].shape[1])
    save_file(weights, trained / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks the weights score\.weight"):
        load_reward_model(trained)


def test_weights_that_are_not_finite_are_an_error(trained: Path) -> None:
    weights = load_file(trained / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, trained / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.norm\.weight is not finite"):
        load_reward_model(trained)
    broken = load_base(trained, max_tokens=64, seed=0)
    with pytest.raises(ModelError, match="not finite"):
        save(broken, trained)


def test_pickled_weights_are_refused(trained: Path) -> None:
    torch.save(load_file(trained / "model.safetensors"), trained / "pytorch_model.bin")
    (trained / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        load_reward_model(trained)


@pytest.mark.parametrize(
    ("name", "words"),
    [("tokenizer.json", "tokenizer"), ("chat_template.jinja", "no chat template"), ("config.json", "config")],
)
def test_a_folder_with_a_file_missing_is_one_sentence(trained: Path, name: str, words: str) -> None:
    (trained / name).unlink()
    with pytest.raises(ModelError, match=words) as caught:
        load_reward_model(trained)
    assert "\n" not in str(caught.value)


def test_another_template_than_the_rules_is_an_error(trained: Path) -> None:
    rule = load_reward_model(trained).rule
    with (trained / "chat_template.jinja").open("a") as file:
        file.write("{# changed #}")
    with pytest.raises(ModelError, match="chat template"):
        load_reward_model(trained, rule=rule)


def test_dropout_is_off_and_the_pad_token_is_not_the_end(tmp_path: Path) -> None:
    tokenizer = make_tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, resid_pdrop=0.5, attn_pdrop=0.5)
    write(GPT2LMHeadModel(config), tokenizer, tmp_path / "gpt2")
    model = load_base(tmp_path / "gpt2", max_tokens=64, seed=0)
    model.network.train()
    assert torch.equal(score(model), score(model))
    assert model.tokenizer.pad_token == "<|pad|>"
    assert model.network.config.pad_token_id == model.tokenizer.pad_token_id != model.tokenizer.eos_token_id


def test_a_pinned_base_that_changed_is_an_error(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(tmp_path))
    settings = PretrainedModel(kind="pretrained", max_tokens=64, base="base")
    pinned = tmp_path / "build"
    pinned.mkdir()
    record = {"kind": "pretrained", "base": "base", "revision": None, "files": digest_folder(base)}
    (pinned / "base.json").write_text(json.dumps(record))
    assert load_base_folder(pinned, settings, seed=0).rule.max_tokens == 64
    with (base / "config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(ModelError, match=r"config\.json of base base has changed"):
        load_base_folder(pinned, settings, seed=0)
    record["base"] = "elsewhere"
    (pinned / "base.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match="does not exist any more"):
        load_base_folder(pinned, settings, seed=0)


@pytest.mark.parametrize("kind", DECODERS)
def test_every_decoder_survives_saving_and_stock_loaders_agree(kind: str, tmp_path: Path) -> None:
    base = make_tiny_decoder(kind, tmp_path / "base")
    model = load_base(base, max_tokens=64, seed=4)
    (tmp_path / "model").mkdir()
    save(model, tmp_path / "model")
    again = load_reward_model(tmp_path / "model")
    weights = again.network.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in model.network.state_dict().items())
    torch.testing.assert_close(score(again), score(model), rtol=0, atol=1e-6)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", dtype=torch.float32)
    question = Message("user", "how do I boil an egg?")
    encoded = encode(model.tokenizer, model.rule, [question], ["in water", "no"])
    rows = [encoded.prompt_ids + ids for ids in encoded.completion_ids]
    with torch.inference_mode():
        alone = torch.cat([stock(torch.tensor([row])).logits[0] for row in rows])
    torch.testing.assert_close(alone, score(model), rtol=0, atol=1e-5)
    # With padding too, on the side that stock loaders use: the pad token is one that no text ends in.
    padded = model.tokenizer.pad({"input_ids": rows}, return_tensors="pt")
    with torch.inference_mode():
        together = stock(**padded).logits[:, 0]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        CTRLConfig(n_embd=32, dff=64, n_layer=1, n_head=4),
        ModernBertDecoderConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4),
    ],
    ids=lambda config: config.model_type,
)
def test_a_head_that_is_not_one_linear_map_of_the_last_state_is_refused(
    config: PretrainedConfig, tmp_path: Path
) -> None:
    tokenizer = make_tiny_tokenizer()
    config.vocab_size, config.num_labels = len(tokenizer), 1
    config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    write(AutoModelForSequenceClassification.from_config(config), tokenizer, tmp_path / "other")
    with pytest.raises(ModelError, match="no linear head `score`") as caught:
        load_base(tmp_path / "other", max_tokens=64, seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", ["its own", "none", "the end", "unknown"])
def test_neither_padding_side_nor_pad_token_moves_a_reward(side: str, pad: str, tmp_path: Path) -> None:
    tokenizer = make_tiny_tokenizer()
    tokenizer.padding_side = side
    if pad == "none":
        tokenizer.pad_token = None
    elif pad == "the end":
        tokenizer.pad_token = tokenizer.eos_token
    base = make_tiny_decoder("qwen3", tmp_path / "base", tokenizer)
    if pad == "unknown":  # a config that names another one than the tokenizer does
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps(config | {"pad_token_id": tokenizer.eos_token_id}))
    plain = load_base(make_tiny_decoder("qwen3", tmp_path / "plain"), max_tokens=64, seed=4)
    model = load_base(base, max_tokens=64, seed=4)
    assert torch.equal(score(model), score(plain))
    (tmp_path / "model").mkdir()
    save(model, tmp_path / "model")
    again = load_reward_model(tmp_path / "model")
    assert again.tokenizer.pad_token_id == again.network.config.pad_token_id != again.tokenizer.eos_token_id
    assert torch.equal(score(again), score(plain))


def test_no_spare_token_to_pad_with_is_an_error(tmp_path: Path) -> None:
    tokenizer = make_tiny_tokenizer(pad="<|reserved|>")
    tokenizer.pad_token = None
    base = make_tiny_decoder("qwen3", tmp_path / "base", tokenizer)
    with pytest.raises(ModelError, match="no pad token apart from its end-of-sequence token"):
        load_base(base, max_tokens=64, seed=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_whatever_a_checkpoint_holds_it_is_trained_in_full_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    base = make_tiny_decoder("llama", tmp_path / "base")
    network = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=dtype)
    network.save_pretrained(base)
    model = load_base(base, max_tokens=64, seed=0)
    assert {weight.dtype for weight in model.network.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", ["model", "artifact"])
def test_a_reward_model_is_continued_from_only_when_asked(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = make_tiny_model if kind == "model" else make_tiny_artifact
    former = load_reward_model(make(tmp_path / "former"))
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(tmp_path))
    settings = PretrainedModel(kind="pretrained", max_tokens=64, base="former")
    pin(settings, tmp_path / "build")
    fresh = load_base_folder(tmp_path / "build", settings, seed=9)
    assert not torch.equal(head_of(fresh.network).weight, head_of(former.network).weight)
    continued = load_base_folder(tmp_path / "build", settings.model_copy(update={"keep_head": True}), seed=9)
    assert continued.rule.max_tokens == 64
    torch.testing.assert_close(score(continued), score(former), rtol=0, atol=1e-6)


def test_continuing_from_a_base_without_a_head_is_an_error(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(tmp_path))
    settings = PretrainedModel(kind="pretrained", max_tokens=64, base="base", keep_head=True)
    pin(settings, tmp_path / "build")
    with pytest.raises(ModelError, match=r"lacks the weights score\.weight.*keep_head to false"):
        load_base_folder(tmp_path / "build", settings, seed=9)
