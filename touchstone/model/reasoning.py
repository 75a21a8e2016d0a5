"""What a chat template makes of a message that reasons between <think> and </think>.

Templates of Qwen3's kind don't write such a message as it stands: they put an empty <think></think> in front of a last
answer that brings none, set a reasoning on lines of its own, and cut it out of earlier turns. The template is probed
with such a text in each of the assistant's places, and where it rewrites it, it is asked again for every text that
holds one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile

from touchstone.errors import ModelError

OPEN, CLOSE = "<think>", "</think>"
"""A text that holds CLOSE is what templates look for."""

PROBES = (f"{OPEN}\nreasons\n{CLOSE}\n\nanswer", f"{OPEN}reasons{CLOSE}answer")

Render = Callable[[str], str]
"""The whole dialogue as the template writes it, with this text in the place in question, and markers elsewhere."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What a template writes around a text that it may rewrite.

    Attributes:
        head, tail: what stands before and behind it, whatever it is.
        front: what stands between `head` and a text without reasoning, and not in front of one that has it.
    """

    head: str
    front: str
    tail: str

    def written(self, text: str, render: Render) -> str:
        """The text as the template writes it.

        Raises:
            ModelError: the template changes what stands around it.
        """
        rendered = render(text)
        if not (rendered.startswith(self.head) and rendered.endswith(self.tail)):
            raise _refusal()
        return rendered[len(self.head) : len(rendered) - len(self.tail)]


def frame_of(marker: str, render: Render) -> Frame | None:
    """The frame around a place, or None where the template writes every text as it stands.

    Args:
        marker: a text that the template leaves alone.

    Raises:
        ModelError: what the template does with reasoning can't be repeated.
    """
    before, _, after = render(marker).partition(marker)
    renderings = [render(probe) for probe in PROBES]
    if all(rendered == before + probe + after for rendered, probe in zip(renderings, PROBES, strict=True)):
        return None
    # Cut where the block begins: both ways of writing one have its first characters.
    alike = sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, zip(before, *renderings, strict=False)))
    end = len(before) if alike == len(before) else before[:alike].rfind(OPEN)
    frame = Frame(before[: max(end, 0)], before[max(end, 0) :], after)
    if end < 0 or not all(rendered.startswith(frame.head) and rendered.endswith(after) for rendered in renderings):
        raise _refusal()
    return frame


def _refusal() -> ModelError:
    return ModelError(
        f"the chat template rewrites texts that reason between {OPEN} and {CLOSE} in a way that can't be repeated "
        "token for token; give the model a template that writes each message as it stands"
    )
