"""Every check of a decision, from its evidence folder, the record's facts and the thresholds alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from touchstone import statistics
from touchstone.evaluation import judge_bias
from touchstone.gate import checks, cross_fit, judge_scores, outcomes, probes, rows
from touchstone.gate.checks import Check, Completions, Outcomes, Pairs, Verdict
from touchstone.gate.evidence import CANDIDATE, SEEDS_SCHEMA, TEXTS_SCHEMA
from touchstone.gate.facts import Facts
from touchstone.gate.fresh_scores import AGAIN
from touchstone.gate.labels import union
from touchstone.gate.record import ASKED, CROSS_FIT, OUTCOMES, PROBES, ROWS, SEEDS, TEXTS, VERDICTS
from touchstone.gate.rows import Rows
from touchstone.settings.gates import Gates
from touchstone.settings.objective import Learns
from touchstone.statistics import Floats


def required(limits: Gates, learns: Learns = "comparisons") -> tuple[str, ...]:
    """Names of the checks without which there is no promotion.

    Args:
        learns: which labels the candidate learnt from.
    """
    return (
        *on_holdout(learns),
        "confirm",
        *(("overoptimisation",) if limits.overoptimisation is not None else ()),
        *(("unattended",) if limits.policy == "small_data" else ()),
        *(("cross_fit",) if limits.policy == "small_data" and learns != "process" else ()),
    )


def on_holdout(learns: Learns) -> tuple[str, ...]:
    """Names of the required checks that need the holdout alone."""
    return (*checks.REQUIRED, *(checks.OUTCOME_CHECKS if learns == "outcome" else ()))


def examine(folder: Path, facts: Facts, limits: Gates) -> list[Check]:
    """Every check on the holdout, from the evidence in `folder`; all run, whatever the others say."""
    # Read.
    held_out = rows.read(folder / ROWS, "holdout")
    candidate = held_out.candidate(facts.calibration_map, facts.map_error)
    champion = held_out.champion(facts.champion_map)
    texts = pq.read_table(folder / TEXTS, schema=TEXTS_SCHEMA)
    probed = pq.read_table(folder / PROBES, schema=probes.SCHEMA)
    rewards = column_of(texts, "reward")
    usable = rewards[np.isfinite(rewards)]  # of the others `integrity` speaks
    with np.errstate(over="ignore"):
        spread = float(np.std(usable)) if len(usable) else 0.0
    truncated = int(pc.sum(texts["truncated"]).as_py())
    asked = union.read(folder / ASKED) if (folder / ASKED).exists() else None

    # Check. Each check runs by itself: one that can't be computed is an error and stops no other.
    results = [
        checks.run(
            "integrity",
            lambda: checks.integrity(
                rewards,
                facts.holdout_texts,
                candidate,
                limits,
                filtered=facts.pairs_without_judgement + _unanswered(facts),
                equal_once_cut=(facts.equal_once_cut or {}).get("holdout", 0),
                truncated=truncated,
                may_tie=facts.judge is not None,
            ),
        ),
        checks.run("reload", lambda: _reload(folder, texts, facts, spread, limits)),
        checks.run("leakage", lambda: examine_leakage(facts, limits)),
        checks.run("evidence", lambda: checks.evidence(candidate, champion, limits)),
        checks.run("floor", lambda: checks.floor(candidate, _accuracies(held_out, candidate), limits)),
        checks.run("champion", lambda: _champion(held_out, candidate, champion, asked, facts, limits)),
        checks.run("calibration", lambda: checks.calibration(candidate, limits)),
        checks.run("slices", lambda: _slices(held_out, candidate, champion, asked, facts, limits)),
        checks.run("length", lambda: _length(held_out, candidate, texts, limits)),
        checks.run("probes", lambda: examine_probes(probed, limits)),
        checks.run("refusals", lambda: examine_refusals(probed, limits)),
        checks.run("noise_ceiling", lambda: _noise_ceiling(held_out, candidate, facts, limits), required=False),
        checks.run("seeds", lambda: _seeds(folder, held_out, candidate, facts, limits), required=False),
        checks.run(
            "overoptimisation",
            lambda: checks.overoptimisation(facts.budget, limits, facts.champion_budget),
            required=limits.overoptimisation is not None,
        ),
        checks.run("holdout_use", lambda: checks.holdout_use(facts.holdout_uses, limits)),
        checks.run("centering", lambda: examine_centering(facts, limits)),
    ]
    if "spread_difference" in held_out.table.schema.names:  # of an ensemble
        results.append(checks.run("spread", lambda: checks.spread(held_out.plain()), required=False))
    if facts.learns == "outcome":
        results += _outcomes(folder, facts, limits)
    if facts.judge is not None:
        results.append(checks.run("judge_bias", lambda: _judge_bias(folder), required=False))
    if facts.model_labelled is not None:
        by_models, judged = facts.model_labelled
        results.append(checks.labelled_by_models(by_models, judged, allowed=limits.allow_model_labels))
    if asked is not None and champion is not None:
        results.append(checks.run("asked", lambda: _asked(candidate, champion, asked, limits), required=False))
    if (person := checks.unattended(limits)) is not None:  # under small_data
        results.append(checks.run("cross_fit", lambda: _cross_fit(folder, limits)))
        results.append(person)
    return results


def examine_confirm(folder: Path, facts: Facts, results: Sequence[Check], limits: Gates) -> Check:
    """The repeat on the reserved set; without a look where the candidate was there before and may not come again."""
    if checks.verdict(results, on_holdout(facts.learns)) is not Verdict.PROMOTE:
        return Check(
            "confirm", "not_run", "The reserved set stays closed: the holdout gave no promotion.", required=False
        )
    if facts.earlier_confirm == "fail":
        return Check("confirm", "fail", "This candidate failed on the reserved set before: there is no second try.")
    if facts.earlier_confirm == "undecided":
        reason = "This reserved set left the candidate undecided before; a second try needs a larger one:"
        return Check("confirm", "undecided", f"{reason} {checks.NEW_SHARE:.0%} of its prompts must be new.")
    reserved = rows.read(folder / ROWS, "confirm")
    candidate, champion = reserved.candidate(facts.calibration_map), reserved.champion(facts.champion_map)
    floor = next(check for check in results if check.name == "floor")
    return checks.run("confirm", lambda: checks.confirm(candidate, champion, floor.threshold or 1.0, limits))


def _unanswered(facts: Facts) -> int:
    return 0 if facts.judge is None else facts.judge.unanswered.get("holdout", 0)


def examine_centering(facts: Facts, limits: Gates) -> Check:
    return checks.centering(facts.centering, limits) if facts.judge is None else checks.without_scale()


def _judge_bias(folder: Path) -> Check:
    verdicts = judge_scores.read_verdicts(folder / VERDICTS, CANDIDATE, "holdout")
    biases = [bias.to_json() for bias in judge_bias.measure(verdicts)]
    return checks.swayed(biases, judge_scores.count_reasons(verdicts))


def _reload(folder: Path, texts: pa.Table, facts: Facts, spread: float, limits: Gates) -> Check:
    if facts.judge is not None:
        return checks.asked_again(*judge_scores.changes(folder / VERDICTS, CANDIDATE), limits.max_changed_verdicts)
    return examine_reload(texts, facts.precision, spread, limits)


def examine_reload(texts: pa.Table, precision: str, spread: float, limits: Gates) -> Check:
    sampled = texts.filter(pc.is_valid(texts["one by one"]))
    columns = {way: column_of(sampled, way) for way in ("reward", *AGAIN)}
    return checks.reload(columns.pop("reward"), columns, precision, spread, limits)


def examine_leakage(facts: Facts, limits: Gates) -> Check:
    return checks.leakage(
        facts.shared_prompts,
        facts.near_duplicate_prompts,
        facts.swapped_pairs,
        facts.champion_shared_prompts,
        facts.champion_near_duplicates,
        first=facts.first_model,
        train=facts.train_prompts,
        adopted=facts.adopted,
        limits=limits,
    )


def _accuracies(held_out: Rows, candidate: Pairs) -> dict[str, float]:
    """Accuracy of every baseline on the candidate's decided pairs."""
    _, clusters = candidate.credits()
    return {
        name: statistics.accuracy(statistics.credit(values[candidate.decided]), clusters)
        for name, values in held_out.baselines().items()
    }


def _champion(
    held_out: Rows,
    candidate: Pairs,
    champion: Pairs | None,
    asked: pa.Table | None,
    facts: Facts,
    limits: Gates,
) -> Check:
    sample = union.asked_whole(asked, limits) if asked is not None else None
    check = checks.champion(candidate, champion, limits, facts.look, sample)
    if champion is None:
        return check
    # How much of a text a model can read is part of the model: people judged the whole of it. Both are shown.
    cut = pc.or_(held_out.table["truncated_first"], held_out.table["truncated_second"])
    details = {
        "pairs_cut_by_the_candidate": pc.sum(cut).as_py(),
        "pairs_cut_by_the_champion": pc.sum(held_out.table["champion_truncated"]).as_py(),
    }
    reason = check.reason
    if facts.max_tokens != facts.champion_max_tokens:
        windows = f"The candidate reads {facts.max_tokens} tokens of a text, the champion {facts.champion_max_tokens}"
        reason += f" {windows}."
    return replace(check, reason=reason, details={**check.details, **details})


def _slices(
    held_out: Rows,
    candidate: Pairs,
    champion: Pairs | None,
    asked: pa.Table | None,
    facts: Facts,
    limits: Gates,
) -> Check:
    masks = held_out.slices(limits.slices)
    sample = union.asked_by_slice(asked, limits) if asked is not None else None
    return checks.slices(candidate, champion, masks, facts.absent_slices, limits, sample)


def _length(held_out: Rows, candidate: Pairs, texts: pa.Table, limits: Gates) -> Check:
    groups = texts["group_id"].to_pylist()
    # A group that nobody judged has no row, and with it no cluster but itself.
    rows_of = held_out.table.select(["group_id", "cluster_id"]).to_pydict()
    clusters = dict(zip(rows_of["group_id"], rows_of["cluster_id"], strict=True))
    scored = Completions(
        groups=groups,
        rewards=column_of(texts, "reward"),
        tokens=column_of(texts, "tokens"),
        wins=column_of(texts, "wins"),
        clusters=[clusters.get(group, group) for group in groups],
    )
    chosen, rejected = held_out.preferred("tokens")
    styles = held_out.preferred("style") if held_out.table["style_first"].null_count == 0 else None
    return checks.length(candidate, scored, chosen, rejected, limits, styles)


def examine_probes(asked: pa.Table, limits: Gates) -> Check:
    wins = probes.wins(asked)
    several = len({axis for _, axis in wins}) > 1
    by_axis = {key: counts for key, counts in wins.items() if several and counts[1] >= limits.shown_slice_clusters}
    return checks.probes(
        probes.of_all_axes(wins), limits, probes.VARIANTS.keys(), by_axis, conditional=[probes.REFUSAL]
    )


def examine_refusals(asked: pa.Table, limits: Gates) -> Check:
    losses, unwanted = (
        {axis: counts for (_, axis), counts in found.items()}
        for found in (probes.losses(asked), probes.unwanted(asked))
    )
    safety = {axis.casefold() for axis in limits.safety_axes}
    axes = {axis.casefold() for axis in asked["axis"].to_pylist()}
    return checks.refusals(losses, limits, unwanted, on_safety_axes=bool(safety & axes))


def _outcomes(folder: Path, facts: Facts, limits: Gates) -> list[Check]:
    """What is asked of a classifier besides."""
    asked = {"auc": checks.auc, "outcome_calibration": checks.outcome_calibration, "best_of_n": checks.best_of_n}
    return [checks.run(name, partial(_outcome, check, folder, facts, limits)) for name, check in asked.items()]


def _outcome(check: Callable[[Outcomes, Gates], Check], folder: Path, facts: Facts, limits: Gates) -> Check:
    return check(outcomes.read(folder / OUTCOMES, "holdout", facts), limits)


def _noise_ceiling(held_out: Rows, candidate: Pairs, facts: Facts, limits: Gates) -> Check:
    if facts.learns == "outcome":
        return checks.not_about_outcomes("noise_ceiling", "they aren't votes, so there is no agreement to exceed")
    votes_for, votes_against = held_out.preferred("votes")
    return checks.noise_ceiling(candidate, votes_for, votes_against, limits)


def _seeds(folder: Path, held_out: Rows, candidate: Pairs, facts: Facts, limits: Gates) -> Check:
    credits, clusters = candidate.credits()
    accuracies = {facts.artifact: statistics.accuracy(credits, clusters)}
    if (folder / SEEDS).exists():
        table = pq.read_table(folder / SEEDS, schema=SEEDS_SCHEMA)
        chosen_second = held_out.swapped
        for artifact in sorted(set(table["artifact"].to_pylist())):
            scores = table.filter(pc.equal(table["artifact"], artifact))
            differences = column_of(scores, "reward_first") - column_of(scores, "reward_second")
            differences = np.where(chosen_second, -differences, differences)
            accuracies[artifact] = statistics.accuracy(statistics.credit(differences[candidate.decided]), clusters)
    return checks.seeds(accuracies, facts.artifact, limits)


def _asked(candidate: Pairs, champion: Pairs, asked: pa.Table, limits: Gates) -> Check:
    sample, random = union.asked_whole(asked, limits), union.random_credits(asked)
    return checks.asked(candidate, champion, sample, random, union.counts(asked))


def _cross_fit(folder: Path, limits: Gates) -> Check:
    return cross_fit.cross_fitted(*cross_fit.read_pairs(folder / CROSS_FIT), limits)


def column_of(table: pa.Table, name: str) -> Floats:
    return np.asarray(table[name].to_numpy(), dtype=np.float64)
