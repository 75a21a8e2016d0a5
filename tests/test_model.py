"""A reward model's folder: what is loaded is what was trained, or a sentence that says why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, GPT2Config, GPT2LMHeadModel

from tests.tiny import make_tiny_base, make_tiny_tokenizer, write
from touchstone.errors import ModelError
from touchstone.files import digest_folder
from touchstone.groups import Message
from touchstone.layout import make_batches, rewards
from touchstone.model import RewardModel, head_of, load_base, load_base_folder, load_reward_model, save
from touchstone.settings import PretrainedModel
from touchstone.templating import encode


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
        return torch.cat([rewards(model, batch) for batch in make_batches([encoded], 1000)])


def test_a_saved_model_scores_the_same(base: Path, trained: Path) -> None:
    model = load_reward_model(trained)
    assert torch.equal(score(model), score(load_base(base, max_tokens=64, seed=4)))
    assert model.rule.max_tokens == 64
    assert load_reward_model(trained, rule=model.rule).rule == model.rule


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
        ours = rewards(model, make_batches([encoded], 1000)[0])
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
