"""The prompt and the answers of a table's row, whatever form they have there.

| form | a value |
|---|---|
| text | text, taken as it is |
| messages | one message or a list of messages, under the keys and names of roles that people use |
| json | the same, or a list of texts, as JSON inside a text |
| transcript | "\\n\\nHuman: ... \\n\\nAssistant: ..." |
| auto | messages; a text that is a transcript, or that is a JSON list of messages; else text |

A list of texts is the turns of one speaker: the prompt's user turns, and for each completion the answers to them.

Completions may be whole dialogues. They must be the same up to their last turns; what they share is the prompt, and
what the prompt field holds must be its beginning or its end (a dialogue may hold a system message or earlier turns
that the field lacks, or the other way round).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from touchstone.data.sources.hh_rlhf import joined_turns, transcript_turns
from touchstone.data.sources.paths import parse_json, value_at
from touchstone.data.sources.preference import split_texts
from touchstone.data.sources.rows import Unusable, answer_text, check_turns
from touchstone.groups import ROLES, Message
from touchstone.settings.table import Form, Spelling, TableData

ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value", "text")
ROLE_NAMES = {
    **{role: role for role in ROLES},
    **dict.fromkeys(("human", "prompter", "customer", "instruction"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "chatbot", "bot", "ai", "model", "agent", "response"), "assistant"),
    **dict.fromkeys(("function", "observation", "ipython"), "tool"),
}
"""What people call the roles, without case."""

_BEFORE_MESSAGES = frozenset("[ \t\r\n")
"""What a text begins with that may hold messages as JSON: only then it is looked at more closely."""

Dialogue = tuple[Message, ...]
Spoken = str | list[str] | Dialogue
"""What a field says: a text, the turns of one speaker, or a dialogue."""


def prompt_and_answers(
    values: Mapping[str, Any], completions: Sequence[tuple[str, Any]], settings: TableData
) -> tuple[Dialogue, list[str]]:
    """A row's prompt, and its answers in the order of the completions.

    Args:
        completions: each completion's path and value.

    Raises:
        Unusable: a part is missing or of another form, or the dialogues part before their last turn.
    """
    prompt = _prompt(values, settings)
    turns = _turn(values, settings.turn)
    spoken = [(field, spoken_value(value, field, settings.completion_form, settings)) for field, value in completions]
    if isinstance(prompt, list):
        spoken = [(field, _interleaved(prompt, answers, field)) for field, answers in spoken]
        prompt = None
    answers: list[str] = []
    shared: set[Dialogue] = set()
    for field, said_there in spoken:
        if isinstance(said_there, list):
            raise Unusable(f"'{field}' is a list of texts; name its items with '{field}[]'")
        if isinstance(said_there, str):
            answers.append(said_there)
            continue
        dialogue = said_there if turns is None else _until(said_there, turns)
        if not dialogue or dialogue[-1].role != "assistant":
            raise Unusable(f"'{field}' doesn't end with an assistant turn")
        answers.append(answer_text(dialogue[-1].content, field))
        if len(dialogue) > 1:
            shared.add(dialogue[:-1])
    if len(shared) > 1:
        raise Unusable("the dialogues part before their last turn")
    if shared:
        prompt = _whole_prompt(prompt, shared.pop())
    elif prompt is None and len(answers) == 2:
        text, *answers = split_texts(*answers)
        prompt = (Message("user", text),)
    elif prompt is None:
        raise Unusable("no prompt: name its field in data.prompt")
    check_turns(prompt)
    return prompt, answers


def said_prompt(value: Any, field: str, spelling: Spelling) -> Dialogue:
    """The prompt of a field that holds a text, which is one user message, or chat messages.

    Raises:
        Unusable: it holds neither, or its turns are out of order.
    """
    spoken = spoken_value(value, field, "auto", spelling)
    if isinstance(spoken, list):
        raise Unusable(f"'{field}' is neither text nor messages")
    prompt = (Message("user", spoken),) if isinstance(spoken, str) else spoken
    check_turns(prompt)
    return prompt


def spoken_value(value: Any, field: str, form: Form, spelling: Spelling) -> Spoken:
    """What the value of a field says, read by its form.

    Raises:
        Unusable: it has another form.
    """
    if form == "transcript" or (form == "auto" and isinstance(value, str) and value.startswith("\n\nHuman:")):
        return _transcript(value, field)
    if form == "json" and isinstance(value, str):
        value = parse_json(value, field)
    elif (
        form == "auto" and isinstance(value, str) and value[:1] in _BEFORE_MESSAGES and value.lstrip().startswith("[{")
    ):
        value = _messages_in(value, field, spelling)
    if form == "text" or isinstance(value, str):
        if form == "messages":
            raise Unusable(f"'{field}' is text, not messages")
        return answer_text(value, field)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not value:
        raise Unusable(f"'{field}' is neither text nor messages")
    if form != "messages" and not any(isinstance(turn, dict) for turn in value):
        return [answer_text(turn, field) for turn in value]
    return tuple(message(turn, field, spelling) for turn in value)


def _prompt(values: Mapping[str, Any], settings: TableData) -> Dialogue | list[str] | None:
    """What the prompt's fields say together; None where there are none."""
    if settings.prompt is None:
        prompt: Spoken | None = None
    elif isinstance(settings.prompt, list):
        prompt = _joined([_optional_text(values, path) for path in settings.prompt])
    else:
        value = value_at(values, settings.prompt)
        if value is None:
            raise Unusable(f"no field '{settings.prompt}'")
        prompt = spoken_value(value, settings.prompt, settings.prompt_form, settings)
    if isinstance(prompt, tuple) and settings.prompt_form in ("transcript", "auto"):
        # A transcript that ends with "Assistant:" says that the answer is to come.
        prompt = prompt[:-1] if prompt[-1].role == "assistant" and not prompt[-1].content.strip() else prompt
    before = [*_system(values, settings.system), *_history(values, settings)]
    below = _optional_text(values, settings.input)
    if isinstance(prompt, list):
        if before or below:
            raise Unusable("the prompt is a list of turns, which goes with no system, history or input")
        return prompt
    if prompt is None:
        if below:
            raise Unusable("data.input goes below a prompt; name its field in data.prompt")
        return tuple(before) or None
    turns = [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)
    if below and turns:
        turns[-1] = Message(turns[-1].role, f"{turns[-1].content}\n\n{below}")
    return tuple(before + turns)


def _whole_prompt(prompt: Dialogue | None, shared: Dialogue) -> Dialogue:
    """What dialogues share, or the prompt field holds: the longer of the two, of which the other must be a part."""
    if prompt is None:
        return shared
    longer, shorter = (shared, prompt) if len(shared) >= len(prompt) else (prompt, shared)
    if longer[: len(shorter)] != shorter and longer[len(longer) - len(shorter) :] != shorter:
        raise Unusable(
            "the dialogues don't begin with what the prompt's field holds; set data.prompt to null for theirs"
        )
    return longer


def _interleaved(prompt: list[str], answers: Spoken, field: str) -> Dialogue:
    """The dialogue of user turns and the answers to them."""
    listed = [answers] if isinstance(answers, str) else answers
    if not isinstance(listed, list) or len(listed) != len(prompt):
        raise Unusable(f"'{field}' has not one answer for each turn of the prompt")
    return tuple(
        turn
        for question, answer in zip(prompt, listed, strict=True)
        for turn in (Message("user", question), Message("assistant", answer))
    )


def _until(dialogue: Dialogue, turns: int) -> Dialogue:
    """The dialogue up to its answer number `turns`."""
    answers = [place for place, message in enumerate(dialogue) if message.role == "assistant"]
    if len(answers) < turns:
        raise Unusable("a dialogue has fewer turns than data.turn says")
    return dialogue[: answers[turns - 1] + 1]


def _turn(values: Mapping[str, Any], path: str | None) -> int | None:
    turn = None if path is None else value_at(values, path)
    if path is None:
        return None
    text = str(turn).removesuffix(".0")
    if isinstance(turn, bool) or not text.isdecimal() or not text.isascii() or not 1 <= int(text[:6]) < 10_000:
        raise Unusable(f"'{path}' is no turn counted from 1")
    return int(text)


def _transcript(value: Any, field: str) -> Dialogue:
    """The turns of a transcript; a speaker's turns in a row are one, but for the last answer, which stands alone."""
    turns = transcript_turns(value, field)
    if turns[-1].role != "assistant":
        return tuple(joined_turns(turns))
    return (*joined_turns(turns[:-1]), turns[-1])


def _may_hold_messages(text: str) -> bool:
    return text[:1] in _BEFORE_MESSAGES and text.lstrip().startswith("[{")


def _messages_in(text: str, field: str, spelling: Spelling) -> Any:
    """The messages that a text holds as JSON; the text itself where it holds anything else."""
    try:
        value = parse_json(text, field)
    except Unusable:
        return text
    keys = {spelling.role_key} if spelling.role_key else set(ROLE_KEYS)
    is_dialogue = isinstance(value, list) and all(isinstance(turn, dict) and keys & turn.keys() for turn in value)
    return value if is_dialogue else text


def message(turn: Any, field: str, spelling: Spelling) -> Message:
    """A message under the keys and names of roles that the settings say, or that people use.

    Raises:
        Unusable: it is none, holds tool calls, or its content is no text.
    """
    if not isinstance(turn, dict):
        raise Unusable(f"'{field}' holds a turn that is no message")
    name = turn.get(_key(turn, spelling.role_key, ROLE_KEYS))
    role = (spelling.roles or {}).get(str(name)) or ROLE_NAMES.get(name.casefold() if isinstance(name, str) else "")
    if role is None:
        raise Unusable(f"'{field}' holds a turn of an unknown role (see data.role_key and data.roles)")
    if turn.get("tool_calls"):
        raise Unusable(f"'{field}' holds tool calls")
    content = turn.get(_key(turn, spelling.content_key, CONTENT_KEYS))
    if isinstance(content, list) and content and all(_is_text_part(part) for part in content):
        content = "\n\n".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise Unusable(f"'{field}' holds a turn whose content is not text (see data.content_key)")
    return Message(role, content)


def _key(turn: dict[str, Any], named: str | None, usual: Sequence[str]) -> str:
    return named if named is not None else next((key for key in usual if key in turn), usual[0])


def _is_text_part(part: Any) -> bool:
    """Whether a part of a message's content is text, as chat interfaces write it."""
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _system(values: Mapping[str, Any], path: str | None) -> list[Message]:
    text = _optional_text(values, path)
    return [Message("system", text)] if text else []


def _history(values: Mapping[str, Any], settings: TableData) -> list[Message]:
    path = settings.history
    turns = value_at(values, path) if path else None
    if not path or turns is None or turns == "":
        return []
    if isinstance(turns, str):
        turns = parse_json(turns, path)
    if not isinstance(turns, list):
        raise Unusable(f"'{path}' is not a list of [user, assistant], nor of messages")
    messages: list[Message] = []
    for turn in turns:
        if isinstance(turn, list):
            if len(turn) != 2:
                raise Unusable(f"'{path}' is not a list of [user, assistant], nor of messages")
            question, answer = (answer_text(text, path) for text in turn)
            messages += [Message("user", question), Message("assistant", answer)]
        else:
            messages.append(message(turn, path, settings))
    return messages


def _joined(texts: list[str]) -> str:
    stripped = [text.strip() for text in texts]
    if not any(stripped):
        raise Unusable("the prompt is empty")
    return "\n\n".join(text for text in stripped if text)


def _optional_text(values: Mapping[str, Any], path: str | None) -> str:
    """The text of a field that may be absent or empty."""
    text = value_at(values, path) if path else None
    if text is None:
        return ""
    if not isinstance(text, str):
        raise Unusable(f"'{path}' is not text")
    return text if text.strip() else ""
