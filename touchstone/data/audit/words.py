"""Texts as numbers: the words, names and short phrases that enough of them hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

Integers = NDArray[np.int64]

LONGEST_PHRASE = 4
"""Words of the longest phrase that is looked for."""
KEPT_CHARACTERS = 1000
"""Of a text that is longer, so many at its start and as many at its end are read."""
NAME_SHARE = 0.8
"""A word is a name if it is written with a capital in at least this share of its places inside sentences."""
NAME_PLACES = 5
"""Places inside sentences without which nothing is said about a word."""

_TOKEN = r"\w+(?:['’\-]\w+)*|[.!?:;\n\"“”*#>|()\[\]]"  # noqa: S105 - words and marks, no password


@dataclass(frozen=True, slots=True)
class Words:
    """The words of many texts, one after the other.

    Attributes:
        text: index of the text that each word stands in.
        code: index into `vocabulary` (lower case), -1 for a mark that ends a sentence or opens a quotation.
        name: whether the word is a name written with a capital.
    """

    text: Integers
    code: Integers
    name: NDArray[np.bool_]
    vocabulary: tuple[str, ...]
    count: int


@dataclass(frozen=True, slots=True)
class Phrases:
    """Which text holds which phrase: `held` has a row per text and a column per phrase, 1 where it does."""

    names: tuple[str, ...]
    held: sparse.csr_matrix


def shortened(text: str) -> str:
    """The text, or its start and end."""
    if len(text) <= 2 * KEPT_CHARACTERS:
        return text
    return f"{text[:KEPT_CHARACTERS]}\n{text[-KEPT_CHARACTERS:]}"


def split_words(texts: Sequence[str]) -> Words:
    """All words of the texts in their order."""
    tokens = pl.Series("text", [shortened(text) for text in texts], dtype=pl.String).str.extract_all(_TOKEN)
    counts = tokens.list.len().to_numpy().astype(np.int64)
    # Every spelling is looked at once, however often it stands in the texts.
    encoded = tokens.explode().drop_nulls().to_arrow().cast(pa.large_string()).dictionary_encode()
    spelled = encoded.dictionary.to_pylist()
    index = encoded.indices.to_numpy().astype(np.int64)
    lower = [word.lower() for word in spelled]
    vocabulary = sorted({word for word in lower if _is_word(word)})
    place = {word: number for number, word in enumerate(vocabulary)}
    code = np.asarray([place.get(word, -1) for word in lower], dtype=np.int64)[index]
    capital = np.asarray([_has_capital(word) for word in spelled], dtype=bool)[index]
    text = np.repeat(np.arange(len(texts)), counts)
    # Only places inside sentences tell a name by its capital: at the start every word has one.
    before = np.concatenate([[-1], code[:-1]])
    inside = (code >= 0) & (before >= 0) & (np.concatenate([[-1], text[:-1]]) == text)
    places = np.bincount(code[inside], minlength=len(vocabulary))
    capitals = np.bincount(code[inside & capital], minlength=len(vocabulary))
    is_name = (places >= NAME_PLACES) & (capitals >= NAME_SHARE * places)
    name = (code >= 0) & capital
    name[name] = is_name[code[name]]
    return Words(text, code, name, tuple(vocabulary), len(texts))


def _is_word(token: str) -> bool:
    return token[0].isalnum() or token[0] == "_"


def _has_capital(word: str) -> bool:
    """Whether the word could be a name: a capital first, and not the word I with what hangs on it."""
    return len(word) > 1 and word[0].isupper() and not word.startswith(("I'", "I’"))


def find_phrases(words: Words, least: int, *, names: bool = False) -> Phrases:
    """Sequences of one to LONGEST_PHRASE words of one sentence that stand in at least `least` texts.

    Args:
        names: only sequences of names.
    """
    code = np.where(words.name, words.code, -1) if names else words.code
    spelled: list[str] = []
    blocks: list[sparse.csr_matrix] = []
    grams = singles = code
    for length in range(1, LONGEST_PHRASE + 1):
        text = words.text[: max(0, len(code) - length + 1)]
        if length > 1:
            # A sequence is frequent only if it is without its last word too.
            ending, grams = singles[length - 1 :], grams[: len(text)]
            within_sentence = (grams >= 0) & (ending >= 0) & (text == words.text[length - 1 :])
            grams = np.where(within_sentence, grams * (singles.max(initial=0) + 1) + ending, -1)
        grams, first, held = _frequent(grams, text, least, words.count)
        if length == 1:
            singles = grams
        starts = [code[first + shift] for shift in range(length)]
        spelled += [" ".join(words.vocabulary[word] for word in phrase) for phrase in zip(*starts, strict=True)]
        blocks.append(held)
    return Phrases(tuple(spelled), sparse.csr_matrix(sparse.hstack(blocks, format="csr")))


def _frequent(grams: Integers, text: Integers, least: int, size: int) -> tuple[Integers, Integers, sparse.csr_matrix]:
    """The sequences renumbered, -1 for those in too few texts; where each stands first; which text holds it."""
    valid = np.flatnonzero(grams >= 0)
    _, first, index = np.unique(grams[valid], return_index=True, return_inverse=True)
    # Counting by rows: telling (text, sequence) pairs apart by sorting them takes several times as long.
    ones = np.ones(len(valid), dtype=np.float32)
    held = sparse.csr_matrix((ones, (text[valid], index)), shape=(size, len(first)))
    held.data[:] = 1.0
    frequent = np.bincount(held.indices, minlength=len(first)) >= least
    number = np.where(frequent, np.cumsum(frequent) - 1, -1)
    renumbered = np.full(len(grams), -1, dtype=np.int64)
    renumbered[valid] = number[index]
    return renumbered, valid[first[frequent]], sparse.csr_matrix(held[:, np.flatnonzero(frequent)])
