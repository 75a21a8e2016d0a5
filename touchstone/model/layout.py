"""Batches in which a prompt is computed once for all its completions.

A group is one row, [prompt][completion 1]...[completion K]. A completion sees the prompt and itself, never its
siblings, and its positions restart at the prompt's end, so its reward is what it would be alone. Rows lie end to end
in one packed row without padding; `attention` keeps them apart. A network that can't take that gets one padded row
per completion, and gives the same rewards; so does an encoder, whose texts see both ways.

    encoded = templating.encode_many(model.tokenizer, model.rule, items)
    for batch in make_batches(encoded, token_budget, shared=shares_prompt(model)):
        for (item, completion), reward in zip(batch.owners, rewards(model, batch)): ...

Sizes: B rows, T tokens of the longest row (of a packed row: of all its groups), N completions of the batch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from touchstone.errors import ModelError
from touchstone.model import attention
from touchstone.model.attention import Packing, Prefix, Span
from touchstone.model.encoder import EncoderRewardModel
from touchstone.model.network import RewardModel, head_of
from touchstone.model.templating import EncodedGroup

log = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16"]

BATCH_TOKENS = 128
"""What starting another batch costs, in tokens: padding below it isn't worth a batch of its own."""

PROBE_TOLERANCE = 1e-4
"""Largest difference of rewards in fp32 between packed and separate rows that counts as none, as a share of their
range: a head may reward in any unit."""

Prefixes = Sequence[Prefix | None]
"""By group what the layers make of its prompt, for groups whose completions all see the whole of it; None: of this one
nothing is known, and nothing is to be remembered."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of tokens, and where each completion's reward is read.

    Attributes:
        input_ids: [B, T] int64; a packed row is [1, T], others are padded on the right with 0.
        position_ids: [B, T] int64.
        rows, columns: [N] int64: row and column of each completion's last token.
        sizes: per completion, how many of its tokens the head is read at where it is read at several.
        before: [sum of sizes] int64: how many tokens before its completion's last one each of these lies.
        owners: per completion, index of its group among those encoded and its own index in the group.
        packing: how a packed row is divided; None for padded rows.
        attention_mask: [B, T] int64, 1 where there is a token; None for a packed row.
        segments: [B, T] int64, 1 where the token is the completion's; None for a packed row.
        tokens: tokens without padding.
        separate_tokens: tokens that one row per completion would hold, without padding.
    """

    input_ids: Tensor
    position_ids: Tensor
    rows: Tensor
    columns: Tensor
    sizes: list[int]
    before: Tensor
    owners: list[tuple[int, int]]
    packing: Packing | None
    attention_mask: Tensor | None
    segments: Tensor | None
    tokens: int
    separate_tokens: int

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        if self.input_ids.device == device:
            return self
        moved = {
            name: part.to(device, non_blocking=True)
            for name in ("input_ids", "position_ids", "rows", "columns", "before", "attention_mask", "segments")
            if (part := getattr(self, name)) is not None
        }
        return replace(self, **moved)


@dataclass(frozen=True, slots=True)
class Row:
    """Completions of one group laid out after the prompt that they all see; `length` tokens are to be computed."""

    item: int
    completions: list[int]
    length: int


def make_batches(
    encoded: Sequence[EncodedGroup], token_budget: int, *, shared: bool = True, together: bool = False
) -> list[Batch]:
    """Lay groups out and cut them into batches.

    Args:
        token_budget: most tokens of a batch, padding included; what is larger by itself goes alone.
        shared: packed rows in which completions share their prompt. False for a model that `shares_prompt` refuses.
        together: keep a group's completions in one batch, for a loss that compares them.

    The same arguments give the same batches.
    """
    plan = plan_batches(encoded, token_budget, shared=shared, together=together)
    return [lay_out(encoded, rows, shared=shared) for rows in plan]


def plan_batches(
    encoded: Sequence[EncodedGroup],
    token_budget: int,
    *,
    shared: bool = True,
    together: bool = False,
    prefixes: Prefixes | None = None,
) -> list[list[Row]]:
    """The rows of each batch of `make_batches`, for `lay_out` to lay out when its turn comes.

    Args:
        prefixes: by group what the layers make of its prompt. What is known of a prompt isn't counted.
    """
    units: list[list[Row]] = []
    for item, group in enumerate(encoded):
        prefix = None if prefixes is None else prefixes[item]
        rows = list(_rows(item, group, token_budget, shared, known=prefix is not None and bool(prefix.layers)))
        units += [rows] if together and rows else [[row] for row in rows]
    if shared:
        return _bins(units, token_budget)
    longest = {id(unit): max(row.length for row in unit) for unit in units}
    units.sort(key=lambda unit: (longest[id(unit)], unit[0].item, unit[0].completions[0]))
    lengths = np.array([longest[id(unit)] for unit in units], dtype=np.int64)
    counts = np.array([len(unit) for unit in units], dtype=np.int64)
    cuts = _cuts(lengths, counts, token_budget)
    return [[row for unit in units[start:end] for row in unit] for start, end in cuts]


def lay_out(
    encoded: Sequence[EncodedGroup], rows: Sequence[Row], *, shared: bool = True, prefixes: Prefixes | None = None
) -> Batch:
    """A batch of some rows.

    Args:
        shared: as they were planned.
        prefixes: by group what the layers make of its prompt: used where it is known, else written down when the
            batch is computed.
    """
    if shared:
        return _pack(encoded, rows, prefixes)
    return padded_batch(encoded, [(row.item, row.completions[0]) for row in rows])


def padded_batch(encoded: Sequence[EncodedGroup], owners: Sequence[tuple[int, int]]) -> Batch:
    """One row per completion, padded on the right to the longest.

    Args:
        owners: (index of the group, index of the completion in it) of every row.
    """
    prompts = [encoded[item].prompt(k) for item, k in owners]
    texts = [prompt + encoded[item].completion_ids[k] for prompt, (item, k) in zip(prompts, owners, strict=True)]
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    counting = np.arange(lengths.max())
    mask = (counting < lengths[:, None]).astype(np.int64)
    begins = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    ids = np.zeros_like(mask)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = text
    tokens = int(lengths.sum())
    sizes, before = _reads(encoded, owners)
    return Batch(
        input_ids=torch.from_numpy(ids),
        position_ids=torch.from_numpy(counting * mask),
        rows=torch.arange(len(texts)),
        columns=torch.from_numpy(lengths - 1),
        sizes=sizes,
        before=before,
        owners=list(owners),
        packing=None,
        attention_mask=torch.from_numpy(mask),
        segments=torch.from_numpy((counting >= begins[:, None]) * mask),
        tokens=tokens,
        separate_tokens=tokens,
    )


def padded_tokens(group: EncodedGroup, token_budget: int, *, shared: bool) -> int:
    """Tokens, padding included, of a group's rows in one batch."""
    lengths = [row.length for row in _rows(0, group, token_budget, shared)]
    return sum(lengths) if shared else len(lengths) * max(lengths, default=0)


def rewards(model: RewardModel, batch: Batch, precision: Precision = "fp32") -> Tensor:
    """One reward per completion of the batch, in the order of `batch.owners`: [N], at least float32.

    Under "bf16" the backbone computes in bfloat16 where that is safe; the head never does.
    """
    return read_rewards(model.network, batch.to(model.device), precision)


def member_rewards(model: RewardModel, batch: Batch, precision: Precision = "fp32") -> Tensor:
    """Every member's raw reward of each completion of a batch, in the order of `batch.owners`: [N, K].

    Args:
        model: an ensemble.
    """
    ensemble = model.ensemble
    assert ensemble is not None  # noqa: S101 - for the type checker: callers have looked
    batch = batch.to(model.device)
    if ensemble.heads is None:
        return torch.stack([read_rewards(each.network, batch, precision) for each in ensemble.models], dim=1)
    weight, bias = ensemble.heads
    if ensemble.switch is None:
        return _apply_head(read_hidden(model.network, batch, precision), weight, bias)
    columns = []
    for member in range(ensemble.rule.members):
        rows = slice(member, member + 1)
        with ensemble.switch.on(member):
            hidden = read_hidden(model.network, batch, precision)
        columns.append(_apply_head(hidden, weight[rows], None if bias is None else bias[rows]))
    return torch.cat(columns, dim=1)


def _apply_head(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    with torch.autocast(hidden.device.type, enabled=False):  # as in `read_rewards`
        return nn.functional.linear(hidden.to(weight.dtype), weight, bias)


def read_rewards(network: PreTrainedModel, batch: Batch, precision: Precision = "fp32") -> Tensor:
    """`rewards` for a bare network whose device the batch is on; [N, K] where its head has K outputs."""
    return rewards_from(network, batch, read_hidden(network, batch, precision))


def rewards_from(network: PreTrainedModel, batch: Batch, hidden: Tensor) -> Tensor:
    """`read_rewards` of what `read_hidden` gave."""
    reward = _read_head(network, hidden)
    if isinstance(network, EncoderRewardModel) and network.linear is not None and batch.segments is not None:
        with torch.autocast(hidden.device.type, enabled=False):
            reward = reward + network.linear(batch.input_ids, batch.segments)
    return reward


def token_log_odds(model: RewardModel, batch: Batch, precision: Precision = "fp32") -> Tensor:
    """What the head says at every token of every completion that is read, the completions end to end in the order of
    `batch.owners`: [sum of batch.sizes], at least float32. Of several classes, the log odds of not being wrong."""
    return not_wrong(read_token_log_odds(model.network, batch.to(model.device), precision))


def not_wrong(values: Tensor) -> Tensor:
    """Log odds of a step not being wrong, [S]: as they are, or from logits of wrong, neutral and correct, [S, 3].

    A neutral step counts as one that isn't wrong (Lightman et al. 2023, appendix F).
    """
    return values if values.dim() == 1 else torch.logsumexp(values[:, 1:], dim=-1) - values[:, 0]


def read_token_log_odds(network: PreTrainedModel, batch: Batch, precision: Precision = "fp32") -> Tensor:
    """`token_log_odds` for a bare network whose device the batch is on: [S], or of three classes the logits, [S, 3].
    Prompts and padding are never read."""
    states = _last_states(network, batch, precision)
    sizes = torch.tensor(batch.sizes, device=states.device)
    columns = batch.columns.repeat_interleave(sizes) - batch.before
    hidden = states[batch.rows.repeat_interleave(sizes), columns]
    return _read_head(network, hidden.to(torch.promote_types(hidden.dtype, torch.float32)))


def _read_head(network: PreTrainedModel, hidden: Tensor) -> Tensor:
    """The head's value for each row of hidden states, or its values where it has several."""
    head = head_of(network, outputs=None)
    # A bf16 head leaves too few distinct rewards: near pairs would tie.
    with torch.autocast(hidden.device.type, enabled=False):
        value: Tensor = head(hidden.to(head.weight.dtype))
        return value.squeeze(-1)


def read_hidden(network: PreTrainedModel, batch: Batch, precision: Precision = "fp32") -> Tensor:
    """What the head reads, [N, hidden size], at least float32: of a decoder the last hidden state at each completion's
    last token, of an encoder the mean over the text's last hidden states."""
    if isinstance(network, EncoderRewardModel):
        with _computing(batch, precision):
            return network.pooled(*_encoder_inputs(batch))
    last = _last_states(network, batch, precision)[batch.rows, batch.columns]
    return last.to(torch.promote_types(last.dtype, torch.float32))


def _last_states(network: PreTrainedModel, batch: Batch, precision: Precision) -> Tensor:
    """The last hidden states, [B, T, hidden size], in the backbone's own type."""
    with _computing(batch, precision):
        if isinstance(network, EncoderRewardModel):
            return network.states(*_encoder_inputs(batch))
        if batch.packing is None:
            mask = {"attention_mask": batch.attention_mask}
        else:
            mask = attention.packed_arguments(network, batch.packing)
        states: Tensor = _backbone(network)(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            use_cache=False,
            **mask,
        ).last_hidden_state
        return states


def _computing(batch: Batch, precision: Precision) -> AbstractContextManager[object]:
    """Around the backbone's forward."""
    device = batch.input_ids.device.type
    return torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()


def _encoder_inputs(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """What an encoder takes; its positions are its own business: RoBERTa's don't begin at 0.

    Raises:
        ModelError: the batch is a packed row.
    """
    if batch.attention_mask is None or batch.segments is None:
        raise ModelError("an encoder sees both ways and takes no packed rows; ask `layout.shares_prompt`")
    return batch.input_ids, batch.attention_mask, batch.segments


def shares_prompt(model: RewardModel) -> bool:
    """Whether packed rows give this model's rewards; found out once per model, by its configuration and a probe.

    A model that passes is left with the attention of packed rows; one that refuses keeps its own, gets one padded row
    per completion and gives the same scores, slower. An encoder isn't tried: its prompt sees the completion. The log
    says so.
    """
    if model.shares is None and model.ensemble is not None:
        model.shares = all(shares_prompt(member) for member in model.ensemble.models)
    if model.shares is None:
        encoder = isinstance(model.network, EncoderRewardModel)
        model.shares = not encoder and _probe(model)
        if encoder:
            log.info("an encoder's prompt sees the completion: each completion gets a row of its own")
        elif not model.shares:
            log.warning(
                "%s can't share a prompt among completions: each gets a row of its own", type(model.network).__name__
            )
    return model.shares


def _rows(item: int, group: EncodedGroup, token_budget: int, shared: bool, *, known: bool = False) -> Iterator[Row]:
    """Spread a group's completions over rows: one for all that see the same prompt, if the budget allows.

    Args:
        known: the prompt needn't be computed.
    """
    by_start: dict[int, list[int]] = {}
    for completion, start in enumerate(group.prompt_starts):
        by_start.setdefault(start, []).append(completion)
    for start, completions in by_start.items():
        prompt = 0 if known else len(group.anchor) + len(group.prompt_ids) - start
        row: list[int] = []
        length = prompt
        for completion in completions:
            size = len(group.completion_ids[completion])
            if row and not (shared and length + size <= token_budget):
                yield Row(item, row, length)
                row, length = [], prompt
            row.append(completion)
            length += size
        yield Row(item, row, length)


def _bins(units: Sequence[list[Row]], token_budget: int) -> list[list[Row]]:
    """Rows of each packed batch: the largest unit first, each into the first batch that has room."""
    sizes = [sum(row.length for row in unit) for unit in units]
    bins: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(units)), key=lambda index: (-sizes[index], index)):
        place = next((number for number, left in enumerate(room) if left >= sizes[index]), None)
        if place is None:
            place = len(bins)
            bins.append([])
            room.append(token_budget)
        bins[place].append(index)
        room[place] -= sizes[index]
    return [[row for index in sorted(members) for row in units[index]] for members in bins]


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


def _pack(encoded: Sequence[EncodedGroup], rows: Sequence[Row], prefixes: Prefixes | None) -> Batch:
    """Lay rows end to end."""
    # Ids and positions of every token to compute; a completion's positions go on from its prompt's end.
    ids: list[int] = []
    positions: list[int] = []
    spans: list[Span] = []
    columns: list[int] = []
    owners: list[tuple[int, int]] = []
    start = separate = 0
    for row in rows:
        group = encoded[row.item]
        prompt_ids = group.prompt(row.completions[0])
        prompt = len(prompt_ids)
        prefix = None if prefixes is None else prefixes[row.item]
        known = prefix is not None and bool(prefix.layers)
        lengths = tuple(len(group.completion_ids[k]) for k in row.completions)
        spans.append(Span(start, prompt, lengths, prefix, known))
        start += spans[-1].length
        if not known:
            ids += prompt_ids
            positions += range(prompt)
        for completion in row.completions:
            tokens = group.completion_ids[completion]
            ids += tokens
            positions += range(prompt, prompt + len(tokens))
            columns.append(len(ids) - 1)
            owners.append((row.item, completion))
            separate += prompt + len(tokens)
    # As one row of tensors.
    sizes, before = _reads(encoded, owners)
    return Batch(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        rows=torch.zeros(len(columns), dtype=torch.int64),
        columns=torch.tensor(columns),
        sizes=sizes,
        before=before,
        owners=owners,
        packing=Packing(tuple(spans)),
        attention_mask=None,
        segments=None,
        tokens=len(ids),
        separate_tokens=separate,
    )


def _reads(encoded: Sequence[EncodedGroup], owners: Sequence[tuple[int, int]]) -> tuple[list[int], Tensor]:
    """`Batch.sizes` and `Batch.before`: what a group names, else every token of its completions."""
    places = []
    for item, completion in owners:
        group = encoded[item]
        last = len(group.completion_ids[completion]) - 1
        read = range(last + 1) if group.reads is None else group.reads[completion]
        places.append(last - np.asarray(read, dtype=np.int64))
    return [len(part) for part in places], torch.from_numpy(np.concatenate(places))


def _backbone(network: PreTrainedModel) -> nn.Module:
    """The network without its head."""
    backbone: nn.Module = getattr(network, network.base_model_prefix)
    return backbone


def _probe(model: RewardModel) -> bool:
    """Compare packed with padded rows on two small groups; leaves the network with the attention that it can use."""
    size = min(50, model.network.config.get_text_config().vocab_size - 1)
    ids = [1 + (7 * number) % size for number in range(24)]
    groups = [EncodedGroup(ids[:9], [ids[9:14], ids[14:15], ids[15:24]], [0, 0, 0], [False] * 3)] * 2
    network = model.network
    own_attention, training = network.config._attn_implementation, network.training
    network.train(False)
    allowed = False
    try:
        with torch.inference_mode():
            (packed,) = make_batches(groups, 1024)
            apart = rewards(model, padded_batch(groups, packed.owners))
            attention.use(network)
            together = rewards(model, packed)
        asked = packed.packing.windows if packed.packing else set()
        tolerance = PROBE_TOLERANCE * float(apart.max() - apart.min())
        allowed = torch.allclose(together, apart, rtol=0.0, atol=tolerance) and _windows(model) <= asked
    except Exception as error:  # any architecture's code may refuse packed rows in its own way
        log.info("packed rows refused: %s", error)
    finally:
        network.train(training)
        if not allowed:
            network.set_attn_implementation(own_attention)
    return allowed


def _windows(model: RewardModel) -> set[int]:
    """The windows, in tokens, that a layer may have and that are narrow enough to matter.

    The probe's texts are too short to show whether one is heeded; that its layers ask for it does.
    """
    config = model.network.config.get_text_config()
    local = {"sliding_attention", "chunked_attention"} & set(getattr(config, "layer_types", None) or ())
    sliding = bool(local) or getattr(config, "use_sliding_window", True)
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return {window for window in windows if sliding and window is not None and window < model.rule.max_tokens}
