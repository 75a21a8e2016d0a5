"""Columns that belong together by their names: those of each completion, and what is better beside what is worse."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from touchstone.data.look.profile import words_of

FAMILIES = (
    tuple("abcdefgh"),
    tuple("12345678"),
    tuple("01234567"),
    ("left", "right"),
    ("first", "second", "third", "fourth"),
    ("one", "two", "three", "four"),
    tuple("xy"),
)
"""Words that tell completions apart, in the order of their places."""
BETTER_WORSE = frozenset(
    {
        ("chosen", "rejected"), ("chosen", "reject"), ("selected", "rejected"), ("accepted", "rejected"),
        ("preferred", "rejected"), ("preferred", "dispreferred"), ("preferred", "unpreferred"),
        ("preferred", "other"), ("better", "worse"), ("best", "worst"), ("good", "bad"), ("winner", "loser"),
        ("winning", "losing"), ("win", "lose"), ("win", "loss"), ("w", "l"), ("positive", "negative"),
        ("pos", "neg"), ("correct", "incorrect"), ("right", "wrong"), ("upvoted", "downvoted"),
        ("liked", "disliked"), ("helpful", "unhelpful"), ("safe", "unsafe"), ("approved", "rejected"),
        ("accepted", "declined"),
    }
)  # fmt: skip
"""Words that say which of two columns holds the better completion."""
_WORSE = frozenset(worse for _, worse in BETTER_WORSE)


@dataclass(frozen=True, slots=True)
class Sides:
    """Columns of which each is about one completion.

    Attributes:
        paths: in the order of the completions.
        words: what tells their names apart: a and b, 1 and 2.
        stem: the words that the names share.
    """

    paths: tuple[str, ...]
    words: tuple[str, ...]
    stem: tuple[str, ...]


def sides_among(paths: Iterable[str]) -> list[Sides]:
    """All groups of columns whose names differ in one word of a family, without gaps from its first."""
    groups: dict[tuple[tuple[str, ...], int], dict[str, str]] = {}
    for path in paths:
        words = words_of(path)
        for place, word in enumerate(words):
            for number, family in enumerate(FAMILIES):
                if word in family:
                    stem = (*words[:place], "*", *words[place + 1 :])
                    groups.setdefault((stem, number), {}).setdefault(word, path)
    listed = []
    for (stem, number), members in groups.items():
        words = FAMILIES[number][: len(members)]
        if len(members) > 1 and all(word in members for word in words):
            rest = tuple(word for word in stem if word != "*")
            listed.append(Sides(tuple(members[word] for word in words), words, rest))
    return listed


def better_and_worse(paths: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of columns of which the first holds the better completion by its name."""
    named = {path: words_of(path) for path in paths}
    pairs = []
    for better, words in named.items():
        for worse, opposite in named.items():
            differing = [pair for pair in zip(words, opposite, strict=False) if pair[0] != pair[1]]
            is_opposite = len(words) == len(opposite) and len(differing) == 1 and differing[0] in BETTER_WORSE
            # response beside rejected_response
            extra = set(opposite) - set(words)
            is_marked = len(opposite) == len(words) + 1 and len(extra) == 1 and extra <= _WORSE - {"l", "other"}
            if is_opposite or is_marked:
                pairs.append((better, worse))
    return pairs
