"""A pool: prompts with completions that nobody has judged, one of each family, without what the sets hold already.

A line holds a group as the product itself writes it (its comparisons are passed over), or plainly

    {"prompt": "How ...?", "completions": ["One ...", {"text": "Two ...", "policy": "v2"}]}

with `axis`, `cluster_id` and `source` where they are known. `prompt` may be a list of chat messages.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from touchstone.data.hygiene import clean_group
from touchstone.data.neighbours import near_duplicates, sequences, signatures, text_digest
from touchstone.data.prompts import dialogue_text, normalised_prompt, words_of
from touchstone.data.sources.files import local_rows
from touchstone.data.sources.rows import Quarantined, Unusable, answer_text, check_turns, groups_of, prompt_messages
from touchstone.errors import SourceError
from touchstone.groups import Completion, Group, Message, make_group
from touchstone.runtime.progress import progress

SOURCE, AXIS = "pool", "helpfulness"
"""Of a line that doesn't say."""


@dataclass(frozen=True, slots=True)
class Known:
    """Prompts that a pool must not repeat, not even nearly.

    Attributes:
        name: what is said of the pool's prompts that are left out for them.
        prompts: as messages, where they are at hand.
        clusters: their cluster ids.
        digests: normalised prompts; of these near duplicates can't be found.
    """

    name: str
    prompts: Sequence[Sequence[Message]] = ()
    clusters: Collection[str] = ()
    digests: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Families:
    """What of a pool can be sampled.

    Attributes:
        members: for each family the places of its groups in the pool; a family counts once.
        left_out: how many groups were left out, by the name of the `Known` that they repeat.
    """

    members: list[list[int]]
    left_out: dict[str, int]


def read_pool(path: Path) -> tuple[list[Group], list[Quarantined]]:
    """Groups without comparisons, their texts in the import's normal form, and the lines that can't be used.

    Raises:
        SourceError: nothing can be read at `path`, or no line can be used.
    """
    rows = groups_of(progress(local_rows(str(path), Path.cwd()), "read the pool"), _group)
    groups, quarantined = [], []
    for row in rows:
        if isinstance(row, Quarantined):
            quarantined.append(row)
        else:
            groups.append(clean_group(row)[0])
    if not groups:
        first = quarantined[0]
        raise SourceError(
            f"no line of {path.name} can be used (line {first.line}: {first.reason}); "
            'a line holds {"prompt": ..., "completions": [..., ...]}'
        )
    return groups, quarantined


def _group(values: dict[str, Any]) -> Group:
    for name in ("prompt", "completions"):
        if values.get(name) is None:
            raise Unusable(f"no field '{name}'")
    prompt = prompt_messages(values["prompt"], "prompt")
    check_turns(prompt)
    if not isinstance(values["completions"], list):
        raise Unusable("'completions' is no list")
    completions = [_completion(value) for value in values["completions"]]
    group = make_group(
        prompt=prompt,
        completions=completions,
        comparisons=(),
        source=_name(values, "source") or SOURCE,
        axis=_name(values, "axis") or AXIS,
        cluster_id=_name(values, "cluster_id"),
    )
    if not different_pairs(group):
        raise Unusable("'completions' holds no two different texts")
    return group


def _completion(value: Any) -> Completion:
    if isinstance(value, dict):
        return Completion(answer_text(value.get("text"), "text"), policy=_name(value, "policy"))
    return Completion(answer_text(value, "completions"))


def _name(values: dict[str, Any], field: str) -> str | None:
    value = values.get(field)
    return None if value is None else answer_text(value, field)


def different_pairs(group: Group) -> list[tuple[int, int]]:
    """Pairs of completions (i < j) that don't read the same."""
    words = [words_of(completion.text) for completion in group.completions]
    return [(i, j) for i, j in combinations(range(len(words)), 2) if words[i] != words[j]]


def find_families(groups: Sequence[Group], known: Sequence[Known], threshold: float) -> Families:
    """Join groups with equal or nearly equal prompts, or one cluster; leave out families that touch what is known.

    Prompts are compared as `touchstone.data.neighbours` does, however long the chain of near duplicates.

    Args:
        known: of what several know the first is named.
        threshold: Jaccard similarity of the prompts' sequences of five words.
    """
    # Number the distinct texts, the pool's first.
    numbers: dict[str, int] = {}
    text_of = [_number(group.prompt, numbers) for group in groups]
    pool_size = len(numbers)
    holders: defaultdict[int, set[str]] = defaultdict(set)
    for part in known:
        for prompt in part.prompts:
            holders[_number(prompt, numbers)].add(part.name)

    # Join: near duplicates, and groups of one cluster.
    near = _near([text.split(" ") for text in numbers], pool_size, threshold)
    first_of: dict[str, int] = {}
    clusters = [(first_of.setdefault(group.cluster_id, text_of[k]), text_of[k]) for k, group in enumerate(groups)]
    family_of = _components([*near, *clusters], len(numbers))

    # Leave out the families that hold a known text, cluster or digest.
    repeats: defaultdict[int, set[str]] = defaultdict(set)
    for number, names in holders.items():
        repeats[family_of[number]] |= names
    for k, group in enumerate(groups):
        digest = normalised_prompt(group.prompt)
        repeats[family_of[text_of[k]]] |= {
            part.name for part in known if group.cluster_id in part.clusters or digest in part.digests
        }
    members: defaultdict[int, list[int]] = defaultdict(list)
    left_out: Counter[str] = Counter()
    for k, number in enumerate(text_of):
        family = family_of[number]
        if repeats[family]:
            left_out[next(part.name for part in known if part.name in repeats[family])] += 1
        else:
            members[family].append(k)
    return Families(list(members.values()), dict(left_out))


def _near(words: Sequence[list[str]], pool_size: int, threshold: float) -> list[tuple[int, int]]:
    """Near duplicates among texts, given as their words, of which at least one is among the pool's, the first ones."""
    kinds = np.array([int(number >= pool_size) for number in range(len(words))], dtype=np.intp)
    near = near_duplicates(
        signatures(words),
        np.array([text_digest(text) for text in words], dtype=np.uint64),
        threshold,
        lambda numbers: {number: sequences(words[number]) for number in numbers},
        kinds,
    )
    return [pair for pair in near if min(pair) < pool_size]


def _number(prompt: Sequence[Message], numbers: dict[str, int]) -> int:
    """The number of a prompt's text, a new one for a new text."""
    return numbers.setdefault(" ".join(words_of(dialogue_text(prompt))), len(numbers))


def _components(edges: Iterable[tuple[int, int]], count: int) -> list[int]:
    """The connected component of each of `count` nodes."""
    rows, columns = np.array([*edges], dtype=np.intp).reshape(-1, 2).T
    matrix = sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    labels: list[int] = csgraph.connected_components(matrix, directed=False)[1].tolist()
    return labels
