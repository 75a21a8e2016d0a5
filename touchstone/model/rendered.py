"""Texts that a client has rendered itself, by a chat template or into token ids: what RL trainers send.

A text that reads as the artifact's own template writes a conversation is taken apart into its messages, which are
encoded as they are everywhere else: the same ids, the same cut, so the same score. What people wrote in it can't
become a control token, and completions of one prompt share it. Any other text is encoded as it stands, its special
tokens parsed, and loses its beginning where it is too long.

    text = "<|im_start|>user\\n2+2?<|im_end|>\\n<|im_start|>assistant\\n4<|im_end|>"
    reading = read_rendered([model], [Rendered(text)])
    scores = scorer.score_encoded(encode_rendered(model, reading.sources))
    [scores[source][completion] for source, completion in reading.places]
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase

from touchstone.errors import ModelError
from touchstone.groups import Message
from touchstone.model.network import RewardModel
from touchstone.model.template_layout import MARKER, SURROGATE, pieces_of, render
from touchstone.model.templating import EncodedGroup, ScoringRule, encode_many
from touchstone.runtime.files import digest_value

MOST_ROUNDS = 64
"""A text of more rounds of user and assistant is encoded as it stands: each number of them is a rendering to keep."""

_SHORTEST = ("user", "assistant")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as a client's template wrote it, or its token ids.

    Attributes:
        text: all of it, or what stands in front of the completion.
        completion: where the client says where it begins; what is scored is both together.
        add_special_tokens: put a BOS in front, and whatever else the tokenizer puts around a text, where it isn't yet.
        ends: the text ends with exactly one EOS, whether the client sent one or not.
    """

    text: str | Sequence[int]
    completion: str | Sequence[int] | None = None
    add_special_tokens: bool = False
    ends: bool = False


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages and completions that no template has touched.

    Attributes:
        ends: a completion may end with the text of the EOS, which is taken off: the template closes the turn.
    """

    prompt: tuple[Message, ...]
    completions: Sequence[str]
    ends: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """What some texts are.

    Attributes:
        sources: what is encoded, a group each; texts of one prompt lie in one conversation.
        places: per text, its source and which of the source's completions it is.
        bos_added: per text, whether a BOS is put in front that the client hasn't sent.
    """

    sources: list[Rendered | Conversation]
    places: list[tuple[int, int]]
    bos_added: list[bool]


def read_rendered(models: Sequence[RewardModel], texts: Sequence[Rendered | Conversation]) -> Reading:
    """Take texts apart where a model's template wrote them; nothing is tokenised yet.

    A conversation of several completions counts as so many texts.

    Args:
        models: all that shall score the same texts. What the template of the first that knows it has written is the
            conversation that every one of them scores, each in its own template.

    Raises:
        ModelError: a rendered text for a model that reads pairs, or token ids for models with different vocabularies.
    """
    sources: list[Rendered | Conversation] = []
    numbers: dict[tuple[Message, ...], int] = {}
    completions: dict[int, list[str]] = {}
    places: list[tuple[int, int]] = []
    bos_added: list[bool] = []
    for text in texts:
        source, added = (_bare(models, text), False) if isinstance(text, Conversation) else _read(models, text)
        if isinstance(source, Rendered):
            places.append((len(sources), 0))
            bos_added.append(added)
            sources.append(source)
            continue
        number = numbers.setdefault(source.prompt, len(sources))
        if number == len(sources):
            completions[number] = []
            sources.append(Conversation(source.prompt, completions[number]))
        places += [(number, len(completions[number]) + k) for k in range(len(source.completions))]
        bos_added += [added] * len(source.completions)
        completions[number] += source.completions
    return Reading(sources, places, bos_added)


def encode_rendered(model: RewardModel, sources: Sequence[Rendered | Conversation]) -> list[EncodedGroup]:
    """Token ids of a reading's sources, a group each. Safe to call from several threads.

    Raises:
        ModelError: a text of no token, an id that the model doesn't have, roles that the template can't render.
    """
    items = [(source.prompt, source.completions) for source in sources if isinstance(source, Conversation)]
    groups = iter(encode_many(model.tokenizer, model.rule, items))
    return [next(groups) if isinstance(source, Conversation) else _as_it_stands(model, source) for source in sources]


def _read(models: Sequence[RewardModel], rendered: Rendered) -> tuple[Conversation | Rendered, bool]:
    """What a rendered text is, and whether a BOS is added."""
    readers = [model for model in models if model.rule.pooling == "last"]
    for model in readers:
        conversation = _taken_apart(model, rendered)
        if conversation is not None:
            return conversation
    if len(readers) < len(models):
        raise ModelError(
            "this model reads prompt and completion as a pair of texts, and none that a chat template rendered; send "
            "both apart (/v1/rewards, /score or /rerank)"
        )
    if _holds_ids(rendered) and len({_vocabulary(model.tokenizer) for model in models}) > 1:
        raise ModelError("these token ids would be other words to each of the models that score them; send texts")
    return rendered, any(_lacks(model, rendered, _front(model)) for model in models)


def _front(model: RewardModel) -> list[int]:
    """What the tokenizer writes in front of a text."""
    return _around(pieces_of(model.tokenizer).literals.encode("a"))[0]


def _holds_ids(rendered: Rendered) -> bool:
    return not isinstance(rendered.text, str) or not isinstance(rendered.completion, str | None)


def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest of the pieces that ids stand for."""
    if tokenizer not in _VOCABULARIES:
        _VOCABULARIES[tokenizer] = digest_value(tokenizer.get_vocab())
    return _VOCABULARIES[tokenizer]


# --- a text that the model's own template has written ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Literals:
    """What the chat template writes in front of each text of some roles, and behind the last.

    Attributes:
        before: without the space at its end.
        spaces: that space, or nothing; a client's template may leave it to the text.
        front: what is written behind the last of `before`, but not in front of a completion that has reasoning.
    """

    before: list[str]
    spaces: list[str]
    front: str
    after: str


_VOCABULARIES: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, str] = weakref.WeakKeyDictionary()
_CACHE: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, dict[object, _Literals | None]] = (
    weakref.WeakKeyDictionary()
)


def _taken_apart(model: RewardModel, rendered: Rendered) -> tuple[Conversation, bool] | None:
    """The conversation of a text and whether its BOS was missing; None if our template hasn't written it."""
    text, completion = rendered.text, rendered.completion
    if not isinstance(text, str) or not isinstance(completion, str | None):
        return None
    tokenizer, form = model.tokenizer, model.rule.text
    text = _without_padding(tokenizer, form(text))
    answer = None if completion is None else _without_padding(tokenizer, form(completion))

    # A boundary that a client states holds: what follows it is one completion, whatever it pretends to be.
    readings = [(text, answer)] if answer is None else [(text, answer), (text + answer, None)]
    for prefix, rest in readings:
        for literals in _candidates(tokenizer, model.rule, prefix):
            bos = _missing_bos(tokenizer, literals, prefix) if rendered.add_special_tokens else ""
            contents = _contents(literals, bos + prefix, rest)
            if contents is None:
                continue
            system = ["system"] if len(contents) % 2 else []
            roles = [*system, *_SHORTEST * (len(contents) // 2)]
            prompt = tuple(map(Message, roles[:-1], contents[:-1]))
            completions = [_unclosed(contents[-1], literals.after, tokenizer.eos_token)]
            return Conversation(prompt, completions), bool(bos)
    return None


def _missing_bos(tokenizer: PreTrainedTokenizerBase, literals: _Literals, text: str) -> str:
    """The BOS where our template writes one and the client took it off, as verl does."""
    bos = str(tokenizer.bos_token or "")
    return bos if literals.before[0].startswith(bos) and not text.startswith(bos) else ""


def _candidates(tokenizer: PreTrainedTokenizerBase, rule: ScoringRule, text: str) -> list[_Literals]:
    """What our template would write around as many rounds as the text seems to have, with a system message and
    without; first the one that says more in the beginning (a template may write a system message of its own)."""
    shortest = _literals(tokenizer, rule, _SHORTEST)
    if shortest is None or not shortest.before[1].strip():
        return []
    rounds = text.count(shortest.before[1])
    if not 0 < rounds <= MOST_ROUNDS:
        return []
    turns = _SHORTEST * rounds
    candidates = (_literals(tokenizer, rule, roles) for roles in (turns, ("system", *turns)))
    return sorted((literals for literals in candidates if literals), key=lambda literals: -len(literals.before[0]))


def _literals(tokenizer: PreTrainedTokenizerBase, rule: ScoringRule, roles: tuple[str, ...]) -> _Literals | None:
    """The template's literals, in the form that a client's text is brought into; None if it can't render these roles,
    or moves a message."""
    cache = _CACHE.setdefault(tokenizer, {})
    key = (rule.text_form, roles)
    if key not in cache:
        cache[key] = _read_literals(tokenizer, rule, roles)
    return cache[key]


def _read_literals(tokenizer: PreTrainedTokenizerBase, rule: ScoringRule, roles: tuple[str, ...]) -> _Literals | None:
    try:
        layout = pieces_of(tokenizer).layout(tokenizer, roles, "last", rule.text_form, frozenset())
        parts = MARKER.split(render(tokenizer, roles))
    except ModelError:
        return None
    if [int(place) for place in parts[1::2]] != list(range(len(roles))):
        return None
    *before, after = (rule.text(part) for part in parts[::2])
    frame = layout.frames.get(len(roles) - 1)
    front = rule.text(frame.front) if frame else ""
    before[-1] = before[-1].removesuffix(front)
    spaces = [" " if literal.endswith(" ") else "" for literal in before]
    return _Literals([literal.removesuffix(" ") for literal in before], spaces, front, after)


def _contents(literals: _Literals, text: str, completion: str | None) -> list[str] | None:
    """The texts between the literals; with `completion` the text ends where that begins. None if it isn't so."""
    opening, *between = literals.before
    if not text.startswith(opening):
        return None
    rest = text[len(opening) :]
    contents = []
    for literal in between:
        content, separator, rest = rest.partition(literal)
        if not separator:
            return None
        contents.append(content)
    if completion is not None and rest.removeprefix(literals.spaces[-1]) not in ("", literals.front):
        return None
    contents.append(rest if completion is None else completion)
    contents = [content.removeprefix(space) for content, space in zip(contents, literals.spaces, strict=True)]
    contents[-1] = contents[-1].removeprefix(literals.front)
    return contents


def _unclosed(text: str, after: str, eos: str | None) -> str:
    """A completion without what closes its turn, whichever way a client wrote it: the template writes that again."""
    if after and text.endswith(after):
        return text.removesuffix(after)
    end = len(text.rstrip())  # another template of the family may write a newline behind the EOS, or none
    for ending in (after.strip(), eos):
        if ending and text.endswith(ending, 0, end):
            return text[: end - len(ending)]
    return text


def _bare(models: Sequence[RewardModel], conversation: Conversation) -> Conversation:
    """A conversation whose completions don't end with the text of an EOS, where they may: of the first model that has
    such an one."""
    if not conversation.ends:
        return conversation
    for model in models:
        bare = _without_end(model, conversation)
        if bare.completions != conversation.completions:
            return bare
    return conversation


def _without_end(model: RewardModel, conversation: Conversation) -> Conversation:
    if model.rule.pooling != "last":
        return conversation
    shortest = _literals(model.tokenizer, model.rule, _SHORTEST)
    closing = shortest.after.strip() if shortest else ""
    eos = model.tokenizer.eos_token
    return replace(conversation, completions=[_unclosed(text, closing, eos) for text in conversation.completions])


# --- any other text --------------------------------------------------------------------------------------------------


def _as_it_stands(model: RewardModel, rendered: Rendered) -> EncodedGroup:
    """A text, special tokens parsed, or ids, as a group of one completion."""
    text, completion = rendered.text, rendered.completion
    if completion is None and model.rule.aggregation != "last":
        raise ModelError(
            "this model reads every token of an answer, and the text doesn't say where one begins: it isn't as the "
            "model's own template writes it; send prompt and completion apart (/v1/rewards, /score or /rerank)"
        )
    backend = pieces_of(model.tokenizer).literals
    if isinstance(text, str) and isinstance(completion, str | None):
        prompt, answer = _text_ids(model, backend, text, completion, ends=rendered.ends)
    else:
        *before, answer = [_ids(model, backend, part) for part in (text, completion) if part is not None]
        prompt = before[0] if before else []
    if not answer:  # a completion of nothing is read at the prompt's last token
        prompt, answer = prompt[:-1], prompt[-1:]
    if not answer:
        raise ModelError("a text without a single token has no score")

    # What the tokenizer itself puts around a text; never twice.
    if rendered.add_special_tokens and isinstance(text, str):
        front, back = _around(backend.encode("a"))
        if front and _lacks(model, rendered, front):
            prompt, answer = (front + prompt, answer) if prompt else ([], front + answer)
        if back and answer[-len(back) :] != back:
            answer = answer + back
    return _cut(prompt, answer, model.rule.max_tokens)


def _lacks(model: RewardModel, rendered: Rendered, front: Sequence[int]) -> bool:
    """Whether special tokens are to be put in front of a text: it doesn't begin with theirs."""
    if not rendered.add_special_tokens or not isinstance(rendered.text, str):
        return False
    written = "".join(model.tokenizer.convert_ids_to_tokens(list(front)))
    text = model.rule.text(rendered.text)
    return not text.startswith(written, _unpadded(model.tokenizer, text)[0])


def _text_ids(
    model: RewardModel, backend: Tokenizer, text: str, completion: str | None, *, ends: bool
) -> tuple[list[int], list[int]]:
    """Ids of a text up to its completion, and from there; tokenised in one, as the client's model did."""
    before = model.rule.text(text)
    rendering = before + model.rule.text(completion or "")
    start, end = _unpadded(model.tokenizer, rendering)
    eos = model.tokenizer.eos_token
    if ends and eos:
        while rendering.endswith(eos, start, end):
            end -= len(eos)
        rendering = rendering[start:end] + eos
    else:
        rendering = rendering[start:end]
    encoding: Encoding = backend.encode(SURROGATE.sub("\ufffd", rendering), add_special_tokens=False)
    ids = list(encoding.ids)
    if completion is None:
        return [], ids
    boundary = len(before) - start
    cut = sum(1 for _ in takewhile(lambda span: span[1] <= boundary, encoding.offsets))
    return ids[:cut], ids[cut:]


def _ids(model: RewardModel, backend: Tokenizer, part: str | Sequence[int]) -> list[int]:
    """Ids that a client sent, without padding at either end, or of a text beside such."""
    if isinstance(part, str):
        encoding: Encoding = backend.encode(SURROGATE.sub("\ufffd", model.rule.text(part)), add_special_tokens=False)
        return list(encoding.ids)
    size = int(model.network.config.vocab_size)
    if not all(0 <= number < size for number in part):
        raise ModelError(f"a token id is none of the model's, which go from 0 to {size - 1}")
    start, end = 0, len(part)
    if _pads(model.tokenizer):
        pad = model.tokenizer.pad_token_id
        start = sum(1 for _ in takewhile(lambda number: number == pad, part))
        end -= sum(1 for _ in takewhile(lambda number: number == pad, reversed(part)))
    return list(part[start:end])


def _pads(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the pad token means nothing but padding."""
    return bool(tokenizer.pad_token) and tokenizer.pad_token not in (tokenizer.eos_token, tokenizer.bos_token)


def _without_padding(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """A text without pad tokens at either end; no other character is taken away."""
    start, end = _unpadded(tokenizer, text)
    return text[start:end]


def _unpadded(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, int]:
    """Where a text begins and ends without pad tokens, which would be read instead of its last token."""
    start, end = 0, len(text)
    if not _pads(tokenizer):
        return start, end
    pad = str(tokenizer.pad_token)
    while text.startswith(pad, start):
        start += len(pad)
    while text.endswith(pad, start, end):
        end -= len(pad)
    return start, end


def _around(example: Encoding) -> tuple[list[int], list[int]]:
    """What a tokenizer writes in front of a text and behind it, by what it does to one."""
    marks = example.special_tokens_mask
    first, last = marks.index(0), len(marks) - marks[::-1].index(0)
    return list(example.ids[:first]), list(example.ids[last:])


def _cut(prompt: list[int], completion: list[int], max_tokens: int) -> EncodedGroup:
    """A text within the token limit: the prompt loses its beginning first.

    A completion that alone is too long loses its end, but for its last token, which is read. A text without a known
    boundary is all completion, and loses its beginning.
    """
    excess = len(prompt) + len(completion) - max_tokens
    if excess <= 0:
        return EncodedGroup(prompt, [completion], [0], [False])
    if not prompt:
        return EncodedGroup([], [completion[excess:]], [0], [True])
    if excess > len(prompt):
        completion = completion[: max_tokens - 1] + completion[-1:]
    return EncodedGroup(prompt[excess:], [completion], [0], [True])
