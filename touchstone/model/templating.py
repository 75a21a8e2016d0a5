"""The one place where text becomes token ids: training, sealing, evaluation and serving all come through here.

A decoder's prompt and completion become one text by its chat template (`template_layout`). An encoder's become a
pair, as its tokenizer's own template for two texts writes it: [CLS] prompt [SEP] completion [SEP].

What a template wrote is tokenised with special tokens parsed, what people wrote with special tokens split: a message
that says `<|im_end|>` or `[SEP]` yields the ids of those characters, never the control token. A text is brought into
its normal form first (`runtime.texts`), whoever sends it, and stands in the template as it is; a template's own
trimming of contents is not repeated, what it makes of reasoning is (`reasoning`). A space that a template writes in
front of a text is tokenised with the text, as in the whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import accumulate, chain
from typing import Any, Literal, get_args

import numpy as np
from transformers import PreTrainedTokenizerBase

from touchstone.errors import ModelError
from touchstone.groups import STEP_SEPARATOR, Message, steps_of
from touchstone.model.combining import EnsembleRule
from touchstone.model.reasoning import CLOSE
from touchstone.model.template_layout import TURN, Layout, Pooling, pieces_of, render_text
from touchstone.runtime.files import digest_text, digest_value
from touchstone.runtime.texts import FORM, Form, cleaned
from touchstone.settings.seal import Aggregation

Unit = Literal["text", "token", "step"]


_UNSAID = (
    ("text_form", 0),
    ("length_slope", None),
    ("length_floor", 0),
    ("ensemble", None),
    ("unit", "text"),
    ("aggregation", "last"),
    ("classes", 2),
)


@dataclass(frozen=True, slots=True)
class ScoringRule:
    """How texts become a reward; part of the sealed artifact.

    Attributes:
        max_tokens: most tokens of prompt and completion together.
        template_digest: digest of the chat template's text, or of what the tokenizer writes around a pair of texts.
        pooling: "last": a decoder's reward is read at the last token of the assistant's closed turn, which the chat
            template writes. "mean": an encoder's is read from the mean over all tokens, special ones and prompt
            included, of the pair (prompt, completion). A prompt of one message of the user is that message's text;
            any other is its messages, each with its role before it (TURN) and the pair's separator after it.
        truncation: "prompt_left": the completion stays whole and the prompt loses its beginning. A completion
            that alone is too long loses its end, keeps the closing tokens, and has no prompt. The special tokens in
            front of a pair, and those between its texts, stay in any case.
        text_form: what is done to a text before it is tokenised. 1: the normal form that the import stores too, and
            reasoning written as the chat template writes it. 0: nothing; rules of before it was named.
        length_slope: what is subtracted from the network's reward for each unit of log(1 + tokens of the completion);
            None: nothing.
        length_floor: a completion of fewer tokens loses what one of so many does: how reward goes with length below
            the shortest ones that people judged is known to nobody, and an empty text must gain nothing by it.
        ensemble: how the rewards of several members become one; None for a single model.
        unit: what the head is read for. "text": once, as `pooling` says. "token": at every token of the completion and
            of the closing that the template writes, each the log odds that the answer is correct. "step": at the last
            token of the separator (an empty line) behind each step of the completion, the last one too, so that a step
            reads the same whatever follows it.
        aggregation: how the units' probabilities become one, whose log odds are the reward (`aggregation`).
        classes: how many classes the head tells apart at a unit. 2: by one number, the log odds. 3: by a logit each
            for wrong, neutral and correct; the log odds are those of not being wrong.
    """

    max_tokens: int
    template_digest: str
    pooling: Pooling = "last"
    truncation: Literal["prompt_left"] = "prompt_left"
    text_form: Form = 0
    length_slope: float | None = None
    length_floor: int = 0
    ensemble: EnsembleRule | None = None
    unit: Unit = "text"
    aggregation: Aggregation = "last"
    classes: Literal[2, 3] = 2

    def to_json(self) -> dict[str, Any]:
        """The rule as a JSON-ready dictionary, with no word of what older rules don't name and it doesn't use."""
        plain = {name: value for name, value in asdict(self.of_member()).items() if (name, value) not in _UNSAID}
        return plain if self.ensemble is None else {**plain, "ensemble": self.ensemble.to_json()}

    def of_member(self) -> ScoringRule:
        """The rule by which one member of an ensemble reads a text."""
        return replace(self, ensemble=None)

    def reward(self, value: float, tokens: int) -> float:
        """The reward, in fp32, of what the network gave a completion of so many tokens, its closing ones included."""
        if self.length_slope is None:
            return value
        return float(np.float32(value - self.length_slope * math.log1p(max(tokens, self.length_floor))))

    def text(self, text: str) -> str:
        """A text in the form that is tokenised."""
        return cleaned(text) if self.text_form else text

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ScoringRule:
        """The inverse of `to_json`.

        Raises:
            ModelError: the rule is one that this version doesn't know.
        """
        try:
            rule = cls(**value)
            if rule.ensemble is not None:
                rule = replace(rule, ensemble=EnsembleRule.from_json(value["ensemble"]))
        except TypeError as error:
            raise ModelError(f"the scoring rule can't be read: {error}") from error
        if rule.pooling not in get_args(Pooling) or rule.truncation != "prompt_left":
            raise ModelError(
                f"scoring rule {rule.pooling}/{rule.truncation} is unknown; last/prompt_left and mean/prompt_left are "
                "known: install the version that sealed it, or seal the model again"
            )
        known = rule.unit in get_args(Unit) and rule.aggregation in get_args(Aggregation) and rule.classes in (2, 3)
        if not known:
            raise ModelError(
                f"the scoring rule's unit {rule.unit}, aggregation {rule.aggregation} or {rule.classes} classes are "
                "unknown; install the version that sealed it, or seal the model again"
            )
        if rule.text_form not in get_args(Form):
            raise ModelError(
                f"the scoring rule's text form {rule.text_form} is unknown; install the version that sealed it, or "
                "seal the model again"
            )
        if rule.length_slope is not None and not (math.isfinite(rule.length_slope) and rule.length_floor >= 0):
            raise ModelError(
                f"the scoring rule's slope of length is {rule.length_slope}, from {rule.length_floor} tokens on; seal "
                "the model again"
            )
        return rule


@dataclass(frozen=True, slots=True)
class EncodedGroup:
    """A prompt and its completions as token ids.

    Attributes:
        prompt_ids: the prompt up to where the completion's text begins, special tokens included.
        completion_ids: per completion its text and the template's closing tokens; never empty.
        prompt_starts: per completion, where in `prompt_ids` its own prompt begins: 0, unless the prompt was cut
            to make room for it. Each completion has its own, so no score depends on siblings.
        truncated: per completion, whether anything was cut.
        anchor: what stands in front of the prompt however much of it is cut; empty for a chat template.
        reads: per completion, the places among its ids at which the head is read; None: at all of them, or at the last
            one, as the rule says.
    """

    prompt_ids: list[int]
    completion_ids: list[list[int]]
    prompt_starts: list[int]
    truncated: list[bool]
    anchor: list[int] = field(default_factory=list)
    reads: list[list[int]] | None = None

    @property
    def shared_tokens(self) -> int:
        """Tokens of all completions and of the prompt, counted once: what the group costs, about."""
        return len(self.anchor) + len(self.prompt_ids) + sum(map(len, self.completion_ids))

    def prompt(self, completion: int) -> list[int]:
        """The prompt as this completion sees it."""
        return self.anchor + self.prompt_ids[self.prompt_starts[completion] :]

    def tokens(self, completion: int) -> int:
        """Tokens of prompt and completion together, as scored."""
        seen = len(self.anchor) + len(self.prompt_ids) - self.prompt_starts[completion]
        return seen + len(self.completion_ids[completion])

    def look_alike(self, first: int, second: int) -> bool:
        """Whether two completions are the same tokens after the same prompt, once cut: nothing tells them apart."""
        return (
            self.completion_ids[first] == self.completion_ids[second]
            and self.prompt_starts[first] == self.prompt_starts[second]
        )

    def take(self, completions: Sequence[int]) -> EncodedGroup:
        """The same prompt with only these completions, in this order."""
        return EncodedGroup(
            self.prompt_ids,
            [self.completion_ids[k] for k in completions],
            [self.prompt_starts[k] for k in completions],
            [self.truncated[k] for k in completions],
            self.anchor,
            None if self.reads is None else [self.reads[k] for k in completions],
        )


def scoring_rule(
    tokenizer: PreTrainedTokenizerBase, max_tokens: int, pooling: Pooling = "last", text_form: Form = FORM
) -> ScoringRule:
    """The rule for a tokenizer with a chat template, or with a template for pairs where `pooling` is "mean".

    Raises:
        ModelError: no such template or one that rewrites texts beyond repeating, no fast tokenizer, or `max_tokens`
            leaves no room for a completion.
    """
    pieces = pieces_of(tokenizer)
    layout = pieces.layout(tokenizer, ("user", "assistant"), pooling, text_form, frozenset())
    around = (layout.leading.get(1, []), layout.anchor, layout.closing)
    minimum = sum(map(len, around)) + layout.separator_length
    if max_tokens <= minimum:
        raise ModelError(
            f"model.max_tokens ({max_tokens}) must exceed the {minimum} tokens that the template itself writes; "
            "raise it"
        )
    if pooling == "mean":
        pair = {"before": layout.anchor, "between": layout.turns[0][1], "after": layout.closing, "turn": TURN}
        return ScoringRule(max_tokens, digest_value(pair), pooling, text_form=text_form)
    return ScoringRule(max_tokens, digest_text(str(tokenizer.chat_template)), text_form=text_form)


def encode(
    tokenizer: PreTrainedTokenizerBase, rule: ScoringRule, prompt: Sequence[Message], completions: Sequence[str]
) -> EncodedGroup:
    """Token ids of one prompt with its completions. Safe to call from several threads.

    Raises:
        ModelError: the template can't render this sequence of roles, or alters what it is given.
    """
    return encode_many(tokenizer, rule, [(prompt, completions)])[0]


def encode_many(
    tokenizer: PreTrainedTokenizerBase,
    rule: ScoringRule,
    items: Iterable[tuple[Sequence[Message], Sequence[str]]],
) -> list[EncodedGroup]:
    """`encode` for many prompts at once: one call of the tokenizer, the same ids.

    Raises:
        ModelError: as `encode`.
    """
    pieces = pieces_of(tokenizer)
    items = list(items)
    texts = [
        ([rule.text(message.content) for message in prompt], [rule.text(completion) for completion in completions])
        for prompt, completions in items
    ]
    layouts = [
        pieces.layout(
            tokenizer,
            (*(message.role for message in prompt), "assistant"),
            rule.pooling,
            rule.text_form,
            frozenset(
                place
                for place, (message, content) in enumerate(zip(prompt, contents, strict=True))
                if message.role == "assistant" and CLOSE in content
            ),
        )
        for (prompt, _), (contents, _) in zip(items, texts, strict=True)
    ]
    # Each text as it stands in the template, and what the template writes in front of only some.
    standing = [
        part
        for (prompt, answers), layout in zip(texts, layouts, strict=True)
        for part in (
            *(_standing(tokenizer, layout, place, text) for place, text in enumerate(prompt)),
            *(part for answer in answers for part in _answer(tokenizer, layout, rule.unit, answer)),
        )
    ]
    contents = iter(pieces.content_ids([text for _, text in standing]))
    ids = (leading + content for (leading, _), content in zip(standing, contents, strict=True))
    encoded = []
    for (prompt, answers), layout in zip(texts, layouts, strict=True):
        messages = [next(ids) for _ in prompt]
        prompt_ids = list(layout.opening)
        for message, literal in layout.turns:
            prompt_ids += messages[message]
            prompt_ids += literal
        if rule.unit == "step":
            by_step = [[next(ids) for _ in _segments(answer)] for answer in answers]
            encoded.append(_fit_steps(prompt_ids, by_step, layout, rule.max_tokens))
        else:
            encoded.append(_fit(prompt_ids, [next(ids) for _ in answers], layout, rule.max_tokens))
    return encoded


def _segments(answer: str) -> list[str]:
    """A completion's steps, each with the separator behind it; a text without content is one empty step."""
    return [step + STEP_SEPARATOR for step in steps_of(answer) or [""]]


def _answer(
    tokenizer: PreTrainedTokenizerBase, layout: Layout, unit: Unit, answer: str
) -> list[tuple[list[int], str]]:
    """`_standing` of a completion, in parts where each of its steps is read: no token may reach over their bounds."""
    place = len(layout.roles) - 1
    if unit != "step":
        return [_standing(tokenizer, layout, place, answer)]
    first, *following = _segments(answer)
    return [
        (list(layout.leading.get(place, [])), layout.fronts[place] + first),
        *(([], segment) for segment in following),
    ]


def _standing(tokenizer: PreTrainedTokenizerBase, layout: Layout, place: int, text: str) -> tuple[list[int], str]:
    """The ids that the template writes in front of such a text at one place, and the text as it stands there."""
    frame = layout.frames.get(place)
    if frame is None or CLOSE not in text:
        return layout.leading.get(place, []), layout.fronts[place] + text
    written = frame.written(text, partial(render_text, tokenizer, layout.roles, place))
    return [], written if frame.front else layout.fronts[place] + written


def _fit(prompt_ids: list[int], contents: list[list[int]], layout: Layout, max_tokens: int) -> EncodedGroup:
    """Apply the truncation rule, for each completion by itself."""
    left = max_tokens - len(layout.anchor)
    room = left - layout.separator_length - len(layout.closing)
    completion_ids = [content[:room] + layout.closing for content in contents]
    starts = [max(0, len(prompt_ids) + len(ids) - left) for ids in completion_ids]
    truncated = [start > 0 or len(content) > room for start, content in zip(starts, contents, strict=True)]
    unseen = min(starts, default=0)
    moved = [start - unseen for start in starts]
    return EncodedGroup(prompt_ids[unseen:], completion_ids, moved, truncated, layout.anchor)


def _fit_steps(
    prompt_ids: list[int], completions: list[list[list[int]]], layout: Layout, max_tokens: int
) -> EncodedGroup:
    """`_fit` for completions by their steps. What is read are the last tokens of the steps that are whole; where not
    even the first one is, the last token that is left."""
    fitted = _fit(prompt_ids, [list(chain.from_iterable(steps)) for steps in completions], layout, max_tokens)
    reads = []
    for steps, ids in zip(completions, fitted.completion_ids, strict=True):
        left = len(ids) - len(layout.closing)
        ends = accumulate(map(len, steps))
        reads.append([end - 1 for end in ends if end <= left] or [max(0, left - 1)])
    return replace(fitted, reads=reads)
