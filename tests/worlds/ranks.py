"""What training/test_distributed.py starts on several processes of a CPU (gloo).

torchrun --nproc_per_node 2 -m tests.worlds.ranks one_step BASE OUT
accelerate launch --config_file configs/accelerate/fsdp2.yaml --num_processes 2 -m tests.worlds.ranks train
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from tests.worlds.trained import configure, make_groups
from touchstone.model.layout import shares_prompt
from touchstone.model.network import load_base
from touchstone.model.templating import encode_many
from touchstone.settings import Settings
from touchstone.training.__main__ import main as train
from touchstone.training.memory import Measured, agree, find_budget
from touchstone.training.objective import total_loss
from touchstone.training.plan import make_steps, micro_batches, share_of
from touchstone.training.trainer import PreferenceTrainer, Rewards


def one_step(base: Path, out: Path) -> None:
    """One optimizer step, whole by one rank and spread over all; the first rank writes the differences."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    accelerator = Accelerator(cpu=True)
    settings = configure(comparisons_per_step=1000)
    whole = _step(settings, base, 0, 1)
    spread = _step(settings, base, accelerator.process_index, accelerator.num_processes)
    summed = torch.tensor([spread["loss"], spread["weight"]], dtype=torch.float64)
    means = torch.tensor([spread["loss"] / spread["weight"]], dtype=torch.float64)
    weights = [torch.zeros(2, dtype=torch.float64) for _ in range(accelerator.num_processes)]
    dist.all_gather(weights, summed)
    dist.all_reduce(summed)
    dist.all_reduce(means)
    budgets = _budget(accelerator)
    if accelerator.is_main_process:
        facts = {
            "processes": dist.get_world_size(),
            "backend": dist.get_backend(),
            "distributed_type": str(accelerator.distributed_type),
            "sharded": spread["sharded"],
            "shares": [float(pair[1]) for pair in weights],
            "loss": whole["loss"] / whole["weight"],
            "loss_of_shares": float(summed[0]) / whole["weight"],
            "mean_of_means": float(means) / accelerator.num_processes,
            "gradient": _difference(whole["gradients"], spread["gradients"]),
            "weights": _difference(whole["weights"], spread["weights"]),
            "moved": _difference(whole["before"], whole["weights"]),
            "budgets": budgets,
        }
        out.write_text(json.dumps(facts))
    dist.barrier()
    dist.destroy_process_group()


def _step(settings: Settings, base: Path, rank: int, ranks: int) -> dict[str, Any]:
    """Loss, gradients and new weights of a step of which this rank computes its share."""
    groups = make_groups(24)
    model = load_base(base, max_tokens=128, seed=0)
    items = [(group.prompt, [completion.text for completion in group.completions]) for group in groups]
    encoded = encode_many(model.tokenizer, model.rule, items)
    shared = shares_prompt(model)
    module = Rewards(model.network, "fp32")
    before = _whole(module)
    if ranks > 1:
        mesh = init_device_mesh("cpu", (ranks,))
        for layer in module.network.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(module, mesh=mesh)
    # Adam would divide rounding by rounding where a gradient is about zero; whole runs with it are another test.
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    (step,) = make_steps(groups, settings.objective, settings.train)
    chunks, counts = share_of(step, encoded, rank, ranks)
    (micro,) = micro_batches(chunks, encoded, 100_000, shared=shared, counts=counts)
    loss = total_loss(settings.objective, module(micro.batches[0]), micro)
    (loss * ranks / step.weight).backward()
    gradients = {name: _full(parameter.grad) for name, parameter in module.named_parameters()}
    optimizer.step()
    sharded = [type(part).__name__ for part in module.modules() if isinstance(part, FSDPModule)]
    return {
        "loss": float(loss.detach()),
        "weight": float(micro.weights.sum()),
        "gradients": gradients,
        "before": before,
        "weights": _whole(module),
        "sharded": sharded,
    }


def _budget(accelerator: Accelerator) -> list[int]:
    """What each rank would choose where ranks measure differently."""
    rank = accelerator.process_index
    measured = []

    def measure(tokens: int) -> Measured:
        own = Measured(tokens, 1000.0 * (1 + rank) * tokens if tokens < 5000 else float("inf") if rank else 1.0)
        measured.append(tokens)
        return agree(own, accelerator)

    budget = find_budget(measure, 1e7, at_least=512, at_most=10**6)
    every: list[Any] = [None] * accelerator.num_processes
    dist.all_gather_object(every, [budget, *measured])
    assert len({tuple(numbers) for numbers in every}) == 1, "ranks must measure the same sizes"
    return [numbers[0] for numbers in every]


def _whole(module: nn.Module) -> dict[str, Tensor]:
    return {name: _full(parameter).clone() for name, parameter in module.named_parameters()}


def _full(tensor: Any) -> Tensor:
    detached: Tensor = tensor.detach()
    return detached.full_tensor() if hasattr(detached, "full_tensor") else detached


def _difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def _train() -> None:
    """The stage `train`, with FSDP on a CPU where accelerate's launcher asks for it: accelerate itself wants a GPU."""
    original = AcceleratorState.__init__

    def initialise(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **named: Any) -> None:
        original(self, *args, fsdp_plugin=fsdp_plugin, **named)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin

    AcceleratorState.__init__ = initialise
    finish = PreferenceTrainer.finish

    def note(self: PreferenceTrainer) -> None:
        parts = [type(part).__name__ for part in self.model_wrapped.modules() if isinstance(part, FSDPModule)]
        facts = {
            "sharded": parts,
            "processes": dist.get_world_size(),
            "fsdp_version": self.accelerator.state.fsdp_plugin.fsdp_version,
        }
        if self.is_world_process_zero():
            Path("spread.json").write_text(json.dumps(facts))
        finish(self)

    PreferenceTrainer.finish = note
    train()


if __name__ == "__main__":
    os.environ["ACCELERATE_USE_CPU"] = "true"
    if sys.argv[1] == "train":
        _train()
    else:
        one_step(Path(sys.argv[2]), Path(sys.argv[3]))
