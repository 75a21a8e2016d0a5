"""A judge: its identity, its engine, what it has answered, and what it may cost.

    with Judge.open(settings.llm_judge, root) as judge:
        verdicts = judge.compare([(group, [(0, 1)])])

Both orders of a pair are always asked. Nothing that a completion holds can be taken for a verdict (`instructions.py`),
and whatever is in doubt is none (`verdicts.py`).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from touchstone.groups import JUDGE, Group
from touchstone.model.llm_judge.cache import Answer, AnswerCache
from touchstone.model.llm_judge.instructions import Instructions, Question
from touchstone.model.llm_judge.spending import Account
from touchstone.model.llm_judge.verdicts import NoVerdict, PairVerdict, Verdict, read_verdict
from touchstone.runtime.files import digest_value
from touchstone.runtime.progress import progress
from touchstone.settings.llm_judge import LlmJudge, RemoteEngine

AHEAD = 4
"""Questions that wait for each one that is asked: enough that no connection idles, few enough to stop at once."""

Pair = tuple[int, int]


class Engine(Protocol):
    """What answers questions."""

    @property
    def concurrency(self) -> int:
        """How many may be asked at a time."""

    def answer(self, question: Question) -> Answer:
        """The answer, one without text where there is none."""

    def stop(self) -> None:
        """Begin no further try; a call under way may end."""

    def close(self) -> None:
        """End it."""


@dataclass(frozen=True)
class Identity:
    """All that a verdict follows from.

    Attributes:
        model: an endpoint's name of it, or the base of a local one.
        weights: digest of a local model's files; None behind an endpoint, whose weights nobody here can verify.
        answer: how a verdict comes about: generate or choose.
    """

    engine: Literal["remote", "local"]
    model: str
    weights: str | None
    answer: Literal["generate", "choose"]
    max_answer_tokens: int
    probabilities: bool
    instructions: Instructions

    @classmethod
    def of(cls, settings: LlmJudge, root: Path) -> Self:
        """What the settings name; a local model's files are read for their digest.

        Args:
            root: where relative paths count from.

        Raises:
            JudgeError: instructions or principles can't be read.
            ModelError: there is no such local model.
        """
        engine = settings.engine
        weights = None
        if engine.kind == "local":
            from touchstone.model.llm_judge.local import weights_digest

            weights = weights_digest(engine)
        return cls(
            engine=engine.kind,
            model=engine.model if engine.kind == "remote" else engine.base,
            weights=weights,
            answer="generate" if engine.kind == "remote" else engine.answer,
            max_answer_tokens=settings.max_answer_tokens,
            probabilities=settings.probabilities,
            instructions=Instructions.read(root / settings.instructions, root / settings.principles),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; of instructions and principles the digest. A local model is its weights, wherever it
        is."""
        return {
            "engine": self.engine,
            "model": self.model if self.weights is None else Path(self.model).name,
            "weights": self.weights,
            "answer": self.answer,
            "max_answer_tokens": self.max_answer_tokens,
            "probabilities": self.probabilities,
            "instructions": self.instructions.digest,
        }

    @property
    def digest(self) -> str:
        """Of all of it."""
        return digest_value(self.to_json())

    @property
    def annotator(self) -> str:
        """Who a comparison is from that this judge made."""
        return f"{JUDGE}{self.digest[:16]}"


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question before it is worded: thousands of them wait, each as long as its prompt.

    Attributes:
        first, second: places of the completions, in the order in which they are shown.
        code: what the verdict must carry.
    """

    group: Group
    first: int
    second: int
    code: str


class Judge:
    """Compares completions; `open` is the way in."""

    def __init__(self, identity: Identity, engine: Engine, cache: AnswerCache, account: Account) -> None:
        self.identity = identity
        self._answering = {name: value for name, value in identity.to_json().items() if name != "instructions"}
        self.account = account
        self._engine = engine
        self._cache = cache

    @classmethod
    @contextmanager
    def open(cls, settings: LlmJudge, root: Path, identity: Identity | None = None) -> Iterator[Self]:
        """A judge for the length of a block.

        Args:
            root: where relative paths count from.
            identity: of a sealed judge; default: what the settings name.

        Raises:
            JudgeError: instructions, principles or key can't be used.
            ModelError: a local model can't be loaded.
        """
        known = identity or Identity.of(settings, root)
        account = Account(settings.spending)
        engine: Engine
        if isinstance(settings.engine, RemoteEngine):
            from touchstone.model.llm_judge.remote import Endpoint

            engine = Endpoint(
                settings.engine,
                account,
                root,
                max_answer_tokens=known.max_answer_tokens,
                probabilities=known.probabilities,
            )
        else:
            from touchstone.model.llm_judge.local import LocalModel

            engine = LocalModel(settings.engine, account, max_answer_tokens=known.max_answer_tokens)
        try:
            yield cls(known, engine, AnswerCache(root / settings.cache), account)
        finally:
            engine.close()

    def compare(
        self, wanted: Sequence[tuple[Group, Sequence[Pair]]], *, asking: int = 1, description: str = "ask the judge"
    ) -> list[list[PairVerdict]]:
        """Both verdicts about every pair of completions, in the order given.

        Args:
            asking: which asking of the same questions it is, from 1: a second one is not answered from the first.

        Raises:
            JudgeError, SpendingError, ModelError: the judge stopped; what it answered is kept.
        """
        # Equal questions are asked once.
        asked: dict[str, _Asked] = {}
        keys = [[self._both(group, pair, asking, asked) for pair in pairs] for group, pairs in wanted]
        answers = self._answers(asked, description)
        verdicts = {key: _verdict(asked[key].code, answer) for key, answer in answers.items()}
        return [
            [
                PairVerdict(i, j, verdicts[forward], verdicts[backward])
                for (i, j), (forward, backward) in zip(pairs, row, strict=True)
            ]
            for (_, pairs), row in zip(wanted, keys, strict=True)
        ]

    def unknown(self, wanted: Sequence[tuple[Group, Sequence[Pair]]]) -> int:
        """How many questions `compare` would have to ask, the answers to the others being kept."""
        asked: dict[str, _Asked] = {}
        for group, pairs in wanted:
            for pair in pairs:
                self._both(group, pair, 1, asked)
        return sum(self._cache.find(key) is None for key in asked)

    def _both(self, group: Group, pair: Pair, asking: int, asked: dict[str, _Asked]) -> tuple[str, str]:
        """Keys of the questions in either order, which are added to `asked`."""
        return self._add(group, *pair, asking, asked), self._add(group, *pair[::-1], asking, asked)

    def _add(self, group: Group, first: int, second: int, asking: int, asked: dict[str, _Asked]) -> str:
        question = self._question(group, first, second)
        # The messages hold instructions, principles and texts as they are sent; the rest is how they are answered.
        messages = [[message.role, message.content] for message in question.messages]
        key = digest_value([messages, asking, self._answering])
        asked[key] = _Asked(group, first, second, question.code)
        return key

    def _question(self, group: Group, first: int, second: int) -> Question:
        shown, behind = group.completions[first].text, group.completions[second].text
        return self.identity.instructions.question(group.prompt, shown, behind, group.axis)

    def _answers(self, asked: dict[str, _Asked], description: str) -> dict[str, Answer]:
        """An answer to each question, from the cache or the engine."""
        answers = {key: answer for key in asked if (answer := self._cache.find(key)) is not None}
        missing = {key: question for key, question in asked.items() if key not in answers}
        for key, answer in progress(self._ask_all(missing), description, len(asked), done=len(answers)):
            answers[key] = answer
        return answers

    def _ask_all(self, asked: dict[str, _Asked]) -> Iterator[tuple[str, Answer]]:
        """Ask, several at a time, and keep each answer as it comes; the first error stops all."""
        stopped = threading.Event()

        def ask(key: str) -> tuple[str, Answer] | None:
            if stopped.is_set():
                return None
            waits = asked[key]
            answer = self._engine.answer(self._question(waits.group, waits.first, waits.second))
            self._cache.keep(key, answer)
            return key, answer

        waiting = iter(asked)
        running: set[Future[tuple[str, Answer] | None]] = set()
        with ThreadPoolExecutor(self._engine.concurrency, thread_name_prefix="judge") as pool:
            try:
                while True:
                    while len(running) < AHEAD * self._engine.concurrency and (key := next(waiting, None)) is not None:
                        running.add(pool.submit(ask, key))
                    if not running:
                        return
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        if (result := future.result()) is not None:
                            yield result
            except BaseException:
                # What waits is not asked; what is under way ends, and is kept.
                stopped.set()
                self._engine.stop()
                raise


def _verdict(code: str, answer: Answer) -> Verdict:
    """What an answer comes to."""
    if answer.text is None:
        return Verdict(None, answer.reason)
    try:
        return Verdict(read_verdict(answer.text, code), None, answer.shares)
    except NoVerdict as reason:
        return Verdict(None, str(reason))


def reasons(verdicts: Sequence[Sequence[PairVerdict]]) -> dict[str, int]:
    """Why pairs have no verdict, with how many, the most frequent first."""
    counts = Counter(verdict.reason for row in verdicts for verdict in row if verdict.reason is not None)
    return dict(counts.most_common())
