"""What scoring costs: seconds predicted from tokens and their squares, fitted to the model that is loaded.

cost = measure(scorer)                      # times a few forwards, half a second
cost.seconds(Size(40, (12, 15)))            # of one prompt with two completions
cost.observe(sizes, seconds)                # what a batch really took corrects what is predicted next
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.optimize import nnls

from touchstone.model.layout import shares_prompt
from touchstone.model.scoring import Run, Scorer
from touchstone.model.templating import EncodedGroup

MEASURE_SECONDS = 0.4
"""No further forward is timed after so long; two are in any case."""

LONGEST = 1024
"""Most tokens of a text that is timed."""

CONFIGURATION = "config.json"
"""The artifact's file that says what its network computes, whatever the weights are."""

FORGET = 0.95
"""What an observation's weight is multiplied by at the next one."""

SURPRISE = 4.0
"""An observation counts as so many times the present value at most: of a process that was stopped, or a page that came
from the disk, the next batch knows nothing; a speed that has really changed is followed in some twenty batches."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is of a prompt and of each of its completions: tokens, or characters before they are tokens."""

    prompt: int
    completions: tuple[int, ...]

    @classmethod
    def of(cls, group: EncodedGroup) -> Size:
        """Tokens of what is encoded."""
        prompt = len(group.anchor) + len(group.prompt_ids)
        return cls(prompt, tuple(len(ids) for ids in group.completion_ids))

    @property
    def total(self) -> int:
        """Prompt and completions together."""
        return self.prompt + sum(self.completions)


LATE_STEP = 0.05
MOST_LATE = 3.0
"""Beyond it something else is wrong than a prediction, and refusing everybody would not help."""


class Rate:
    """What one unit of something comes to, as a ratio of sums that forget: recent observations count most."""

    def __init__(self, value: float, amount: float) -> None:
        """Start at a value, as if that much had been observed."""
        self._amount = amount
        self._result = value * amount

    @property
    def value(self) -> float:
        """The present ratio."""
        return self._result / self._amount

    def observe(self, amount: float, result: float) -> None:
        """So much of one came to so much of the other."""
        result = min(result, SURPRISE * self.value * amount)
        self._amount = FORGET * self._amount + amount
        self._result = FORGET * self._result + result


class Lateness:
    """By what factor work comes later than predicted at most, but for one job in a hundred.

    A running quantile (Robbins and Monro 1951): a late job raises it by 99 times what a punctual one takes off. Jobs
    later than the factor can ever say met a stall; all that waited in it are late once.
    """

    def __init__(self) -> None:
        self.factor = 1.25
        self._stalled = -math.inf

    def observe(self, predicted: float, begun: float, ended: float) -> None:
        """A job was to wait for so many seconds; when it came, and when it was done, by the same clock."""
        actual = ended - begun
        if actual > predicted * MOST_LATE:
            if begun < self._stalled:
                return
            self._stalled = ended
        late = actual > predicted * self.factor
        self.factor = min(MOST_LATE, max(1.0, self.factor * math.exp(LATE_STEP * (0.99 if late else -0.01))))


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Seconds of one call, and of each completion, token, and unit of attention (a token that looks at another)."""

    call: float
    completion: float
    token: float
    attention: float


GUESS = Coefficients(call=2e-3, completion=1e-4, token=3e-5, attention=0.0)
"""A small model on one core: for a model that nobody has measured, until observations correct it."""


class Cost:
    """Predicts what a model's batches take.

    Args:
        shared: completions share their prompt's computation (`layout.shares_prompt`).
    """

    def __init__(self, coefficients: Coefficients = GUESS, *, shared: bool = True) -> None:
        self.coefficients = coefficients
        self.shared = shared
        self._real = Rate(1.0, amount=0.1)  # seconds for every predicted one: neighbours, caches, other lengths

    @property
    def call(self) -> float:
        """Seconds of a batch beside those of its groups."""
        return self.coefficients.call * self._real.value

    def seconds(self, size: Size) -> float:
        """Predicted seconds of one group in a batch."""
        return self._fitted(size) * self._real.value

    def observe(self, sizes: Iterable[Size], seconds: float) -> None:
        """A batch of groups took so long."""
        self._real.observe(self.coefficients.call + sum(map(self._fitted, sizes)), seconds)

    def copy(self) -> Cost:
        """The same with the observations: for another version of a model that costs the same."""
        return copy.deepcopy(self)

    def as_guess(self) -> Cost:
        """The same without the observations: a guess for another model of its kind."""
        return Cost(self.coefficients, shared=self.shared)

    def _fitted(self, size: Size) -> float:
        fit = self.coefficients
        completions, tokens, attention = _amounts(size, self.shared)
        return fit.completion * completions + fit.token * tokens + fit.attention * attention


def _amounts(size: Size, shared: bool) -> tuple[int, int, int]:
    """Completions, tokens computed, and pairs of tokens of which one looks at the other."""
    prompt, completions = size.prompt, size.completions
    tokens, squares = sum(completions), sum(length * length for length in completions)
    if shared:
        return len(completions), prompt + tokens, prompt * prompt + prompt * tokens + squares
    rows = len(completions)
    return rows, rows * prompt + tokens, rows * prompt * prompt + 2 * prompt * tokens + squares


def costs_alike(first: Scorer, second: Scorer) -> bool:
    """Whether two scorers compute the same with other weights: by the digests of their configurations."""
    if first.card.centering.score_dtype != second.card.centering.score_dtype:
        return False
    configurations = [scorer.card.files.get(CONFIGURATION) for scorer in (first, second)]
    return None not in configurations and configurations[0] == configurations[1]


def measure(scorer: Scorer, run: Run = lambda work: work()) -> Cost:
    """Time a few forwards of random tokens, short and long, one and many, and fit the coefficients to them.

    None is negative, and each time counts by its relative error. Takes about half a second; two forwards at least.

    Args:
        run: does one forward.
    """
    # From short to long, then many; every text fits the model's limit.
    most = min(LONGEST, scorer.model.rule.max_tokens)
    quarter, half = max(1, most // 8), max(1, most // 2)
    trials = [
        [Size(min(8, half), (min(8, half),))],
        [Size(quarter, (quarter,))],
        [Size(half, (half,))],
        [Size(quarter, (quarter,) * 8)],
        [Size(min(8, half), (min(8, half),))] * 16,
    ]
    random = np.random.default_rng(0)
    run(lambda: _seconds(scorer, trials[0], random))  # what happens only once
    shared = shares_prompt(scorer.model)

    # Time each twice; the quicker one met no neighbour.
    timed: list[tuple[list[Size], float]] = []
    began = time.perf_counter()
    for sizes in trials:
        if len(timed) >= 2 and time.perf_counter() - began > MEASURE_SECONDS:
            break
        timed.append((sizes, min(run(partial(_seconds, scorer, sizes, random)) for _ in range(2))))

    # Non-negative least squares of relative errors.
    rows = np.array([[1.0, *np.sum([_amounts(size, shared) for size in sizes], axis=0)] for sizes, _ in timed])
    seconds = np.array([seconds for _, seconds in timed])
    scale = rows.max(axis=0)
    fitted, _ = nnls(rows / scale / seconds[:, None], np.ones(len(seconds)))
    return Cost(Coefficients(*(float(value) for value in fitted / scale)), shared=shared)


def _seconds(scorer: Scorer, sizes: Sequence[Size], random: np.random.Generator) -> float:
    """What scoring random tokens of these sizes takes; new ones each time, because equal texts are computed once."""
    vocabulary = len(scorer.model.tokenizer)

    def ids(count: int) -> list[int]:
        return [int(value) for value in random.integers(1, vocabulary, count)]

    groups = [
        EncodedGroup(
            ids(size.prompt),
            [ids(length) for length in size.completions],
            [0] * len(size.completions),
            [False] * len(size.completions),
        )
        for size in sizes
    ]
    began = time.perf_counter()
    scorer.raw_encoded(groups)
    return time.perf_counter() - began
