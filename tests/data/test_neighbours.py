"""Near duplicates: the similarity is exact, and those that reach the threshold are found."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from touchstone.data.neighbours import BANDS, candidates, near_duplicates, sequences, signatures, similarity
from touchstone.data.prompts import words_of

WORDS = [f"word{number}" for number in range(3_000)]


def jaccard(first: list[str], second: list[str]) -> float:
    """By the definition, over the sequences themselves."""
    one, other = ({tuple(text[k : k + 5]) for k in range(max(1, len(text) - 4))} for text in (first, second))
    return len(one & other) / len(one | other)


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
    found = near_duplicates(candidates(signatures(texts)), dict(enumerate(map(sequences, texts))), 0.8)
    wanted = {(number, number + 1) for number in range(0, 800, 2) if jaccard(texts[number], texts[number + 1]) >= 0.8}
    assert len(wanted) > 100
    assert set(found) <= wanted
    assert len(wanted - set(found)) <= 1


def test_a_thousand_like_texts_are_joined_by_way_of_the_first() -> None:
    text = WORDS[:100]
    rows = candidates(signatures([[*text, f"end{number}"] for number in range(1_000)]))
    assert {(0, number) for number in range(1, 1_000)} <= set(rows)
    assert len(rows) < 3_000


def test_case_blanks_and_compatibility_forms_do_not_count() -> None:
    assert words_of("The  Quick\nﬁsh") == words_of("the quick fish")
