"""What is judged: candidate, champion and sets, read and verified under one key. Nothing is scored here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from touchstone.data.prompts import normalised_prompt
from touchstone.errors import ArtifactError, GateError
from touchstone.gate import checks, leaks
from touchstone.gate.record import key_of
from touchstone.groups import Group, judged_pairs, read_parquet, set_digest
from touchstone.model import card as cards
from touchstone.model.card import Card
from touchstone.runtime.files import digest_value
from touchstone.runtime.parallel import threads_of
from touchstone.settings import Settings
from touchstone.settings.checks import SETS
from touchstone.settings.gates import Gates


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
        leaks: what training has seen of the other sets, as `gather_facts` gives it.
        adopted: the candidate was trained elsewhere.
        alarms: of the audit that came with the sets.
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
    leaks: dict[str, Any]
    adopted: bool
    alarms: list[dict[str, Any]]
    limits: Gates
    threads: int
    digests: dict[str, str | None]
    key: str


def read_case(
    build: Path,
    settings: Settings,
    champion: Champion | None,
    seeds: Sequence[Path] = (),
    *,
    trained_here: bool = True,
) -> Case:
    """Read what is to be judged. Texts and labels are read, nothing is scored.

    Args:
        seeds: artifacts of the same recipe with other seeds.
        trained_here: the candidate learned from this build's training set and nothing else.

    Raises:
        ArtifactError: the candidate, or one of the other seeds, doesn't verify.
        GateError: the champion doesn't verify, or a set is empty.
        DataError: a set is missing.
    """
    artifact = build / "artifact"
    card = cards.verify_digests(artifact)
    champion_card, champion_prompts = _read_champion(champion)
    folder = build / "splits"
    groups = {
        name: read_parquet(folder / f"{name}.parquet") for name in ("train", "calibration", "holdout", "confirm")
    }
    for name in groups:
        if not any(group.comparisons for group in groups[name]):
            raise GateError(f"{folder / name}.parquet holds no judged pair: nothing can be decided by it")
    own = {name: set_digest(found) for name, found in groups.items()}
    _verify_sets(folder, groups, own, card)
    others = {name: leaks.read_prompts(folder / f"{name}.parquet") for name in SETS if name not in groups}
    texts = {name: [group.prompt for group in groups[name]] if name in groups else others[name] for name in SETS}
    prompts = {name: {normalised_prompt(prompt) for prompt in texts[name]} for name in SETS}
    near = settings.gates.near_duplicate
    judged = {name: texts[name] for name in ("holdout", "confirm")}
    known = None
    if champion is not None and champion.train is not None and champion_prompts is not None:
        known = leaks.read_prompts(champion.train)
    seen: dict[str, Any] = {
        "near": leaks.near_duplicates_of(
            texts["train"], {name: texts[name] for name in SETS if name != "train"}, near
        ),
        "swapped": leaks.swapped_pairs(groups["train"], [*groups["holdout"], *groups["confirm"]]),
        "champion_near": None if known is None else sum(leaks.near_duplicates_of(known, judged, near).values()),
    }
    audit = build / "audit.json"
    alarms = json.loads(audit.read_text(encoding="utf-8"))["alarms"] if audit.exists() else []
    adopted = cards.adopted(artifact) or not trained_here
    seed_cards = [(path, cards.verify_digests(path)) for path in seeds]
    digests = {
        "artifact": card.digest,
        **own,
        "thresholds": digest_value(settings.gates.model_dump(mode="json")),
        "champion": champion_card.digest if champion_card else None,
        "champion_prompts": digest_value(sorted(champion_prompts)) if champion_prompts is not None else None,
        "seeds": digest_value(sorted(found.digest for _, found in seed_cards)) if seed_cards else None,
        "alarms": digest_value(alarms),
        # What the check of leaks looks at besides.
        "leaks": digest_value(
            {"others": {name: sorted(prompts[name]) for name in others}, "adopted": adopted, **seen}
        ),
        # Cross-fitting learns from it, by the recipe of the settings.
        "pool": digest_value(
            [set_digest(read_parquet(folder / "validation.parquet")), settings.model_dump(mode="json")]
        )
        if settings.gates.policy == "small_data"
        else None,
    }
    key = key_of(settings.name, digests)
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
        adopted=adopted,
        alarms=[{"kind": a["kind"], "name": a["name"], "sentence": a["sentence"]} for a in alarms],
        limits=settings.gates,
        threads=threads_of(settings.train.threads),
        digests=digests,
        key=key,
    )


def _verify_sets(folder: Path, groups: Mapping[str, Sequence[Group]], digests: Mapping[str, str], card: Card) -> None:
    """Check the sets against what the artifact was sealed with, and against what the split wrote down.

    Raises:
        GateError: a set was changed since, or the temperature was fitted on another one.
    """
    fitted, pairs = card.calibration, sum(len(judged_pairs(group)) for group in groups["calibration"])
    if (fitted.calibration_digest, fitted.pairs) != (digests["calibration"], pairs):
        raise GateError(
            f"the artifact's temperature was fitted on another calibration set than {folder / 'calibration.parquet'}; "
            "seal it with these sets"
        )
    summary = folder / "summary.json"
    if not summary.exists():  # sets that no split made: nothing to compare with
        return
    written = json.loads(summary.read_text(encoding="utf-8"))["sets"]
    for name, digest in digests.items():
        if written[name]["digest"] != digest:
            raise GateError(f"{folder / name}.parquet is not the set that the split made; run `dvc repro`")


def _read_champion(champion: Champion | None) -> tuple[Card | None, set[str] | None]:
    if champion is None:
        return None, None
    try:
        card = cards.verify_digests(champion.artifact)
        # Of a model that was trained elsewhere the list is that of this project, which says nothing.
        known = None if cards.adopted(champion.artifact) else champion.train_prompts
        return card, set(known.read_text(encoding="utf-8").split()) if known is not None else None
    except (ArtifactError, OSError, UnicodeDecodeError) as error:
        raise GateError(f"the champion, version {champion.version}, can't be read: {error}") from error


def gather_facts(case: Case, uses: int, failed_confirm: bool, look: int = 1) -> dict[str, Any]:
    """What the checks need besides rows and texts, as plain JSON values."""
    others = {name: prompts for name, prompts in case.prompts.items() if name != "train"}
    judged = case.prompts["holdout"] | case.prompts["confirm"]
    known = case.champion_prompts
    return {
        "artifact": case.card.digest,
        "adopted": case.adopted,
        "first_model": case.champion is None,
        "precision": case.card.centering.score_dtype,
        "temperature": case.card.calibration.temperature,
        "temperature_fitted_on": case.card.calibration.pairs,
        "max_tokens": case.card.rule.get("max_tokens"),
        "champion_max_tokens": case.champion_card.rule.get("max_tokens") if case.champion_card else None,
        "champion_temperature": case.champion_card.calibration.temperature if case.champion_card else None,
        "centering": case.card.centering.model_dump(mode="json"),
        "holdout_texts": sum(len(group.completions) for group in case.groups["holdout"]),
        "pairs_without_judgement": sum(
            pair.wins_first + pair.wins_second + pair.ties == 0
            for group in case.groups["holdout"]
            for pair in judged_pairs(group)
        ),
        "train_prompts": len(case.prompts["train"]),
        "shared_prompts": checks.shared_prompts(case.prompts["train"], others),
        "champion_shared_prompts": len(known & judged) if known is not None else None,
        "near_duplicate_prompts": case.leaks["near"],
        "champion_near_duplicates": case.leaks["champion_near"],
        "swapped_pairs": case.leaks["swapped"],
        "absent_slices": _absent(case),
        "holdout_uses": uses,
        "look": look,
        "failed_confirm_before": failed_confirm,
    }


def _absent(case: Case) -> list[str]:
    """Critical slices of which the data, training set included, knows nothing."""
    groups = [group for name in case.groups for group in case.groups[name]]
    known = {f"axis={group.axis}" for group in groups} | {f"source={group.source}" for group in groups}
    return sorted(
        name for name in case.limits.critical_slices if name.startswith(("axis=", "source=")) and name not in known
    )
