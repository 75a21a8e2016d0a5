"""What is judged: candidate, champion and sets, read and verified under one key. Nothing is scored here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import pyarrow as pa

from touchstone.data.prompts import normalised_prompt
from touchstone.errors import ArtifactError, GateError
from touchstone.gate import leaks
from touchstone.gate.checks import shared_prompts
from touchstone.gate.facts import Facts, JudgeFacts
from touchstone.gate.labels import union
from touchstone.gate.leaks import Leaks, Prompts
from touchstone.gate.record import Alarm, Digests, key_of
from touchstone.groups import Group, by_model, judged_pairs, read_parquet, set_digest
from touchstone.model import optimisation_budget
from touchstone.model.card import Card, adopted, verify_digests
from touchstone.model.optimisation_budget import OptimisationBudget
from touchstone.runtime.files import digest_value
from touchstone.settings import Settings
from touchstone.settings.checks import SETS
from touchstone.settings.gates import Gates
from touchstone.settings.objective import Learns

WITH_LABELS = ("train", "calibration", "holdout", "confirm")
"""Sets whose labels the judge needs; of the others the prompts are enough."""


@dataclass(frozen=True)
class Champion:
    """What the candidate is compared with.

    Attributes:
        version: its label in the registry.
        artifact: its sealed artifact.
        train_prompts: `train_prompts.txt` of its own decision; None if nobody kept it.
        train: its training set (train.parquet), for near duplicates; None where it isn't at hand.
    """

    version: str
    artifact: Path
    train_prompts: Path | None
    train: Path | None = None


@dataclass(frozen=True)
class Case:
    """Everything that is judged, read and verified; `key` is the digest of all of it.

    Attributes:
        build: artifact/ (the candidate) and splits/.
        seeds: artifacts of the same recipe with other seeds, and their cards.
        groups: the sets WITH_LABELS.
        prompts: the distinct prompts of every set, normalised.
        leaks: what training has seen of the other sets.
        asked: what people answered about pairs of these two models (`labels.union`); None where nobody was asked.
        adopted: the candidate was trained elsewhere.
        alarms: of the audit that came with the sets.
        budget, champion_budget: how far they may be optimised; None where nobody has measured it.
    """

    name: str
    build: Path
    card: Card
    champion: Champion | None
    champion_card: Card | None
    champion_prompts: set[str] | None
    seeds: list[tuple[Path, Card]]
    groups: dict[str, list[Group]]
    prompts: dict[str, set[str]]
    leaks: Leaks
    asked: pa.Table | None
    adopted: bool
    alarms: tuple[Alarm, ...]
    budget: OptimisationBudget | None
    champion_budget: OptimisationBudget | None
    limits: Gates
    threads: int
    digests: Digests
    key: str

    @property
    def learns(self) -> Learns:
        """Which labels the candidate learnt from."""
        return self.card.learns


def read_case(
    build: Path,
    settings: Settings,
    champion: Champion | None,
    seeds: Sequence[Path] = (),
    *,
    labels: Path | None = None,
    budgets: Path | None = None,
    trained_here: bool = True,
) -> Case:
    """Read what is to be judged. Texts and labels are read, nothing is scored.

    Args:
        seeds: artifacts of the same recipe with other seeds.
        labels: folder of the plans by which people were asked about pairs of such two models.
        budgets: folder of the records of how far models may be optimised.
        trained_here: the candidate learned from this build's training set and nothing else.

    Raises:
        ArtifactError: the candidate, or one of the other seeds, doesn't verify.
        GateError: the champion or what was asked doesn't verify, or a set is empty.
        DataError: a set is missing.
    """
    # Read and verify the artifacts, then the sets.
    artifact, splits = build / "artifact", build / "splits"
    card = verify_digests(artifact)
    champion_card, champion_prompts = read_champion(champion)
    seed_cards = [(path, verify_digests(path)) for path in seeds]
    groups, set_digests = _read_sets(splits, card)
    texts = _read_prompts(splits, groups)
    alarms = _read_alarms(build / "audit.json")
    asked = None
    if labels is not None and champion_card is not None:
        asked = union.read_asked(labels, card.digest, champion_card.digest, settings.gates)

    budget = champion_budget = None
    if budgets is not None:
        budget = optimisation_budget.read(budgets, card.digest)
        champion_budget = optimisation_budget.read(budgets, champion_card.digest) if champion_card else None
    _check_objective(settings, card, champion_card)

    # Compare the sets: what has training seen of those that judge it?
    prompts = {name: {normalised_prompt(prompt) for prompt in texts[name]} for name in SETS}
    champion_texts: Prompts | None = None
    if champion is not None and champion.train is not None and champion_prompts is not None:
        champion_texts = leaks.read_prompts(champion.train)
    seen = leaks.find_leaks(groups, texts, champion_texts, settings.gates.near_duplicate)
    trained_elsewhere = adopted(artifact) or not trained_here
    unlabelled = {name: sorted(prompts[name]) for name in SETS if name not in groups}

    # Name all of it by one key.
    digests = Digests(
        artifact=card.digest,
        **set_digests,
        thresholds=digest_value(settings.gates.model_dump(mode="json")),
        champion=champion_card.digest if champion_card else None,
        champion_prompts=digest_value(sorted(champion_prompts)) if champion_prompts is not None else None,
        seeds=digest_value(sorted(seed_card.digest for _, seed_card in seed_cards)) if seed_cards else None,
        alarms=digest_value(alarms),
        leaks=digest_value({"others": unlabelled, "adopted": trained_elsewhere, **asdict(seen)}),
        pool=_pool_digest(splits, settings) if settings.gates.policy == "small_data" else None,
        settings=digest_value(settings.model_dump(mode="json")),
        asked=union.digest(asked) if asked is not None else None,
        budgets=_budgets_digest(budget, champion_budget),
    )
    return Case(
        name=settings.name,
        build=build,
        card=card,
        champion=champion,
        champion_card=champion_card,
        champion_prompts=champion_prompts,
        seeds=seed_cards,
        groups=groups,
        prompts=prompts,
        leaks=seen,
        asked=asked,
        adopted=trained_elsewhere,
        alarms=tuple(Alarm(kind=a["kind"], name=a["name"], sentence=a["sentence"]) for a in alarms),
        budget=budget,
        champion_budget=champion_budget,
        limits=settings.gates,
        threads=settings.training_threads,
        digests=digests,
        key=key_of(settings.name, digests),
    )


def _check_objective(settings: Settings, card: Card, champion: Card | None) -> None:
    """Check that labels and models speak of the same thing.

    Raises:
        GateError: they don't.
    """
    learns = settings.objective.learns
    models = {"the artifact": card} | ({} if champion is None else {"the champion": champion})
    for name, of_model in models.items():
        if of_model.learns != learns:
            raise GateError(
                f"{name} gives {_GIVES[of_model.learns]}, and these sets hold {_LABELS[learns]} (objective.name="
                f"{settings.objective.name}): neither can judge the other; seal a model of that objective, or give "
                "the registered model another name"
            )


_LABELS = {"comparisons": "comparisons", "outcome": "outcome labels", "process": "labels of steps"}
_GIVES = {
    "comparisons": "no probability of being correct",
    "outcome": "probabilities of being correct",
    "process": "probabilities of steps",
}


class _SetDigests(TypedDict):
    """Digests of the sets WITH_LABELS."""

    train: str
    calibration: str
    holdout: str
    confirm: str


def _read_sets(splits: Path, card: Card) -> tuple[dict[str, list[Group]], _SetDigests]:
    """The sets WITH_LABELS and their digests, the same ones that the artifact was sealed with and the split made.

    Groups come by their ids: the order of a file is nobody's evidence.

    Raises:
        GateError: a set holds no judged pair or was changed since, or the temperature was fitted on another one.
    """
    # Read.
    groups = {
        name: sorted(read_parquet(splits / f"{name}.parquet"), key=lambda group: group.id) for name in WITH_LABELS
    }
    for name in groups:
        if card.process is None and not any(group.comparisons for group in groups[name]):
            raise GateError(f"{splits / name}.parquet holds no judged pair: nothing can be decided by it")
    train, calibration, holdout, confirm = (set_digest(groups[name]) for name in WITH_LABELS)
    digests = _SetDigests(train=train, calibration=calibration, holdout=holdout, confirm=confirm)

    # Verify: against the artifact, then against the split.
    fitted, pairs = card.calibration, sum(len(judged_pairs(group)) for group in groups["calibration"])
    if (fitted.calibration_digest, fitted.pairs) != (calibration, pairs):
        raise GateError(
            f"the artifact's temperature was fitted on another calibration set than {splits / 'calibration.parquet'}; "
            "seal it with these sets"
        )
    summary = splits / "summary.json"
    if summary.exists():  # it does not beside sets that no split made
        written = json.loads(summary.read_text(encoding="utf-8"))["sets"]
        for name, digest in digests.items():
            if written[name]["digest"] != digest:
                raise GateError(f"{splits / name}.parquet is not the set that the split made; run `dvc repro`")
    return groups, digests


def _read_prompts(splits: Path, groups: Mapping[str, Sequence[Group]]) -> dict[str, Prompts]:
    """The prompts of every set, one per group; those of `groups` are read already."""
    return {
        name: [group.prompt for group in groups[name]]
        if name in groups
        else leaks.read_prompts(splits / f"{name}.parquet")
        for name in SETS
    }


def read_champion(champion: Champion | None) -> tuple[Card | None, set[str] | None]:
    """Its card and the normalised prompts that it was trained on; None where there is none or nobody knows.

    Raises:
        GateError: it can't be read or doesn't verify.
    """
    if champion is None:
        return None, None
    try:
        card = verify_digests(champion.artifact)
        # Of a model that was trained elsewhere the list is that of this project, which says nothing.
        prompts = None if adopted(champion.artifact) else champion.train_prompts
        return card, set(prompts.read_text(encoding="utf-8").split()) if prompts is not None else None
    except (ArtifactError, OSError, UnicodeDecodeError) as error:
        raise GateError(f"the champion, version {champion.version}, can't be read: {error}") from error


def _read_alarms(audit: Path) -> list[dict[str, Any]]:
    """The audit's alarms as it wrote them; none where nothing was audited."""
    alarms: list[dict[str, Any]] = []
    if audit.exists():
        alarms = json.loads(audit.read_text(encoding="utf-8"))["alarms"]
    return alarms


def _pool_digest(splits: Path, settings: Settings) -> str:
    """Digest of what cross-fitting learns from besides the sets WITH_LABELS, and of its recipe."""
    validation = set_digest(read_parquet(splits / "validation.parquet"))
    return digest_value([validation, settings.model_dump(mode="json")])


def _budgets_digest(*budgets: OptimisationBudget | None) -> str | None:
    """Digest of the records that there are; None where there is none."""
    records = [None if budget is None else budget.model_dump(mode="json") for budget in budgets]
    return digest_value(records) if any(records) else None


def gather_facts(
    case: Case, uses: int, earlier_confirm: Literal["fail", "undecided"] | None = None, look: int = 1
) -> Facts:
    """What the checks need besides rows and texts.

    Args:
        uses, look: as in `holdout_ledger.Use`, of the use that the case is judged by.
        earlier_confirm: as in `Facts`.
    """
    other_sets = {name: prompts for name, prompts in case.prompts.items() if name != "train"}
    judged = case.prompts["holdout"] | case.prompts["confirm"]
    champion_prompts, champion_card = case.champion_prompts, case.champion_card
    return Facts(
        artifact=case.card.digest,
        adopted=case.adopted,
        first_model=case.champion is None,
        precision=case.card.centering.score_dtype,
        temperature=case.card.calibration.temperature,
        noise_floor=case.card.calibration.noise_floor,
        calibration_error=case.card.calibration.error,
        max_tokens=case.card.rule.get("max_tokens"),
        champion_max_tokens=champion_card.rule.get("max_tokens") if champion_card else None,
        champion_temperature=champion_card.calibration.temperature if champion_card else None,
        champion_noise_floor=champion_card.calibration.noise_floor if champion_card else None,
        centering=case.card.centering,
        holdout_texts=sum(len(group.completions) for group in case.groups["holdout"]),
        pairs_without_judgement=sum(
            pair.wins_first + pair.wins_second + pair.ties == 0
            for group in case.groups["holdout"]
            for pair in judged_pairs(group)
        ),
        train_prompts=len(case.prompts["train"]),
        shared_prompts=shared_prompts(case.prompts["train"], other_sets),
        champion_shared_prompts=len(champion_prompts & judged) if champion_prompts is not None else None,
        near_duplicate_prompts=case.leaks.near,
        champion_near_duplicates=case.leaks.champion_near,
        swapped_pairs=case.leaks.swapped,
        absent_slices=_absent_slices(case),
        holdout_uses=uses,
        look=look,
        earlier_confirm=earlier_confirm,
        budget=case.budget,
        champion_budget=case.champion_budget,
        outcome=case.card.outcome,
        champion_outcome=champion_card.outcome if champion_card else None,
        process=case.card.process,
        champion_process=champion_card.process if champion_card else None,
        judge=JudgeFacts(model=case.card.rule["model"], unanswered={}) if case.card.is_judge else None,
        model_labelled=_model_labelled(case),
    )


def _model_labelled(case: Case) -> tuple[int, int] | None:
    """Judged pairs of the sets that judge which a model has judged, and all of them; None where there is none."""
    groups = [*case.groups["holdout"], *case.groups["confirm"]]
    pairs = {(group.id, *sorted((edge.i, edge.j))): False for group in groups for edge in group.comparisons}
    for group in groups:
        for edge in filter(by_model, group.comparisons):
            pairs[group.id, *sorted((edge.i, edge.j))] = True
    by_models = sum(pairs.values())
    return (by_models, len(pairs)) if by_models else None


def _absent_slices(case: Case) -> tuple[str, ...]:
    """Critical slices of which the data, training set included, knows nothing."""
    groups = [group for name in case.groups for group in case.groups[name]]
    known = {f"axis={group.axis}" for group in groups} | {f"source={group.source}" for group in groups}
    return tuple(
        sorted(
            name for name in case.limits.critical_slices if name.startswith(("axis=", "source=")) and name not in known
        )
    )
