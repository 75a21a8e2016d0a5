"""How many tokens one forward and backward may hold: train.tokens_per_microbatch: auto.

Memory grows with the tokens of a micro-batch about as a line: weights, gradients and whatever else is always there,
and so many bytes per token. Two runs give the line, the line gives the largest budget that leaves SAFETY_SHARE of the
device free, and a run of that size checks it. The budget changes no result beyond rounding, since a step's loss is a
sum over its comparisons however they are cut; so it is written to the events and to the log, and to nothing that DVC
keeps. Who wants the last digit to be the same on another GPU gives a number.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from touchstone.errors import TrainingError
from touchstone.model.layout import Batch, make_batches
from touchstone.model.templating import EncodedGroup
from touchstone.training.sharding import exchange, is_deepspeed, is_fsdp

log = logging.getLogger(__name__)

SAFETY_SHARE = 0.15
"""Share of the device's memory that is left free: fragmentation, and groups shaped unlike those measured."""

CPU_TOKENS = 4096
"""What "auto" means without a GPU, where memory is not what limits: larger micro-batches are no faster there."""

ROUNDING = 256
"""Budgets are multiples of it, so that a few bytes more or less don't change the plan."""

OPTIMIZER_BYTES = 8
"""Per trainable parameter: AdamW's two moments in fp32, which the first step allocates."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one forward and backward took.

    Attributes:
        tokens: of its batch, padding included.
        bytes: the most that the device held at once; infinite where that was more than it has.
    """

    tokens: int
    bytes: float


def largest_budget(small: Measured, large: Measured, room: float, *, at_least: int, at_most: int) -> int:
    """The most tokens that fit into `room` bytes on the line through two measurements, within the two bounds.

    bytes = fixed + per_token * tokens. A multiple of ROUNDING, except at the bounds.
    """
    per_token = (large.bytes - small.bytes) / max(1, large.tokens - small.tokens)
    if per_token <= 0:  # so small that memory is taken by blocks: tokens don't show
        return at_most
    fixed = small.bytes - per_token * small.tokens
    fitting = int(max(0.0, (room - fixed) / per_token)) // ROUNDING * ROUNDING
    return min(max(at_least, fitting), at_most)


def find_budget(measure: Callable[[int], Measured], room: float, *, at_least: int, at_most: int) -> int:
    """Measure twice, draw the line, and run the budget that it gives; lower it until it fits.

    A run over `room` gives a new line, through the smallest run and itself. Where memory bends upwards (masks grow
    with the square of a row) the curve lies below that chord, so what it gives fits. Out of memory halves the budget.

    Args:
        measure: runs a batch of about so many tokens.
        room: bytes that training may hold at once.
        at_least: tokens of the longest text, below which no budget works.
        at_most: tokens of the largest step; more would never be used.

    Raises:
        TrainingError: not even `at_least` tokens fit.
    """
    at_most = max(at_least, at_most)
    small = measure(at_least)
    if small.bytes > room:
        raise TrainingError(
            f"one text of model.max_tokens ({at_least}) doesn't fit into the device's memory in training; lower "
            "model.max_tokens, spread the model over several devices (train=fsdp2), or train an adapter (train=lora)"
        )
    twice = min(2 * at_least, at_most)
    large = measure(twice)
    if large.bytes > room:
        return at_least
    budget = largest_budget(small, large, room, at_least=twice, at_most=at_most)
    grows = True
    while budget > twice:
        run = measure(budget)
        if math.isinf(run.bytes):
            allowed = max(twice, budget // 2)
        else:
            allowed = largest_budget(small, run, room, at_least=twice, at_most=at_most)
        # The first line is drawn through two small runs: with much room left it is worth another one.
        grows = grows and allowed > 1.1 * budget
        if allowed >= budget and not grows:
            break
        budget = allowed
    return budget


def resolve_budget(
    setting: int | str,
    model: nn.Module,
    encoded: Sequence[EncodedGroup],
    accelerator: Accelerator,
    *,
    shared: bool,
    max_tokens: int,
    at_most: int,
) -> int:
    """The budget that train.tokens_per_microbatch asks for, the same on every rank. Every rank must call it.

    Args:
        model: the module that training calls with a batch, wrapped already where there are several ranks. It has no
            gradients afterwards.
        max_tokens: model.max_tokens.
        at_most: tokens of the largest step.

    Raises:
        TrainingError: as `find_budget`, or "auto" with DeepSpeed, whose engine steps with the backward.
    """
    if setting != "auto":
        return int(setting)
    device = accelerator.device
    if device.type != "cuda":
        return max(CPU_TOKENS, max_tokens)
    if is_deepspeed(accelerator):
        raise TrainingError("train.tokens_per_microbatch: auto can't measure inside DeepSpeed; give a number")
    # What is free, and what PyTorch has taken for itself: others may use the device too.
    free, total = torch.cuda.mem_get_info(device)
    room = free + torch.cuda.memory_reserved(device) - SAFETY_SHARE * total - OPTIMIZER_BYTES * _trainable(model)

    def measure(tokens: int) -> Measured:
        return agree(measure_cuda(model, batch_of(encoded, tokens, shared=shared), accelerator), accelerator)

    room = -agree(Measured(0, -room), accelerator).bytes
    budget = find_budget(measure, room, at_least=max_tokens, at_most=at_most)
    log.info("train.tokens_per_microbatch: auto is %d on this machine", budget)
    return budget


def agree(run: Measured, accelerator: Accelerator) -> Measured:
    """The largest of all ranks' measurements, so that every rank decides the same."""
    every = accelerator.gather(torch.tensor([run.bytes], dtype=torch.float64, device=accelerator.device))
    return Measured(run.tokens, float(every.max()))


def batch_of(encoded: Sequence[EncodedGroup], tokens: int, *, shared: bool) -> Batch:
    """A batch of about `tokens` tokens of the longest groups, repeated where all of them together hold fewer."""
    longest = sorted(encoded, key=lambda group: group.shared_tokens, reverse=True)
    picked: list[EncodedGroup] = []
    picked_tokens = 0
    while picked_tokens < 2 * tokens:  # enough for one batch that is full
        group = longest[len(picked) % len(longest)]
        picked.append(group)
        picked_tokens += group.shared_tokens
    return max(make_batches(picked, tokens, shared=shared), key=lambda batch: batch.input_ids.numel())


def measure_cuda(model: nn.Module, batch: Batch, accelerator: Accelerator) -> Measured:
    """One forward and backward on the GPU. Only a GPU can prove this function.

    Raises:
        TrainingError: out of memory with the model spread over ranks, where the others wait for this one for ever.
    """
    device = accelerator.device
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        with exchange(accelerator, model, last=False):
            accelerator.backward(model(batch.to(device)).sum())
        return Measured(batch.input_ids.numel(), float(torch.cuda.max_memory_allocated(device)))
    except torch.OutOfMemoryError:
        if is_fsdp(accelerator):
            raise TrainingError(
                f"a micro-batch of {batch.input_ids.numel()} tokens doesn't fit into the device's memory; "
                "give train.tokens_per_microbatch a smaller number"
            ) from None
        return Measured(batch.input_ids.numel(), math.inf)
    finally:
        model.zero_grad(set_to_none=True)


def _trainable(model: nn.Module) -> int:
    """Trainable parameters that this rank holds: of a sharded tensor its own part."""
    return sum(_local(parameter).numel() for parameter in model.parameters() if parameter.requires_grad)


def _local(parameter: Tensor) -> Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter
