"""What one request may hold: how many texts, how long, in which order. Refused before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from touchstone.errors import ModelError
from touchstone.groups import OUT_OF_ORDER, in_order
from touchstone.model.rendered import Conversation, Rendered
from touchstone.model.scores import Item
from touchstone.model.scoring import Scorer
from touchstone.model.templating import EncodedGroup
from touchstone.serving.cost import Size
from touchstone.serving.jobs import Encode
from touchstone.serving.refusals import Refusal
from touchstone.serving.shadow import EncodeBy
from touchstone.settings.serve import Serve

UNLIMITED = 2**31 - 1
"""More tokens than a text can have."""


class OverLongError(ModelError):
    """A text has more tokens than the model reads, and is not to be cut."""


def whole(encode: EncodeBy, scorer: Scorer) -> Encode:
    """An encoder of a version that cuts nothing: it raises OverLongError, with both counts of tokens."""
    return partial(_whole, encode, scorer)


def _whole(encode: EncodeBy, scorer: Scorer, items: Sequence[Any]) -> list[EncodedGroup]:
    groups = encode(scorer)(items)
    for item, group in zip(items, groups, strict=True):
        if any(group.truncated):
            rule = replace(scorer.model.rule, max_tokens=UNLIMITED)
            (uncut,) = encode(Scorer(replace(scorer.model, rule=rule), scorer.card))([item])
            tokens = max(uncut.tokens(completion) for completion in range(len(uncut.completion_ids)))
            most = scorer.model.rule.max_tokens
            raise OverLongError(f"a text of {tokens} tokens with its prompt, and the model reads at most {most}")
    return groups


def check_items(items: Sequence[Item], settings: Serve) -> None:
    """
    Raises:
        Refusal: 422, more than a request may hold, or turns out of order.
    """
    count = sum(len(completions) for _, completions in items)
    if count > settings.max_completions:
        raise Refusal(
            422,
            "too_many_completions",
            f"{count} completions in one request, at most {settings.max_completions} may be; send several",
        )
    for number, (prompt, _) in enumerate(items):
        if len(prompt) > settings.max_turns:
            raise Refusal(
                422,
                "too_many_turns",
                f"inputs.{number}.prompt: {len(prompt)} turns, at most {settings.max_turns} may be",
            )
        if not in_order(prompt):
            raise Refusal(422, "unusable_prompt", OUT_OF_ORDER)
    _check_lengths(
        {
            f"inputs.{number}.{part}": [len(text) for text in texts]
            for number, (prompt, completions) in enumerate(items)
            for part, texts in (("prompt", [message.content for message in prompt]), ("completions", completions))
        },
        settings,
    )


def check_texts(texts: Sequence[Rendered | Conversation], settings: Serve) -> None:
    """
    Raises:
        Refusal: 422, more than a request may hold, or turns out of order.
    """
    count = sum(len(text.completions) if isinstance(text, Conversation) else 1 for text in texts)
    most = settings.max_completions
    if count > most:
        raise Refusal(422, "too_many_completions", f"{count} texts in one request, at most {most} may be")
    check_items([(text.prompt, text.completions) for text in texts if isinstance(text, Conversation)], settings)
    sizes = {number: size_of(text) for number, text in enumerate(texts) if isinstance(text, Rendered)}
    _check_lengths({f"texts.{number}": [size.total] for number, size in sizes.items()}, settings)


def size_of(text: Rendered | Conversation) -> Size:
    """Characters of a text; ids count as one each."""
    if isinstance(text, Conversation):
        return item_size((text.prompt, text.completions))
    if text.completion is None:
        return Size(0, (len(text.text),))
    return Size(len(text.text), (len(text.completion),))


def item_size(item: Item) -> Size:
    """Characters of a prompt and of its completions."""
    prompt, completions = item
    return Size(sum(len(message.content) for message in prompt), tuple(map(len, completions)))


def _check_lengths(lengths: Mapping[str, Sequence[int]], settings: Serve) -> None:
    """Refuse texts of too many characters, which are given by the field that holds them."""
    for name, texts in lengths.items():
        if max(texts, default=0) > settings.max_text_characters:
            raise Refusal(
                422,
                "text_too_long",
                f"{name}: a text of {max(texts)} characters, at most {settings.max_text_characters} may be",
            )
    total = sum(map(sum, lengths.values()))
    if total > settings.max_request_characters:
        raise Refusal(
            422,
            "request_too_long",
            f"{total} characters in one request, at most {settings.max_request_characters} may be; send several",
        )
