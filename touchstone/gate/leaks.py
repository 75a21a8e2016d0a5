"""What training has seen of the sets that judge it, beyond equal prompts: near duplicates, and pairs turned round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from touchstone.data.neighbours import candidates, near_duplicates, sequences, signatures
from touchstone.data.prompts import dialogue_text, normalised_prompt, words_of
from touchstone.groups import Group, Message, judged_pairs, messages_of
from touchstone.runtime.files import digest_value

Prompts = Sequence[Sequence[Message]]


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
    texts: dict[str, int] = {}
    owners: list[set[str]] = []
    wholes: defaultdict[tuple[int, str], set[str]] = defaultdict(set)
    for name, prompts in (*others.items(), ("train", train)):
        for prompt in prompts:
            place = texts.setdefault(" ".join(words_of(dialogue_text(prompt))), len(texts))
            if place == len(owners):
                owners.append(set())
            owners[place].add(name)
            wholes[place, name].add(normalised_prompt(prompt))
    words = [text.split(" ") for text in texts]
    pairs = [
        (one, other)
        for one, other in candidates(signatures(words))
        if ("train" in owners[one]) != ("train" in owners[other])
    ]
    near = near_duplicates(pairs, {place: sequences(words[place]) for pair in pairs for place in pair}, threshold)
    found = {place for pair in near for place in pair if "train" not in owners[place]}
    otherwise = {
        (place, name)
        for place, name in list(wholes)
        if name != "train" and "train" in owners[place] and wholes[place, name] - wholes[place, "train"]
    }
    return {
        name: sum(name in owners[place] for place in found) + sum(owner == name for _, owner in otherwise)
        for name in others
    }


def swapped_pairs(train: Iterable[Group], judged: Iterable[Group]) -> int:
    """How many judged pairs of `judged` stand in `train` too, same prompt and texts, with the other one preferred.

    The prompt counts: the same two refusals may well stand in another order under another question.
    """
    preferred = dict(_decided(judged))
    turned = {pair for pair, winner in _decided(train) if preferred.get(pair, winner) != winner}
    return len(turned)


def _decided(groups: Iterable[Group]) -> Iterable[tuple[tuple[str, ...], str]]:
    for group in groups:
        prompt = digest_value(words_of(dialogue_text(group.prompt)))[:24]
        for pair in judged_pairs(group):
            if pair.chosen is not None:
                texts = [digest_value(words_of(group.completions[k].text))[:24] for k in (pair.first, pair.second)]
                winner = texts[0] if pair.chosen == pair.first else texts[1]
                yield (group.axis, prompt, *sorted(texts)), winner
