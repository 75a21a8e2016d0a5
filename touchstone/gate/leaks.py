"""What training has seen of the sets that judge it, beyond equal prompts: near duplicates, and pairs turned round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from touchstone.data.neighbours import near_duplicates, sequences, signatures, text_digest
from touchstone.data.prompts import dialogue_text, normalised_prompt, words_of
from touchstone.groups import Group, Message, judged_pairs, messages_of
from touchstone.runtime.files import digest_value

Prompts = Sequence[Sequence[Message]]
"""One prompt per group."""


@dataclass(frozen=True)
class Leaks:
    """What training has seen of the other sets, equal prompts aside.

    Attributes:
        near: by other set, distinct prompts that are near duplicates of a training prompt.
        swapped: pairs of holdout and confirm that stand in the training set with the other one preferred.
        champion_near: prompts of holdout and confirm that are near duplicates of one of the champion's training
            prompts; None where those aren't known.
    """

    near: dict[str, int]
    swapped: int
    champion_near: int | None


def find_leaks(
    groups: Mapping[str, Sequence[Group]], prompts: Mapping[str, Prompts], champion: Prompts | None, threshold: float
) -> Leaks:
    """Compare the training set with all others, and the champion's with those that judge.

    Args:
        groups: at least the sets train, holdout and confirm.
        prompts: of every set.
        champion: the champion's training prompts; None where they aren't known.
        threshold: as for `near_duplicates_of`.
    """
    judged = {name: prompts[name] for name in ("holdout", "confirm")}
    return Leaks(
        near=near_duplicates_of(
            prompts["train"], {name: prompts[name] for name in prompts if name != "train"}, threshold
        ),
        swapped=swapped_pairs(groups["train"], [*groups["holdout"], *groups["confirm"]]),
        champion_near=None if champion is None else sum(near_duplicates_of(champion, judged, threshold).values()),
    )


def read_prompts(path: Path) -> list[tuple[Message, ...]]:
    """The prompts of a set of which nothing else is needed, one per group."""
    column = pq.read_table(path, columns=["prompt"])["prompt"].to_pylist()
    return [messages_of(prompt) for prompt in column]


def near_duplicates_of(train: Prompts, others: Mapping[str, Prompts], threshold: float) -> dict[str, int]:
    """How many distinct prompts of each other set are near duplicates of a training prompt, equal ones aside.

    Texts are compared as `touchstone.data.neighbours` does, without system messages. Prompts that say the same under
    another system message, or in other roles, are not equal and count here.

    Args:
        threshold: Jaccard similarity of the prompts' sequences of five words.
    """
    # Number distinct texts, and note which sets hold each, and under which normalised prompts.
    numbers: dict[str, int] = {}
    owners: list[set[str]] = []
    normalised: defaultdict[tuple[int, str], set[str]] = defaultdict(set)
    for name, prompts in (*others.items(), ("train", train)):
        for prompt in prompts:
            number = numbers.setdefault(" ".join(words_of(dialogue_text(prompt))), len(numbers))
            if number == len(owners):
                owners.append(set())
            owners[number].add(name)
            normalised[number, name].add(normalised_prompt(prompt))

    # Other texts that are nearly a text of the training set. Sets are compared as the split compares them.
    words = [text.split(" ") for text in numbers]
    digests = np.array([text_digest(text) for text in words], dtype=np.uint64)
    kinds = np.array(
        [next(place for place, name in enumerate(("train", *others)) if name in owner) for owner in owners]
    )
    near = near_duplicates(
        signatures(words),
        digests,
        threshold,
        lambda numbers: {number: sequences(words[number]) for number in numbers},
        kinds,
    )
    similar = {
        number
        for pair in near
        for number in pair
        if any("train" in owners[text] for text in pair) and "train" not in owners[number]
    }

    # Equal texts in a prompt that training has not seen: under another system message, or in other roles.
    same_text = {
        (number, name)
        for number, name in list(normalised)
        if name != "train" and "train" in owners[number] and normalised[number, name] - normalised[number, "train"]
    }
    return {
        name: sum(name in owners[number] for number in similar) + sum(owner == name for _, owner in same_text)
        for name in others
    }


def swapped_pairs(train: Iterable[Group], judged: Iterable[Group]) -> int:
    """How many judged pairs of `judged` stand in `train` too, same prompt and texts, with the other one preferred.

    The prompt counts: the same two refusals may well stand in another order under another question.
    """
    preferred = dict(_winners(judged))
    swapped = {pair for pair, winner in _winners(train) if preferred.get(pair, winner) != winner}
    return len(swapped)


def _winners(groups: Iterable[Group]) -> Iterable[tuple[tuple[str, ...], str]]:
    """Axis, prompt and both texts of each pair with a preference, as digests, and the preferred text's."""
    for group in groups:
        prompt = digest_value(words_of(dialogue_text(group.prompt)))[:24]
        for pair in judged_pairs(group):
            if pair.chosen is not None:
                texts = [digest_value(words_of(group.completions[k].text))[:24] for k in (pair.first, pair.second)]
                winner = texts[0] if pair.chosen == pair.first else texts[1]
                yield (group.axis, prompt, *sorted(texts)), winner
