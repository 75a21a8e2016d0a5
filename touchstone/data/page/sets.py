"""The seven sets: what they hold, and how many inputs the model will see cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from transformers import AutoConfig

from touchstone.groups import iterate_tables, messages_of
from touchstone.model.network import load_tokenizer, rule_of
from touchstone.model.pinned import resolve
from touchstone.model.templating import ScoringRule, encode_many
from touchstone.runtime.progress import progress
from touchstone.settings.checks import SETS
from touchstone.settings.model import Model

SAMPLE = 20_000
"""Groups of a set whose tokens are counted at most."""


@dataclass(frozen=True, slots=True)
class SetFacts:
    """What a set holds.

    Attributes:
        counts: groups, clusters, families, completions, comparisons and pairs, from the split's summary.
        axes: groups by axis.
        sampled: groups whose tokens were counted: all, or the `SAMPLE` with the lowest ids (which are hashes).
        inputs: completions of these groups, each with its prompt.
        over_long: inputs that the scoring rule cuts.
    """

    name: str
    counts: dict[str, int]
    axes: dict[str, int]
    sampled: int
    inputs: int
    over_long: int


def read_sets(folder: Path, counts: Mapping[str, Any], tokenizer: Any, rule: ScoringRule) -> list[SetFacts]:
    """Facts of the seven sets in `folder`, streaming, with a progress bar.

    Args:
        counts: "sets" of the split's summary.json.

    Raises:
        DataError: a set's file is missing, or of another schema version.
        ModelError: the template can't render a prompt.
    """
    return [
        _facts(name, counts[name], folder / f"{name}.parquet", tokenizer, rule)
        for name in progress(SETS, "count tokens", len(SETS))
    ]


def base_tokenizer(folder: Path, model: Model) -> tuple[Any, ScoringRule]:
    """Tokenizer and scoring rule of the base that `build/base` holds (from scratch) or names (pretrained).

    Raises:
        ModelError: a file of it has changed since it was pinned, it can't be loaded, or its tokenizer can't write what
            the rule needs.
    """
    base = resolve(folder, model, weights=False)
    trust = model.kind == "pretrained" and model.trust_remote_code
    tokenizer = load_tokenizer(base, trust_remote_code=trust)
    config = AutoConfig.from_pretrained(base, trust_remote_code=trust)
    return tokenizer, rule_of(config, tokenizer, model.max_tokens)


def _facts(name: str, counts: Mapping[str, Any], path: Path, tokenizer: Any, rule: ScoringRule) -> SetFacts:
    last = _last_of_sample(path)
    axes: Counter[str] = Counter()
    sampled = inputs = over_long = 0
    for table in iterate_tables(path, ["id", "axis", "prompt", "completions.list.element.text"]):
        axes.update(table["axis"].to_pylist())
        sample = table.filter(pc.less_equal(table["id"], last)).select(["prompt", "completions"]).to_pylist()
        items = [
            (
                messages_of(group["prompt"]),
                [completion["text"] for completion in group["completions"]],
            )
            for group in sample
        ]
        for encoded in encode_many(tokenizer, rule, items):
            inputs += len(encoded.truncated)
            over_long += sum(encoded.truncated)
        sampled += len(sample)
    numbers = {key: value for key, value in counts.items() if isinstance(value, int)}
    return SetFacts(name, numbers, dict(sorted(axes.items())), sampled, inputs, over_long)


def _last_of_sample(path: Path) -> str:
    """The id up to which groups belong to the sample: ids are content hashes, so their order is a lottery."""
    ids = sorted(value for table in iterate_tables(path, ["id"]) for value in table["id"].to_pylist())
    return ids[min(SAMPLE, len(ids)) - 1] if ids else ""
