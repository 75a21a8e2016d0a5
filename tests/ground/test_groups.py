"""What a pair's judgements add up to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.groups import Comparison, Completion, Group, JudgedPair, Message, judged_pairs, make_group


def group(*edges: Comparison) -> Group:
    return make_group(
        prompt=[Message("user", "Why?")],
        completions=[Completion("a"), Completion("b")],
        comparisons=edges,
        source="test",
    )


def pair(*edges: Comparison) -> JudgedPair:
    (found,) = judged_pairs(group(*edges))
    return found


@pytest.mark.parametrize(
    ("edges", "margin"),
    [
        ([Comparison(0, 1, 1, 0, margin=2.0)], 2.0),
        ([Comparison(1, 0, 0, 1, margin=2.0)], 2.0),  # written the other way round
        ([Comparison(0, 1, 0, 1, margin=2.0)], 2.0),  # from the preferred side, whichever it is
        ([Comparison(0, 1, 1, 0, margin=3.0), Comparison(0, 1, 1, 0, margin=1.0)], 2.0),
        # Who preferred the other one says so by as much against it.
        ([Comparison(0, 1, 1, 0, margin=3.0)] * 2 + [Comparison(0, 1, 0, 1, margin=3.0)], 1.0),
        ([Comparison(0, 1, 1, 0, margin=3.0)] * 2 + [Comparison(1, 0, 1, 0, margin=3.0)], 1.0),
        # An edge weighs as much as its judgements.
        ([Comparison(0, 1, 3, 0, margin=1.0), Comparison(0, 1, 0, 1, margin=1.0)], 0.5),
        ([Comparison(0, 1, 2, 1, margin=1.0), Comparison(0, 1, 1, 0, margin=5.0)], 2.0),
        # A tie says that there is no lead, with a margin of 0 or without.
        ([Comparison(0, 1, 1, 0, margin=2.0), Comparison(0, 1, 0, 0, 1, margin=0.0)], 1.0),
        ([Comparison(0, 1, 1, 0, margin=2.0), Comparison(0, 1, 0, 0, 1)], 1.0),
        ([Comparison(0, 1, 0, 0, 1, margin=0.0)], 0.0),
        # A preference without a margin says nothing of it.
        ([Comparison(0, 1, 1, 0, margin=2.0), Comparison(0, 1, 1, 0)], 2.0),
        ([Comparison(0, 1, 1, 0), Comparison(0, 1, 0, 0, 1)], None),
        ([Comparison(0, 1, 0, 0, 1)], None),
        ([Comparison(0, 1, 0, 0, margin=2.0)], None),  # nobody judged
        # Two a little for the first, one far for the second: the label stands, and no lead is claimed.
        ([Comparison(0, 1, 1, 0, margin=1.0)] * 2 + [Comparison(0, 1, 0, 1, margin=5.0)], 0.0),
        ([Comparison(0, 1, 1, 0, margin=1.0), Comparison(0, 1, 0, 1, margin=5.0)], 0.0),  # no side is preferred
    ],
)
def test_a_pairs_margin_is_counted_from_the_preferred_side(edges: list[Comparison], margin: float | None) -> None:
    assert pair(*edges).margin == margin


EDGES = st.lists(
    st.builds(
        Comparison,
        st.just(0),
        st.just(1),
        st.integers(0, 3).map(float),
        st.integers(0, 3).map(float),
        st.integers(0, 2).map(float),
        st.none() | st.floats(0, 10),
    ),
    min_size=1,
    max_size=6,
)


def turned(edge: Comparison) -> Comparison:
    return Comparison(edge.j, edge.i, edge.wins_j, edge.wins_i, edge.ties, edge.margin)


@given(EDGES)
def test_a_margin_knows_no_order_of_sides_or_edges(edges: list[Comparison]) -> None:
    found = pair(*edges)
    assert pair(*map(turned, edges)) == found
    assert pair(*edges[::-1]).margin == (None if found.margin is None else pytest.approx(found.margin))
    swapped = pair(*(Comparison(0, 1, e.wins_j, e.wins_i, e.ties, e.margin) for e in edges))
    assert swapped.margin == found.margin, "exchanging the texts exchanges the label, not the lead"
    assert (found.margin is None) or 0 <= found.margin <= max(edge.margin or 0.0 for edge in edges) + 1e-9


@given(EDGES)
def test_one_edge_with_all_votes_says_what_each_vote_says(edges: list[Comparison]) -> None:
    """Three judges' edges of one margin are one edge of three judgements."""
    single = [Comparison(0, 1, 1.0, 0.0, margin=2.0)] * 3
    assert pair(*single, *edges).margin == pytest.approx(pair(Comparison(0, 1, 3.0, 0.0, margin=2.0), *edges).margin)
