"""Sets whose completions carry a gold reward, artifacts without weights, and scores by a rule."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.places import ROOT
from touchstone import settings as settings_module
from touchstone.gate import judge
from touchstone.gate.fresh_scores import Job, Role, Scores
from touchstone.groups import Comparison, Completion, Group, Message, make_group, set_digest
from touchstone.model import card as cards
from touchstone.model.card import Calibration, CalibrationError, Card, Centering
from touchstone.model.scores import RawScore
from touchstone.runtime import ledger

DEFAULTS = settings_module.load(ROOT / "params.yaml")
QUICK = {"bootstrap_draws": 300, "min_length_pairs": 30}
SETTINGS = DEFAULTS.model_copy(update={"gates": DEFAULTS.gates.model_copy(update=QUICK)})
SIZES = {
    "train": 40,
    "validation": 3,
    "calibration": 20,
    "holdout": 600,
    "confirm": 200,
    "reference": 3,
    "canary": 3,
}
WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "kelp", "moss", "oak")

Rule = Callable[[Group, int], float]
"""The reward of one completion of a group."""


def gold(group: Group, place: int) -> float:
    """A model that knows what people want; labels are drawn from it, so it is calibrated at T = 1."""
    return group.completions[place].ratings["gold"]


def shuffled(group: Group, place: int) -> float:
    """A model that knows nothing: a random reward for each text."""
    return random.Random(group.completions[place].text).gauss(0, 1)


def make_set(name: str, count: int) -> list[Group]:
    """Pairs of random words, labelled by Bradley-Terry from their gold rewards."""
    rng = random.Random(f"judging-{name}")
    groups = []
    for number in range(count):
        quality = [rng.gauss(0, 1.6) for _ in range(2)]
        texts = [" ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 20))) + f" {k}" for k in range(2)]
        first = rng.random() < 1 / (1 + math.exp(quality[1] - quality[0]))
        groups.append(
            make_group(
                prompt=[Message("user", f"{name} question {number}")],
                completions=[Completion(texts[k], ratings={"gold": quality[k]}) for k in range(2)],
                comparisons=[Comparison(0, 1, float(first), float(not first))],
                source="test",
            )
        )
    return groups


CALIBRATION = make_set("calibration", SIZES["calibration"])


def make_artifact(
    folder: Path,
    seed: int = 17,
    *,
    sd: float = 1.6,
    se: float = 0.01,
    max_tokens: int = 512,
    unit: float = 1.0,
    zero: float = 0.0,
) -> Path:
    """A card without weights: all that the judge itself reads of an artifact.

    Args:
        sd, se: of rewards in units of their own, which are `unit` each and counted from `zero`.
    """
    folder.mkdir(parents=True)
    centering = Centering(
        mean=zero,
        sd=unit * sd,
        median=zero,
        mad=unit,
        quantiles=[(level, zero + unit * value) for level, value in ((0.001, -5.0), (0.5, 0.0), (0.999, 5.0))],
        n=4000,
        n_prompts=2000,
        se_mean=unit * se,
        reference_digest="r",
        reference_source={"test": {"unknown": 4000}},
        truncated_share=0.0,
        score_dtype="fp32",
    )
    calibration = Calibration(
        temperature=unit,
        noise_floor=0.0,
        error=CalibrationError(log_temperature=0.0, noise_floor=0.0, correlation=0.0),
        temperature_at_bound=False,
        log_loss=0.5,
        pairs=len(CALIBRATION),
        n_prompts=len(CALIBRATION),
        calibration_digest=set_digest(CALIBRATION),
    )
    card = Card(
        schema_version=2,
        rule={"max_tokens": max_tokens},
        centering=centering,
        calibration=calibration,
        seeds={"train": seed},
        self_test=[],
        files={},
    )
    cards.write(card, folder)
    return folder


class Scorer:
    """Scores by rule; remembers what was asked for, and what the ledger said at that moment."""

    def __init__(self, state: Path, **rules: Rule) -> None:
        self.ledger = judge.ledger_file(state)
        self.rules = rules
        self.asked: list[tuple[str, int, list[str]]] = []
        self.truncated = False
        self.probe_reward = -1e6
        self.seen: Callable[[str], str] = lambda text: text

    def __call__(self, jobs: Mapping[Role, Job], work: Path) -> dict[Role, Scores]:
        kinds = [entry["kind"] for entry in ledger.read(self.ledger)]
        self.asked += [(job.artifact.name, len(job.groups), kinds) for job in jobs.values()]
        return {role: [self.scores(job, group) for group in job.groups] for role, job in jobs.items()}

    def scores(self, job: Job, group: Group) -> list[RawScore]:
        """The scores of one group, by the rule of the artifact's folder."""
        rule = self.rules[job.artifact.name]
        return [
            RawScore(self.reward(rule, group, k), self.truncated, len(completion.text), self.seen(completion.text))
            for k, completion in enumerate(group.completions)
        ]

    def reward(self, rule: Rule, group: Group, place: int) -> float:
        """The rule's reward; probes have no gold for it to go by."""
        return rule(group, place) if group.completions[place].ratings else self.probe_reward
