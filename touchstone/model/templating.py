"""The one place where text becomes token ids: training, sealing, evaluation and serving all come through here.

A decoder's prompt and completion become one text by its chat template. The template is rendered around markers
instead of around the texts, and split at the markers. An encoder's become a pair, as its tokenizer's own template for
two texts writes it: [CLS] prompt [SEP] completion [SEP].

What a template wrote is tokenised with special tokens parsed, what people wrote with special tokens split: a message
that says `<|im_end|>` or `[SEP]` yields the ids of those characters, never the control token. A text is brought into
its normal form first (`runtime.texts`), whoever sends it, and stands in the template as it is; a template's own
trimming of contents is not repeated, what it makes of reasoning is (`reasoning`). A space that a template writes in
front of a text is tokenised with the text, as in the whole.
"""

from __future__ import annotations

import json
import math
import re
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import accumulate, chain
from typing import Any, Literal, get_args

import numpy as np
from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from touchstone.errors import ModelError
from touchstone.groups import ROLES, STEP_SEPARATOR, Message, steps_of
from touchstone.model.combining import EnsembleRule
from touchstone.model.reasoning import CLOSE, OPEN, PROBES, Frame, frame_of
from touchstone.runtime.files import digest_text, digest_value
from touchstone.runtime.texts import FORM, Form, cleaned
from touchstone.settings.seal import Aggregation

Pooling = Literal["last", "mean"]
Unit = Literal["text", "token", "step"]

TURN = "{role}:\n"
"""What a text pair writes before each message of a prompt that is more than one message of the user."""

_LAYOUT_BYTES = 16 * 2**20
"""Memory for what templates write around sequences of roles: a stranger's requests can't fill more with it."""

MOST_REASONING_TURNS = 64
"""Each is rendered by itself, with all the others around it: many would keep the endpoint busy for one request."""

_MARKER = re.compile("\ue000(\\d+)\ue001")
_SURROGATE = re.compile("[\ud800-\udfff]")


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
    pieces = _pieces(tokenizer)
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
    pieces = _pieces(tokenizer)
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
    tokenizer: PreTrainedTokenizerBase, layout: _Layout, unit: Unit, answer: str
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


def _standing(tokenizer: PreTrainedTokenizerBase, layout: _Layout, place: int, text: str) -> tuple[list[int], str]:
    """The ids that the template writes in front of such a text at one place, and the text as it stands there."""
    frame = layout.frames.get(place)
    if frame is None or CLOSE not in text:
        return layout.leading.get(place, []), layout.fronts[place] + text
    written = frame.written(text, partial(_render_text, tokenizer, layout.roles, place))
    return [], written if frame.front else layout.fronts[place] + written


def _fit(prompt_ids: list[int], contents: list[list[int]], layout: _Layout, max_tokens: int) -> EncodedGroup:
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
    prompt_ids: list[int], completions: list[list[list[int]]], layout: _Layout, max_tokens: int
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


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the template writes around the texts of one sequence of roles, as ids.

    `anchor` and `opening`, then for each of `turns` (index of the message, what follows it); after the completion
    `closing`. However much is cut, `anchor` stays, and so do the last `separator_length` ids in front of the
    completion. `fronts` has, for each message and the completion, what the template writes in front of it and a
    tokenizer joins with it: a space, or nothing. `frames` are those of texts that the template may rewrite, by their
    place among the `roles`; `leading` is what it writes in front of those that have no reasoning.
    """

    roles: tuple[str, ...]
    opening: list[int]
    turns: list[tuple[int, list[int]]]
    closing: list[int]
    fronts: list[str]
    anchor: list[int] = field(default_factory=list)
    separator_length: int = 0
    frames: Mapping[int, Frame] = field(default_factory=dict)
    leading: Mapping[int, list[int]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of memory, about: 36 of an id in a list, 200 of a turn with its key."""
        parts = [self.opening, self.closing, self.anchor, *(literal for _, literal in self.turns)]
        return 36 * sum(map(len, [*parts, *self.leading.values()])) + 200 * len(self.roles)


class _Pieces:
    """A tokenizer taken apart: its template's literals, and private copies of its backend.

    Copies, because a backend's `encode_special_tokens` is a switch on a shared object: the endpoint tokenises
    from several threads, and anybody may call the tokenizer meanwhile.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.is_fast:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path} has no fast version; save it with a tokenizer.json first"
            )
        self._literals = _copy(tokenizer)
        self._contents = _without_special_pieces(_copy(tokenizer))
        self._contents.encode_special_tokens = True
        self._layouts: dict[tuple[Pooling, Form, tuple[str, ...], frozenset[int]], _Layout] = {}
        self._bytes = 0  # of them

    def layout(
        self,
        tokenizer: PreTrainedTokenizerBase,
        roles: tuple[str, ...],
        pooling: Pooling,
        form: Form,
        reasoning: frozenset[int],
    ) -> _Layout:
        """What stands around the texts of these roles, the last being the completion's; `reasoning` are the places of
        earlier turns that hold some.

        The tokenizer is passed in, not kept: as the value of a weak cache this object must not hold its own key.
        """
        layout = self._layouts.get((pooling, form, roles, reasoning))
        if layout is None:
            # A closed set: the template writes the role itself, where special tokens are parsed.
            if not set(roles).issubset(ROLES):
                raise ModelError(f"a message's role is none of {', '.join(sorted(ROLES))}")
            if pooling == "last":
                layout = self._chat(tokenizer, roles, sorted({*reasoning, len(roles) - 1}) if form else [])
            else:
                layout = self._pair(tokenizer, roles)
            if self._bytes + layout.size > _LAYOUT_BYTES:
                self._layouts.clear()
                self._bytes = 0
            if layout.size <= _LAYOUT_BYTES:
                self._layouts[pooling, form, roles, reasoning] = layout
                self._bytes += layout.size
        return layout

    def content_ids(self, texts: list[str]) -> list[list[int]]:
        """Ids of people's texts: special tokens split, lone surrogates replaced by U+FFFD."""
        clean = [_SURROGATE.sub("\ufffd", text) for text in texts]
        return [encoding.ids for encoding in self._contents.encode_batch_fast(clean, add_special_tokens=False)]

    def _literal_ids(self, literal: str) -> list[int]:
        ids: list[int] = self._literals.encode(literal, add_special_tokens=False).ids
        return ids

    def _chat(self, tokenizer: PreTrainedTokenizerBase, roles: tuple[str, ...], probed: Sequence[int]) -> _Layout:
        """What the chat template writes; in the probed places it is asked what it makes of reasoning."""
        if not tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path} has no chat template; add a chat_template.jinja beside it"
            )
        rendered = _render(tokenizer, roles)
        literals = _MARKER.split(rendered)
        order = [int(index) for index in literals[1::2]]
        # Templates may move the system message, but each text must appear once and the completion last.
        if sorted(order) != list(range(len(roles))) or order[-1] != len(roles) - 1:
            raise ModelError(
                f"the chat template drops, repeats or moves a text of the roles {'/'.join(roles)}; "
                "a template that writes each message once, in order, is needed"
            )
        # Byte-level vocabularies hold words with the space before them: cut off, it would be a token of its own.
        before, last = literals[:-1:2], literals[-1]
        fronts = {place: " " if literal.endswith(" ") else "" for place, literal in zip(order, before, strict=True)}
        ids = [self._literal_ids(literal.removesuffix(" ")) for literal in before] + [self._literal_ids(last)]
        if not ids[-1]:
            raise ModelError("the chat template doesn't close the assistant's turn with a token to read the reward at")
        frames = self._frames(tokenizer, roles, rendered, probed)
        leading = {}
        for number, place in enumerate(order):
            if place not in frames or not (front := frames[place].front):
                continue
            # What only some texts have in front is theirs, not their neighbours'.
            leading[place] = self._literal_ids(front.removesuffix(" "))
            shared = self._literal_ids(before[number].removesuffix(front))
            if shared + leading[place] != ids[number]:
                raise ModelError(
                    f"the tokenizer of {tokenizer.name_or_path} joins the {OPEN} that its chat template writes with "
                    "what stands before it; give the model a template that writes each message as it stands"
                )
            ids[number] = shared
        turns = list(zip(order[:-1], ids[1:-1], strict=True))
        return _Layout(
            roles,
            ids[0],
            turns,
            ids[-1],
            [fronts[place] for place in range(len(roles))],
            frames=frames,
            leading=leading,
        )

    def _frames(
        self, tokenizer: PreTrainedTokenizerBase, roles: tuple[str, ...], rendered: str, probed: Sequence[int]
    ) -> dict[int, Frame]:
        """What stands around the texts in the probed places; empty where the template writes them as they stand."""
        if all(
            _render(tokenizer, roles, dict.fromkeys(probed, probe)) == _filled(rendered, probed, probe)
            for probe in PROBES
        ):
            return {}
        if len(probed) > MOST_REASONING_TURNS:
            raise ModelError(
                f"more than {MOST_REASONING_TURNS} turns of a prompt reason between {OPEN} and {CLOSE}, and the chat "
                "template rewrites each; leave the reasoning of earlier turns out"
            )
        frames = {}
        for place in probed:
            render = partial(_render_text, tokenizer, roles, place)
            frame = frame_of(_marker(place), render)
            if frame is None:
                continue
            tags = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
            if any(tag in frame.written(PROBES[0], render) for tag in tags & {OPEN, CLOSE}):
                raise ModelError(
                    f"the chat template rewrites texts that reason between {OPEN} and {CLOSE}, which are control "
                    f"tokens of {tokenizer.name_or_path}, and no text of people becomes one; give the model a "
                    "template that writes each message as it stands"
                )
            frames[place] = frame
        return frames

    def _pair(self, tokenizer: PreTrainedTokenizerBase, roles: tuple[str, ...]) -> _Layout:
        """What the tokenizer writes around two texts, with the prompt's roles in words."""
        example = self._literals.encode("a", "a")
        sides = example.sequence_ids
        ends = [place for place, side in enumerate(sides) if side is not None and sides[place + 1 :][:1] != [side]]
        starts = [place for place, side in enumerate(sides) if side is not None and sides[:place][-1:] != [side]]
        if len(ends) != 2 or starts[1] == ends[0] + 1:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path} writes nothing between two texts, so no encoder can tell "
                "prompt from completion; save it with a post-processor for pairs ([CLS] A [SEP] B [SEP])"
            )
        separator = example.ids[ends[0] + 1 : starts[1]]
        *speakers, _ = roles
        named = speakers not in ([], ["user"])
        names = [self._literal_ids(TURN.format(role=role)) if named else [] for role in speakers]
        # The separator, which no content can write, ends a turn: nobody can speak in another's name.
        after = [separator + name for name in (*names[1:], [])]
        return _Layout(
            roles,
            opening=names[0] if names else separator,
            turns=list(enumerate(after)) if names else [],
            closing=example.ids[ends[1] + 1 :],
            fronts=[""] * len(roles),
            anchor=example.ids[: starts[0]],
            separator_length=len(separator),
        )


def _marker(place: int) -> str:
    """What stands for the text at a place."""
    return f"\ue000{place}\ue001"


def _filled(rendered: str, places: Iterable[int], text: str) -> str:
    """The rendered template with a text instead of the markers of some places."""
    for place in places:
        rendered = rendered.replace(_marker(place), text)
    return rendered


def _render_text(tokenizer: PreTrainedTokenizerBase, roles: tuple[str, ...], place: int, text: str) -> str:
    """The chat template around a text in one place and markers elsewhere."""
    return _render(tokenizer, roles, {place: text})


def _render(tokenizer: PreTrainedTokenizerBase, roles: tuple[str, ...], texts: Mapping[int, str] | None = None) -> str:
    """The chat template around markers, or around the texts that are given for some places."""
    contents = [(texts or {}).get(place, _marker(place)) for place in range(len(roles))]
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    try:
        # Some templates write today's date unless told one: a score must not depend on the day.
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, date_string="26 Jul 2024")
    except (TemplateError, TypeError, ValueError) as error:
        raise ModelError(f"the chat template refuses the roles {'/'.join(roles)}: {error}") from error
    return str(rendered)


def _copy(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy of the backend without truncation or padding."""
    backend: Tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend


def _without_special_pieces(backend: Tokenizer) -> Tokenizer:
    """A backend whose vocabulary never spells a special token, with the same ids.

    A unigram vocabulary holds `</s>` as an ordinary piece with the best score of all: splitting special tokens hands
    the text to a model that puts it together again, as it does with what normalisation makes of other letters. So
    these pieces get names with a space, which such a tokenizer replaces before the model sees it.
    """
    described: dict[str, Any] = json.loads(backend.to_str())
    if described["model"]["type"] != "Unigram":
        return backend
    special = {
        token["content"]: f" \ue000{token['content']}" for token in described["added_tokens"] if token["special"]
    }
    for token in described["added_tokens"]:
        token["content"] = special.get(token["content"], token["content"])
    described["model"]["vocab"] = [[special.get(piece, piece), score] for piece, score in described["model"]["vocab"]]
    altered: Tokenizer = Tokenizer.from_str(json.dumps(described))
    return altered


_CACHE: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, _Pieces] = weakref.WeakKeyDictionary()


def _pieces(tokenizer: PreTrainedTokenizerBase) -> _Pieces:
    """The tokenizer's pieces, taken apart once. Two threads may do it twice, with the same result."""
    pieces = _CACHE.get(tokenizer)
    if pieces is None:
        pieces = _CACHE[tokenizer] = _Pieces(tokenizer)
    return pieces
