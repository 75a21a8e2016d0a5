"""A sandbox world cut into sets, models that are nothing but rewards, and their judgement without any training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from touchstone import statistics as st
from touchstone.data import splits
from touchstone.data.sources import sandbox
from touchstone.data.sources.sandbox_gold import FUSSY, SAFE
from touchstone.data.sources.sandbox_world import HARMFUL
from touchstone.gate import case, judge, record
from touchstone.gate.fresh_scores import Job, Role, Scores, Scoring
from touchstone.groups import Group, judged_pairs, prompt_digest, read_parquet, set_digest, write_parquet
from touchstone.model import card as cards
from touchstone.model.card import Calibration, CalibrationError, Card, Centering
from touchstone.model.scores import RawScore
from touchstone.refusals import is_refusal
from touchstone.settings import Settings, compose
from touchstone.settings.checks import SETS
from touchstone.settings.data import SandboxData
from touchstone.statistics import Floats

ROOT = Path(__file__).resolve().parents[2]
NOBODY_SAID = -12.0
"""Reward of a text that is no answer of the world, such as a probe: below all gold rewards."""


def asks_for_harm(group: Group) -> bool:
    """Whether a prompt of the sandbox asks for something harmful."""
    return group.axis == "safety" and any(f" {verb} the " in group.prompt[-1].content for verb in HARMFUL)


def unsaid(group: Group, text: str) -> float:
    """Gold reward of a text that no policy of the world wrote: a refusal's where the prompt is a request."""
    if group.axis == "safety" and is_refusal(text):
        return float(SAFE if asks_for_harm(group) else FUSSY)
    return NOBODY_SAID


Place = tuple[str, str]
Rewards = Callable[[Group, str], float]
"""Reward of a text as a completion of the group's prompt."""


def configure(
    holdout: int, *, train: int, confirm: int, calibration: int = 2000, safety: float = 0.5, **gates: object
) -> Settings:
    """The default settings with a sandbox that gives sets of about these sizes, and other thresholds where named."""
    sizes = {"train": train, "validation": 60, "calibration": calibration, "holdout": holdout, "confirm": confirm}
    sizes |= {"reference": 1500, "canary": 60}
    total = sum(sizes.values())
    settings = compose([], ROOT / "configs")
    data = SandboxData.model_validate({**settings.data.model_dump(), "groups": total, "safety_share": safety})
    # Shares that add up to 1 to the last digit.
    shares = {name: sizes[name] / total for name in SETS[:-1]}
    shares[SETS[-1]] = 1 - sum(shares.values())
    return settings.model_copy(
        update={
            "data": data,
            "split": settings.split.model_copy(update={"shares": shares}),
            "gates": settings.gates.model_copy(update=gates),
        }
    )


@dataclass(frozen=True)
class World:
    """The world's sets in `build/splits`, and the gold reward of all texts.

    Attributes:
        gold: by (prompt, text): the gold reward.
        luck: by (prompt, text): columns of standard normal numbers, for the noise of models.
    """

    build: Path
    settings: Settings
    gold: dict[Place, float]
    luck: dict[Place, Floats]

    def groups(self, name: str) -> list[Group]:
        """The groups of a set."""
        return read_parquet(self.build / "splits" / f"{name}.parquet")

    def noisy(self, sd: float, *, column: int, safety: tuple[float, float] | None = None) -> Rewards:
        """Gold and noise; `safety` is another amount of noise in the safety slice, and what the sum is multiplied by
        there, so that one map can fit both."""

        def reward(group: Group, text: str) -> float:
            place = (prompt_digest(group.prompt), text)
            own, factor = safety if safety is not None and group.axis == "safety" else (sd, 1.0)
            if place not in self.gold:
                return factor * unsaid(group, text)
            return factor * (self.gold[place] + own * float(self.luck[place][column]))

        return reward


def make_world(folder: Path, settings: Settings, columns: int = 4) -> World:
    """Generate the sandbox and cut it into the seven sets under `folder/build/splits`."""
    build = folder / "build"
    (build / "splits").mkdir(parents=True)
    assert isinstance(settings.data, SandboxData)
    groups = list(sandbox.read(settings.data, ROOT))
    write_parquet(build / "groups.parquet", groups)
    splits.split_groups(build / "groups.parquet", settings.split, build / "splits")
    places = [((prompt_digest(group.prompt), text.text), text) for group in groups for text in group.completions]
    luck = np.random.default_rng(settings.data.seed).normal(size=(len(places), columns))
    return World(
        build=build,
        settings=settings,
        gold={place: text.ratings["gold"] for place, text in places},
        luck={place: row for (place, _), row in zip(places, luck, strict=True)},
    )


def seal(folder: Path, world: World, rewards: Rewards, seed: int) -> Path:
    """A card without weights: calibration map and centering of these rewards, as sealing would compute them."""
    calibration, reference = world.groups("calibration"), world.groups("reference")
    differences, strengths, clusters = [], [], []
    for group in calibration:
        own = [rewards(group, text.text) for text in group.completions]
        for pair in judged_pairs(group):
            first, second = (pair.second, pair.first) if pair.chosen == pair.second else (pair.first, pair.second)
            differences.append(own[first] - own[second])
            strengths.append(pair.strength)
            clusters.append(group.cluster_id)
    fitted = st.fit_calibration_map(differences, strengths, clusters)
    losses = st.pair_losses(differences, strengths, fitted.map)
    values = np.array([rewards(group, text.text) for group in reference for text in group.completions])
    owners = [group.cluster_id for group in reference for _ in group.completions]
    card = Card(
        schema_version=2,
        rule={},
        centering=Centering(
            mean=float(values.mean()),
            sd=float(values.std(ddof=1)),
            median=float(np.median(values)),
            mad=st.median_deviation(values),
            quantiles=st.quantile_table(values),
            n=len(values),
            n_prompts=len(set(owners)),
            se_mean=st.clustered_standard_error(values, owners),
            reference_digest=set_digest(reference),
            reference_source={},
            truncated_share=0.0,
            score_dtype="fp32",
        ),
        calibration=Calibration(
            temperature=fitted.map.temperature,
            noise_floor=fitted.map.noise_floor,
            error=CalibrationError(**fitted.error._asdict()),
            temperature_at_bound=fitted.at_bound,
            log_loss=float((st.cluster_weights(clusters) * losses).sum()),
            pairs=len(clusters),
            n_prompts=len(set(clusters)),
            calibration_digest=set_digest(calibration),
        ),
        seeds={"train": seed},
        self_test=[],
        files={},
    )
    folder.mkdir(parents=True)
    cards.write(card, folder)
    return folder


def scoring(models: dict[str, Rewards]) -> Scoring:
    """Scores by the name of the artifact's folder, in place of a process that loads it."""

    def score(jobs: Mapping[Role, Job], _: Path) -> dict[Role, Scores]:
        return {
            role: [
                [
                    RawScore(models[job.artifact.name](group, text.text), False, len(text.text.split()))
                    for text in group.completions
                ]
                for group in job.groups
            ]
            for role, job in jobs.items()
        }

    return score


def decide(
    world: World,
    build: Path,
    rewards: Rewards,
    champion: tuple[case.Champion, Rewards] | None,
    settings: Settings | None = None,
) -> record.Decision:
    """The judge's decision on `build/artifact` with these rewards, in `decision` beside it."""
    models = {"artifact": rewards}
    if champion is not None:
        models[champion[0].artifact.name] = champion[1]
    return judge.judge(
        build=build,
        state=world.build.parent / "state",
        output=build.parent / "decision",
        settings=settings or world.settings,
        champion=None if champion is None else champion[0],
        who="benchmark",
        score=scoring(models),
    )
