"""What is asked of everybody: the checkpoint, real texts, and the four workloads' requests."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from benchmarks.training.workloads import MAKERS, Workload, tokenizer_of
from touchstone.data.sources import read_source
from touchstone.groups import Group, Message
from touchstone.model.network import save
from touchstone.model.sealing import seal
from touchstone.model.templating import ScoringRule, encode
from touchstone.runtime.texts import cleaned
from touchstone.settings import compose

MOST_TOKENS = 1024
"""A real text is at most so long: none is cut by anybody."""

PROMPT_TOKENS, COMPLETION_TOKENS, COMPLETIONS = 512, 128, 16


@dataclass(frozen=True)
class Asked:
    """A prompt with completions, as messages for us and as rendered texts for the others."""

    prompt: tuple[Message, ...]
    completions: tuple[str, ...]
    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Sizes:
    """How much of each workload one round has."""

    singles: int = 640
    groups: int = 12
    bulk: int = 500
    alone: int = 60
    clients: int = 64


QUICK = Sizes(singles=48, groups=2, bulk=16, alone=8, clients=8)


OLDER = "older"
"""Beside the checkpoint: the same in the words of transformers 4, which doesn't know all of transformers 5's."""


def _for_older_transformers(checkpoint: Path, folder: Path) -> None:
    shutil.copytree(checkpoint, folder)
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope["rope_theta"], "torch_dtype": config.pop("dtype")}
    (folder / "config.json").write_text(json.dumps(config))


class Texts:
    """Real texts, and requests made of them that no round repeats: a cache of prompts would answer a repeated one."""

    def __init__(self, data: Path | None) -> None:
        self.source = "hh-rlhf" if data is not None else "sandbox"
        self.groups = _groups(data)
        self.tokenizer: PreTrainedTokenizerFast = tokenizer_of(self.groups)
        self._rule: ScoringRule | None = None
        self._count = 0

    def checkpoint(self, folder: Path) -> Path:
        """Seal a tiny Qwen3 with random weights: 6 layers, hidden 256, heads of 64, fp32, one label, no sigmoid."""
        model = Workload("serving", [], [], self.tokenizer).model()
        self._rule = model.rule
        (folder / "model").mkdir(parents=True)
        save(model, folder / "model")
        sealed = folder / "sealed"
        judged = [group for group in self.groups if group.comparisons][:400]
        seal(
            folder / "model",
            judged[:200],
            judged[200:],
            precision="fp32",
            self_test_vectors=8,
            seeds={"train": 0},
            folder=sealed,
        )
        _for_older_transformers(sealed, folder / OLDER)
        return sealed

    @cached_property
    def probe(self) -> list[Asked]:
        """Real groups whose token ids and scores are compared before anything is timed."""
        return self._real(random.Random("probe"), 12, alone=False)

    def round(self, name: str, sizes: Sizes, number: int) -> list[Asked]:
        """The requests of one round of a workload; other numbers, other requests."""
        order = random.Random(f"{name} {number}")
        if name == "b":
            return [self._shaped(order) for _ in range(sizes.groups)]
        if name == "c":
            return self._real(order, sizes.bulk, alone=False)
        return self._real(order, sizes.singles if name == "a" else sizes.alone, alone=True)

    def _real(self, order: random.Random, count: int, *, alone: bool) -> list[Asked]:
        """Real groups, or one completion of each."""
        found: list[Asked] = []
        for group in cycle(order.sample(self.groups, len(self.groups))):
            texts = [cleaned(completion.text).strip() for completion in group.completions]
            asked = self._asked(group.prompt, texts[:1] if alone else texts)
            if max(map(len, asked.ids)) <= MOST_TOKENS:
                found.append(asked)
            if len(found) == count:
                return found
        raise AssertionError("a cycle doesn't end")

    def _shaped(self, order: random.Random) -> Asked:
        """A prompt of 512 tokens and sixteen completions of 128, of real words."""
        words = self._words(order)
        empty = encode(self.tokenizer, self._ready_rule, (Message("user", ""),), [""])
        around, closing = len(empty.prompt_ids), len(empty.completion_ids[0])
        label = self._label()
        # The label's own tokens and its line are in the count: a prompt is 512 tokens as it is sent.
        question = _exactly(words, lambda text: around + self._length(f"{label}\n{text}"), PROMPT_TOKENS)
        answers = [
            _exactly(words, lambda text: closing + self._length(text), COMPLETION_TOKENS) for _ in range(COMPLETIONS)
        ]
        asked = self._built((Message("user", f"{label}\n{question}"),), answers)
        assert {len(ids) for ids in asked.ids} == {PROMPT_TOKENS + COMPLETION_TOKENS}
        return asked

    def _asked(self, prompt: Sequence[Message], completions: Sequence[str]) -> Asked:
        """A real prompt with a label in front, so that no cache has seen it."""
        first, *others = (Message(turn.role, cleaned(turn.content).strip()) for turn in prompt)
        return self._built((Message(first.role, f"{self._label()}\n{first.content}"), *others), completions)

    def _built(self, prompt: tuple[Message, ...], completions: Sequence[str]) -> Asked:
        """Rendered, with token ids that are the same by our pieces and by the tokenizer over the whole text."""
        turns = [{"role": turn.role, "content": turn.content} for turn in prompt]
        texts = [
            str(
                self.tokenizer.apply_chat_template(
                    [*turns, {"role": "assistant", "content": completion}], tokenize=False
                )
            )
            for completion in completions
        ]
        encoded = encode(self.tokenizer, self._ready_rule, prompt, completions)
        ids = [tuple(encoded.prompt(k) + encoded.completion_ids[k]) for k in range(len(completions))]
        whole = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        assert [list(each) for each in ids] == whole, "the template's pieces and the whole text differ in token ids"
        return Asked(prompt, tuple(completions), tuple(texts), tuple(ids))

    @property
    def _ready_rule(self) -> ScoringRule:
        assert self._rule is not None, "seal the checkpoint first"
        return self._rule

    def _label(self) -> str:
        self._count += 1
        return f"[{self._count}]"

    def _words(self, order: random.Random) -> Iterator[str]:
        texts = [cleaned(turn.content) for group in order.sample(self.groups, 400) for turn in group.prompt]
        return cycle([word for text in texts for word in text.split()])

    def _length(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _groups(data: Path | None) -> list[Group]:
    if data is not None:
        return MAKERS["hh"](data)
    settings = compose(["data=sandbox", "data.groups=3000"]).data
    return [row for row in islice(read_source(settings, Path.cwd()), 3000) if isinstance(row, Group)]


def _exactly(words: Iterator[str], count: Callable[[str], int], target: int) -> str:
    """Words that are exactly so many tokens."""
    text = next(words)
    while count(text) < target:
        text += " " + " ".join(islice(words, max(1, (target - count(text)) // 3)))
    while (length := count(text)) != target:
        # A letter less takes a token away or leaves it; a short word adds one.
        text = text[:-1].rstrip() if length > target else text + " a"
    return text
