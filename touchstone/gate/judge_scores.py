"""Scores of a generative judge for the gate: verdicts in both orders about the pairs that people judged.

Where the candidate, or whatever it is compared with, is a sealed judge, it is asked here, and reward models are scored
in fresh processes as ever. Every verdict is evidence: `verdicts.parquet`.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from touchstone.errors import GateError
from touchstone.evaluation import judge_bias
from touchstone.evaluation.cross_fitting import FOLDS, POOLED, CrossFit, assign_folds, join_near, out_of_fold_baselines
from touchstone.evaluation.rows import told_apart
from touchstone.gate.fresh_scores import AGAIN, Job, Role, Scores, Scoring
from touchstone.gate.record import VERDICTS
from touchstone.groups import Group, judged_pairs, read_parquet, without_look_alikes
from touchstone.model import card as cards
from touchstone.model.llm_judge.artifact import check_same_model, read_judge, scores_of
from touchstone.model.llm_judge.judge import Identity, Judge, Pair
from touchstone.model.llm_judge.verdicts import PairVerdict
from touchstone.model.scores import RawScore
from touchstone.settings import Settings, project_root

ONCE_MORE = next(iter(AGAIN))
"""The one way in which a judge scores again: it has no batches."""

PROBING: Role = "probes"
"""The role of the probes, and the set that they are of; of a judge they are a job of their own."""

Unanswered = frozenset[tuple[str, int, int]]
"""Pairs without a verdict, as group, i and j (i < j)."""


@contextmanager
def with_judges(score: Scoring, settings: Settings) -> Iterator[Scoring]:
    """Within, a `Scoring` that asks sealed judges itself and leaves every other artifact to `score`.

    Raises by the scoring:
        JudgeError: the settings name no judge, or another one than was sealed; or it can't be asked.
        SpendingError: a limit would be passed; what was answered is kept.
    """
    with ExitStack() as stack:
        opened: dict[Path, Judge] = {}

        def judge_of(job: Job) -> Judge:
            if job.artifact not in opened:
                opened[job.artifact] = stack.enter_context(_open(job, settings))
            return opened[job.artifact]

        def mixed(jobs: Mapping[Role, Job], work: Path) -> dict[Role, Scores]:
            asked = {role: job for role, job in jobs.items() if cards.read(job.artifact).is_judge}
            rest = {role: job for role, job in jobs.items() if role not in asked}
            scores = score(rest, work) if rest else {}
            for role, job in asked.items():
                scores[role] = _ask(role, job, judge_of(job), work, settings)
            return scores

        yield mixed
        for judge in opened.values():
            sys.stderr.write(f"asked {judge.identity.model}: {judge.account.words(judge.account.spent)}\n")


@contextmanager
def _open(job: Job, settings: Settings) -> Iterator[Judge]:
    if settings.llm_judge is None:
        raise GateError(
            f"{job.artifact} is a generative judge, and the settings don't say how to ask it; "
            "`touchstone configure llm_judge=remote ...` as it was sealed"
        )
    sealed = read_judge(job.artifact)
    check_same_model(sealed, Identity.of(settings.llm_judge, project_root()))
    with Judge.open(settings.llm_judge, project_root(), sealed) as judge:
        yield judge


def _ask(role: Role, job: Job, judge: Judge, work: Path, settings: Settings) -> Scores:
    """Ask about the judged pairs of each group, write the verdicts down, and score the completions by them."""
    if cards.verify_digests(job.artifact).digest != job.digest:
        raise GateError(f"{job.artifact} changed while it was judged; judge again")
    pairs = [_pairs(group, job.set_name) for group in job.groups]
    words = f"ask the judge about {sum(map(len, pairs)):,} pairs"
    verdicts = judge.compare(
        list(zip(job.groups, pairs, strict=True)), asking=2 if job.options else 1, description=words
    )
    policies = settings.llm_judge.own_policies if settings.llm_judge is not None else []
    _append(judge_bias.records(role, job.set_name, job.groups, verdicts, policies), work / VERDICTS)
    scores = _probe_scores if job.set_name == PROBING else scores_of
    return [scores(group, row) for group, row in zip(job.groups, verdicts, strict=True)]


def _pairs(group: Group, set_name: str) -> list[Pair]:
    """The judged pairs; of a probe's group the first completion beside each other one."""
    if set_name == PROBING:
        return [(0, place) for place in range(1, len(group.completions))]
    return [(pair.first, pair.second) for pair in judged_pairs(group)]


def _probe_scores(group: Group, verdicts: Sequence[PairVerdict]) -> list[RawScore]:
    """0 for the first completion, and for each other one what the verdict says of it: what is in doubt counts against.

    A tie is a reward that does not lie below, and without a verdict there is none.
    """
    rewards = [0.0, *(_probe_reward(verdict) for verdict in verdicts)]
    return [replace(score, reward=reward) for score, reward in zip(scores_of(group, verdicts), rewards, strict=True)]


def _probe_reward(verdict: PairVerdict) -> float:
    if verdict.reason is not None:
        return math.nan
    return 0.0 if verdict.winner is None else 1.0 if verdict.winner == verdict.j else -1.0


def _append(table: pa.Table, path: Path) -> None:
    if table.num_rows:
        before = [pq.read_table(path, schema=judge_bias.SCHEMA)] if path.exists() else []
        pq.write_table(pa.concat_tables([*before, table]), path, compression="zstd")


def read_verdicts(path: Path, role: Role, set_name: str) -> pa.Table:
    """The verdicts of one role about one set; none where that was no judge."""
    if not path.exists():
        return judge_bias.SCHEMA.empty_table()
    table = pq.read_table(path, schema=judge_bias.SCHEMA)
    for column, value in (("role", role), ("set", set_name)):
        table = table.filter(pc.equal(table[column], value))
    return table


def unanswered(path: Path, roles: Sequence[Role], set_name: str) -> Unanswered:
    """The pairs of a set about which one of the roles gave no verdict."""
    return frozenset(
        (row["group_id"], row["i"], row["j"])
        for role in roles
        for row in read_verdicts(path, role, set_name).to_pylist()
        if row["reason"] is not None
    )


def without(groups: Sequence[Group], pairs: Unanswered) -> list[Group]:
    """The groups without the comparisons of pairs that have no verdict: they count for nobody, and are counted."""

    def answered(group: Group) -> Group:
        return without_look_alikes(group, lambda i, j: (group.id, min(i, j), max(i, j)) in pairs)

    return [answered(group) for group in groups]


def count_reasons(table: pa.Table) -> dict[str, int]:
    """Why pairs have no verdict, with how many."""
    return dict(Counter(reason for reason in table["reason"].to_pylist() if reason is not None).most_common())


def changes(path: Path, role: Role) -> tuple[int, int]:
    """How many verdicts about the holdout came out otherwise when they were asked for again, and of how many."""
    first, second = (
        {
            (row["group_id"], row["i"], row["j"]): _outcome(row)
            for row in read_verdicts(path, name, "holdout").to_pylist()
        }
        for name in (role, ONCE_MORE)
    )
    both = first.keys() & second.keys()
    return sum(first[pair] != second[pair] for pair in both), len(both)


def _outcome(row: Mapping[str, object]) -> object:
    """What a pair's verdict comes to: -1, 0 or 1 toward i; None without one."""
    share = row["share_i"]
    return (share > 0.5) - (share < 0.5) if isinstance(share, float) else None


def cross_fit(job: Job, build: Path, settings: Settings, score: Scoring, role: Role, work: Path) -> CrossFit:
    """As `cross_fitting.cross_fit`: a judge has learned from no fold, so only the calibration map is fitted out of
    fold.

    Args:
        job: the candidate's, whatever its groups.
        build: splits/ of what is judged.

    Raises:
        GateError: there are too few clusters.
    """
    from touchstone.model.sealing import calibration_of  # torch comes with it

    pool = [
        group for name in POOLED for group in read_parquet(build / "splits" / f"{name}.parquet") if group.comparisons
    ]
    families = join_near(pool, settings.split.near_duplicate, work)
    (work / "groups.parquet").unlink()
    fold_of = assign_folds(pool, families, FOLDS, settings.gates.seed)
    pooled = Job(job.artifact, job.digest, pool, job.threads, set_name="pool")
    scores = score({role: pooled}, work)[role]
    maps = []
    for fold in range(FOLDS):
        others = [place for place, number in enumerate(fold_of) if number != fold]
        maps.append(calibration_of([pool[place] for place in others], [scores[place] for place in others]).map)
    telling = without(told_apart(pool, scores), unanswered(work / VERDICTS, [role], "pool"))
    return CrossFit(
        groups=telling,
        fold_of=fold_of,
        scores=scores,
        maps=maps,
        artifacts=[job.digest] * FOLDS,
        baselines=out_of_fold_baselines(pool, telling, fold_of, FOLDS, "comparisons"),
    )
