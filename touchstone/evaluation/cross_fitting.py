"""Evidence where the sets are too small to judge by: every comparison scored by a model that never saw its cluster.

    result = cross_fit(build, settings, work)
    write(result, work / "cross_fit.parquet")

Everything judged is pooled (reference and canary stay apart) and cut into K folds of whole clusters. For each fold a
model of the candidate's recipe learns from the other folds, by the product's own stages in fresh processes, and scores
the one it has not seen. The numbers are about the recipe and not about the candidate's own weights, and holdout and
confirm are opened by them: who calls this has written the ledger first.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from touchstone.data.prompts import normalised_prompt
from touchstone.data.splits import families as family_names
from touchstone.data.splits import is_held_out, near_prompts, read_prompts
from touchstone.errors import GateError
from touchstone.evaluation.baselines import BEST_POSSIBLE, LinearBaseline, best_possible, longer_wins
from touchstone.evaluation.rows import ROW_SCHEMA, differences, score_rows, told_apart
from touchstone.groups import Group, judged_pairs, read_parquet, set_digest, write_parquet
from touchstone.model import card as cards
from touchstone.model.scores import RawScore, read_scores, scored_by
from touchstone.runtime import processes
from touchstone.runtime.files import digest_value, write_folder
from touchstone.runtime.parallel import cores, map_threads
from touchstone.runtime.places import PACKAGE
from touchstone.runtime.progress import progress
from touchstone.settings import Settings, dump, project_root
from touchstone.settings.checks import Split
from touchstone.settings.objective import Learns
from touchstone.statistics import CalibrationMap, Floats

FOLDS = 5
POOLED = ("train", "validation", "calibration", "holdout", "confirm")
BASELINES = ("longer_wins", "linear", BEST_POSSIBLE)
SCORES = "scores.parquet"

LOOK_SECONDS = 0.2
"""So often is looked whether a stage of a fold has ended, or must."""

Scores = list[list[RawScore]]
Families = Mapping[str, str]
"""Cluster -> the smallest id of the clusters that near duplicates join."""

SCHEMA = pa.schema(
    [
        ("fold", pa.int32()),
        ("artifact", pa.string()),
        ("temperature", pa.float64()),
        ("noise_floor", pa.float64()),
        *ROW_SCHEMA,
        *((name, pa.float64()) for name in BASELINES),
    ]
)
"""One judged pair: rewards by the model of its fold, that model's digest, T and e, and D of each baseline."""


@dataclass(frozen=True, eq=False)
class CrossFit:
    """Out-of-fold scores of every judged group: each by the model that did not learn from its fold.

    Attributes:
        groups: every judged group, set by set in the order of POOLED, without comparisons that are equal once cut.
        fold_of: per group, the fold it lies in.
        scores: per group one score per completion, by the model that did not see the group's fold.
        maps, artifacts: by fold, calibration map and digest of the model that scored it.
        baselines: D of every judged pair by baseline, fitted on the other folds too.
    """

    groups: list[Group]
    fold_of: list[int]
    scores: Scores
    maps: list[CalibrationMap]
    artifacts: list[str]
    baselines: dict[str, Floats]


@dataclass(frozen=True)
class Parts:
    """What the model of one fold learns from, and what it scores; `validation` only where training stops early."""

    train: list[Group]
    validation: list[Group]
    calibration: list[Group]
    scored: list[Group]


def cross_fit(build: Path, settings: Settings, work: Path, folds: int = FOLDS) -> CrossFit:
    """Train and score fold after fold; one that `work` holds already is taken from there.

    Args:
        build: base/, splits/ and the candidate's artifact/.
        work: keeps finished folds (scores and card, no weights), by the digest of all that they follow from.

    Raises:
        GateError: there are too few clusters, the base itself may have learnt from the comparisons, the candidate is
            of another recipe, a stage failed, or something of a scored fold was about to be learnt from.
        ArtifactError, DataError: `build` or a finished fold can't be read.
    """
    # Refuse a recipe whose models could have learnt from what they would score, or say nothing of the candidate.
    if settings.model.kind == "pretrained" and settings.model.keep_head:
        raise GateError(
            "model.keep_head continues from a reward model that may have learnt from these very comparisons, so "
            "nothing can be held out of it; train from a base, or judge with another gates.policy"
        )
    candidate = cards.read(build / "artifact")
    if candidate.seeds.get("train") != settings.train.seed:
        raise GateError(
            f"{build / 'artifact'} was not trained by the recipe in the settings, whose models say nothing of it; "
            "judge a model from elsewhere with another gates.policy"
        )

    # Pool the sets and cut them; work with the same key was done before, and goes on from its last finished fold.
    learns = settings.objective.learns
    pool = [group for name in POOLED for group in read_parquet(_set(build, name)) if teaches(group, learns)]
    folder = work / _key(candidate.digest, build, pool, settings, folds)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        families = join_near(pool, settings.split.near_duplicate, folder)
        fold_of = assign_folds(pool, families, folds, settings.gates.seed)
        divided = [divide(pool, fold_of, fold, families, settings) for fold in range(folds)]

        # Train and score what is missing, then read all folds back.
        missing = [fold for fold in range(folds) if not _finished(folder, fold).exists()]
        for fold in set(range(folds)) - set(missing):
            shutil.rmtree(_training(folder, fold), ignore_errors=True)  # stopped between keeping the one and this
        fitted = _fit_all(build, settings, divided, families, folder, missing)
        for _ in progress(fitted, "cross-fit", folds, done=folds - len(missing)):
            pass
        results = [_read(_finished(folder, fold), parts) for fold, parts in enumerate(divided)]
    scores = _in_order(fold_of, [scores for _, scores in results])
    telling = told_apart(pool, scores)
    return CrossFit(
        groups=telling,
        fold_of=fold_of,
        scores=scores,
        maps=[card.calibration.map for card, _ in results],
        artifacts=[card.digest for card, _ in results],
        baselines=out_of_fold_baselines(pool, telling, fold_of, folds, learns),
    )


def teaches(group: Group, learns: Learns) -> bool:
    """Whether a group holds labels of the kind that the objective learns from."""
    if learns == "comparisons":
        return bool(group.comparisons)
    return any(completion.outcome is not None for completion in group.completions)


def write(result: CrossFit, path: Path) -> None:
    """Write one row per judged pair, with SCHEMA."""
    pq.write_table(to_table(result), path, compression="zstd")


def join_near(pool: Sequence[Group], threshold: float, folder: Path) -> dict[str, str]:
    """The families of clusters: those with near-duplicate prompts are one, however long the chain.

    The split made families inside its sets, which is not enough here: folds cut through sets.

    Args:
        folder: for a copy of the pool, which is read in a stream.
    """
    path = folder / "groups.parquet"
    write_parquet(path, pool)
    prompts = read_prompts(path)
    near = near_prompts(prompts, path, threshold)
    return dict(zip(prompts.clusters, family_names(prompts, near), strict=True))


def assign_folds(pool: Sequence[Group], families: Families, folds: int, seed: int) -> list[int]:
    """Each group's fold: whole families, the largest first, each to the fold with fewest pairs.

    Equal sizes come in the order of a hash of family and seed, so nobody's order of rows chooses.

    Raises:
        GateError: there are fewer families than folds.
    """
    sizes = _pairs_by_family(pool, families)
    if len(sizes) < folds:
        raise GateError(
            f"{len(sizes)} independent clusters can't be cut into {folds} folds: bring comparisons on other prompts"
        )
    load = [0] * folds
    places: dict[str, int] = {}
    for family in sorted(sizes, key=lambda family: (-sizes[family], digest_value([seed, family]))):
        places[family] = load.index(min(load))
        load[places[family]] += sizes[family]
    return [places[families[group.cluster_id]] for group in pool]


def divide(pool: Sequence[Group], fold_of: Sequence[int], fold: int, families: Families, settings: Settings) -> Parts:
    """A fold, and what its model learns from: the other folds in the proportions of the candidate's own sets.

    As in the split, judgements of held-out annotators are kept from `train`.

    Raises:
        GateError: the other folds hold too few clusters to part.
    """
    # What there is outside of the fold, and which shares of it the candidate's own sets had.
    other_groups = [group for group, place in zip(pool, fold_of, strict=True) if place != fold]
    sizes = _pairs_by_family(other_groups, families)
    left = sorted(sizes, key=lambda family: digest_value([settings.gates.seed, fold, family]))
    names = ["calibration", "validation"] if settings.train.early_stopping_steps else ["calibration"]
    shares = settings.split.shares
    total_share = shares["train"] + sum(shares[name] for name in names)

    # Whole families in a hashed order, until each small set has its share of the pairs; the rest is for training.
    roles: dict[str, str] = {}
    for name in names:
        wanted = max(1.0, shares[name] / total_share * sizes.total())
        picked = 0
        while left and picked < wanted:
            roles[left[-1]] = name
            picked += sizes[left.pop()]
    if not left:
        raise GateError(
            f"without fold {fold + 1} there are {len(sizes)} independent clusters, too few to train on some and to "
            f"keep others for {' and '.join(names)}; bring comparisons on other prompts"
        )
    by_role: dict[str, list[Group]] = {"train": [], "validation": [], "calibration": []}
    for group in other_groups:
        by_role[roles.get(families[group.cluster_id], "train")].append(group)
    return Parts(
        train=[_without_held_out(group, settings.split) for group in by_role["train"]],
        validation=by_role["validation"],
        calibration=by_role["calibration"],
        scored=[group for group, place in zip(pool, fold_of, strict=True) if place == fold],
    )


def check_apart(scored: Sequence[Group], learnt: Sequence[Group], families: Families) -> None:
    """Make sure that no cluster, near duplicate or prompt of a fold is among what its model learns from.

    Raises:
        GateError: names the first group at fault.
    """
    learnt_families = {families[group.cluster_id] for group in learnt}
    prompts = {normalised_prompt(group.prompt) for group in learnt}
    for group in scored:
        if families[group.cluster_id] in learnt_families or normalised_prompt(group.prompt) in prompts:
            raise GateError(f"group {group.id} would be scored by a model that has seen its prompt; this is a leak")


def _set(build: Path, name: str) -> Path:
    return build / "splits" / f"{name}.parquet"


def _key(candidate: str, build: Path, pool: Sequence[Group], settings: Settings, folds: int) -> str:
    """All that the folds follow from; the candidate stands for the code and the libraries that made it."""
    several = {"ensemble"} if settings.ensemble.kind != "none" else set()
    sections = {"model", "objective", "train", "seal", "split"} | several
    parts = settings.model_dump(mode="json", include=sections)
    return digest_value(
        {
            **parts,
            "artifact": candidate,
            "pool": set_digest(pool),
            "reference": set_digest(read_parquet(_set(build, "reference"))),
            "folds": folds,
            "seed": settings.gates.seed,
            "safety_axes": settings.gates.safety_axes,
        }
    )[:32]


def _finished(folder: Path, fold: int) -> Path:
    """Where a finished fold's scores and card lie."""
    return folder / f"fold-{fold + 1}"


def _training(folder: Path, fold: int) -> Path:
    """Where a fold is trained; a finished one needs it no more."""
    return folder / f"training-{fold + 1}"


def _pairs_by_family(groups: Sequence[Group], families: Families) -> Counter[str]:
    sizes: Counter[str] = Counter()
    for group in groups:
        sizes[families[group.cluster_id]] += len(judged_pairs(group))
    return sizes


def _without_held_out(group: Group, split: Split) -> Group:
    comparisons = (
        edge for edge in group.comparisons if edge.annotator is None or not is_held_out(edge.annotator, split)
    )
    return replace(group, comparisons=tuple(comparisons))


def _fit_all(
    build: Path, settings: Settings, divided: Sequence[Parts], families: Families, folder: Path, missing: Sequence[int]
) -> Iterator[None]:
    """Fit the missing folds, as many at once as the cores have room for; gives nothing for each as it is done.

    If one fails, or whoever waits is stopped, the others end too; what they have done is gone on with next time.
    """
    on_cpu = settings.train.accelerate == "cpu"
    at_once = max(1, cores() // settings.training_threads) if on_cpu else 1
    ended = threading.Event()

    def fit(fold: int) -> None:
        _fit(build, settings, divided[fold], families, folder, fold, ended)

    return map_threads(fit, missing, at_once, ended)


def _fit(
    build: Path,
    settings: Settings,
    parts: Parts,
    families: Families,
    folder: Path,
    fold: int,
    ended: threading.Event,
) -> None:
    """Train, seal and score in a folder laid out like a project; what counts is kept, the weights are not.

    A training that was killed goes on from its checkpoint.

    Args:
        ended: set where nobody waits for the fold any more.
    """
    place = _training(folder, fold)
    names = ["train", "calibration", *(["validation"] if parts.validation else [])]
    for name in names:
        write_parquet(_set(place / "build", name), getattr(parts, name))
    shutil.copyfile(_set(build, "reference"), _set(place / "build", "reference"))
    write_parquet(place / "scored.parquet", parts.scored)
    (place / "params.yaml").write_text(dump(settings), encoding="utf-8")
    # From the files, because they are what the stages read.
    learnt = [group for name in names for group in read_parquet(_set(place / "build", name))]
    check_apart(read_parquet(place / "scored.parquet"), learnt, families)
    if settings.model.kind == "pretrained":
        shutil.copytree(build / "base", place / "build" / "base", dirs_exist_ok=True)
    for words, command in _stages(settings):
        _run(f"{words} fold {fold + 1}", command, place, ended)

    def fill(partial: Path) -> None:
        shutil.copyfile(place / "build" / "artifact" / cards.FILE, partial / cards.FILE)
        shutil.copyfile(place / SCORES, partial / SCORES)

    write_folder(_finished(folder, fold), fill)
    shutil.rmtree(place)


def _stages(settings: Settings) -> list[tuple[str, list[str]]]:
    """The stages of dvc.yaml that lead to scores, with what to call them.

    A base from scratch is built for each fold: its warm-up reads the training set's preferred completions, so the
    candidate's own base knows what people preferred in prompts that are scored here.
    """
    python, threads = [sys.executable, "-m"], str(settings.training_threads)
    config = project_root() / "configs" / "accelerate" / f"{settings.train.accelerate}.yaml"
    launch = ["--num_cpu_threads_per_process", "1", "--config_file", str(config)]
    scratch = settings.model.kind == "scratch"
    return [
        *([("building the base of", [*python, "touchstone.model.base"])] if scratch else []),
        ("training", [*python, "accelerate.commands.launch", *launch, "-m", "touchstone.training"]),
        ("sealing", [*python, "touchstone.model.sealing"]),
        (
            "scoring",
            [
                *python,
                "touchstone.model.score_files",
                "build/artifact",
                "scored.parquet",
                SCORES,
                "--threads",
                threads,
            ],
        ),
    ]


def _run(what: str, command: list[str], place: Path, ended: threading.Event) -> None:
    """Run a stage in `place`, its output to a file; whatever ends this call ends the stage, and `ended` ends both."""
    code = str(PACKAGE.parent)  # the code that judges, whatever folder a stage runs in
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([code, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "TOUCHSTONE_ROOT": str(project_root()),
        "TOUCHSTONE_EVENTS": "",  # a fold's curve is not the candidate's
        "TOUCHSTONE_CHECKPOINTS": "",
    }
    log = place / "log.txt"
    with processes.background(command, cwd=place, env=env, log=log) as poll:
        while (exit_code := poll()) is None:
            if ended.wait(LOOK_SECONDS):
                raise GateError(f"{what} was stopped")
    if exit_code:
        finished = processes.Finished(exit_code, processes.plain_text(log.read_bytes()))
        raise GateError(f"{what} failed: {finished.complaint} (all that it said: {log})")


def _read(folder: Path, parts: Parts) -> tuple[cards.Card, Scores]:
    """Card and scores of a finished fold.

    Raises:
        GateError: they are not of this fold.
    """
    card = cards.read(folder)
    calibrated_on = card.calibration.calibration_digest
    if scored_by(folder / SCORES) != card.digest or calibrated_on != set_digest(parts.calibration):
        raise GateError(f"{folder} holds another model's scores; remove that folder and judge again")
    return card, read_scores(folder / SCORES, parts.scored)


def _in_order(fold_of: Sequence[int], by_fold: Sequence[Sequence[Any]]) -> list[Any]:
    """What was computed for the groups fold by fold, in the order of the pool."""
    remaining = [iter(values) for values in by_fold]
    return [next(remaining[fold]) for fold in fold_of]


def out_of_fold_baselines(
    pool: Sequence[Group], telling: Sequence[Group], fold_of: Sequence[int], folds: int, learns: Learns
) -> dict[str, Floats]:
    """D of every judged pair of `telling` by baseline, each fitted on all the other folds: on more than the model."""
    rewards: dict[str, list[list[list[float]]]] = {"longer_wins": [], "linear": []}
    for fold in range(folds):
        scored = [group for group, place in zip(pool, fold_of, strict=True) if place == fold]
        other_groups = [group for group, place in zip(pool, fold_of, strict=True) if place != fold]
        rewards["longer_wins"].append(longer_wins(scored, other_groups))
        rewards["linear"].append(LinearBaseline.fit(other_groups).score(scored))
    baselines = {name: differences(telling, _in_order(fold_of, by_fold)) for name, by_fold in rewards.items()}
    if (known := best_possible(pool, learns)) is not None:
        baselines[BEST_POSSIBLE] = differences(telling, known)
    return baselines


def to_table(result: CrossFit) -> pa.Table:
    """One row per judged pair, with SCHEMA."""
    folds = [
        fold
        for group, fold in zip(result.groups, result.fold_of, strict=True)
        for _ in range(len(judged_pairs(group)))
    ]
    records = [
        {
            "fold": fold + 1,
            "artifact": result.artifacts[fold],
            **result.maps[fold]._asdict(),
            **asdict(row),
            **{name: float(values[place]) for name, values in result.baselines.items()},
        }
        for place, (row, fold) in enumerate(zip(score_rows(result.groups, result.scores), folds, strict=True))
    ]
    return pa.Table.from_pylist(records, schema=SCHEMA)
