"""What a tokenizer's template writes around texts, as token ids: a chat template's literals, or an encoder's pair.

    layout = pieces_of(tokenizer).layout(tokenizer, ("user", "assistant"), "last", FORM, frozenset())
    layout.opening, layout.turns, layout.closing

The template is rendered around markers instead of around the texts, and split at the markers. What it wrote is
tokenised with special tokens parsed, what people wrote (`Pieces.content_ids`) with special tokens split.
"""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from touchstone.errors import ModelError
from touchstone.groups import ROLES
from touchstone.model.reasoning import CLOSE, OPEN, PROBES, Frame, frame_of
from touchstone.runtime.texts import Form

Pooling = Literal["last", "mean"]

TURN = "{role}:\n"
"""What a text pair writes before each message of a prompt that is more than one message of the user."""

LAYOUT_BYTES = 16 * 2**20
"""Memory for what templates write around sequences of roles: a stranger's requests can't fill more with it."""

MOST_REASONING_TURNS = 64
"""Each is rendered by itself, with all the others around it: many would keep the endpoint busy for one request."""

MARKER = re.compile("\ue000(\\d+)\ue001")
"""What stands for a text while a template is rendered."""

SURROGATE = re.compile("[\ud800-\udfff]")
"""Halves of characters, which no tokenizer takes."""


@dataclass(frozen=True, slots=True)
class Layout:
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


class Pieces:
    """A tokenizer taken apart: its template's literals, and private copies of its backend.

    Copies, because a backend's `encode_special_tokens` is a switch on a shared object: the endpoint tokenises
    from several threads, and anybody may call the tokenizer meanwhile.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.is_fast:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path} has no fast version; save it with a tokenizer.json first"
            )
        self.literals = _copy(tokenizer)
        self._contents = _without_special_pieces(_copy(tokenizer))
        self._contents.encode_special_tokens = True
        self._layouts: dict[tuple[Pooling, Form, tuple[str, ...], frozenset[int]], Layout] = {}
        self._bytes = 0  # of them

    def layout(
        self,
        tokenizer: PreTrainedTokenizerBase,
        roles: tuple[str, ...],
        pooling: Pooling,
        form: Form,
        reasoning: frozenset[int],
    ) -> Layout:
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
            if self._bytes + layout.size > LAYOUT_BYTES:
                self._layouts.clear()
                self._bytes = 0
            if layout.size <= LAYOUT_BYTES:
                self._layouts[pooling, form, roles, reasoning] = layout
                self._bytes += layout.size
        return layout

    def content_ids(self, texts: list[str]) -> list[list[int]]:
        """Ids of people's texts: special tokens split, lone surrogates replaced by U+FFFD."""
        clean = [SURROGATE.sub("\ufffd", text) for text in texts]
        return [encoding.ids for encoding in self._contents.encode_batch_fast(clean, add_special_tokens=False)]

    def _literal_ids(self, literal: str) -> list[int]:
        ids: list[int] = self.literals.encode(literal, add_special_tokens=False).ids
        return ids

    def _chat(self, tokenizer: PreTrainedTokenizerBase, roles: tuple[str, ...], probed: Sequence[int]) -> Layout:
        """What the chat template writes; in the probed places it is asked what it makes of reasoning."""
        if not tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path} has no chat template; add a chat_template.jinja beside it"
            )
        rendered = render(tokenizer, roles)
        literals = MARKER.split(rendered)
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
        return Layout(
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
            render(tokenizer, roles, dict.fromkeys(probed, probe)) == _filled(rendered, probed, probe)
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
            rendering = partial(render_text, tokenizer, roles, place)
            frame = frame_of(_marker(place), rendering)
            if frame is None:
                continue
            tags = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
            if any(tag in frame.written(PROBES[0], rendering) for tag in tags & {OPEN, CLOSE}):
                raise ModelError(
                    f"the chat template rewrites texts that reason between {OPEN} and {CLOSE}, which are control "
                    f"tokens of {tokenizer.name_or_path}, and no text of people becomes one; give the model a "
                    "template that writes each message as it stands"
                )
            frames[place] = frame
        return frames

    def _pair(self, tokenizer: PreTrainedTokenizerBase, roles: tuple[str, ...]) -> Layout:
        """What the tokenizer writes around two texts, with the prompt's roles in words."""
        example = self.literals.encode("a", "a")
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
        return Layout(
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


def render_text(tokenizer: PreTrainedTokenizerBase, roles: tuple[str, ...], place: int, text: str) -> str:
    """The chat template around a text in one place and markers elsewhere."""
    return render(tokenizer, roles, {place: text})


def render(tokenizer: PreTrainedTokenizerBase, roles: tuple[str, ...], texts: Mapping[int, str] | None = None) -> str:
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


_CACHE: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, Pieces] = weakref.WeakKeyDictionary()


def pieces_of(tokenizer: PreTrainedTokenizerBase) -> Pieces:
    """The tokenizer's pieces, taken apart once. Two threads may do it twice, with the same result."""
    pieces = _CACHE.get(tokenizer)
    if pieces is None:
        pieces = _CACHE[tokenizer] = Pieces(tokenizer)
    return pieces
