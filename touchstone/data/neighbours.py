"""Near duplicates among many texts: MinHash finds the candidates, their exact Jaccard similarity decides.

A text is the set of its sequences of five words (Broder 1997); `touchstone.data.prompts.words_of` says what a word is.
Two texts are near duplicates when their sets' Jaccard similarity reaches a threshold. Candidates share a band of the
MinHash signature (25 bands of 5 values): at a similarity of 0.8 a pair is missed once in 20,000 times, at 0.7 once in
90. A candidate is compared with the first text and with the one before it among those that share a band, not with all:
of a thousand like texts each is joined to the others by way of the first.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

WORDS = 5
BANDS, VALUES = 25, 5

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_SHIFT = np.uint64(29)


def _constants() -> tuple[Hashes, Hashes]:
    """Factors (odd) and summands of the signature's hash functions."""
    drawn = np.random.Generator(np.random.PCG64(20_210_101)).integers(0, 2**63, (2, BANDS * VALUES), dtype=np.uint64)
    return drawn[0] * np.uint64(2) + np.uint64(1), drawn[1]


_FACTORS, _SUMMANDS = _constants()


def signatures(texts: Sequence[list[str]]) -> Hashes:
    """For each text, given as its words, one key per band, [texts, BANDS]: near duplicates are likely to share one."""
    hashes, starts = _sequences(texts)
    keys = np.empty((len(texts), BANDS), dtype=np.uint64)
    for band in range(BANDS):
        key = np.zeros(len(texts), dtype=np.uint64)
        for value in range(band * VALUES, (band + 1) * VALUES):
            smallest = np.minimum.reduceat(hashes * _FACTORS[value] + _SUMMANDS[value], starts)
            key = _mixed(key ^ smallest)
        keys[:, band] = key
    return keys


def sequences(words: list[str]) -> frozenset[int]:
    """The set that stands for a text: hashes of its sequences of five words."""
    return frozenset(_sequences([words])[0].tolist())


def similarity(first: frozenset[int], second: frozenset[int]) -> float:
    """Jaccard similarity: what they share over what they have together."""
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared)


def candidates(keys: Hashes) -> list[tuple[int, int]]:
    """Pairs of rows (earlier, later) that share a band's key, sorted; see the module's docstring for which."""
    rows = len(keys)
    parts = [np.empty(0, dtype=np.int64)]
    for band in range(keys.shape[1]):
        column = keys[:, band]
        order = np.argsort(column, kind="stable").astype(np.int64)  # rows of the same key stay in their order
        same = column[order][1:] == column[order][:-1]
        later = np.flatnonzero(same) + 1
        # Rows with one key are a run in `order`: each is paired with the run's first and with the one before it.
        run_starts = np.where(np.concatenate([[True], ~same]), np.arange(rows), 0)
        first = np.maximum.accumulate(run_starts)[later]
        for earlier in (first, later - 1):
            parts.append(order[earlier] * rows + order[later])
    # A pair as one number, earlier row times rows plus later row: sorting and dropping repeats is then one call.
    codes = np.unique(np.concatenate(parts))
    return [divmod(int(code), rows) for code in codes]


def near_duplicates(
    pairs: Iterable[tuple[int, int]], sets: Mapping[int, frozenset[int]], threshold: float
) -> list[tuple[int, int]]:
    """The candidates whose similarity reaches the threshold. `sets`: `sequences` of every row that a pair names."""
    return [(earlier, later) for earlier, later in pairs if similarity(sets[earlier], sets[later]) >= threshold]


def _sequences(texts: Sequence[list[str]]) -> tuple[Hashes, npt.NDArray[np.intp]]:
    """Hashes of all sequences of all texts, one text after the other, and where each text's begin.

    A text of fewer than five words is one sequence.
    """
    padded = [words if len(words) >= WORDS else [*words, *[""] * (WORDS - len(words))] for words in texts]
    lengths = np.array([len(words) for words in padded])
    words = np.fromiter((_word(word) for text in padded for word in text), dtype=np.uint64, count=int(lengths.sum()))
    ends = np.cumsum(lengths)
    hashes = np.zeros(max(len(words) - WORDS + 1, 0), dtype=np.uint64)
    for place in range(WORDS):
        hashes = hashes * _STEP + words[place : len(words) - WORDS + 1 + place]
    inside = np.ones(len(hashes), dtype=bool)
    for place in range(1, WORDS):  # sequences that begin in one text and end in the next
        crossing = ends[:-1] - place
        inside[crossing] = False
    counts = lengths - WORDS + 1
    return _mixed(hashes[inside]), np.concatenate([[0], np.cumsum(counts)[:-1]])


def _mixed(hashes: Hashes) -> Hashes:
    mixed: Hashes = (hashes ^ (hashes >> _SHIFT)) * _MIX
    return mixed ^ (mixed >> _SHIFT)


@lru_cache(maxsize=2**18)
def _word(word: str) -> int:
    data = word.encode("utf-8", "surrogatepass")
    return zlib.crc32(data) << 32 | zlib.adler32(data)
