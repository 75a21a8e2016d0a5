"""What a judge is asked: a template, principles by axis, and texts that can't be taken for anything else.

The template is a plain file: what stands above a line `---` is the system message, the rest the user's. It names
`$prompt`, `$first`, `$second` and `$code`, and where it likes `$principles` and `$axis`; `$$` is a dollar sign. Texts
are put in once, so a `$prompt` inside a completion stays what it is.

The code is a hash of everything in the question that occurs in none of its texts. Lines between which a text stands
carry it, and so does the verdict: a completion can neither end its own block nor give a verdict, because what it would
have to say depends on what it says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import Template
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from touchstone.errors import JudgeError
from touchstone.groups import Message
from touchstone.runtime.files import digest_value

REQUIRED = frozenset({"prompt", "first", "second", "code"})
OPTIONAL = frozenset({"principles", "axis"})

CODE_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Question:
    """What a judge is asked about two completions in one order.

    Attributes:
        messages: role and content, as a chat.
        code: what the verdict must carry.
    """

    messages: tuple[Message, ...]
    code: str


class Principle(BaseModel):
    """One sentence of what is better; `axis` None: on every axis."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    text: str
    axis: str | None = None


class Principles(BaseModel):
    """A written constitution."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    principles: tuple[Principle, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a YAML or JSON file.

        Raises:
            JudgeError: it can't be read, or holds no principle, an empty one, or one name twice.
        """
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
            principles = cls.from_json(values)
        except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError, ValueError) as error:
            what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error).splitlines()[0]
            raise JudgeError(
                f"{path} holds no principles: {what}; it must list them under `principles`, each with name, text and "
                "axis"
            ) from None
        return principles

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """From plain JSON values.

        Raises:
            ValueError: as `read`.
        """
        listed = values.get("principles") if isinstance(values, dict) else None
        if not isinstance(listed, list):
            raise ValueError("there is no list `principles`")
        principles = cls(principles=tuple(Principle.model_validate(value) for value in listed))
        names = [principle.name for principle in principles.principles]
        if not names or any(not principle.text.strip() for principle in principles.principles):
            raise ValueError("the list is empty, or a text is")
        if len(set(names)) != len(names):
            raise ValueError("a name stands there twice")
        return principles

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return self.model_dump(mode="json")

    @property
    def digest(self) -> str:
        """Of what they say."""
        return digest_value(self.to_json())

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes that they name, in their order."""
        return tuple(dict.fromkeys(principle.axis for principle in self.principles if principle.axis is not None))

    def on(self, axis: str) -> str:
        """Those of an axis and those without one, as a numbered list.

        Raises:
            JudgeError: there is none.
        """
        texts = [principle.text.strip() for principle in self.principles if principle.axis in (axis, None)]
        if not texts:
            raise JudgeError(f"no principle says what is better on the axis {axis}; write one, or one with axis: null")
        return "\n".join(f"{number}. {text}" for number, text in enumerate(texts, start=1))


@dataclass(frozen=True)
class Instructions:
    """A template and its principles.

    Attributes:
        template: the file's text.
    """

    template: str
    principles: Principles

    @classmethod
    def read(cls, template: Path, principles: Path) -> Self:
        """From files.

        Raises:
            JudgeError: one can't be read, or the template lacks a place or names an unknown one.
        """
        try:
            text = template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise JudgeError(f"the instructions {template} can't be read: {error}") from None
        instructions = cls(text, Principles.read(principles))
        instructions.check(str(template))
        return instructions

    def check(self, name: str) -> None:
        """Refuse a template that leaves out a text, or the code that guards it.

        Raises:
            JudgeError: names what is missing or unknown.
        """
        template = Template(self.template)
        if not template.is_valid():
            raise JudgeError(f"{name}: a '$' stands before something that is no name; write '$$' for a dollar sign")
        places = set(template.get_identifiers())
        if missing := sorted(REQUIRED - places):
            raise JudgeError(f"{name} has no place for {', '.join(f'${place}' for place in missing)}")
        if unknown := sorted(places - REQUIRED - OPTIONAL):
            raise JudgeError(f"{name} names {', '.join(f'${place}' for place in unknown)}, which nothing fills")

    @cached_property
    def digest(self) -> str:
        """Of template and principles."""
        return digest_value([self.template, self.principles.to_json()])

    def question(self, prompt: Sequence[Message], first: str, second: str, axis: str) -> Question:
        """What is asked about two completions, the first of which is shown first.

        Raises:
            JudgeError: no principle speaks of the axis.
        """
        request = dialogue(prompt)
        code = code_for([request, first, second, axis, self.digest])
        texts = {
            "prompt": request,
            "first": first,
            "second": second,
            "code": code,
            "principles": self.principles.on(axis),
            "axis": axis,
        }
        head, line, rest = self.template.partition("\n---\n")
        parts = (("system", head), ("user", rest)) if line else (("user", head),)
        return Question(tuple(Message(role, _filled(text, texts)) for role, text in parts), code)


def dialogue(prompt: Sequence[Message]) -> str:
    """A prompt as text: of a single user message its content, else each message below its role."""
    if len(prompt) == 1 and prompt[0].role == "user":
        return prompt[0].content
    return "\n\n".join(f"{message.role}:\n{message.content}" for message in prompt)


def code_for(texts: Iterable[str]) -> str:
    """A hash of the texts that stands in none of them."""
    shown = list(texts)
    number = 0
    while True:
        code = digest_value([number, *shown])[:CODE_DIGITS]
        if not any(code in text for text in shown):
            return code
        number += 1


def _filled(template: str, texts: Mapping[str, str]) -> str:
    return Template(template).substitute(texts).strip()
