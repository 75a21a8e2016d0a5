"""Near duplicates: the similarity is exact, and those that reach the threshold are found."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from touchstone.data.neighbours import (
    BANDS,
    CROWD,
    near_duplicates,
    sequences,
    signatures,
    similarity,
    text_digest,
)
from touchstone.data.prompts import words_of

WORDS = [f"word{number}" for number in range(3_000)]


def jaccard(first: list[str], second: list[str]) -> float:
    """By the definition, over the sequences themselves."""
    one, other = ({tuple(text[k : k + 5]) for k in range(max(1, len(text) - 4))} for text in (first, second))
    return len(one & other) / len(one | other)


def found_pairs(
    texts: list[list[str]], kinds: list[int] | None = None, threshold: float = 0.8
) -> list[tuple[int, int]]:
    digests = np.array([text_digest(text) for text in texts], dtype=np.uint64)
    return near_duplicates(
        signatures(texts),
        digests,
        threshold,
        lambda rows: {row: sequences(texts[row]) for row in rows},
        None if kinds is None else np.array(kinds),
    )


@given(st.lists(st.sampled_from(WORDS[:12]), min_size=5), st.lists(st.sampled_from(WORDS[:12]), min_size=5))
def test_the_similarity_is_the_jaccard_index_of_five_word_sequences(first: list[str], second: list[str]) -> None:
    assert similarity(sequences(first), sequences(second)) == jaccard(first, second)


@given(st.lists(st.text(), min_size=1, max_size=8))
def test_any_text_has_a_signature_of_its_own_making(texts: list[str]) -> None:
    """A text's signature doesn't depend on its neighbours in the list."""
    words = [words_of(text) for text in texts]
    together = signatures(words)
    assert together.shape == (len(texts), BANDS)
    for row, text in zip(together, words, strict=True):
        assert np.array_equal(row, signatures([text])[0])


def test_what_reaches_the_threshold_is_found_and_nothing_else() -> None:
    dice = random.Random(17)
    texts: list[list[str]] = []
    for _ in range(400):
        text, share = dice.choices(WORDS, k=dice.randrange(20, 200)), dice.choice((0.005, 0.02, 0.1))
        changed = [dice.choice(WORDS) if dice.random() < share else word for word in text]
        texts += [text, changed]
    found = found_pairs(texts)
    wanted = {(number, number + 1) for number in range(0, 800, 2) if jaccard(texts[number], texts[number + 1]) >= 0.8}
    assert len(wanted) > 100
    assert set(found) <= wanted
    assert len(wanted - set(found)) <= 1


def test_a_thousand_like_texts_are_joined_by_way_of_a_few() -> None:
    """Whatever kinds there are, each text meets one of every kind, and the pairs grow with the texts, not squared."""
    texts = [[*WORDS[:100], f"end{number}"] for number in range(1_000)]
    kinds = [number % 7 for number in range(1_000)]
    rows = found_pairs(texts, kinds)
    assert len(rows) < 30_000
    met: dict[int, set[int]] = {number: {kinds[number]} for number in range(1_000)}
    for first, second in rows:
        met[first].add(kinds[second])
        met[second].add(kinds[first])
    assert all(met[number] == set(range(7)) for number in range(1_000))


def test_few_like_texts_are_compared_each_with_each() -> None:
    texts = [[*WORDS[:100], f"end{number}"] for number in range(CROWD)]
    assert found_pairs(texts) == [(first, second) for first in range(CROWD) for second in range(first + 1, CROWD)]


@given(st.permutations(range(150)))
@settings(max_examples=10, deadline=None)
def test_what_is_found_does_not_depend_on_the_order(order: list[int]) -> None:
    texts = [[*WORDS[:100], f"end{number}"] for number in range(130)]
    texts += [[*WORDS[number : number + 30], "end"] for number in range(20)]
    kinds = [number % 3 for number in range(150)]

    def pairs_of(places: list[int]) -> set[frozenset[int]]:
        rows = found_pairs([texts[place] for place in places], [kinds[place] for place in places])
        return {frozenset((places[first], places[second])) for first, second in rows}

    assert pairs_of(order) == pairs_of(list(range(150)))


@pytest.mark.parametrize(("gap", "count"), [(1_200, 700), (25, 400)])
def test_near_duplicates_in_a_crowd_are_found_where_most_are_just_below_the_threshold(gap: int, count: int) -> None:
    """One template with two gaps: with one of them filled alike two texts are at 0.841, otherwise at 0.706."""
    dice = random.Random(17)
    gaps = sorted({(dice.randrange(gap), dice.randrange(gap)) for _ in range(count)})
    texts = [[*WORDS[:20], f"a{first}", *WORDS[20:40], f"b{second}", *WORDS[40:60]] for first, second in gaps]
    wanted = [
        (one, other)
        for one in range(len(gaps))
        for other in range(one + 1, len(gaps))
        if gaps[one][0] == gaps[other][0] or gaps[one][1] == gaps[other][1]
    ]
    assert len(wanted) > 300
    assert found_pairs(texts) == wanted
    assert found_pairs(texts, threshold=0.85) == []


def test_case_blanks_and_compatibility_forms_do_not_count() -> None:
    assert words_of("The  Quick\nﬁsh") == words_of("the quick fish")
