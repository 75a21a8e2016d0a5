"""Recomputed activations, compiled layers: other ways to the same numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.worlds.tiny import make_tiny_base
from tests.worlds.trained import configure
from touchstone.errors import SettingsError
from touchstone.groups import Message
from touchstone.model.layout import make_batches, rewards, shares_prompt
from touchstone.model.network import RewardModel, load_reward_model, save
from touchstone.model.templating import encode
from touchstone.settings import compose
from touchstone.training import methods


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base") / "base")


def gradients(model: RewardModel) -> tuple[torch.Tensor, list[torch.Tensor]]:
    texts = ["in water", "no", "put it into boiling water for six minutes"]
    encoded = encode(model.tokenizer, model.rule, [Message("user", "how do I boil an egg?")], texts)
    (batch,) = make_batches([encoded], 1000, shared=shares_prompt(model))
    model.network.train()
    values = rewards(model, batch)
    values.square().sum().backward()
    return values.detach(), [w.grad for w in model.network.parameters() if w.grad is not None]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_recomputed_activations_give_the_same_gradients(base: Path, method: str) -> None:
    kept = gradients(methods.load(base, configure(method=method)))
    again = methods.load(base, configure(method=method, activation_checkpointing=True))
    assert again.network.is_activation_checkpointing
    recomputed = gradients(again)
    assert torch.equal(kept[0], recomputed[0])
    assert len(kept[1]) == len(recomputed[1]) > 0
    assert all(torch.equal(a, b) for a, b in zip(kept[1], recomputed[1], strict=True))


def test_an_adapter_gets_the_gradient_of_the_weights_that_it_stands_for(base: Path) -> None:
    """With B = 0 and W + s B A for the weights, the gradient of B is s (dW) A^T."""
    rank, scale = 4, configure().train.lora_alpha / 4
    full, adapted = methods.load(base, configure()), methods.load(base, configure(method="lora", lora_rank=rank))
    gradients(full)
    gradients(adapted)
    weights, factors = dict(full.network.named_parameters()), dict(adapted.network.named_parameters())
    second = [name for name in factors if ".lora_B." in name]
    for name in second:
        whole = weights[name.split(".lora_")[0] + ".weight"].grad
        expected = scale * whole @ factors[name.replace("lora_B", "lora_A")].T
        torch.testing.assert_close(factors[name].grad, expected.detach(), rtol=1e-4, atol=1e-5)
    assert second


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("values", [{}, {"method": "lora", "activation_checkpointing": True}], ids=str)
def test_compiled_layers_give_the_same_rewards_and_gradients(
    base: Path, tmp_path: Path, values: dict[str, object]
) -> None:
    eager, compiled = (methods.load(base, configure(compile=on, **values)) for on in (False, True))
    expected, found = gradients(eager), gradients(compiled)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-3, atol=1e-5)
    settings = configure(compile=True, **values)
    (tmp_path / "model").mkdir()
    save(methods.finish(compiled, settings), tmp_path / "model")
    again = load_reward_model(tmp_path / "model")
    torch.testing.assert_close(gradients(again)[0], expected[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["activation_checkpointing", "compile"])
def test_a_head_alone_has_no_backward_to_speed_up(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"train: {name} .* method=head_only"):
        configure(method="head_only", **{name: True})


def test_a_head_can_not_be_kept_and_fitted_anew() -> None:
    overrides = ["model=continue", "model.base=somewhere", "train=head_only", "train.tokens_per_microbatch=4096"]
    with pytest.raises(SettingsError, match=r"head_only fits a new head, and model\.keep_head keeps the old one"):
        compose(overrides)
    assert compose([*overrides, "model.keep_head=false"]).train.method == "head_only"
