"""What the gate would decide on data like this project's, before anything is trained or a label is bought.

The probabilities of each verdict by how much better a candidate truly is and by how many prompts judge it, by
simulation (`touchstone.gate.simulation`). Prompts look like those of the training set; how many judge comes from the
split's summary. The holdout stays closed, and no artifact is needed.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from touchstone import statistics
from touchstone.errors import GateError
from touchstone.evaluation.baselines import BEST_POSSIBLE, baseline_differences
from touchstone.gate.checks import OUTCOME_CHECKS, Verdict
from touchstone.gate.simulation import Outcome, Shape, Sizes, World, decide, shape_of
from touchstone.groups import Group, judged_pairs, read_parquet
from touchstone.runtime.parallel import map_ordered
from touchstone.runtime.progress import progress
from touchstone.settings import Settings
from touchstone.settings.gates import Gates

GAINS = (-0.03, 0.0, 0.02, 0.03, 0.05)
FACTORS = (1, 2, 4)
DRAWS = 60
BOOTSTRAP_DRAWS = 1_000
"""Resampled means in a simulated decision, where it takes no more: thousands of decisions average their noise."""
MOST_GROUPS = 3_000
"""Of the training set, spread evenly: enough to know what prompts look like."""
HEADROOM = 0.10
"""By how much a champion that nobody has measured is assumed to be better than the best baseline."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Shares of the verdicts in many simulated decisions.

    Attributes:
        prompts: of the holdout.
        gain: by how much the candidate is truly better.
        open: by check, how often it kept a decision from being a PROMOTE.
    """

    prompts: int
    gain: float
    draws: int
    promote: float
    reject: float
    inconclusive: float
    error: float
    open: dict[str, float]


@dataclass(frozen=True, slots=True)
class Preview:
    """The table, and what was assumed.

    Attributes:
        accuracy: of the champion, as agreement with the labels.
        longer_wins, linear: agreement with the labels of length alone, and of words and length.
        not_simulated: required checks that the simulation leaves out, so that verdicts may be worse than shown.
    """

    name: str
    policy: str
    accuracy: float
    longer_wins: float
    linear: float
    discordance: float
    label_noise: float
    pairs_per_prompt: float
    labelled_ties: float
    critical_shares: dict[str, float]
    cells: tuple[Cell, ...]
    not_simulated: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def table(self) -> Table:
        """For people."""
        table = Table(title=f"{self.name}: what the gate would say, policy {self.policy}")
        for column in ("holdout prompts", "true gain", "PROMOTE", "REJECT", "INCONCLUSIVE", "mostly for"):
            table.add_column(column, justify="left" if column == "mostly for" else "right")
        last = None
        for cell in self.cells:
            if last not in (None, cell.prompts):
                table.add_section()
            reasons = ", ".join(f"{name} {share:.0%}" for name, share in list(cell.open.items())[:2])
            shares = (f"{share:.0%}" for share in (cell.promote, cell.reject, cell.inconclusive))
            prompts = "" if last == cell.prompts else f"{cell.prompts:,}"
            table.add_row(prompts, f"{100 * cell.gain:+.0f} points", *shares, reasons)
            last = cell.prompts
        return table

    def assumptions(self) -> str:
        """What was assumed, in sentences."""
        slices = "".join(f"; {share:.0%} {name}" for name, share in self.critical_shares.items())
        draws = self.cells[0].draws
        without = f" Not simulated: {', '.join(self.not_simulated)}." if self.not_simulated else ""
        return (
            f"Assumed: a champion that agrees with {self.accuracy:.1%} of the labels (length alone "
            f"{self.longer_wins:.1%}, words and length {self.linear:.1%}), two equal models order "
            f"{self.discordance:.1%} of the pairs differently, {self.label_noise:.1%} of the labels are wrong, "
            f"calibrated models. From the data: {self.pairs_per_prompt:.2f} pairs a prompt, {self.labelled_ties:.1%} "
            f"of them ties{slices}. {draws} simulated decisions a line: two of three shares are off by at most "
            f"{50 / draws**0.5:.0f} points.{without}"
        )


def preview(
    build: Path,
    settings: Settings,
    *,
    discordance: float = 0.10,
    label_noise: float = 0.0,
    accuracy: float | None = None,
    draws: int = DRAWS,
) -> Preview:
    """Simulate decisions on data like that in `build/splits`, with a progress bar.

    Args:
        build: splits/, and where there is one evaluation/metrics.json.
        discordance: share of the pairs that two equal models order differently.
        label_noise: share of the labels that are the wrong way round; a true gain then shows as less.
        accuracy: the champion's agreement with the labels; None: that of the model that was evaluated last, or
            HEADROOM above the best baseline.
        draws: simulated decisions for every size and gain.

    Raises:
        GateError: there are no sets, or the objective is judged by chains of steps.
        DataError: a set can't be read.
    """
    if settings.objective.learns == "process":
        raise GateError(
            "the preview simulates pairs of completions, and objective=process is judged by chains of steps; judge a "
            "model to see how many prompts are missing"
        )
    # Read: what prompts look like, how many judge, and what is known of models.
    sizes = read_sizes(build)
    train = [group for group in read_parquet(build / "splits" / "train.parquet") if group.comparisons]
    shape = shape_of(train[:: max(1, len(train) // MOST_GROUPS)], settings.gates)
    measured, baselines = _known(build, train)
    best = max(baselines.values())
    chosen = accuracy or measured or min(0.95, best + HEADROOM)
    # Agreement with labels of which a share e is wrong: a (1 - e) + (1 - a) e.
    true = (chosen - label_noise) / (1 - 2 * label_noise)
    if not 0.5 < true < 1 - max(GAINS):
        raise GateError(
            f"a champion that agrees with {chosen:.1%} of labels of which {label_noise:.0%} are wrong would be right "
            f"in {true:.1%} of all cases; give another --accuracy or --label-noise"
        )
    world = World(true, discordance, label_noise, baselines["linear"])

    # Simulate, and count.
    cells = simulate(shape, world, sizes, settings.gates, draws)
    judged = len(shape.tied)
    return Preview(
        name=settings.name,
        policy=settings.gates.policy,
        accuracy=chosen,
        longer_wins=baselines["longer_wins"],
        linear=baselines["linear"],
        discordance=discordance,
        label_noise=label_noise,
        pairs_per_prompt=judged / shape.prompts,
        labelled_ties=float(shape.tied.mean()),
        critical_shares={
            name: float(shape.masks[name].mean()) for name in settings.gates.critical_slices if name in shape.masks
        },
        cells=cells,
        not_simulated=OUTCOME_CHECKS if settings.objective.learns == "outcome" else (),
    )


def simulate(
    shape: Shape,
    world: World,
    sizes: Sizes,
    limits: Gates,
    draws: int,
    *,
    factors: Sequence[float] = FACTORS,
    gains: Sequence[float] = GAINS,
) -> tuple[Cell, ...]:
    """One cell for every size and gain, with a progress bar, on all cores."""
    quick = limits.model_copy(update={"bootstrap_draws": min(limits.bootstrap_draws, BOOTSTRAP_DRAWS)})
    keys = [(factor, gain, number) for factor in factors for gain in gains for number in range(draws)]
    function = partial(_decide, shape=shape, world=world, sizes=sizes, limits=quick)
    outcomes: dict[tuple[float, float], list[Outcome]] = defaultdict(list)
    for (factor, gain, _), outcome in zip(
        keys, progress(map_ordered(function, keys), "simulate decisions", len(keys)), strict=True
    ):
        outcomes[factor, gain].append(outcome)
    return tuple(count(sizes.times(factor).holdout, gain, results) for (factor, gain), results in outcomes.items())


def _decide(key: tuple[float, float, int], *, shape: Shape, world: World, sizes: Sizes, limits: Gates) -> Outcome:
    factor, gain, number = key
    return decide(number, shape=shape, world=world, sizes=sizes.times(factor), gain=gain, limits=limits)


def count(prompts: int, gain: float, outcomes: Sequence[Outcome]) -> Cell:
    """The shares of the verdicts, and which checks stood in the way."""
    total = len(outcomes)
    verdicts = Counter(outcome.verdict for outcome in outcomes)
    blocking = Counter(
        name
        for outcome in outcomes
        for name, status in outcome.statuses.items()
        if status in ("fail", "undecided", "not_run", "error")
    )
    return Cell(
        prompts=prompts,
        gain=gain,
        draws=total,
        promote=verdicts[Verdict.PROMOTE] / total,
        reject=verdicts[Verdict.REJECT] / total,
        inconclusive=verdicts[Verdict.INCONCLUSIVE] / total,
        error=verdicts[Verdict.ERROR] / total,
        open={name: number / total for name, number in blocking.most_common()},
    )


def read_sizes(build: Path) -> Sizes:
    """How many prompts the sets hold, from the split's summary.

    Raises:
        GateError: there is none.
    """
    path = build / "splits" / "summary.json"
    if not path.is_file():
        raise GateError(f"{path} does not exist: there are no sets to preview; make them with `dvc repro split`")
    sets = json.loads(path.read_text(encoding="utf-8"))["sets"]
    return Sizes(*(sets[name]["clusters"] for name in ("holdout", "confirm", "calibration")))


def _known(build: Path, train: Sequence[Group]) -> tuple[float | None, dict[str, float]]:
    """Accuracy on `validation` of the model that was evaluated last (None where there is none) and of baselines."""
    path = build / "evaluation" / "metrics.json"
    if path.is_file():
        metrics = json.loads(path.read_text(encoding="utf-8"))
        accuracies = {name: values["accuracy"] for name, values in metrics["baselines"].items()}
        return metrics["accuracy"], {name: accuracies[name] for name in accuracies if name != BEST_POSSIBLE}
    validation, calibration = (
        read_parquet(build / "splits" / f"{name}.parquet") for name in ("validation", "calibration")
    )
    differences = baseline_differences(validation, train, calibration)
    pairs = [(group.cluster_id, pair) for group in validation for pair in judged_pairs(group)]
    decided = np.asarray([pair.chosen is not None for _, pair in pairs], dtype=bool)
    clusters = np.asarray([cluster for cluster, _ in pairs])[decided]
    return None, {
        name: statistics.accuracy(statistics.credit(values[decided]), clusters)
        for name, values in differences.items()
        if name != BEST_POSSIBLE
    }
