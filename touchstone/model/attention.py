"""Attention over a packed row of groups: each completion looks at its prompt and itself, and nothing else is computed.

A packed row is one sequence of many groups, [prompt][completion 1]...[completion K][prompt]..., without padding. The
mask that separates them is never written down: queries are taken in tiles, and a tile is multiplied with just the
keys that it may see. `use` makes a transformers model call `attend` in place of its own attention.

A prompt that was computed before may be left out of the tokens: its keys and values, which no completion changes, are
put in from a `Prefix`. Tiles and masks count the whole row, as if every prompt were among the tokens.

Sizes: H query heads, T tokens that are computed, L tokens of the whole row (T and the prompts that are left out), D
head dimension.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from touchstone.errors import ModelError

NAME = "touchstone"
"""What transformers knows this attention by."""

TILE = 256
"""Queries that are multiplied at once. Short rows are one tile: on small matrices calls cost more than masked sums."""

REMEMBER = 2048
"""Row length up to which probabilities are kept for the backward pass; they grow with its square, so longer rows
compute them again."""


@dataclass(eq=False)
class Prefix:
    """What the layers make of one prompt, which is the same whatever follows it.

    Attributes:
        layers: by layer its keys and values, [1, key-value heads, tokens of the prompt, D] each; empty until a packed
            row that holds the prompt has been computed.
    """

    layers: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Memory of all layers."""
        return sum(part.nbytes for layer in self.layers.values() for part in layer)


@dataclass(frozen=True, slots=True)
class Span:
    """Where one row of a group lies: its prompt, then its completions, side by side.

    Attributes:
        start: index of the prompt's first token in the whole row.
        prompt: tokens of the prompt.
        completions: tokens of each completion.
        prefix: what the layers make of the prompt, to be written down or, if `known`, used; None: neither.
        known: the prompt is not among the tokens that are computed.
    """

    start: int
    prompt: int
    completions: tuple[int, ...]
    prefix: Prefix | None = None
    known: bool = False

    @property
    def length(self) -> int:
        """Tokens of the row."""
        return self.prompt + sum(self.completions)

    @property
    def computed(self) -> int:
        """Those of them that are computed."""
        return self.length - self.prompt if self.known else self.length


@dataclass(frozen=True, slots=True)
class _Tile:
    """Queries [start, end) and the keys that they are multiplied with: [first, before) and [after, end).

    Of these only the queries' own columns, [start, end), need a mask. Where the two ranges touch, `before` = `after`.
    `skipped` tokens of the whole row before `start` aren't computed.
    """

    start: int
    end: int
    first: int
    before: int
    after: int
    keep: bool
    skipped: int

    @property
    def queries(self) -> slice:
        """The queries among the computed tokens."""
        return slice(self.start - self.skipped, self.end - self.skipped)

    @property
    def large(self) -> bool:
        """Whether writing its scores down costs more than further calls."""
        return self.end - self.first > TILE


@dataclass(eq=False)
class Packing:
    """How a packed row is divided, and what attention works out from that, once for all layers.

    Attributes:
        spans: the rows of groups, in order, covering the packed row.
    """

    spans: tuple[Span, ...]
    _masks: dict[tuple[int | None, torch.dtype], list[Tensor]] = field(default_factory=dict)
    _block_masks: dict[int | None, BlockMask] = field(default_factory=dict)

    @property
    def windows(self) -> set[int | None]:
        """The sliding windows that layers have asked for."""
        return {window for window, _ in self._masks} | set(self._block_masks)

    @cached_property
    def tiles(self) -> list[_Tile]:
        """The tiles of all rows."""
        tiles = []
        skipped = 0
        for span in self.spans:
            skipped += span.length - span.computed
            tiles += _tiles(span, skipped)
        return tiles

    @cached_property
    def computed(self) -> Tensor:
        """Where in the whole row each computed token stands, [T] int64."""
        ends = [(span.start + span.length, span.computed) for span in self.spans]
        return torch.cat([torch.arange(end - tokens, end) for end, tokens in ends])

    @cached_property
    def ids(self) -> tuple[Tensor, Tensor, Tensor]:
        """Per token of the whole row its row, its segment in it (0 the prompt) and its position, [L] int64 each."""
        rows, segments, positions = [], [], []
        for number, span in enumerate(self.spans):
            rows.append(torch.full((span.length,), number))
            segments.append(torch.zeros(span.prompt, dtype=torch.int64))
            positions.append(torch.arange(span.prompt))
            for segment, length in enumerate(span.completions, start=1):
                segments.append(torch.full((length,), segment))
                positions.append(torch.arange(span.prompt, span.prompt + length))
        return torch.cat(rows), torch.cat(segments), torch.cat(positions)

    def masks(self, window: int | None, dtype: torch.dtype) -> list[Tensor]:
        """Per tile what is added to its last columns: 0 where a query may look, else -inf."""
        if (window, dtype) not in self._masks:
            self._masks[window, dtype] = [self._mask(tile, window, dtype) for tile in self.tiles]
        return self._masks[window, dtype]

    def _mask(self, tile: _Tile, window: int | None, dtype: torch.dtype) -> Tensor:
        """[queries, queries] without a window, [queries, keys] with one, which reaches into the prompt too."""
        _, segments, positions = self.ids
        queries = slice(tile.start, tile.end)
        keys = torch.arange(tile.start, tile.end)
        if window is not None:
            keys = torch.cat((torch.arange(tile.first, tile.before), torch.arange(tile.after, tile.end)))
        key_segments, key_positions = segments[keys][None], positions[keys][None]
        visible = (key_segments == segments[queries, None]) | (key_segments == 0)
        visible &= key_positions <= positions[queries, None]
        if window is not None:
            visible &= key_positions > positions[queries, None] - window
        return torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, float("-inf"))

    def block_mask(self, window: int | None, device: torch.device) -> BlockMask:
        """The same mask for FlexAttention, which leaves out blocks that nobody sees."""
        if window not in self._block_masks:
            rows, segments, positions = (part.to(device) for part in self.ids)
            computed = self.computed.to(device)
            all_computed = len(computed) == len(rows)

            def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                query = query if all_computed else computed[query]
                same = (rows[query] == rows[key]) & (positions[key] <= positions[query])
                path = same & ((segments[key] == 0) | (segments[key] == segments[query]))
                return path if window is None else path & (positions[key] > positions[query] - window)

            sizes = len(computed), len(rows)
            self._block_masks[window] = create_block_mask(visible, None, None, *sizes, device=str(device))
        return self._block_masks[window]

    def complete(self, layer: nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the whole row: those of known prompts are put in, those of prompts to remember copied.

        Args:
            key, value: of the computed tokens, [1, key-value heads, T, D].

        Returns:
            [1, key-value heads, L, D] each.
        """
        if all(span.prefix is None for span in self.spans):
            return key, value
        parts: list[tuple[Tensor, Tensor]] = []
        start = 0
        for span in self.spans:
            if span.prefix is not None and span.known:
                parts.append(span.prefix.layers[layer])
            elif span.prefix is not None:
                prompt = slice(start, start + span.prompt)
                # Copies: a view would hold the whole row's memory.
                span.prefix.layers[layer] = (key[:, :, prompt].clone(), value[:, :, prompt].clone())
            end = start + span.computed
            parts.append((key[:, :, start:end], value[:, :, start:end]))
            start = end
        if not any(span.known for span in self.spans):
            return key, value
        keys, values = zip(*parts, strict=True)
        return torch.cat(keys, dim=2), torch.cat(values, dim=2)


def use(network: PreTrainedModel) -> None:
    """Make the network's layers call `attend`. Its forward then takes packed rows too, with `packed_arguments`.

    Raises:
        ValueError: the architecture has its attention built in.
    """
    network.set_attn_implementation(NAME)


def packed_arguments(network: PreTrainedModel, packing: Packing) -> dict[str, Any]:
    """What a network's forward wants beside the ids and positions of a packed row.

    Raises:
        ModelError: the network doesn't use this attention, and would let all tokens see one another.
    """
    if network.config._attn_implementation != NAME:
        raise ModelError(f"{type(network).__name__} was given packed rows, but `shares_prompt` has not allowed them")
    # A mask of four dimensions is left alone by transformers, which would otherwise write down T x T of them.
    return {"packing": packing, "attention_mask": torch.ones((1, 1, 1, 1), dtype=torch.bool)}


@torch.compiler.disable  # type: ignore[untyped-decorator]  # untyped in torch
def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it in every layer.

    Args:
        query: [1, H, T, D]; key, value: [1, key-value heads, T, D].
        packing: how the row is divided; None for padded rows, which go to the library's own attention.

    Returns:
        [1, T, H, D], and no weights.

    Raises:
        ModelError: the layer wants what is not computed here: capped scores, sinks, dropout.
    """
    if unsupported := [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]:
        raise ModelError(f"{type(module).__name__} asks for {', '.join(unsupported)}; packed rows don't have that")
    if packing is None:
        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            scaling=scaling,
            dropout=dropout,
            sliding_window=sliding_window,
            **kwargs,
        )
    if dropout:
        raise ModelError(f"{type(module).__name__} has dropout in its attention; set it to 0")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # Rotary embeddings may leave fp32 behind under autocast.
    query, key = query.to(value.dtype), key.to(value.dtype)
    key, value = packing.complete(module, key, value)
    if query.device.type == "cuda":
        block_mask = packing.block_mask(sliding_window, query.device)
        return flex_attention_forward(module, query, key, value, block_mask, scaling=scale)[0], None
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = (part.repeat_interleave(repeats, dim=1) for part in (key, value))
    # Autocast would take the scores back to the narrow type.
    with torch.autocast(query.device.type, enabled=False):
        out = _Tiled.apply(  # type: ignore[no-untyped-call]  # untyped in torch
            query[0], key[0], value[0], packing, scale, sliding_window
        )
    return out.transpose(0, 1).unsqueeze(0), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)  # for padded rows


class _Tiled(torch.autograd.Function):
    """softmax(scale q k' + mask) v tile by tile, and its gradient: q is [H, T, D], k and v are [H, L, D].

    Scores are computed in fp32 at least; what is multiplied with them has the inputs' dtype. Plain matrix products,
    because the CPU's fused kernel needs about five times as long for its backward pass on rows of this size in bf16;
    where no gradient is wanted, large tiles by that kernel, which writes no scores down.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float, window: int | None
    ) -> Tensor:
        heads, tokens, size = query.shape
        wants_gradient = any(ctx.needs_input_grad)
        fusible = not wants_gradient and window is None and query.device.type == "cpu" and size == value.shape[-1]
        # Memory as the layer wants it next: heads of one token side by side.
        out = value.new_empty((tokens, heads, value.shape[-1])).transpose(0, 1)
        if fusible:
            for tile, mask in zip(packing.tiles, packing.masks(None, _wide(query)), strict=True):
                if tile.large:
                    out[:, tile.queries] = _fused(query[:, tile.queries], key, value, tile, mask, scale)
        remembered: list[Tensor] = []
        chosen = [not (fusible and tile.large) for tile in packing.tiles]
        for tile, probabilities in _probabilities(query, key, packing, scale, window, chosen):
            shares = probabilities.to(value.dtype)
            if tile.before == tile.after:
                out[:, tile.queries] = torch.bmm(shares, value[:, tile.first : tile.end])
            else:
                width = tile.before - tile.first
                prompt = torch.bmm(shares[:, :, :width], value[:, tile.first : tile.before])
                completions = value[:, tile.after : tile.end]
                out[:, tile.queries] = torch.baddbmm(prompt, shares[:, :, width:], completions)
            if wants_gradient and tile.keep:
                remembered.append(shares)
        ctx.save_for_backward(query, key, value, *remembered)
        ctx.packing, ctx.scale, ctx.window = packing, scale, window
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        query, key, value, *saved = ctx.saved_tensors
        packing, scale, window = ctx.packing, ctx.scale, ctx.window
        wide = _wide(value)
        of_query = torch.empty_like(query)
        # Many tiles add to a prompt's keys, so their sum is kept in fp32.
        of_key, of_value = (torch.zeros_like(part, dtype=wide) for part in (key, value))
        remembered = iter(saved)
        forgotten = [not tile.keep for tile in packing.tiles]
        recomputed = _probabilities(query, key, packing, scale, window, forgotten)
        for tile in packing.tiles:
            shares = next(remembered) if tile.keep else next(recomputed)[1].to(value.dtype)
            queries, width = tile.queries, tile.before - tile.first
            ranges = [
                (slice(tile.first, tile.before), slice(0, width)),
                (slice(tile.after, tile.end), slice(width, None)),
            ]
            if tile.before == tile.after:
                ranges = [(slice(tile.first, tile.end), slice(None))]
            # Through the product with v, then through the softmax.
            of_out = gradient[:, queries]
            of_shares = [torch.bmm(of_out, value[:, keys].transpose(1, 2)) for keys, _ in ranges]
            of_scores = torch.ops.aten._softmax_backward_data(
                of_shares[0] if len(ranges) == 1 else torch.cat(of_shares, -1), shares, -1, shares.dtype
            ).mul_(scale)
            # To every key that the tile saw, and to its queries.
            parts = []
            for keys, columns in ranges:
                of_value[:, keys] += torch.bmm(shares[:, :, columns].transpose(1, 2), of_out)
                of_key[:, keys] += torch.bmm(of_scores[:, :, columns].transpose(1, 2), query[:, queries])
                parts.append(torch.bmm(of_scores[:, :, columns], key[:, keys]))
            of_query[:, queries] = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return of_query, of_key.to(key.dtype), of_value.to(value.dtype), None, None, None


def _wide(part: Tensor) -> torch.dtype:
    """What scores and sums are computed in."""
    return torch.promote_types(part.dtype, torch.float32)


def _probabilities(
    query: Tensor, key: Tensor, packing: Packing, scale: float, window: int | None, chosen: Sequence[bool]
) -> Iterator[tuple[_Tile, Tensor]]:
    """(tile, its probabilities [H, queries, keys] in fp32 at least), tile by tile of those that are chosen."""
    if not any(chosen):
        return
    wide = _wide(query)
    scaled, wide_key = query.to(wide) * scale, key.to(wide).transpose(1, 2)
    for tile, mask in itertools.compress(zip(packing.tiles, packing.masks(window, wide), strict=True), chosen):
        queries = scaled[:, tile.queries]
        if tile.before == tile.after:
            keys = wide_key[:, :, tile.first : tile.end]
        else:
            keys = torch.cat((wide_key[:, :, tile.first : tile.before], wide_key[:, :, tile.after : tile.end]), -1)
        if mask.shape[-1] == keys.shape[-1]:
            scores = torch.baddbmm(mask, queries, keys)
        else:
            scores = torch.bmm(queries, keys)
            scores[:, :, -mask.shape[-1] :] += mask
        yield tile, torch.softmax(scores, -1)


def _fused(query: Tensor, key: Tensor, value: Tensor, tile: _Tile, mask: Tensor, scale: float) -> Tensor:
    """Attention of a tile's queries, [H, queries, D], without a window: to the columns that need a mask and to those
    that need none one after the other, joined by the logarithms of their sums (Dao et al. 2022, section 3.1)."""

    def part(first: int, end: int, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        keys = slice(first, end)
        result, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query[None], key[None, :, keys], value[None, :, keys], 0.0, False, attn_mask=mask, scale=scale
        )
        return result[0], log_sum[0]

    out, log_sum = part(tile.start, tile.end, mask[None, None])
    touching = tile.before == tile.after
    ranges = [(tile.first, tile.start)] if touching else [(tile.first, tile.before), (tile.after, tile.start)]
    for first, end in ranges:
        if first < end:
            unmasked_out, unmasked_sum = part(first, end, None)
            share = torch.sigmoid(log_sum - unmasked_sum).unsqueeze(-1).to(out.dtype)
            out, log_sum = torch.lerp(unmasked_out, out, share), torch.logaddexp(log_sum, unmasked_sum)
    return out


def _tiles(span: Span, skipped: int) -> list[_Tile]:
    """Cut one row into tiles: the whole row if it is short; else the prompt in pieces, then runs of completions.

    Of a known prompt there are no queries.
    """
    first, end = span.start, span.start + span.length
    after = first + span.prompt
    begin = after if span.known else first
    keep = span.length <= REMEMBER
    if span.length <= TILE:
        return [_Tile(begin, end, first, begin, begin, keep, skipped)]
    tiles = []
    for start in range(begin, after, TILE):
        tiles.append(_Tile(start, min(start + TILE, after), first, start, start, keep, skipped))
    run = after
    completion = after
    for length in span.completions:
        if completion + length - run > TILE:
            if run < completion:
                tiles.append(_Tile(run, completion, first, after, run, keep, skipped))
            run = completion
        if length > TILE:
            for start in range(completion, completion + length, TILE):
                stop = min(start + TILE, completion + length)
                tiles.append(_Tile(start, stop, first, after, completion, keep, skipped))
            run = completion + length
        completion += length
    if run < end:
        tiles.append(_Tile(run, end, first, after, run, keep, skipped))
    return tiles
