"""What is trained on: groups of real comparisons, the tiny model, and the pairs that TRL makes of them."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForSequenceClassification

from touchstone.data.sources import read_source
from touchstone.groups import Comparison, Completion, Group, Message, judged_pairs, make_group
from touchstone.model.base import train_tokenizer
from touchstone.model.network import RewardModel
from touchstone.model.templating import EncodedGroup, encode_many, scoring_rule
from touchstone.settings import compose
from touchstone.settings.data import ArgumentData, TranscriptData

MAX_TOKENS = 4096
VOCABULARY = 8192


@dataclass(frozen=True)
class Workload:
    """Groups with their token ids, and the model that is trained on them."""

    name: str
    groups: list[Group]
    encoded: list[EncodedGroup]
    tokenizer: PreTrainedTokenizerFast

    def model(self) -> RewardModel:
        """A fresh tiny Qwen3 with a head: 6 layers, hidden 256, the same weights each time."""
        torch.manual_seed(0)
        config = Qwen3Config(
            vocab_size=len(self.tokenizer),
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            max_position_embeddings=MAX_TOKENS,
            tie_word_embeddings=True,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
            num_labels=1,
            use_cache=False,
        )
        network = Qwen3ForSequenceClassification(config)
        return RewardModel(network, self.tokenizer, scoring_rule(self.tokenizer, MAX_TOKENS))

    def pairs(self) -> list[dict[str, list[int]]]:
        """Every comparison with a winner as TRL wants it: two whole sequences."""
        rows = []
        for group, ids in zip(self.groups, self.encoded, strict=True):
            for pair in judged_pairs(group):
                if pair.chosen is not None and pair.rejected is not None:
                    chosen, rejected = (ids.prompt_ids + ids.completion_ids[k] for k in (pair.chosen, pair.rejected))
                    rows.append({"chosen_ids": chosen, "rejected_ids": rejected})
        return rows

    @property
    def bound(self) -> int:
        """Tokens that must be computed: each prompt and each compared completion once."""
        return sum(ids.shared_tokens for ids in self.encoded)


def load(name: str, data: Path, pairs: int) -> Workload:
    """A workload by name, cut to about `pairs` comparisons, in a shuffled order."""
    groups = MAKERS[name](data)
    random.Random(17).shuffle(groups)
    kept, count = [], 0
    for group in groups:
        if count >= pairs:
            break
        kept.append(group)
        count += sum(pair.chosen is not None for pair in judged_pairs(group))
    tokenizer = tokenizer_of(groups)
    rule = scoring_rule(tokenizer, MAX_TOKENS)
    items = [(group.prompt, [completion.text for completion in group.completions]) for group in kept]
    return Workload(name, kept, encode_many(tokenizer, rule, items), tokenizer)


def _hh(data: Path) -> list[Group]:
    """Multi-turn dialogues, two answers to the last turn."""
    settings = TranscriptData(source="hh_rlhf", name="hh", path=str(data / "hh-rlhf"))
    return [row for row in read_source(settings, data) if isinstance(row, Group)]


def _arguments(data: Path) -> list[Group]:
    """Topics with some thirty arguments and hundreds of comparisons each."""
    settings = ArgumentData(source="ukpconvarg1", name="ukp", path=str(data / "ukpconvarg1"))
    return [row for row in read_source(settings, data) if isinstance(row, Group)]


def _arguments_as_pairs(data: Path) -> list[Group]:
    """The same comparisons, each a group of its own."""
    return [_only(group, pair.chosen, pair.rejected) for group in _arguments(data) for pair in judged_pairs(group)]


def _only(group: Group, chosen: int | None, rejected: int | None) -> Group:
    sides = [group.completions[side] for side in (chosen, rejected) if side is not None]
    edges = [Comparison(0, 1, 1.0, 0.0)]
    return make_group(prompt=group.prompt, completions=sides, comparisons=edges, source=group.source)


def _rated(data: Path) -> list[Group]:
    """Six responses to a dialogue with mean human scores: all pairs of unequal scores."""
    with gzip.open(data / "topical-chat" / "topical_chat.json.gz", "rt", encoding="utf-8") as file:
        rows = sorted(json.load(file), key=lambda row: (row["source"], row["context"]))
    groups = []
    for (source, context), members in groupby(rows, key=lambda row: (row["source"], row["context"])):
        answers = list(members)
        scores = [row["scores"]["overall"] for row in answers]
        edges = [
            Comparison(i, j, float(scores[i] > scores[j]), float(scores[j] > scores[i]))
            for i in range(len(answers))
            for j in range(i + 1, len(answers))
            if scores[i] != scores[j]
        ]
        prompt = [Message("user", f"{context.strip()}\n\n{source.strip()}")]
        texts = [Completion(row["system_output"].strip()) for row in answers]
        groups.append(make_group(prompt=prompt, completions=texts, comparisons=edges, source="topical_chat"))
    return groups


def _long(data: Path) -> list[Group]:
    """The least favourable shape: long completions of an empty prompt, nothing to share."""
    dialogues = _hh(data)
    groups = []
    for start in range(0, len(dialogues) - 2, 3):
        texts = []
        for side in (0, 1):
            turns = [
                text
                for group in dialogues[start : start + 3]
                for text in (*(message.content for message in group.prompt), group.completions[side].text)
            ]
            texts.append("\n\n".join(turns))
        edges = [Comparison(0, 1, 1.0, 0.0)]
        completions = [Completion(text) for text in texts]
        groups.append(
            make_group(prompt=[Message("user", "")], completions=completions, comparisons=edges, source="long")
        )
    return groups


MAKERS: dict[str, Callable[[Path], list[Group]]] = {
    "hh": _hh,
    "ukp": _arguments_as_pairs,
    "ukp_groups": _arguments,
    "k6": _rated,
    "worst": _long,
}


def tokenizer_of(groups: Sequence[Group]) -> PreTrainedTokenizerFast:
    """The scratch model's tokenizer, trained on the groups' texts, with a larger vocabulary."""
    scratch = compose(["model=scratch"]).model
    if scratch.kind != "scratch":
        raise ValueError("model=scratch is no model from scratch")
    return train_tokenizer(groups, scratch.model_copy(update={"vocabulary": VOCABULARY, "max_tokens": MAX_TOKENS}))
