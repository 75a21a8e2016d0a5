"""A sealed artifact in the caller's own process: prompts as texts or messages, scores with their meaning.

>>> import touchstone
>>> scorer = touchstone.load("build/artifact")
>>> touchstone.rank(scorer, "What is 2+2?", ["Four.", "Four."])[0].probability
0.5

`touchstone.Client` asks an endpoint the same questions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from touchstone.errors import DataError
from touchstone.groups import OUT_OF_ORDER, Message, in_order
from touchstone.model.scores import Ranked, Score
from touchstone.model.scoring import Scorer
from touchstone.runtime.parallel import Threads

Prompt = str | Sequence[Message | Mapping[str, str]]
"""A text (one message of the user), or the chat before the completion: each message with `role` and `content`."""


@dataclass(frozen=True, slots=True)
class Preference:
    """Which of two completions is better.

    Attributes:
        probability: calibrated P(A beats B), 0 to 1.
        a, b: what each was scored.
    """

    probability: float
    a: Score
    b: Score


def load(folder: str | os.PathLike[str], *, threads: Threads | None = "auto") -> Scorer:
    """Load a sealed artifact, onto a GPU where there is one; every digest and its self-test are checked.

    >>> scorer = load("build/artifact")
    >>> len(scorer.card.digest)
    64

    Args:
        folder: with `reward.json`, as `dvc repro`, `touchstone seal` and the registry keep it.
        threads: CPU threads of this process from now on; "auto": what suits the model; None leaves them.

    Raises:
        ArtifactError: a file is missing or changed, or a self-test's reward isn't what was sealed.
    """
    return Scorer.load(Path(folder), threads=threads)


def score(scorer: Scorer, inputs: Sequence[tuple[Prompt, Sequence[str]]]) -> list[list[Score]]:
    """Score completions: one list per input, one score per completion, in their order.

    A score depends on its prompt and completion alone, not on what else is scored.

    >>> scorer = load("build/artifact")
    >>> rows = score(scorer, [("What is 2+2?", ["Four.", "Five."]), ([{"role": "user", "content": "3+3?"}], ["Six."])])
    >>> [len(row) for row in rows]
    [2, 1]
    >>> rows[0][0].truncated
    False

    Args:
        inputs: prompts, each with its completions.

    Raises:
        DataError: a prompt's turns are out of order, or a message has no role or content; names the input.
        ModelError: the artifact's template can't render a prompt's roles.
    """
    items = [(_messages(prompt, number), completions) for number, (prompt, completions) in enumerate(inputs)]
    return scorer.score(items)


def compare(scorer: Scorer, prompt: Prompt, a: str, b: str) -> Preference:
    """Both completions' scores, and the calibrated probability that A beats B.

    >>> scorer = load("build/artifact")
    >>> there, back = compare(scorer, "2+2?", "Four.", "Five."), compare(scorer, "2+2?", "Five.", "Four.")
    >>> abs(there.probability + back.probability - 1) < 1e-6
    True

    Raises:
        DataError, ModelError: as `score`.
    """
    ((first, second),) = score(scorer, [(prompt, [a, b])])
    return Preference(scorer.probability(first.reward, second.reward), first, second)


def rank(scorer: Scorer, prompt: Prompt, completions: Sequence[str]) -> list[Ranked]:
    """One prompt's completions, the best first, each with its probability of beating the best: best of N is the first.

    >>> scorer = load("build/artifact")
    >>> places = rank(scorer, "What is 2+2?", ["Four.", "Five.", "Four."])
    >>> sorted(place.completion for place in places)
    [0, 1, 2]
    >>> places[0].score.reward >= places[2].score.reward
    True

    Raises:
        DataError, ModelError: as `score`; ModelError also where a reward isn't finite.
    """
    (scores,) = score(scorer, [(prompt, completions)])
    return scorer.rank(scores)


def _messages(prompt: Prompt, number: int) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    try:
        turns = tuple(turn if isinstance(turn, Message) else Message(turn["role"], turn["content"]) for turn in prompt)
    except (KeyError, TypeError):
        raise DataError(
            f"input {number}: the prompt is neither a text nor messages with role and content; give one of these"
        ) from None
    if not in_order(turns):
        raise DataError(f"input {number}: {OUT_OF_ORDER}")
    return turns
