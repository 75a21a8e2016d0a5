"""From files to checks: what is judged, its scores from fresh processes, and the checks over the written evidence.

The checks read the evidence folder and nothing else, so a decision can be computed again from its own record.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from touchstone import card as cards
from touchstone import evaluation, gates, statistics
from touchstone.card import Card, Centering
from touchstone.errors import ArtifactError, GateError
from touchstone.files import digest_value
from touchstone.gates import Check, Pairs, Verdict
from touchstone.groups import Group, Message, judged_pairs, read_parquet, set_digest, write_parquet
from touchstone.judging.record import ROWS, SCHEMA_VERSION, TEXTS, TRAIN_PROMPTS
from touchstone.scoring import RawScore
from touchstone.settings import SETS, Gates, Settings
from touchstone.stage import progress
from touchstone.statistics import Floats

AGAIN: dict[str, tuple[str, ...]] = {
    "one by one": ("--batching", "alone"),
    "in batches of 8, reversed": ("--batching", "8", "--reverse"),
    "in batches of 32": ("--batching", "32"),
}
"""How some texts are scored again, by the name of the column that keeps the rewards."""

AT_ONCE = 2
"""Scoring processes side by side: most of a short one's time is loading."""


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


def score_holdout(case: Case, work: Path) -> None:
    """Score the holdout into `work`: rows.parquet, texts.parquet and train_prompts.txt.

    Raises:
        GateError: a scoring process failed, or gave other texts than it was asked for.
    """
    groups = case.groups["holdout"]
    sample = _sample(groups, case.limits.reload_texts)
    jobs: list[tuple[Path, Sequence[Group], tuple[str, ...]]] = [(case.artifact, groups, ())]
    jobs += [(case.artifact, sample, options) for options in AGAIN.values()]
    if case.champion is not None:
        jobs.append((case.champion.artifact, groups, ()))
    scores = _score(jobs, work, "Scoring the holdout")
    champion = scores[1 + len(AGAIN)] if case.champion is not None else None
    again = {
        way: {
            (group.id, place): score.reward
            for group, found in zip(sample, scores[1 + number], strict=True)
            for place, score in enumerate(found)
        }
        for number, way in enumerate(AGAIN)
    }
    texts = [
        {
            "group_id": group.id,
            "completion": place,
            "tokens": score.tokens,
            "truncated": score.truncated,
            "reward": score.reward,
            **{way: rewards.get((group.id, place)) for way, rewards in again.items()},
        }
        for group, found in zip(groups, scores[0], strict=True)
        for place, score in enumerate(found)
    ]
    pq.write_table(pa.Table.from_pylist(texts, schema=_TEXTS), work / TEXTS, compression="zstd")
    (work / TRAIN_PROMPTS).write_text("".join(f"{prompt}\n" for prompt in sorted(case.prompts["train"])))
    _write_rows(case, work, "holdout", scores[0], champion)


def score_confirm(case: Case, work: Path) -> None:
    """Score the reserved set and add its rows to rows.parquet.

    Raises:
        GateError: as for `score_holdout`.
    """
    groups = case.groups["confirm"]
    artifacts = [case.artifact, *([case.champion.artifact] if case.champion else [])]
    scores = _score([(artifact, groups, ()) for artifact in artifacts], work, "Scoring the reserved set")
    _write_rows(case, work, "confirm", scores[0], scores[1] if case.champion else None)


def _sample(groups: Sequence[Group], texts: int) -> list[Group]:
    """Groups spread evenly over the set that hold at least `texts` completions (all, where there are fewer)."""
    total = sum(len(group.completions) for group in groups)
    step = max(1, total // texts)
    taken = list(groups[::step])
    while sum(len(group.completions) for group in taken) < min(texts, total):
        taken.append(next(group for group in groups if group not in taken))
    return taken


def _score(
    jobs: Sequence[tuple[Path, Sequence[Group], tuple[str, ...]]], work: Path, description: str
) -> list[list[list[RawScore]]]:
    """Score every (artifact, groups, options) in a process of its own, AT_ONCE side by side; scores per group."""
    commands = []
    for number, (artifact, groups, options) in enumerate(jobs):
        write_parquet(work / f"job-{number}.parquet", groups)
        files = [str(artifact), str(work / f"job-{number}.parquet"), str(work / f"scores-{number}.parquet")]
        commands.append([sys.executable, "-m", "touchstone.scoring", *files, *options])
    chunks = [commands[start : start + AT_ONCE] for start in range(0, len(commands), AT_ONCE)]
    for chunk in progress(chunks, description, total=len(chunks)):
        _run(chunk)
    found = []
    for number, (_, groups, _) in enumerate(jobs):
        found.append(_read_scores(work / f"scores-{number}.parquet", groups))
        (work / f"job-{number}.parquet").unlink()
        (work / f"scores-{number}.parquet").unlink()
    return found


def _run(commands: Sequence[list[str]]) -> None:
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        for process in processes:
            _, words = process.communicate()
            if process.returncode:
                said = [line for line in words.splitlines() if line.strip()]
                cause = said[-1].removeprefix("error: ") if said else f"exit code {process.returncode}"
                raise GateError(f"scoring in a fresh process failed: {cause}")
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def _read_scores(path: Path, groups: Sequence[Group]) -> list[list[RawScore]]:
    found: dict[tuple[str, int], RawScore] = {}
    for row in pq.read_table(path).to_pylist():
        found[row["group_id"], row["completion"]] = RawScore(row["reward"], row["truncated"], row["tokens"])
    wanted = [[(group.id, place) for place in range(len(group.completions))] for group in groups]
    if found.keys() != {name for names in wanted for name in names}:
        raise GateError("a scoring process gave other texts than it was asked for")
    return [[found[name] for name in names] for names in wanted]


_TEXTS = pa.schema(
    [
        ("group_id", pa.string()),
        ("completion", pa.int32()),
        ("tokens", pa.int32()),
        ("truncated", pa.bool_()),
        ("reward", pa.float64()),
        *((way, pa.float64()) for way in AGAIN),
    ]
)
BASELINES = ("longer_wins", "linear", evaluation.BEST_POSSIBLE)
"""Columns of rows.parquet with a baseline's D."""

_ROWS = pa.schema(
    [
        ("set", pa.string()),
        *evaluation.ROW_SCHEMA,
        ("champion_first", pa.float64()),
        ("champion_second", pa.float64()),
        *((name, pa.float64()) for name in BASELINES),
    ]
)


def _write_rows(
    case: Case, work: Path, name: str, scores: list[list[RawScore]], champion: list[list[RawScore]] | None
) -> None:
    """Add the rows of one set to rows.parquet."""
    groups = case.groups[name]
    rows = evaluation.score_rows(groups, scores)
    others = evaluation.score_rows(groups, champion) if champion is not None else [None] * len(rows)
    baselines = evaluation.baseline_differences(groups, case.groups["train"], case.groups["calibration"])
    records = [
        {
            "set": name,
            **asdict(row),
            "champion_first": other.reward_first if other else None,
            "champion_second": other.reward_second if other else None,
            **{baseline: float(values[place]) for baseline, values in baselines.items()},
        }
        for place, (row, other) in enumerate(zip(rows, others, strict=True))
    ]
    table = pa.Table.from_pylist(records, schema=_ROWS)
    if (work / ROWS).exists():
        table = pa.concat_tables([pq.read_table(work / ROWS, schema=_ROWS), table])
    pq.write_table(table, work / ROWS, compression="zstd")


@dataclass(frozen=True)
class Rows:
    """The rows of one set: for `evaluation.measure`, and as the columns that the checks read."""

    table: pa.Table

    def candidate(self, temperature: float) -> Pairs:
        """The candidate's pairs."""
        return self._pairs("reward_first", "reward_second", temperature)

    def champion(self, temperature: float | None) -> Pairs | None:
        """The champion's pairs; None where there is no champion."""
        return None if temperature is None else self._pairs("champion_first", "champion_second", temperature)

    def baselines(self) -> dict[str, Floats]:
        """D of every pair by baseline; without the best possible one where nobody knows it."""
        return {name: self._column(name) for name in BASELINES if self.table[name].null_count == 0}

    def plain(self) -> list[evaluation.Row]:
        """The candidate's rows as `evaluation` has them."""
        return [evaluation.Row(**row) for row in self.table.select(evaluation.ROW_SCHEMA.names).to_pylist()]

    def _column(self, name: str) -> Floats:
        return np.asarray(self.table[name].to_numpy(), dtype=np.float64)

    def _pairs(self, first: str, second: str, temperature: float) -> Pairs:
        swapped = pc.fill_null(pc.equal(self.table["chosen"], self.table["second"]), False).to_numpy()
        differences = (self._column(first) - self._column(second)) * np.where(swapped, -1.0, 1.0)
        return Pairs(self.table["cluster_id"].to_pylist(), differences, self._column("strength"), temperature)


def read_rows(folder: Path, name: str) -> Rows:
    """The rows of one set ("holdout" or "confirm")."""
    table = pq.read_table(folder / ROWS, schema=_ROWS)
    return Rows(table.filter(pc.equal(table["set"], name)))


def examine(folder: Path, facts: Mapping[str, Any], limits: Gates) -> list[Check]:
    """Every check on the holdout, from the evidence in `folder`; all run, whatever the others say."""
    rows = read_rows(folder, "holdout")
    candidate, champion = rows.candidate(facts["temperature"]), rows.champion(facts["champion_temperature"])
    texts = pq.read_table(folder / TEXTS, schema=_TEXTS)
    rewards = np.asarray(texts["reward"].to_numpy(), dtype=np.float64)
    spread = float(np.std(rewards))
    truncated = int(pc.sum(texts["truncated"]).as_py())
    return [
        gates.run(
            "integrity",
            lambda: gates.integrity(
                rewards,
                facts["holdout_texts"],
                candidate,
                limits,
                filtered=facts["pairs_without_judgement"],
                truncated=truncated,
            ),
        ),
        gates.run("reload", lambda: _reload(texts, facts["precision"], spread, limits)),
        gates.run(
            "leakage",
            lambda: gates.leakage(
                facts["shared_prompts"],
                facts["champion_shared_prompts"],
                first=facts["first_model"],
                train=facts["train_prompts"],
            ),
        ),
        gates.run("evidence", lambda: gates.evidence(candidate, champion, limits)),
        gates.run("floor", lambda: gates.floor(candidate, _accuracies(rows, candidate), limits)),
        gates.run("champion", lambda: gates.champion(candidate, champion, limits)),
        gates.run("calibration", lambda: gates.calibration(candidate, limits), required=False),
        gates.run("holdout_use", lambda: gates.holdout_use(facts["holdout_uses"], limits)),
        gates.run("centering", lambda: gates.centering(Centering(**facts["centering"]), limits)),
    ]


def examine_confirm(folder: Path, facts: Mapping[str, Any], checks: Sequence[Check], limits: Gates) -> Check:
    """The repeat on the reserved set: a fail without a look where the candidate failed there before."""
    if gates.verdict(checks) is not Verdict.PROMOTE:
        return Check(
            "confirm", "not_run", "The reserved set stays closed: the holdout gave no promotion.", required=False
        )
    if facts["failed_confirm_before"]:
        return Check("confirm", "fail", "This candidate failed on the reserved set before: there is no second try.")
    rows = read_rows(folder, "confirm")
    candidate, champion = rows.candidate(facts["temperature"]), rows.champion(facts["champion_temperature"])
    floor = next(check for check in checks if check.name == "floor")
    return gates.run("confirm", lambda: gates.confirm(candidate, champion, floor.threshold or 1.0, limits))


def _reload(texts: pa.Table, precision: str, spread: float, limits: Gates) -> Check:
    sampled = texts.filter(pc.is_valid(texts["one by one"]))
    columns = {way: np.asarray(sampled[way].to_numpy(), dtype=np.float64) for way in ("reward", *AGAIN)}
    return gates.reload(columns.pop("reward"), columns, precision, spread, limits)


def _accuracies(rows: Rows, candidate: Pairs) -> dict[str, float]:
    """Accuracy of every baseline on the candidate's decided pairs."""
    _, clusters = candidate.credits()
    return {
        name: statistics.accuracy(statistics.credit(values[candidate.decided]), clusters)
        for name, values in rows.baselines().items()
    }
