"""Batches in which a group is one sequence: [prompt][completion 1]...[completion K].

A completion sees the prompt and itself, never its siblings, and its positions restart at the prompt's end, so its
reward is what it would be alone, and the prompt is computed once instead of K times.

    encoded = templating.encode_many(model.tokenizer, model.rule, items)
    for batch in make_batches(encoded, token_budget, shared=shares_prompt(model)):
        for (item, completion), reward in zip(batch.owners, rewards(model, batch)): ...

Sizes: B rows, T tokens of the longest row, N completions of the batch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from touchstone.model import RewardModel, head_of
from touchstone.templating import EncodedGroup

log = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16"]

ATTENTION_TOKENS = 512
"""Row length at which attention costs as much as everything else: what makes very long shared rows not pay."""

MAX_SHARED_ROW = 4096
"""Longest shared row, unless one completion alone is longer: a row's mask holds its square."""

BATCH_TOKENS = 128
"""What starting another batch costs, in tokens: padding below it isn't worth a batch of its own."""

PROBE_TOLERANCE = 1e-4
"""Largest difference of rewards in fp32 between shared and separate rows that counts as none."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of tokens, and where each completion's reward is read.

    Attributes:
        input_ids: [B, T] int64, padded on the right with 0.
        position_ids: [B, T] int64.
        segments: [B, T] int32: 0 the prompt, k the row's k-th completion, -1 padding.
        rows, columns: [N] int64: row and column of each completion's last token.
        owners: per completion, index of its group among those encoded and its own index in the group.
        shared: whether any row holds several completions.
        tokens: tokens without padding.
        separate_tokens: tokens that one row per completion would hold, without padding.
    """

    input_ids: Tensor
    position_ids: Tensor
    segments: Tensor
    rows: Tensor
    columns: Tensor
    owners: list[tuple[int, int]]
    shared: bool
    tokens: int
    separate_tokens: int

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        if self.input_ids.device == device:
            return self
        names = ("input_ids", "position_ids", "segments", "rows", "columns")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


@dataclass(frozen=True, slots=True)
class _Row:
    """Completions of one group laid out after the prompt that they all see."""

    item: int
    completions: list[int]
    prompt_start: int
    length: int


def make_batches(
    encoded: Sequence[EncodedGroup], token_budget: int, *, shared: bool = True, together: bool = False
) -> list[Batch]:
    """Lay groups out and cut them into batches of rows of like length.

    Args:
        token_budget: most tokens of a batch, padding included; what is larger by itself goes alone.
        shared: let completions share their prompt's row where that computes less. False for a model that
            `shares_prompt` refuses.
        together: keep a group's completions in one batch, for a loss that compares them.

    The same arguments give the same batches.
    """
    units: list[list[_Row]] = []
    for item, group in enumerate(encoded):
        rows = list(_rows(item, group, token_budget, shared))
        units += [rows] if together and rows else [[row] for row in rows]
    longest = {id(unit): max(row.length for row in unit) for unit in units}
    units.sort(key=lambda unit: (longest[id(unit)], unit[0].item, unit[0].completions[0]))
    lengths = np.array([longest[id(unit)] for unit in units], dtype=np.int64)
    counts = np.array([len(unit) for unit in units], dtype=np.int64)
    return [
        _fill(encoded, [row for unit in units[start:end] for row in unit])
        for start, end in _cuts(lengths, counts, token_budget)
    ]


def padded_tokens(group: EncodedGroup, token_budget: int, *, shared: bool) -> int:
    """Tokens, padding included, of a group's rows in one batch."""
    lengths = [row.length for row in _rows(0, group, token_budget, shared)]
    return len(lengths) * max(lengths, default=0)


def rewards(model: RewardModel, batch: Batch, precision: Precision = "fp32") -> Tensor:
    """One reward per completion of the batch, in the order of `batch.owners`: [N], at least float32.

    Under "bf16" the backbone computes in bfloat16 where that is safe; the head never does.
    """
    return read_rewards(model.network, batch.to(model.device), precision)


def read_rewards(network: PreTrainedModel, batch: Batch, precision: Precision = "fp32") -> Tensor:
    """`rewards` for a bare network whose device the batch is on."""
    device = batch.input_ids.device.type
    with torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext():
        hidden = _backbone(network)(
            input_ids=batch.input_ids,
            attention_mask=_mask(batch),
            position_ids=batch.position_ids,
            use_cache=False,
        ).last_hidden_state
    head = head_of(network)
    # A bf16 head leaves too few distinct rewards: near pairs would tie.
    with torch.autocast(device, enabled=False):
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        last = hidden[batch.rows, batch.columns].to(dtype)
        bias = None if head.bias is None else head.bias.to(dtype)
        return nn.functional.linear(last, head.weight.to(dtype), bias).squeeze(-1)


def shares_prompt(model: RewardModel) -> bool:
    """Whether shared rows give this model's rewards; found out once per model, by its configuration and a probe.

    A model that refuses gets one row per completion and the same scores, slower; the log says so.
    """
    if model.shares is None:
        model.shares = _window_allows(model) and _probe(model)
        if not model.shares:
            log.warning(
                "%s can't share a prompt among completions: each gets a row of its own", type(model.network).__name__
            )
    return model.shares


def _rows(item: int, group: EncodedGroup, token_budget: int, shared: bool) -> Iterator[_Row]:
    """Spread a group's completions over rows.

    A completion joins the open row while that costs less than a row of its own, with the prompt once more:
    a row of n tokens costs n (1 + n / ATTENTION_TOKENS).
    """
    by_start: dict[int, list[int]] = {}
    for completion, start in enumerate(group.prompt_starts):
        by_start.setdefault(start, []).append(completion)
    for start, completions in by_start.items():
        prompt = len(group.prompt_ids) - start
        row: list[int] = []
        length = prompt
        for completion in completions:
            own = len(group.completion_ids[completion])
            if row and not (
                shared
                and length + own <= min(token_budget, MAX_SHARED_ROW)
                and _cost(length + own) - _cost(length) <= _cost(prompt + own)
            ):
                yield _Row(item, row, start, length)
                row, length = [], prompt
            row.append(completion)
            length += own
        yield _Row(item, row, start, length)


def _cost(tokens: int) -> float:
    return tokens * (1 + tokens / ATTENTION_TOKENS)


_Integers = np.ndarray[tuple[int], np.dtype[np.int64]]


def _cuts(lengths: _Integers, counts: _Integers, token_budget: int) -> list[tuple[int, int]]:
    """Cut units, sorted by length, into batches with the least padding plus BATCH_TOKENS per batch.

    Unit u has counts[u] rows, the longest of lengths[u] tokens. Dynamic programming over the end of the last batch,
    O(units * units in a batch).
    """
    number = len(lengths)
    rows_before = np.concatenate(([0], np.cumsum(counts)))
    best = np.zeros(number + 1)
    first = np.zeros(number + 1, dtype=np.int64)
    for end in range(1, number + 1):
        longest = int(lengths[end - 1])
        # The first start whose rows fit the budget; one unit always goes, however large.
        most = max(int(counts[end - 1]), token_budget // longest)
        start = int(np.searchsorted(rows_before[:end], rows_before[end] - most))
        costs = best[start:end] + (rows_before[end] - rows_before[start:end]) * longest
        choice = int(np.argmin(costs))
        best[end] = costs[choice] + BATCH_TOKENS
        first[end] = start + choice
    cuts = []
    end = number
    while end:
        cuts.append((int(first[end]), end))
        end = int(first[end])
    return cuts[::-1]


def _fill(encoded: Sequence[EncodedGroup], rows: Sequence[_Row]) -> Batch:
    """Write rows into arrays."""
    shape = (len(rows), max(row.length for row in rows))
    ids = np.zeros(shape, dtype=np.int64)
    positions = np.zeros(shape, dtype=np.int64)
    segments = np.full(shape, -1, dtype=np.int32)
    where: list[tuple[int, int]] = []
    owners: list[tuple[int, int]] = []
    counting = np.arange(shape[1])
    separate = 0
    for number, row in enumerate(rows):
        group = encoded[row.item]
        prompt = len(group.prompt_ids) - row.prompt_start
        ids[number, :prompt] = group.prompt_ids[row.prompt_start :]
        positions[number, :prompt] = counting[:prompt]
        segments[number, :prompt] = 0
        start = prompt
        for segment, completion in enumerate(row.completions, start=1):
            own = group.completion_ids[completion]
            end = start + len(own)
            ids[number, start:end] = own
            positions[number, start:end] = counting[prompt : prompt + len(own)]
            segments[number, start:end] = segment
            where.append((number, end - 1))
            owners.append((row.item, completion))
            separate += prompt + len(own)
            start = end
    index = torch.tensor(where, dtype=torch.int64)
    return Batch(
        input_ids=torch.from_numpy(ids),
        position_ids=torch.from_numpy(positions),
        segments=torch.from_numpy(segments),
        rows=index[:, 0],
        columns=index[:, 1],
        owners=owners,
        shared=any(len(row.completions) > 1 for row in rows),
        tokens=sum(row.length for row in rows),
        separate_tokens=separate,
    )


def _mask(batch: Batch) -> Tensor:
    """[B, 1, T, T] boolean for shared rows (True: may look), [B, T] otherwise."""
    if not batch.shared:
        return (batch.segments >= 0).long()
    # Boolean, so that it fits whatever dtype the attention computes in. Padding looks at the prompt and at padding:
    # a position that sees nothing would be NaN.
    query, key = batch.segments[:, :, None], batch.segments[:, None, :]
    return ((key == query) | (key == 0)).tril_().unsqueeze(1)


def _backbone(network: PreTrainedModel) -> nn.Module:
    """The network without its head."""
    backbone: nn.Module = getattr(network, network.base_model_prefix)
    return backbone


def _window_allows(model: RewardModel) -> bool:
    """A mask of our own takes a sliding window's place, so a window must be wide enough never to matter.

    The probe's texts are too short to show it.
    """
    config = model.network.config.get_text_config()
    local = {"sliding_attention", "chunked_attention"} & set(getattr(config, "layer_types", None) or ())
    sliding = bool(local) or getattr(config, "use_sliding_window", True)
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return not sliding or all(window is None or window >= model.rule.max_tokens for window in windows)


def _probe(model: RewardModel) -> bool:
    """Compare shared with separate rows on a small group."""
    size = min(50, model.network.config.get_text_config().vocab_size - 1)
    ids = [1 + (7 * number) % size for number in range(24)]
    group = EncodedGroup(ids[:9], [ids[9:14], ids[14:15], ids[15:24]], [0, 0, 0], [False] * 3)
    training = model.network.training
    model.network.train(False)
    try:
        with torch.inference_mode():
            together, apart = (_in_order(model, group, shared) for shared in (True, False))
    except Exception as error:  # any architecture's code may refuse a mask of four dimensions in its own way
        log.info("shared rows refused: %s", error)
        return False
    finally:
        model.network.train(training)
    return torch.allclose(together, apart, rtol=0.0, atol=PROBE_TOLERANCE)


def _in_order(model: RewardModel, group: EncodedGroup, shared: bool) -> Tensor:
    """The rewards of one group's completions in their own order: [K]."""
    (batch,) = make_batches([group], 1024, shared=shared)
    order = torch.tensor([completion for _, completion in batch.owners])
    return rewards(model, batch)[torch.argsort(order).to(model.device)]
