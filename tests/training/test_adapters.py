"""LoRA and QLoRA: what is trained, what is merged, what is saved."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from tests.worlds.tiny import DECODERS, make_tiny_base, make_tiny_decoder
from tests.worlds.trained import configure, make_build, make_groups
from touchstone.errors import TrainingError
from touchstone.groups import Message, read_parquet
from touchstone.model.layout import Precision, make_batches, read_rewards
from touchstone.model.network import RewardModel, head_of, load_base, load_reward_model, save
from touchstone.model.templating import encode, encode_many
from touchstone.settings import Settings
from touchstone.training import methods
from touchstone.training.run import train
from touchstone.training.trainer import Examples, Places, PreferenceTrainer

QLORA = pytest.mark.skipif(
    not torch.cuda.is_available() or find_spec("bitsandbytes") is None, reason="needs CUDA and bitsandbytes"
)

SCORE = """
import json, pathlib, sys
from touchstone.groups import Message
from touchstone.model.layout import make_batches, rewards
from touchstone.model.network import load_reward_model
from touchstone.model.templating import encode

model = load_reward_model(pathlib.Path(sys.argv[1]))
encoded = encode(model.tokenizer, model.rule, [Message("user", "how do I boil an egg?")], ["in water", "no", "x"])
(batch,) = make_batches([encoded], 1000, shared=False)
print(json.dumps(rewards(model, batch).tolist()))
"""
"""A process of its own that knows nothing but the folder; `score` below gives the same."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base") / "base")


def score(model: RewardModel, precision: Precision = "fp32") -> torch.Tensor:
    encoded = encode(model.tokenizer, model.rule, [Message("user", "how do I boil an egg?")], ["in water", "no", "x"])
    with torch.inference_mode():
        (batch,) = make_batches([encoded], 1000, shared=False)
        return read_rewards(model.network, batch.to(model.device), precision).cpu()


def train_some_steps(build: Path, settings: Settings) -> RewardModel:
    """Trained and not yet finished."""
    model = methods.load(build / "base", settings)
    groups = read_parquet(build / "splits" / "train.parquet")
    items = [(group.prompt, [completion.text for completion in group.completions]) for group in groups]
    examples = Examples(groups, encode_many(model.tokenizer, model.rule, items))
    PreferenceTrainer(model, examples, None, settings, Places(build)).train()
    return model


@pytest.mark.slow
def test_a_merged_model_scores_the_same_in_a_fresh_process(tmp_path: Path, base: Path) -> None:
    build = make_build(tmp_path / "build", base, make_groups(20))
    settings = configure(method="lora", lora_rank=4, learning_rate=1e-2, checkpoint_steps=0)
    before = methods.load(build / "base", settings)
    head = head_of(before.network).weight.detach().clone()
    model = train_some_steps(build, settings)
    assert not torch.equal(head_of(model.network).weight, head)
    second = [weight for name, weight in model.network.named_parameters() if ".lora_B." in name]
    assert len(second) == 14
    assert all(weight.abs().max() > 1e-4 for weight in second)
    assert (score(model) - score(before)).abs().max() > 0.05
    expected = score(model)
    (tmp_path / "model").mkdir()
    save(methods.finish(model, settings), tmp_path / "model")
    command = [sys.executable, "-c", SCORE, str(tmp_path / "model")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == pytest.approx(expected.tolist(), abs=1e-5)
    # A plain checkpoint: the names, shapes and dtypes of the stock class.
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert {(n, t.shape, t.dtype) for n, t in stock.state_dict().items()} == {
        (n, t.shape, t.dtype) for n, t in model.network.state_dict().items()
    }


@pytest.mark.parametrize("kind", DECODERS)
def test_every_decoder_is_adapted_whole_and_merged_right(kind: str, tmp_path: Path) -> None:
    base = make_tiny_decoder(kind, tmp_path / "base")
    settings = configure(method="lora", lora_rank=4)
    model = methods.load(base, settings)
    plain = score(model)
    adapted = {name.split(".lora_")[0] for name, _ in model.network.named_parameters() if ".lora_" in name}
    maps = {name for name in load_base(base, max_tokens=128, seed=0).network.state_dict() if name.endswith("weight")}
    others = ("embed", "norm", "ln_", "wte", "wpe", "score")
    assert adapted == {name.removesuffix(".weight") for name in maps if not any(word in name for word in others)}
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.network.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn_like(weight)
    expected = score(model)
    assert (expected - plain).abs().max() > 1e-3
    (tmp_path / "model").mkdir()
    save(methods.finish(model, settings), tmp_path / "model")
    torch.testing.assert_close(score(load_reward_model(tmp_path / "model")), expected, rtol=0, atol=1e-5)


def test_a_fresh_adapter_changes_nothing_and_follows_the_seed(base: Path) -> None:
    settings = configure(method="lora", lora_rank=4)
    plain = load_base(base, max_tokens=128, seed=settings.train.seed, keep_head=True)
    first = methods.load(base, settings)
    torch.manual_seed(99)
    second = methods.load(base, settings)
    assert torch.equal(score(first), score(plain))
    weights = dict(first.network.named_parameters())
    assert all(torch.equal(weights[name], weight) for name, weight in second.network.named_parameters())


def test_adapters_and_the_head_alone_are_trained(base: Path) -> None:
    model = methods.load(base, configure(method="lora", lora_rank=4))
    trained = {name for name, weight in model.network.named_parameters() if weight.requires_grad}
    assert "score.weight" in trained
    assert not any("lora" in name for name in trained if name.startswith("score"))
    others = trained - {"score.weight"}
    assert all(".lora_A." in name or ".lora_B." in name for name in others)
    assert len(others) == 2 * 2 * 7  # two factors, two layers, seven linear maps in each


def test_under_bf16_only_the_adapted_layers_are_narrow_and_nothing_moves(base: Path) -> None:
    settings = configure(method="lora", lora_rank=4, precision="bf16")
    plain = load_base(base, max_tokens=128, seed=settings.train.seed, keep_head=True)
    model = methods.load(base, settings)
    assert torch.equal(score(model, "bf16"), score(plain, "bf16"))
    narrow = {name for name, weight in model.network.named_parameters() if weight.dtype == torch.bfloat16}
    assert narrow == {name for name, _ in model.network.named_parameters() if name.endswith("base_layer.weight")}
    assert model.shares
    methods.finish(model, settings)
    assert {weight.dtype for weight in model.network.parameters()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_with_adapters_writes_a_reward_model(precision: str, tmp_path: Path, base: Path) -> None:
    build = make_build(tmp_path / "build", base, make_groups(20))
    values = {"activation_checkpointing": True, "precision": precision}
    rows = train(configure(method="lora", lora_rank=4, learning_rate=1e-2, **values), build)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert not any("lora" in name for name in load_reward_model(build / "model").network.state_dict())


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_four_bits_without_a_gpu_are_refused_in_one_sentence(base: Path) -> None:
    with pytest.raises(TrainingError, match="needs a CUDA device") as caught:
        methods.load(base, configure(method="qlora"))
    assert "\n" not in str(caught.value)


@QLORA
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_trained_over_four_bits_keeps_its_scores(tmp_path: Path, precision: Precision) -> None:
    base = make_tiny_base(tmp_path / "base", hidden=64)
    build = make_build(tmp_path / "build", base, make_groups(20))
    settings = configure(method="qlora", lora_rank=4, learning_rate=1e-2, precision=precision, checkpoint_steps=0)
    model = train_some_steps(build, settings)
    trained = [weight for weight in model.network.parameters() if weight.requires_grad]
    assert {weight.dtype for weight in trained} == {torch.float32}
    assert any(weight.dtype == torch.uint8 for weight in model.network.parameters())
    expected = score(model, precision)
    (tmp_path / "model").mkdir()
    save(methods.finish(model, settings), tmp_path / "model")
    again = load_reward_model(tmp_path / "model")
    assert "quantization_config" not in again.network.config.to_dict()
    tolerance = 1e-4 if precision == "fp32" else 0.05
    assert score(again, precision).tolist() == pytest.approx(expected.tolist(), abs=tolerance)
