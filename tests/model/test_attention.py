"""Attention by tiles against attention with the whole mask written down: values and gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention

from touchstone.errors import ModelError
from touchstone.model.attention import REMEMBER, TILE, Packing, Prefix, Span, attend

HEADS, KEY_VALUE_HEADS, DIMENSION = 4, 2, 8
LAYER = nn.Identity()


def pack(*rows: tuple[int, tuple[int, ...]]) -> Packing:
    """A packing of (prompt, completions) rows, end to end."""
    spans: list[Span] = []
    for prompt, completions in rows:
        start = spans[-1].start + spans[-1].length if spans else 0
        spans.append(Span(start, prompt, completions))
    return Packing(tuple(spans))


def states(packing: Packing, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = packing.spans[-1].start + packing.spans[-1].length

    def draw(heads: int) -> Tensor:
        values = torch.randn(1, heads, tokens, DIMENSION, generator=generator, dtype=torch.float64)
        return values.to(dtype).requires_grad_()

    return draw(HEADS), draw(KEY_VALUE_HEADS), draw(KEY_VALUE_HEADS)


def visible(packing: Packing, window: int | None = None) -> Tensor:
    """The mask, written down token by token from the definition."""
    paths: list[tuple[int, int, int]] = []
    for number, span in enumerate(packing.spans):
        paths += [(number, 0, position) for position in range(span.prompt)]
        for segment, length in enumerate(span.completions, start=1):
            paths += [(number, segment, span.prompt + position) for position in range(length)]
    row, segment, position = (torch.tensor(part) for part in zip(*paths, strict=True))
    mask = (row[:, None] == row) & ((segment == 0) | (segment[:, None] == segment)) & (position <= position[:, None])
    return mask if window is None else mask & (position > position[:, None] - window)


def dense(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    key, value = (part.repeat_interleave(HEADS // KEY_VALUE_HEADS, dim=1) for part in (key, value))
    return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


def compare(packing: Packing, window: int | None = None) -> float:
    """Largest difference of output, with and without gradients, and of gradients; float64."""
    inputs = states(packing)
    mask = visible(packing, window)
    weights = torch.randn(
        inputs[0].transpose(1, 2).shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    found, _ = attend(LAYER, *inputs, None, packing=packing, sliding_window=window)
    with torch.no_grad():
        alone, _ = attend(LAYER, *inputs, None, packing=packing, sliding_window=window)
    expected = dense(*inputs, mask)
    pairs = [(found, expected), (alone, expected)]
    pairs += zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    )
    return max(float((a - b).abs().max().detach()) for a, b in pairs)


ROWS = st.lists(
    st.tuples(st.integers(0, 40), st.lists(st.integers(1, 30), min_size=1, max_size=8)), min_size=1, max_size=4
)


@given(rows=ROWS, window=st.none() | st.integers(1, 50))
@hypothesis_settings(max_examples=60, deadline=None)
def test_tiles_equal_the_written_mask(rows: list[tuple[int, list[int]]], window: int | None) -> None:
    assert compare(pack(*((prompt, tuple(lengths)) for prompt, lengths in rows)), window) < 1e-12


@pytest.mark.parametrize(
    "rows",
    [
        [(TILE + 30, (10, 20))],
        [(2 * TILE + 7, (100, 100, 100, 5))],
        [(300, (40, TILE + 60, 30, 1)), (5, (7, 9))],
        [(0, (TILE + 1, TILE + 1, 3))],
        [(20, (3 * TILE,)), (1, (1,))],
        [(REMEMBER - 200, (150, 120)), (30, (4, 4))],
    ],
    ids=["long-prompt", "runs", "long-completion", "no-prompt", "one-completion", "forgotten"],
)
@pytest.mark.parametrize("window", [None, 33])
def test_long_rows_are_cut_exactly(rows: list[tuple[int, tuple[int, ...]]], window: int | None) -> None:
    assert compare(pack(*rows), window) < 1e-12


def of_known_prompts(packing: Packing, known: list[bool], window: int | None = None) -> float:
    """Largest difference where some prompts, written down once, are left out of the tokens; float64."""
    query, key, value = (part.detach() for part in states(packing))
    prefixes = [Prefix() for _ in packing.spans]
    spans = [replace(span, prefix=prefix) for span, prefix in zip(packing.spans, prefixes, strict=True)]
    whole = attend(LAYER, query, key, value, None, packing=Packing(tuple(spans)), sliding_window=window)[0]
    less = Packing(tuple(replace(span, known=is_known) for span, is_known in zip(spans, known, strict=True)))
    left = less.computed
    parts = (part[:, :, left] for part in (query, key, value))
    found = attend(LAYER, *parts, None, packing=less, sliding_window=window)[0]
    plain = attend(LAYER, query, key, value, None, packing=packing, sliding_window=window)[0]
    return max(float((whole - plain).abs().max()), float((found - plain[:, left]).abs().max()))


@given(rows=ROWS, known=st.lists(st.booleans(), min_size=4, max_size=4), window=st.none() | st.integers(1, 50))
@hypothesis_settings(max_examples=60, deadline=None)
def test_known_prompts_are_left_out_and_change_nothing(
    rows: list[tuple[int, list[int]]], known: list[bool], window: int | None
) -> None:
    packing = pack(*((prompt, tuple(lengths)) for prompt, lengths in rows))
    assert of_known_prompts(packing, known[: len(rows)], window) < 1e-12


@pytest.mark.parametrize("window", [None, 33])
def test_known_prompts_of_long_rows_are_left_out_exactly(window: int | None) -> None:
    packing = pack((2 * TILE + 7, (100, 100, 100, 5)), (300, (40, TILE + 60, 30, 1)), (5, (7, 9)), (TILE, (TILE + 1,)))
    for known in ([True] * 4, [False, True, False, True], [True, False, True, False]):
        assert of_known_prompts(packing, known, window) < 1e-12


def test_nothing_is_computed_of_a_known_prompt() -> None:
    (span,) = pack((3 * TILE, (50, 60))).spans
    packing = Packing((replace(span, prefix=Prefix(), known=True),))
    assert packing.computed.tolist() == [*range(3 * TILE, 3 * TILE + 110)]
    assert [(tile.start, tile.end) for tile in packing.tiles] == [(3 * TILE, 3 * TILE + 110)]


def test_no_score_is_computed_of_another_row() -> None:
    """Work grows with the sum of squares of the rows, not with the square of their sum."""
    packing = pack(*[(100, (50, 50))] * 20)
    assert sum((tile.end - tile.start) * (tile.end - tile.first) for tile in packing.tiles) == 20 * 200**2
    long = pack((10 * TILE, (50, 50)))
    computed = sum((tile.end - tile.start) * (tile.before - tile.first + tile.end - tile.after) for tile in long.tiles)
    assert computed < 0.6 * (10 * TILE + 100) ** 2


def test_bf16_keeps_scores_in_fp32() -> None:
    packing = pack((60, (30, 20)), (5, (3,)))
    exact = dense(*states(packing), visible(packing))
    low = attend(LAYER, *states(packing, torch.bfloat16), None, packing=packing)[0]
    assert low.dtype == torch.bfloat16
    assert float((low.double() - exact).abs().max().detach()) < 0.02


@pytest.mark.parametrize("rows", [[(60, (30, 20)), (5, (3,))], [(300, (40, 30))]], ids=["products", "fused"])
def test_autocast_takes_no_score_back_to_bf16(rows: list[tuple[int, tuple[int, ...]]]) -> None:
    """Else a text's score would depend on whether its row is short, which goes by its siblings."""
    packing = pack(*rows)
    inputs = tuple((8 * part).detach().to(torch.bfloat16) for part in states(packing))  # sharp: scores of some size
    plain = attend(LAYER, *inputs, None, packing=packing)[0]
    with torch.autocast("cpu", torch.bfloat16):
        cast = attend(LAYER, *inputs, None, packing=packing)[0]
    assert torch.equal(cast, plain)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")  # compiled on a GPU only
def test_flex_attention_has_the_same_mask() -> None:
    """What a GPU runs, here uncompiled and forward: its gradient is for GPUs only."""
    for window in (None, 20):
        packing = pack((60, (30, 20)), (5, (3, 40)), (0, (9,)))
        inputs = tuple(part.detach() for part in states(packing, torch.float32))
        block_mask = packing.block_mask(window, torch.device("cpu"))
        found = flex_attention(*inputs, block_mask=block_mask, enable_gqa=True).transpose(1, 2)
        expected, _ = attend(LAYER, *inputs, None, packing=packing, sliding_window=window)
        assert float((found - expected).abs().max()) < 1e-5
        # With the first prompt known: its queries are gone, its keys aren't.
        first, *others = packing.spans
        less = Packing((replace(first, prefix=Prefix(), known=True), *others))
        query, key, value = inputs
        block_mask = less.block_mask(window, torch.device("cpu"))
        found = flex_attention(query[:, :, 60:], key, value, block_mask=block_mask, enable_gqa=True).transpose(1, 2)
        assert float((found - expected[:, 60:]).abs().max()) < 1e-5


@pytest.mark.parametrize("wish", [{"softcap": 30.0}, {"s_aux": torch.zeros(HEADS)}, {"dropout": 0.1}])
def test_what_is_not_computed_is_refused(wish: dict[str, object]) -> None:
    packing = pack((4, (2, 2)))
    with pytest.raises(ModelError, match=next(iter(wish))):
        attend(LAYER, *states(packing), None, packing=packing, **wish)  # type: ignore[arg-type]
