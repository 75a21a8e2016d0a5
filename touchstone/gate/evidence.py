"""The evidence folder: scores of every text and row, written down once.

The checks (`touchstone.gate.examination`) read this folder and nothing else, so a decision can be computed again
from its own record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from touchstone.evaluation.baselines import baseline_rewards, outcome_baselines
from touchstone.evaluation.outcomes import labelled, of_labelled, rewards_of
from touchstone.evaluation.rows import count_pairs, differences, score_rows, told_apart
from touchstone.gate import disagreements, judge_scores, outcomes, probes, rows
from touchstone.gate.case import Case
from touchstone.gate.facts import Facts
from touchstone.gate.fresh_scores import AGAIN, Job, Role, Scores, Scoring
from touchstone.gate.judge_scores import PROBING
from touchstone.gate.record import (
    ASKED,
    DISAGREEMENTS,
    OUTCOMES,
    PROBES,
    ROWS,
    SEEDS,
    TEXTS,
    TRAIN_PROMPTS,
    VERDICTS,
)
from touchstone.groups import Group

TEXTS_SCHEMA = pa.schema(
    [
        ("group_id", pa.string()),
        ("completion", pa.int32()),
        ("tokens", pa.int32()),
        ("truncated", pa.bool_()),
        ("wins", pa.float64()),
        ("reward", pa.float64()),
        *((way, pa.float64()) for way in AGAIN),
    ]
)
SEEDS_SCHEMA = pa.schema(
    [("artifact", pa.string()), ("row", pa.int32()), ("reward_first", pa.float64()), ("reward_second", pa.float64())]
)

CANDIDATE: Role = "candidate"
CHAMPION: Role = "champion"
"""Roles of jobs; a repeat's is its name in AGAIN, and `_seed` names those of other seeds."""


BaselineRewards = Mapping[str, list[list[float]]]
"""By baseline, per group one per completion."""


def judge_baselines(case: Case) -> dict[str, BaselineRewards]:
    """Rewards by set, for holdout and confirm, and baseline; the linear one is fitted once."""
    holdout, confirm = case.groups["holdout"], case.groups["confirm"]
    rewards = baseline_rewards([*holdout, *confirm], case.groups["train"], case.groups["calibration"], case.learns)
    return {
        "holdout": {name: values[: len(holdout)] for name, values in rewards.items()},
        "confirm": {name: values[len(holdout) :] for name, values in rewards.items()},
    }


def score_holdout(case: Case, facts: Facts, work: Path, score: Scoring, baselines: BaselineRewards) -> Facts:
    """Score the holdout and the probes, and write all of the evidence but the confirm's rows into `work`.

    Returns:
        The facts with how many judged pairs are left out: equal once cut to candidate and champion (see `told_apart`),
        or without a verdict of a judge.

    Raises:
        GateError: a scoring process failed, or gave other texts than it was asked for.
    """
    # Score: first what takes longest, so that no core idles at the end.
    groups = case.groups["holdout"]
    sample = sample_of(groups, case.limits.reload_texts)
    questions = probes.questions(groups, case.limits.probe_prompts, case.limits.safety_axes)
    probing = [question.group for question in questions]
    jobs = jobs_of(case, groups)
    repeated = replace(jobs[CANDIDATE], groups=sample)
    if case.card.is_judge:
        jobs[PROBING] = replace(repeated, groups=probing, set_name=PROBING)
    else:
        # The probes share the candidate's batches: each loading more would take longer than they do.
        jobs[CANDIDATE] = replace(jobs[CANDIDATE], groups=[*groups, *probing])
    jobs |= {
        _seed(place): Job(path, card.digest, groups, case.threads) for place, (path, card) in enumerate(case.seeds)
    }
    ways = {judge_scores.ONCE_MORE} if case.card.is_judge else AGAIN.keys()
    jobs |= {way: replace(repeated, options=AGAIN[way]) for way in AGAIN if way in ways}
    scores = score(jobs, work)
    candidate, probed = scores[CANDIDATE][: len(groups)], scores.get(PROBING, scores[CANDIDATE][len(groups) :])
    champion = scores.get(CHAMPION)
    telling, facts = _telling(groups, scores, work, "holdout", facts)
    # Write the evidence.
    pq.write_table(probes.to_table(questions, probed), work / PROBES, compression="zstd")
    if case.seeds:
        pq.write_table(_seeds(case, telling, scores), work / SEEDS, compression="zstd")
    if case.asked is not None:
        pq.write_table(case.asked, work / ASKED, compression="zstd")
    texts = texts_table(telling, candidate, sample, {way: scores[way] for way in AGAIN if way in ways})
    pq.write_table(texts, work / TEXTS, compression="zstd")
    (work / TRAIN_PROMPTS).write_text("".join(f"{prompt}\n" for prompt in sorted(case.prompts["train"])))
    _write_rows(case, work, "holdout", telling, candidate, champion, baselines)
    _write_outcomes(case, work, "holdout", candidate, champion)
    champion_map = case.champion_card.calibration.map if case.champion_card else None
    held_out = rows.read(work / ROWS, "holdout")
    disagreements.write_disagreements(work / DISAGREEMENTS, telling, held_out, case.card.calibration.map, champion_map)
    return facts


def score_confirm(case: Case, facts: Facts, work: Path, score: Scoring, baselines: BaselineRewards) -> Facts:
    """Score the reserved set and add its rows to rows.parquet; returns what `score_holdout` does.

    Raises:
        GateError: as for `score_holdout`.
    """
    groups = case.groups["confirm"]
    scores = score(jobs_of(case, groups, "confirm"), work)
    telling, facts = _telling(groups, scores, work, "confirm", facts)
    _write_rows(case, work, "confirm", telling, scores[CANDIDATE], scores.get(CHAMPION), baselines)
    _write_outcomes(case, work, "confirm", scores[CANDIDATE], scores.get(CHAMPION))
    return facts


def _telling(
    groups: Sequence[Group], scores: Mapping[Role, Scores], work: Path, name: str, facts: Facts
) -> tuple[list[Group], Facts]:
    """The groups with the pairs that tell something of candidate and champion; the facts count those left out."""
    roles = [role for role in (CANDIDATE, CHAMPION) if role in scores]
    different = told_apart(groups, *(scores[role] for role in roles))
    telling = judge_scores.without(different, judge_scores.unanswered(work / VERDICTS, roles, name))
    facts = facts.with_left_out(name, count_pairs(groups) - count_pairs(different))
    return telling, facts.with_unanswered(name, count_pairs(different) - count_pairs(telling))


def candidate_job(case: Case, groups: Sequence[Group]) -> Job:
    """What scores groups with the candidate."""
    return Job(case.build / "artifact", case.card.digest, groups, case.threads)


def jobs_of(case: Case, groups: Sequence[Group], name: str = "holdout") -> dict[Role, Job]:
    """One job for the candidate, and one for the champion where there is one."""
    jobs = {CANDIDATE: replace(candidate_job(case, groups), set_name=name)}
    if case.champion is not None and case.champion_card is not None:
        jobs[CHAMPION] = replace(jobs[CANDIDATE], artifact=case.champion.artifact, digest=case.champion_card.digest)
    return jobs


def _seed(place: int) -> Role:
    """The role of the artifact with another seed that stands there in the case."""
    return f"seed {place + 1}"


def sample_of(groups: Sequence[Group], count: int) -> list[Group]:
    """Groups spread evenly over the set that hold at least `count` completions (all, where there are fewer)."""
    total = sum(len(group.completions) for group in groups)
    step = max(1, total // count)
    sample = list(groups[::step])
    while sum(len(group.completions) for group in sample) < min(count, total):
        sample.append(next(group for group in groups if group not in sample))
    return sample


def texts_table(
    groups: Sequence[Group], scores: Scores, sample: Sequence[Group], repeated: Mapping[str, Scores]
) -> pa.Table:
    """One row per completion, with the rewards of the repeated scoring where it was in the sample."""
    repeated_rewards = {
        way: {
            (group.id, place): score.reward
            for group, row in zip(sample, again, strict=True)
            for place, score in enumerate(row)
        }
        for way, again in repeated.items()
    }
    records = []
    for group, row in zip(groups, scores, strict=True):
        wins = _wins(group)
        for place, score in enumerate(row):
            records.append(
                {
                    "group_id": group.id,
                    "completion": place,
                    "tokens": score.tokens,
                    "truncated": score.truncated,
                    "wins": wins.get(place),
                    "reward": score.reward,
                    **{way: rewards.get((group.id, place)) for way, rewards in repeated_rewards.items()},
                }
            )
    return pa.Table.from_pylist(records, schema=TEXTS_SCHEMA)


def _wins(group: Group) -> dict[int, float]:
    """Share of its judgements that each judged completion won, ties counted half."""
    won: dict[int, float] = {}
    judgements: dict[int, float] = {}
    for edge in group.comparisons:
        for place, wins in ((edge.i, edge.wins_i), (edge.j, edge.wins_j)):
            won[place] = won.get(place, 0.0) + wins + edge.ties / 2
            judgements[place] = judgements.get(place, 0.0) + edge.wins_i + edge.wins_j + edge.ties
    return {place: won[place] / count for place, count in judgements.items() if count}


def _seeds(case: Case, groups: Sequence[Group], scores: Mapping[Role, Scores]) -> pa.Table:
    records = [
        {"artifact": card.digest, "row": number, "reward_first": row.reward_first, "reward_second": row.reward_second}
        for place, (_, card) in enumerate(case.seeds)
        for number, row in enumerate(score_rows(groups, scores[_seed(place)]))
    ]
    return pa.Table.from_pylist(records, schema=SEEDS_SCHEMA)


def _write_rows(
    case: Case,
    work: Path,
    name: str,
    groups: Sequence[Group],
    scores: Scores,
    champion: Scores | None,
    baselines: BaselineRewards,
) -> None:
    """Add the rows of one set to rows.parquet."""
    taught = frozenset(
        edge.annotator for group in case.groups["train"] for edge in group.comparisons if edge.annotator is not None
    )
    by_baseline = {baseline: differences(groups, rewards) for baseline, rewards in baselines.items()}
    rows.append(rows.records(name, groups, scores, champion, by_baseline, taught), work / ROWS)


def _write_outcomes(case: Case, work: Path, name: str, scores: Scores, champion: Scores | None) -> None:
    """Add the labelled completions of one set to outcomes.parquet, for a model that learnt from such labels."""
    if case.learns == "comparisons":
        return
    groups = case.groups[name]
    baselines = outcome_baselines(groups, case.groups["train"])
    rewards = {"reward": rewards_of(groups, scores)}
    if champion is not None:
        rewards["champion"] = rewards_of(groups, champion)
    columns = rewards | {baseline: of_labelled(groups, odds) for baseline, odds in baselines.items()}
    rows.append(outcomes.to_table(name, labelled(groups), columns), work / OUTCOMES)
