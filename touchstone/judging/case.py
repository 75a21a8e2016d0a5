"""What is judged: candidate, champion and sets, read and verified under one key. Nothing is scored here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from touchstone import card as cards
from touchstone import gates
from touchstone.card import Card
from touchstone.errors import ArtifactError, GateError
from touchstone.files import digest_value
from touchstone.groups import Group, Message, judged_pairs, read_parquet, set_digest
from touchstone.judging.record import SCHEMA_VERSION
from touchstone.settings import Settings
from touchstone.settings.data import SETS
from touchstone.settings.gates import Gates


@dataclass(frozen=True)
class Champion:
    """What the candidate is compared with.

    Attributes:
        version: its label in the registry.
        artifact: its sealed artifact.
        train_prompts: `train_prompts.txt` of its own decision; None if nobody kept it.
    """

    version: str
    artifact: Path
    train_prompts: Path | None


@dataclass(frozen=True)
class Case:
    """Everything that is judged, read and verified; `key` is the digest of all of it."""

    name: str
    artifact: Path
    card: Card
    champion: Champion | None
    champion_card: Card | None
    champion_prompts: set[str] | None
    groups: dict[str, list[Group]]
    prompts: dict[str, set[str]]
    limits: Gates
    threads: int
    digests: dict[str, str | None]
    key: str


def read_case(build: Path, settings: Settings, champion: Champion | None) -> Case:
    """Read what is to be judged. Texts and labels are read, nothing is scored.

    Raises:
        ArtifactError: the candidate doesn't verify.
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
    prompts = {
        name: {gates.normalised_prompt(group.prompt) for group in groups[name]}
        if name in groups
        else _prompts(folder / f"{name}.parquet")
        for name in SETS
    }
    digests = {
        "artifact": card.digest,
        **{name: set_digest(groups[name]) for name in groups},
        "thresholds": digest_value(settings.gates.model_dump(mode="json")),
        "champion": champion_card.digest if champion_card else None,
        "champion_prompts": digest_value(sorted(champion_prompts)) if champion_prompts is not None else None,
    }
    key = digest_value({"name": settings.name, "schema_version": SCHEMA_VERSION, **digests})[:32]
    return Case(
        name=settings.name,
        artifact=artifact,
        card=card,
        champion=champion,
        champion_card=champion_card,
        champion_prompts=champion_prompts,
        groups=groups,
        prompts=prompts,
        limits=settings.gates,
        threads=settings.train.threads,
        digests=digests,
        key=key,
    )


def _read_champion(champion: Champion | None) -> tuple[Card | None, set[str] | None]:
    if champion is None:
        return None, None
    try:
        card = cards.verify_digests(champion.artifact)
        known = champion.train_prompts
        return card, set(known.read_text(encoding="utf-8").split()) if known is not None else None
    except (ArtifactError, OSError, UnicodeDecodeError) as error:
        raise GateError(f"the champion, version {champion.version}, can't be read: {error}") from error


def _prompts(path: Path) -> set[str]:
    """Normalised prompts of a set of which nothing else is needed."""
    column = pq.read_table(path, columns=["prompt"])["prompt"].to_pylist()
    return {gates.normalised_prompt([Message(turn["role"], turn["content"]) for turn in prompt]) for prompt in column}


def gather_facts(case: Case, uses: int, failed_confirm: bool) -> dict[str, Any]:
    """What the checks need besides rows and texts, as plain JSON values."""
    others = {name: prompts for name, prompts in case.prompts.items() if name != "train"}
    judged = case.prompts["holdout"] | case.prompts["confirm"]
    known = case.champion_prompts
    return {
        "first_model": case.champion is None,
        "precision": case.card.centering.score_dtype,
        "temperature": case.card.calibration.temperature,
        "champion_temperature": case.champion_card.calibration.temperature if case.champion_card else None,
        "centering": case.card.centering.model_dump(mode="json"),
        "holdout_texts": sum(len(group.completions) for group in case.groups["holdout"]),
        "pairs_without_judgement": sum(
            pair.wins_first + pair.wins_second + pair.ties == 0
            for group in case.groups["holdout"]
            for pair in judged_pairs(group)
        ),
        "train_prompts": len(case.prompts["train"]),
        "shared_prompts": gates.shared_prompts(case.prompts["train"], others),
        "champion_shared_prompts": len(known & judged) if known is not None else None,
        "holdout_uses": uses,
        "failed_confirm_before": failed_confirm,
    }
