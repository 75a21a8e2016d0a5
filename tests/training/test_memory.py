"""How a token budget is found: the arithmetic, the search, and the search over what a real network keeps."""

from __future__ import annotations

import math

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.worlds.tiny import make_tiny_base
from tests.worlds.trained import configure, make_groups
from touchstone.errors import SettingsError, TrainingError
from touchstone.model.layout import Batch, make_batches, shares_prompt
from touchstone.model.network import RewardModel, load_base
from touchstone.model.templating import EncodedGroup, encode_many
from touchstone.settings import parse
from touchstone.training.memory import CPU_TOKENS, Measured, batch_of, find_budget, largest_budget, resolve_budget
from touchstone.training.plan import make_steps, micro_batches
from touchstone.training.sharding import fill_up
from touchstone.training.trainer import Rewards


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    return load_base(make_tiny_base(tmp_path_factory.mktemp("base") / "base"), max_tokens=128, seed=0)


@pytest.fixture(scope="module")
def encoded(model: RewardModel) -> list[EncodedGroup]:
    items = [(group.prompt, [completion.text for completion in group.completions]) for group in make_groups(12)]
    return encode_many(model.tokenizer, model.rule, items)


def kept_bytes(module: nn.Module, batch: Batch) -> float:
    """What a forward keeps for its backward, weights left out: the part of memory that tokens cost, on any device."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(batch)
    return float(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))


def test_the_budget_is_where_the_line_meets_the_room() -> None:
    small, large = Measured(1000, 5e6), Measured(2000, 8e6)
    assert largest_budget(small, large, 20e6, at_least=1000, at_most=10**6) == 5888  # 2e6 + 3000 x 6000, in 256s
    assert largest_budget(small, large, 20e6, at_least=1000, at_most=4000) == 4000
    assert largest_budget(small, large, 1e6, at_least=1000, at_most=4000) == 1000
    assert largest_budget(small, Measured(2000, 5e6), 20e6, at_least=1000, at_most=4000) == 4000


@given(
    fixed=st.floats(0, 1e9),
    per_token=st.floats(1, 1e6),
    bend=st.floats(0, 10),
    room=st.floats(1e6, 1e11),
    breaks=st.integers(256, 10**6),
)
@hypothesis_settings(max_examples=300, deadline=None)
def test_what_is_found_has_been_run_and_fits(
    fixed: float, per_token: float, bend: float, room: float, breaks: int
) -> None:
    """However memory bends upwards, and wherever it ends without a warning."""
    runs: dict[int, float] = {}

    def measure(tokens: int) -> Measured:
        used = fixed + per_token * tokens + bend * tokens**2
        runs[tokens] = math.inf if tokens > breaks else used
        return Measured(tokens, runs[tokens])

    if fixed + per_token * 256 + bend * 256**2 > room:
        with pytest.raises(TrainingError, match=r"model.max_tokens \(256\) doesn't fit"):
            find_budget(measure, room, at_least=256, at_most=10**5)
        return
    budget = find_budget(measure, room, at_least=256, at_most=10**5)
    assert 256 <= budget <= 10**5
    assert runs[budget] <= room * (1 + 1e-9)
    assert len(runs) < 15


def test_a_real_network_fills_the_room_that_it_is_given(model: RewardModel, encoded: list[EncodedGroup]) -> None:
    shared = shares_prompt(model)
    module = Rewards(model.network, "fp32")
    runs: list[Measured] = []

    def measure(tokens: int) -> Measured:
        batch = batch_of(encoded, tokens, shared=shared)
        runs.append(Measured(batch.input_ids.numel(), kept_bytes(module, batch)))
        return runs[-1]

    room = 20e6
    budget = find_budget(measure, room, at_least=128, at_most=10**6)
    # Bytes per token vary by a quarter with the groups that happen to share a batch, so it is no tighter than this.
    (used,) = {run.bytes for run in runs if budget - 64 < run.tokens <= budget}
    assert 0.6 * room < used <= room
    assert max(batch.input_ids.numel() for batch in make_batches(encoded * 20, budget, shared=shared)) <= budget


def test_a_cpu_takes_a_fixed_budget_and_a_number_is_taken_as_it_is(
    model: RewardModel, encoded: list[EncodedGroup]
) -> None:
    accelerator = Accelerator(cpu=True)
    module = Rewards(model.network, "fp32")
    for setting, most, budget in (("auto", 128, CPU_TOKENS), ("auto", 8192, 8192), (300, 128, 300)):
        found = resolve_budget(setting, module, encoded, accelerator, shared=True, max_tokens=most, at_most=10**6)
        assert found == budget


def test_the_setting_is_a_number_or_auto() -> None:
    assert configure(tokens_per_microbatch="auto").train.tokens_per_microbatch == "auto"
    for wrong, words in ((64, "must hold at least one text"), (0, "greater than 0"), ("many", "'auto'")):
        values = configure().model_dump(mode="json")
        values["train"]["tokens_per_microbatch"] = wrong
        with pytest.raises(SettingsError, match=r"tokens_per_microbatch") as caught:
            parse(values)
        assert words in str(caught.value)
        assert "literal" not in str(caught.value)


def test_ranks_that_share_weights_do_as_many_passes(encoded: list[EncodedGroup]) -> None:
    settings = configure(comparisons_per_step=1000)
    (step,) = make_steps(make_groups(12), settings.objective, settings.train)
    micros = micro_batches(step.chunks, encoded, 128, shared=True)
    micros.sort(key=lambda micro: -len(micro.batches))
    assert len(micros[0].batches) > 1
    own = [len(micro.batches) for micro in micros]
    others = [len(micros[0].batches) + 2] + [1] * (len(micros) + 2)
    filled = fill_up(micros, [own, others])
    assert [len(micro.batches) for micro in filled] == [
        max(a, b) for a, b in zip([*own, 0, 0, 0], others, strict=True)
    ]
    for before, after in zip(micros, filled, strict=False):
        assert after.batches[: len(before.batches)] == before.batches
        assert after.chosen is before.chosen
        assert after.counts
    for idle in filled[len(micros) :]:
        assert not idle.counts
        assert float(idle.weights.abs().sum()) == 0.0
