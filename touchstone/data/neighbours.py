"""Near duplicates among many texts: MinHash finds the candidates, their exact Jaccard similarity decides.

A text is the set of its sequences of five words (Broder 1997); `touchstone.data.prompts.words_of` says what a word is.
Two texts are near duplicates when their sets' Jaccard similarity reaches a threshold. Candidates share a band of the
MinHash signature (25 bands of 5 values): at a similarity of 0.8 a pair is missed once in 20,000 times, at 0.7 once in
90. Where a hundred texts or more share a band, as those of one template do, candidates share one of their rarest
sequences: sets of that similarity do (prefix filtering, Chaudhuri et al. 2006). And where a hundred share even that,
each is compared with a few of every kind: of a thousand like texts each is joined to the others by way of the first.

Which are rare, and which the first, is for the texts themselves to say: what is found doesn't depend on their order.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.intp]
Sequences = Mapping[int, frozenset[int]]
"""`sequences` of some texts, by row."""

WORDS = 5
BANDS, VALUES = 25, 5
CROWD = 100
"""More texts than these that have something in common are not compared each with each."""
FIRST = 2
"""Of a crowd, texts of each kind with which all others are compared."""

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


def text_digest(words: Sequence[str]) -> int:
    """8 bytes of the digest of a text's words: equal for texts that read the same."""
    return int.from_bytes(hashlib.blake2b(" ".join(words).encode("utf-8"), digest_size=8).digest(), "little")


def near_duplicates(
    keys: Hashes,
    digests: Hashes,
    threshold: float,
    read: Callable[[Collection[int]], Sequences],
    kinds: Places | None = None,
) -> list[tuple[int, int]]:
    """Pairs of rows (lower, higher) whose similarity reaches the threshold, sorted.

    Args:
        keys: from `signatures`, one row per distinct text.
        digests: from `text_digest`, shape [texts].
        read: gives the sequences of some rows; called once.
        kinds: what each text belongs to, such as a set, shape [texts]; in a crowd every text is compared with some of
            each kind. None: all are of one kind.
    """
    if kinds is None:
        kinds = np.zeros(len(keys), dtype=np.intp)
    # By bands.
    codes = np.empty(0, dtype=np.int64)
    crowded = np.zeros(len(keys), dtype=bool)
    for column in keys.T:
        _, run, sizes = np.unique(column, return_inverse=True, return_counts=True)
        crowded |= sizes[run] > CROWD
        few = np.flatnonzero((sizes[run] > 1) & (sizes[run] <= CROWD))
        codes = np.union1d(codes, _pairs(column[few], few, digests, kinds))
    # In crowds by rare sequences.
    crowd = np.flatnonzero(crowded).tolist()
    texts = read({*np.unique(np.concatenate([codes // len(keys), codes % len(keys)])).tolist(), *crowd})
    if crowd:
        codes = np.union1d(codes, _pairs(*_rarest(crowd, texts, threshold), digests, kinds))
    pairs = zip((codes // len(keys)).tolist(), (codes % len(keys)).tolist(), strict=True)
    return [(lower, higher) for lower, higher in pairs if similarity(texts[lower], texts[higher]) >= threshold]


def _rarest(crowd: Sequence[int], texts: Sequences, threshold: float) -> tuple[Hashes, Places]:
    """Each text's rarest sequences, so many that two texts of the threshold's similarity have one in common.

    Of n sequences, n - ceil(threshold * n) + 1: they share at least threshold * n, and all sort theirs alike.

    Returns:
        Sequences and the rows that they belong to, both of the same shape.
    """
    sizes = np.array([len(texts[row]) for row in crowd])
    values = np.fromiter((value for row in crowd for value in texts[row]), dtype=np.uint64, count=int(sizes.sum()))
    owners = np.repeat(np.arange(len(crowd)), sizes)
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    order = np.lexsort((values, counts[place], owners))
    rank = np.arange(len(values)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    needed = sizes - np.ceil(threshold * sizes - 1e-9).astype(np.intp) + 1
    rare = order[rank < np.repeat(needed, sizes)]
    return values[rare], np.array(crowd, dtype=np.intp)[owners[rare]]


def _pairs(values: Hashes, rows: Places, digests: Hashes, kinds: Places) -> npt.NDArray[np.int64]:
    """Pairs of rows that share a value; in a crowd those with the FIRST of each kind by their digests.

    Args:
        values, rows: of the same shape; a row may have several values.
        digests, kinds: of every row.

    Returns:
        Each pair as one number, lower row times all rows plus higher row; sorted, none twice.
    """
    order = np.lexsort((digests[rows], kinds[rows], values))
    values, rows = values[order], rows[order]
    places, kind = np.arange(len(rows)), kinds[rows]
    new_value = np.append(True, values[1:] != values[:-1])[: len(rows)]
    new_kind = new_value | np.append(True, kind[1:] != kind[:-1])[: len(rows)]
    starts = np.flatnonzero(new_value)
    sizes = np.diff(starts, append=len(rows))
    run = np.cumsum(new_value) - 1
    number = places - np.maximum.accumulate(np.where(new_kind, places, 0))  # among its run's rows of its kind
    chosen = np.flatnonzero((sizes[run] <= CROWD) | (number < FIRST))
    # Each chosen row beside every row of its run.
    counts = sizes[run[chosen]]
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    first, second = rows[np.repeat(chosen, counts)], rows[np.repeat(starts[run[chosen]], counts) + offsets]
    codes = np.minimum(first, second) * len(digests) + np.maximum(first, second)
    return np.unique(codes[first != second])


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
