"""Which pairs of a pool people are asked about, so that one open decision can be taken.

    request = ask(build=root / "build", state=root / "runs", pool=Path("pool.jsonl"), ...)

The decision is the last one about this candidate and champion; it is read, and no set is opened again.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from touchstone.data.exports import asked_pair, write_questions
from touchstone.data.pool import Known, find_families, read_pool
from touchstone.data.sources.rows import Quarantined
from touchstone.errors import GateError
from touchstone.gate.case import Champion, read_champion
from touchstone.gate.fresh_scores import Job, Scores, Scoring, fresh_processes
from touchstone.gate.labels.needs import Need, OpenPart, needs_of, open_decision, open_parts, wanted_prompts
from touchstone.gate.labels.plan import (
    ANSWERS,
    QUARANTINE,
    Counts,
    Plan,
    PlanContent,
    PoolCounts,
    labels_folder,
    plan_id,
    plans_about,
    read_answers,
    read_sample,
    write_plan,
)
from touchstone.gate.labels.sample import WHOLE, Mask, ScoredPool, differ, draw_pairs, sample_size, slice_masks
from touchstone.gate.leaks import read_prompts
from touchstone.groups import Group, iterate_tables, messages_of
from touchstone.model.card import verify_digests
from touchstone.runtime.files import canonical_json, digest_file, write_atomic, write_folder
from touchstone.runtime.parallel import threads_of
from touchstone.runtime.progress import progress
from touchstone.settings import Settings
from touchstone.settings.checks import SETS
from touchstone.settings.gates import Gates

RANDOM = 100
"""Pairs of the order that are asked about whatever the models say, unless somebody says otherwise."""
CHUNK = 2_000
"""Pairs that are scored at once: a step of the progress bar."""
CHAMPIONS_PROMPTS = "the champion's training set"
EARLIER = "an earlier list of questions"


@dataclass(frozen=True, slots=True)
class Wanted:
    """How much people are to be asked.

    Attributes:
        labels: disagreements of the whole pool, those asked before included; None: what the decision needs.
        slice_labels: the same of each critical slice.
        random: pairs of the order, whatever the models say.
    """

    labels: int | None = None
    slice_labels: int | None = None
    random: int = RANDOM


@dataclass(frozen=True, slots=True)
class Request:
    """What people are asked, and why.

    Attributes:
        folder: the plan's, with the questions.
        champion: the label of the version compared with.
        rate: share of the pool's pairs that the two models order differently.
        needs: how many labels would decide, by part and true gain.
        missing: critical slices that are open and of which the pool has no prompt.
        questions: pairs in the files of questions: those of the plan that nobody has answered yet.
    """

    folder: Path
    plan: Plan
    champion: str
    rate: float
    needs: tuple[Need, ...]
    missing: tuple[str, ...]
    questions: int

    def to_json(self) -> dict[str, Any]:
        """For another program; the pairs' ids are in the plan."""
        return {
            "folder": str(self.folder),
            "plan": self.plan.model_dump(mode="json", exclude={"ids"}),
            "champion": self.champion,
            "rate": self.rate,
            "needs": [asdict(need) for need in self.needs],
            "missing": list(self.missing),
            "questions": self.questions,
        }


@dataclass(frozen=True, slots=True)
class _Pool:
    """A pool as it was read, and as both models scored it."""

    counts: PoolCounts
    quarantined: Sequence[Quarantined]
    scored: ScoredPool


def ask(
    *,
    build: Path,
    state: Path,
    pool: Path,
    settings: Settings,
    champion: Champion,
    wanted: Wanted | None = None,
    score: Scoring | None = None,
) -> Request:
    """Score a pool by candidate and champion, and write the questions that decide between them.

    The same call gives the same questions. A pool that was asked from before goes on where it was: its sample only
    grows.

    Args:
        build: artifact/ (the candidate) and splits/.
        state: keeps the decisions, and labels/.
        pool: prompts with completions; see `touchstone.data.pool`.
        champion: the version that the candidate was judged against.
        score: where scores come from; by default from fresh processes.

    Raises:
        ArtifactError, DataError: an artifact, a set or the pool can't be read.
        GateError: there is no open decision that labels of disagreements could close, or nothing to ask about.
    """
    # Read: who is compared, what is open between them, and what was asked before.
    wanted, limits, labels = wanted or Wanted(), settings.gates, labels_folder(state)
    card = verify_digests(build / "artifact")
    if card.outcome is not None:
        raise GateError(
            "people are asked which answer they prefer, and this model learnt which one is correct; add labelled "
            "answers to the data, and judge again"
        )
    champion_card, prompts = read_champion(champion)
    assert champion_card is not None  # noqa: S101  there is a champion
    decision = open_decision(state, settings.name, card.digest, champion_card.digest)
    parts = open_parts(decision, limits, settings.split.shares["holdout"])
    if not parts and wanted.labels is None and wanted.slice_labels is None:
        names = ", ".join(check.name for check in decision.checks if check.status == "undecided")
        raise GateError(
            f"open is {names}, which labels of disagreements don't decide; add labelled prompts to the data, or say "
            "with --labels how many to ask about all the same"
        )
    plan_name = plan_id(card.digest, champion_card.digest, digest_file(pool), limits.seed)
    plans = dict(plans_about(labels, card.digest, champion_card.digest))

    # Score the pool without what the models or the judge may have seen.
    known = [*_known(build / "splits", champion, prompts), _asked_before(plans, plan_name)]
    threads = threads_of(settings.train.threads)
    jobs = [Job(build / "artifact", card.digest, [], threads)]
    jobs.append(Job(champion.artifact, champion_card.digest, [], threads))
    read = _read_pool(pool, known, jobs, limits, score)

    # Size and select.
    folder = labels / plan_name
    previous = plans.get(folder)
    answers = read_answers(folder, previous) if previous is not None else {}
    before = previous.parts if previous is not None and answers else {}
    masks = _masks(read.scored, limits)
    counted = before if decision.record.digests.asked is not None else {}
    needs = _needs(parts, read.scored, masks, counted)
    sizes = _sizes(read.scored, masks, needs, counted, before, wanted, limits)
    sample = _sample(read.scored, masks, sizes, wanted.random)
    if not sample.num_rows:
        raise GateError("nothing is asked about: neither disagreements nor random pairs are wanted")

    # Write.
    content = PlanContent(
        id=plan_name,
        name=settings.name,
        candidate=card.digest,
        champion=champion_card.digest,
        pool=read.counts,
        seed=limits.seed,
        random=wanted.random,
        parts={part: _counts(sample.filter(pc.equal(sample["part"], part))) for part in sizes},
        slices=_slice_counts(sample, limits),
        ids=tuple(sorted(set(_asked_rows(sample)["id"].to_pylist()))),
    )
    questions = set(content.ids) - {pair for pair, _ in answers}
    plan = _write(folder, content, sample, read, questions)
    missing = tuple(part.name for part in parts if part.name not in masks)
    rate = float(read.scored.differ.mean())
    return Request(folder, plan, champion.version, rate, tuple(needs), missing, len(questions))


def _known(splits: Path, champion: Champion, digests: set[str] | None) -> list[Known]:
    """What the pool must not repeat: the prompts of every set, and of the champion's training.

    Args:
        digests: of the champion's training prompts, normalised; None where nobody knows them.
    """
    known = []
    for name in SETS:
        prompts, clusters = [], set()
        for table in iterate_tables(splits / f"{name}.parquet", ["cluster_id", "prompt"]):
            clusters |= set(table["cluster_id"].to_pylist())
            prompts += [messages_of(prompt) for prompt in table["prompt"].to_pylist()]
        known.append(Known(name, prompts, clusters))
    texts = read_prompts(champion.train) if champion.train is not None and digests is not None else []
    return [*known, Known(CHAMPIONS_PROMPTS, texts, digests=digests or ())]


def _asked_before(plans: Mapping[Path, Plan], plan_name: str) -> Known:
    """The prompts that other plans about the same two artifacts have sampled: they would count twice."""
    folders = [folder for folder, plan in plans.items() if plan.id != plan_name]
    return Known(
        EARLIER, digests={prompt for folder in folders for prompt in read_sample(folder)["prompt"].to_pylist()}
    )


def _read_pool(path: Path, known: Sequence[Known], jobs: Sequence[Job], limits: Gates, score: Scoring | None) -> _Pool:
    """One pair of each family of the pool, in random order and scored.

    Args:
        jobs: of the candidate and of the champion, whatever their groups.

    Raises:
        SourceError: the pool can't be read.
        GateError: nothing of it is new, the models agree on all of it, or it can't be scored.
    """
    groups, quarantined = read_pool(path)
    families = find_families(groups, known, limits.near_duplicate)
    if not families.members:
        raise GateError(f"all {len(groups)} prompts of {path.name} are known to the sets already; bring others")
    scored = _score(draw_pairs(groups, families.members, limits.seed), jobs, score)
    if not scored.differ.any():
        raise GateError(f"the two models order every pair of {path.name} alike: no label would change that")
    counts = PoolCounts(
        file=path.name,
        digest=digest_file(path),
        prompts=len(groups),
        families=len(scored.pairs),
        left_out=families.left_out,
        quarantined=dict(Counter(row.reason for row in quarantined)),
    )
    return _Pool(counts, quarantined, scored)


def _score(pairs: Sequence[Group], jobs: Sequence[Job], score: Scoring | None) -> ScoredPool:
    """Both models' scores of every pair, chunk by chunk with a progress bar.

    Raises:
        GateError: a scoring process failed, or a score isn't finite.
    """
    starts = range(0, len(pairs), CHUNK)
    scores: list[Scores] = [[] for _ in jobs]
    with (
        fresh_processes() if score is None else nullcontext(score) as scoring,
        tempfile.TemporaryDirectory(prefix="touchstone-pool-") as work,
    ):
        for start in progress(starts, "score the pool", len(starts)):
            chunk = pairs[start : start + CHUNK]
            scored = scoring({str(k): replace(job, groups=chunk) for k, job in enumerate(jobs)}, Path(work))
            for k, model in enumerate(scores):
                model += scored[str(k)]
    rewards = np.array([[[text.reward for text in pair] for pair in model] for model in scores], dtype=np.float64)
    if missing := int((~np.isfinite(rewards)).sum()):
        raise GateError(f"{missing} scores of the pool are not finite: look at the model before asking anybody")
    candidate, champion = rewards[:, :, 0] - rewards[:, :, 1]
    cut = np.array([[any(text.truncated for text in pair) for pair in model] for model in scores], dtype=bool)
    return ScoredPool(pairs, candidate, champion, np.asarray(cut.any(axis=0)))


def _masks(scored: ScoredPool, limits: Gates) -> dict[str, Mask]:
    """Which of the pool's pairs belong to the whole, and to each critical slice that it knows."""
    slices = slice_masks(scored.table(), limits.slices)
    critical = {name: slices[name] for name in limits.critical_slices if name in slices}
    return {WHOLE: np.ones(len(scored.pairs), dtype=bool), **critical}


def _needs(
    parts: Sequence[OpenPart], scored: ScoredPool, masks: Mapping[str, Mask], counted: Mapping[str, Counts]
) -> list[Need]:
    """What every open part needs, as far as the pool knows it.

    Args:
        counted: what the decision has counted of this pool already.
    """
    needs = []
    for part in parts:
        if part.name in masks:
            start = counted[part.name].prompts if part.name in counted else 0
            needs += needs_of(part, scored.differ[masks[part.name]], start)
    return needs


def _sizes(
    scored: ScoredPool,
    masks: Mapping[str, Mask],
    needs: Sequence[Need],
    counted: Mapping[str, Counts],
    before: Mapping[str, Counts],
    wanted: Wanted,
    limits: Gates,
) -> dict[str, int]:
    """How many pairs of each part are its sample, in their order.

    Args:
        counted: what the decision has counted of this pool already.
        before: the parts that people have answered questions of: none may become smaller.
    """
    sizes: dict[str, int] = {}
    for part, mask in masks.items():
        is_whole = part == WHOLE
        size = sample_size(
            scored.differ[mask],
            prompts=(counted[part].prompts if part in counted else 0) + wanted_prompts(part, needs, limits),
            labels=wanted.labels if is_whole else wanted.slice_labels,
            random=wanted.random if is_whole else 0,
        )
        size = max(size, before[part].prompts if part in before else 0)
        # A slice has a part of its own only where the sample of all prompts holds fewer of it.
        if is_whole or size > int(mask[: sizes[WHOLE]].sum()):
            sizes[part] = size
    return sizes


def _sample(scored: ScoredPool, masks: Mapping[str, Mask], sizes: Mapping[str, int], random: int) -> pa.Table:
    """The rows of all parts."""
    table, parts = scored.table(), []
    for part, size in sizes.items():
        places = np.flatnonzero(masks[part])[:size]
        columns = {name: table[name].take(pa.array(places)) for name in table.schema.names}
        columns |= {"part": pa.array([part] * size, pa.string()), "random": pa.array(places < random)}
        parts.append(pa.table(columns, schema=table.schema))
    return pa.concat_tables(parts)


def _counts(sample: pa.Table) -> Counts:
    disagreements = int(differ(sample).sum())
    return Counts(prompts=sample.num_rows, agreements=sample.num_rows - disagreements, disagreements=disagreements)


def _slice_counts(sample: pa.Table, limits: Gates) -> dict[str, Counts]:
    prompts = sample.filter(pc.equal(sample["part"], WHOLE))
    return {
        name: _counts(prompts.filter(pa.array(mask))) for name, mask in slice_masks(prompts, limits.slices).items()
    }


def _asked_rows(sample: pa.Table) -> pa.Table:
    """The rows that people are asked about: the disagreements, and the random ones."""
    return sample.filter(pc.or_(pa.array(differ(sample)), sample["random"]))


def _write(folder: Path, content: PlanContent, sample: pa.Table, read: _Pool, wanted: set[str]) -> Plan:
    """Write plan and questions; answers that lie there stay.

    Args:
        wanted: ids of the pairs that go into the files of questions.
    """
    questions = [pair for pair in map(asked_pair, read.scored.pairs) if pair.id in wanted]
    # By the hash of their texts: the order says nothing, and whoever stops halfway has answered a fair sample.
    questions.sort(key=lambda pair: pair.id)
    plans: list[Plan] = []

    def fill(target: Path) -> None:
        plans.append(write_plan(target, content, sample))
        write_questions(target, questions)
        lines = [canonical_json(asdict(row)) + "\n" for row in read.quarantined]
        write_atomic(target / QUARANTINE, "".join(lines))
        if (folder / ANSWERS).exists():
            shutil.copyfile(folder / ANSWERS, target / ANSWERS)

    write_folder(folder, fill)
    return plans[0]
