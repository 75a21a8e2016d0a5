"""What a judge has answered, on disk: equal questions are asked once, and a run that was stopped goes on.

One file per question, named by the digest of judge, question and which asking of it that is; it holds the answer and
what that took in tokens, neither the question nor a key. A file appears whole, so any number of processes may share
the folder; a damaged one counts as absent.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from touchstone.runtime.files import canonical_json, digest_value


@dataclass(frozen=True, slots=True)
class Answer:
    """What a judge said.

    Attributes:
        text: None where there is none.
        reason: why there is none; the same words for the same cause.
        prompt_tokens, answer_tokens: as the engine counted them, or the most that it can have been.
        shares: probabilities of the verdicts first, second and tie; None where they aren't known.
        lasting: the same question would get the same answer: it may be kept.
    """

    text: str | None
    reason: str | None
    prompt_tokens: int
    answer_tokens: int
    shares: tuple[float, float, float] | None = None
    lasting: bool = True


class AnswerCache:
    """Answers by key, in a folder."""

    def __init__(self, folder: Path) -> None:
        """The folder appears with the first answer."""
        self.folder = folder

    def find(self, key: str) -> Answer | None:
        """The answer to a question; None where it was never asked."""
        try:
            values = json.loads(self._path(key).read_text(encoding="utf-8"))
            digest = values.pop("digest")
            if digest != digest_value([key, values]):
                return None
            shares = values.pop("shares")
            return Answer(**values, shares=None if shares is None else (shares[0], shares[1], shares[2]))
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
            return None

    def keep(self, key: str, answer: Answer) -> None:
        """Keep an answer that lasts."""
        if not answer.lasting:
            return
        values: dict[str, Any] = asdict(answer)
        values.pop("lasting")
        values["shares"] = None if answer.shares is None else list(answer.shares)
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # A name of its own for every writer, threads included; whoever renames last wins, with the same answer.
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(canonical_json({**values, "digest": digest_value([key, values])}))
            partial.replace(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                partial.unlink()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
