"""The sandbox: comparisons from a small simulated world whose gold reward is known.

    touchstone data sandbox

Policies of different quality answer the tasks of `sandbox_world`; simulated annotators compare the answers by their
gold rewards, with the noise that the settings ask for. Never evidence about real people.

The same bytes come out on any machine: the only randomness is `Random.random()`, the only arithmetic is on integers
and on probabilities rounded to 6 decimals. Group number i depends on the seed and i alone, so that more groups leave
the first ones as they were.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from random import Random

from touchstone.files import digest_text
from touchstone.groups import Comparison, Completion, Group, make_group
from touchstone.settings import SandboxData
from touchstone.sources import sandbox_world as world
from touchstone.sources.sandbox_world import Part, Task, draw, pick

RANKED = 4
"""Completions of a ranked group; all its pairs are judged."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How often a simulated policy does what: chances from 0 to 1.

    Attributes:
        wrong: a part of the answer is wrong.
        deaf: a wish for manner or length is not heard: the answer takes one at random.
        wordy: says something more where nobody asked for brief or detailed.
        rude: ends with a rude sentence.
        yields: a harmful wish is granted.
        balks: a harmless wish is refused.
    """

    name: str
    wrong: float
    deaf: float
    wordy: float
    rude: float
    yields: float
    balks: float


POLICIES = (
    Policy("careful", 0.03, 0.10, 0.20, 0.01, 0.05, 0.15),
    Policy("prompt", 0.10, 0.50, 0.05, 0.05, 0.20, 0.10),
    Policy("chatty", 0.30, 0.30, 0.70, 0.02, 0.50, 0.20),
    Policy("hasty", 0.45, 0.70, 0.10, 0.12, 0.60, 0.25),
    Policy("dreamy", 0.75, 0.30, 0.40, 0.03, 0.60, 0.50),
    Policy("curt", 0.45, 0.90, 0.02, 0.25, 0.40, 0.70),
)

RUDE = ("You could have known that.", "Stop bothering me.", "Look it up next time.", "That was obvious.")

RIGHT, WRONG = 1, -3
"""Units of gold reward for each step of advice, and for the value of a lookup."""
SAFE, UNSAFE, FUSSY, HELPED = 3, -3, -3, 3
"""A harmful wish refused or granted, a harmless one refused or granted."""
HEARD, UNHEARD, RUDENESS = 1, -1, -2
"""A wish for manner or length met or not, and a rude sentence."""

STEPS_PER_UNIT = 4
_TABLE = tuple(round(1 / (1 + math.exp(-step / STEPS_PER_UNIT)), 6) for step in range(40 * STEPS_PER_UNIT + 1))

TIE_WEIGHTS = (6.0, 2.0, 1.0)
"""How much likelier than `tie_share` a tie is where the gold rewards differ by 0, 1 or 2 units."""

ANNOTATORS = 12


def preference(units: float) -> float:
    """P(first preferred) = sigmoid(difference of gold rewards), from a table in quarters of a unit, 6 decimals."""
    step = round(abs(units) * STEPS_PER_UNIT)
    chance = _TABLE[min(step, len(_TABLE) - 1)]
    return chance if units >= 0 else round(1 - chance, 6)


def stated(dice: Random, part: Part, policy: Policy) -> tuple[str, bool]:
    """What a policy says for a part, and whether it is right."""
    if dice.random() >= policy.wrong:
        return part.right, True
    return pick(dice, part.wrong), False


def answer(dice: Random, task: Task, policy: Policy) -> Completion:
    """One completion: gold reward under "gold", outcome 1 if nothing is wrong, and for advice a label per step."""
    steps: tuple[float, ...] | None = None
    if task.kind == "request":
        refused = dice.random() >= policy.yields if task.harmful else dice.random() < policy.balks
        core = pick(dice, world.REFUSALS if refused else world.HELPS).format(pick(dice, world.OBJECTS))
        outcome = float(refused == task.harmful)
        gold = {(True, True): SAFE, (True, False): UNSAFE, (False, True): FUSSY, (False, False): HELPED}[
            task.harmful, refused
        ]
    else:
        said = [stated(dice, part, policy) for part in task.parts]
        core = task.frame.format(*(text for text, _ in said))
        gold = sum(RIGHT if right else WRONG for _, right in said)
        outcome = float(all(right for _, right in said))
        steps = tuple(float(right) for _, right in said) if task.kind == "advice" else None
    sentences = [core]
    deaf = dice.random() < policy.deaf
    manner = task.manner if not deaf else pick(dice, ("formal", "casual", None))
    if manner is not None:
        sentences.insert(0, pick(dice, world.OPENERS[manner]))
    if task.manner is not None:
        gold += HEARD if manner == task.manner else UNHEARD
    deaf = dice.random() < policy.deaf
    wordy = task.detail if task.detail is not None and not deaf else dice.random() < policy.wordy
    if wordy:
        sentences += draw(dice, world.EXTRAS, 2)
    if task.detail is not None:
        gold += HEARD if wordy == task.detail else UNHEARD
    if dice.random() < policy.rude:
        sentences.append(pick(dice, RUDE))
        gold += RUDENESS
    return Completion(" ".join(sentences), policy.name, outcome, steps, {"gold": float(gold)})


def judge(
    dice: Random, settings: SandboxData, i: int, j: int, pair: tuple[Completion, Completion], who: int
) -> Comparison:
    """One annotator's judgement of completions `i` and `j`."""
    units = pair[0].ratings["gold"] - pair[1].ratings["gold"]
    words = len(pair[0].text.split()) - len(pair[1].text.split())
    tie = TIE_WEIGHTS[int(abs(units))] * settings.tie_share if abs(units) < len(TIE_WEIGHTS) else 0.0
    name = digest_text(f"sandbox annotator {who}")[:12]
    if dice.random() < tie:
        return Comparison(i, j, 0.0, 0.0, 1.0, None, name)
    attentive = dice.random() < 1 - 0.01 * who
    first = dice.random() < (preference(units + settings.length_bias * words / 10) if attentive else 0.5)
    margin = float(min(3, max(1, round(abs(units) / 2)))) if first == (units > 0) else 1.0
    if dice.random() < settings.label_noise:
        first = not first
    return Comparison(i, j, float(first), float(not first), 0.0, margin, name)


def make(settings: SandboxData, index: int) -> Group:
    """Group number `index` of the world with this seed."""
    dice = Random(f"{settings.seed}:{index}")  # noqa: S311 - a simulation, not a secret
    safety = dice.random() < settings.safety_share
    turns = 2 if dice.random() < settings.multi_turn_share else 1
    scene = world.request if safety else world.advice if dice.random() < 0.9 else world.lookup
    task = scene(dice, turns)
    count = RANKED if dice.random() < settings.ranked_share else 2
    completions: list[Completion] = []
    for policy in draw(dice, POLICIES, count):
        written = answer(dice, task, policy)
        while any(written.text == other.text for other in completions):
            written = answer(dice, task, policy)
        completions.append(written)
    crowd = dice.random()
    judges = draw(dice, range(ANNOTATORS), 1 if crowd < 0.85 else 2 if crowd < 0.92 else 3)
    comparisons = [
        judge(dice, settings, i, j, (completions[i], completions[j]), who)
        for who in judges
        for i in range(count)
        for j in range(i + 1, count)
    ]
    day = date(2024, 1, 1) + timedelta(days=index // 100)
    return make_group(
        prompt=task.prompt,
        completions=completions,
        comparisons=comparisons,
        source=settings.name,
        axis="safety" if safety else "helpfulness",
        created_at=day.isoformat(),
    )


def read(settings: SandboxData, root: Path) -> Iterator[Group]:
    """The world's groups in their order; `root` is not used: nothing is read."""
    for index in range(settings.groups):
        yield make(settings, index)
