"""Several ranks: padding micro-batches, exchange of gradients, gathering of spread weights (FSDP2, ZeRO-3).

The weights of a spread model are gathered for each forward and backward, by all ranks together. So every rank must do
the same passes in the same order, or they wait for one another for ever. Where each rank has the whole model, only the
last backward of a step is common.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import zip_longest

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from touchstone.training.plan import AnyMicroBatch, MicroBatch


def is_fsdp(accelerator: Accelerator) -> bool:
    """Whether FSDP spreads the model.

    Asked of the plugin: accelerate 1.15 copies the launcher's type (MULTI_GPU) over `distributed_type` whenever its
    state is looked up anew.
    """
    return getattr(accelerator.state, "fsdp_plugin", None) is not None


def is_deepspeed(accelerator: Accelerator) -> bool:
    """Whether DeepSpeed has the model."""
    return getattr(accelerator.state, "deepspeed_plugin", None) is not None


def is_spread(accelerator: Accelerator) -> bool:
    """Whether each rank holds only a part of the weights."""
    return is_fsdp(accelerator) or is_deepspeed(accelerator)


@contextmanager
def exchange(accelerator: Accelerator, model: nn.Module, *, last: bool) -> Iterator[None]:
    """Around one forward and backward; `last` says that the optimizer steps after it.

    Ranks with whole models exchange gradients once, with the last backward. FSDP exchanges with each: kept for later,
    gradients would be whole on every rank, 4 bytes per parameter. DeepSpeed takes the optimizer's step inside the
    backward; accelerate's flag tells it which one is the last.
    """
    if last or is_fsdp(accelerator):
        yield
    elif is_deepspeed(accelerator):
        accelerator.gradient_state._set_sync_gradients(False)
        try:
            yield
        finally:
            accelerator.gradient_state._set_sync_gradients(True)
    else:
        with accelerator.no_sync(model):
            yield


def even(micros: Sequence[AnyMicroBatch], accelerator: Accelerator) -> list[AnyMicroBatch]:
    """This rank's micro-batches, with padding up to as many passes as the busiest rank has; every rank must call it.

    Where models are whole nothing is added. A padding micro-batch weighs nothing, so no loss or gradient changes.
    """
    if not is_spread(accelerator):
        return list(micros)
    mine = sorted(micros, key=lambda micro: -len(micro.batches))
    every: list[list[int]] = gather_object([[len(micro.batches) for micro in mine]])
    return fill_up(mine, every)


def fill_up(micros: Sequence[AnyMicroBatch], every: Sequence[Sequence[int]]) -> list[AnyMicroBatch]:
    """`micros` with as many micro-batches, and in each of them as many batches, as any rank has.

    Args:
        micros: this rank's, those with most batches first.
        every: for each rank, the numbers of batches of its micro-batches in that order.
    """
    passes = [max(numbers) for numbers in zip_longest(*every, fillvalue=0)]
    smallest = min(micros, key=lambda micro: (len(micro.batches), sum(batch.tokens for batch in micro.batches)))
    padding: AnyMicroBatch = replace(smallest, weights=torch.zeros_like(smallest.weights), counts=False)
    if isinstance(padding, MicroBatch):
        padding = replace(padding, rankings=tuple(replace(ranking, weight=0.0) for ranking in padding.rankings))
    filled = [*micros, *[padding] * (len(passes) - len(micros))]
    # A batch more at the end moves no reward's place, and nobody reads its own.
    return [
        replace(micro, batches=micro.batches + micro.batches[-1:] * (number - len(micro.batches)))
        for micro, number in zip(filled, passes, strict=True)
    ]


def gather_weights(wrapped: nn.Module, accelerator: Accelerator) -> None:
    """Put whole weights, on the CPU, into a spread model on the first rank; every rank must call it.

    The model can't be trained any further. Where models are whole nothing happens.
    """
    bare = accelerator.unwrap_model(wrapped)
    if is_deepspeed(accelerator):
        weights = accelerator.get_state_dict(wrapped)  # None on all ranks but the first
    elif is_fsdp(accelerator):
        weights = {name: _whole(parameter) for name, parameter in bare.named_parameters()}
    else:
        return
    if not accelerator.is_main_process:
        return
    for name, tensor in weights.items():
        folder, _, leaf = name.rpartition(".")
        module = bare.get_submodule(folder)
        if leaf in module._parameters:
            module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))


def _whole(parameter: nn.Parameter) -> Tensor:
    """All of a parameter, on the CPU; every rank must call it."""
    tensor = parameter.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()
