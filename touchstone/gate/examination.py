"""Every check of a decision, from its evidence folder, the record's facts and the thresholds alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from touchstone import statistics
from touchstone.gate import checks, cross_fit, probes, rows
from touchstone.gate.checks import Check, Completions, Pairs, Verdict
from touchstone.gate.evidence import SEEDS_SCHEMA, TEXTS_SCHEMA
from touchstone.gate.facts import Facts
from touchstone.gate.fresh_scores import AGAIN
from touchstone.gate.labels import union
from touchstone.gate.record import ASKED, CROSS_FIT, PROBES, ROWS, SEEDS, TEXTS
from touchstone.gate.rows import Rows
from touchstone.settings.gates import Gates
from touchstone.statistics import Floats


def required(limits: Gates) -> tuple[str, ...]:
    """Names of the checks without which there is no promotion."""
    return (*checks.REQUIRED, "confirm", *(("cross_fit", "unattended") if limits.policy == "small_data" else ()))


def examine(folder: Path, facts: Facts, limits: Gates) -> list[Check]:
    """Every check on the holdout, from the evidence in `folder`; all run, whatever the others say."""
    # Read.
    held_out = rows.read(folder / ROWS, "holdout")
    candidate = held_out.candidate(facts.temperature, facts.temperature_fitted_on)
    champion = held_out.champion(facts.champion_temperature)
    texts = pq.read_table(folder / TEXTS, schema=TEXTS_SCHEMA)
    rewards = _column(texts, "reward")
    with np.errstate(invalid="ignore", over="ignore"):
        spread = float(np.std(rewards))
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
                filtered=facts.pairs_without_judgement,
                truncated=truncated,
            ),
        ),
        checks.run("reload", lambda: _reload(texts, facts.precision, spread, limits)),
        checks.run("leakage", lambda: _leakage(facts, limits)),
        checks.run("evidence", lambda: checks.evidence(candidate, champion, limits)),
        checks.run("floor", lambda: checks.floor(candidate, _accuracies(held_out, candidate), limits)),
        checks.run("champion", lambda: _champion(held_out, candidate, champion, asked, facts, limits)),
        checks.run("calibration", lambda: checks.calibration(candidate, limits)),
        checks.run("slices", lambda: _slices(held_out, candidate, champion, asked, facts, limits)),
        checks.run("length", lambda: _length(held_out, candidate, texts, limits)),
        checks.run("probes", lambda: _probes(folder, limits)),
        checks.run("noise_ceiling", lambda: _noise_ceiling(held_out, candidate, limits), required=False),
        checks.run("seeds", lambda: _seeds(folder, held_out, candidate, facts, limits), required=False),
        checks.overoptimisation(),
        checks.run("holdout_use", lambda: checks.holdout_use(facts.holdout_uses, limits)),
        checks.run("centering", lambda: checks.centering(facts.centering, limits)),
    ]
    if asked is not None and champion is not None:
        results.append(checks.run("asked", lambda: _asked(candidate, champion, asked, limits), required=False))
    if (person := checks.unattended(limits)) is not None:  # under small_data
        results.append(checks.run("cross_fit", lambda: _cross_fit(folder, limits)))
        results.append(person)
    return results


def examine_confirm(folder: Path, facts: Facts, on_holdout: Sequence[Check], limits: Gates) -> Check:
    """The repeat on the reserved set: a fail without a look where the candidate failed there before."""
    if checks.verdict(on_holdout) is not Verdict.PROMOTE:
        return Check(
            "confirm", "not_run", "The reserved set stays closed: the holdout gave no promotion.", required=False
        )
    if facts.failed_confirm_before:
        return Check("confirm", "fail", "This candidate failed on the reserved set before: there is no second try.")
    reserved = rows.read(folder / ROWS, "confirm")
    candidate, champion = reserved.candidate(facts.temperature), reserved.champion(facts.champion_temperature)
    floor = next(check for check in on_holdout if check.name == "floor")
    return checks.run("confirm", lambda: checks.confirm(candidate, champion, floor.threshold or 1.0, limits))


def _reload(texts: pa.Table, precision: str, spread: float, limits: Gates) -> Check:
    sampled = texts.filter(pc.is_valid(texts["one by one"]))
    columns = {way: _column(sampled, way) for way in ("reward", *AGAIN)}
    return checks.reload(columns.pop("reward"), columns, precision, spread, limits)


def _leakage(facts: Facts, limits: Gates) -> Check:
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
    if champion is not None and facts.max_tokens != facts.champion_max_tokens:
        cut = pc.or_(
            pc.or_(held_out.table["truncated_first"], held_out.table["truncated_second"]),
            held_out.table["champion_truncated"],
        )
        if texts := pc.sum(cut).as_py():
            raise ValueError(
                f"the candidate reads {facts.max_tokens} tokens, the champion {facts.champion_max_tokens}, and "
                f"{texts} pairs hold a text that one of them cut: they did not judge the same texts"
            )
    sample = union.asked_whole(asked, limits) if asked is not None else None
    return checks.champion(candidate, champion, limits, facts.look, sample)


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
    scored = Completions(
        groups=texts["group_id"].to_pylist(),
        rewards=_column(texts, "reward"),
        tokens=_column(texts, "tokens"),
        wins=_column(texts, "wins"),
    )
    chosen, rejected = held_out.preferred("tokens")
    styles = held_out.preferred("style") if held_out.table["style_first"].null_count == 0 else None
    return checks.length(candidate, scored, chosen, rejected, limits, styles)


def _probes(folder: Path, limits: Gates) -> Check:
    wins = probes.wins(pq.read_table(folder / PROBES, schema=probes.SCHEMA))
    return checks.probes(wins, limits, variants=probes.VARIANTS.keys())


def _noise_ceiling(held_out: Rows, candidate: Pairs, limits: Gates) -> Check:
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
            differences = _column(scores, "reward_first") - _column(scores, "reward_second")
            differences = np.where(chosen_second, -differences, differences)
            accuracies[artifact] = statistics.accuracy(statistics.credit(differences[candidate.decided]), clusters)
    return checks.seeds(accuracies, facts.artifact, limits)


def _asked(candidate: Pairs, champion: Pairs, asked: pa.Table, limits: Gates) -> Check:
    sample, random = union.asked_whole(asked, limits), union.random_credits(asked)
    return checks.asked(candidate, champion, sample, random, union.counts(asked))


def _cross_fit(folder: Path, limits: Gates) -> Check:
    return cross_fit.cross_fitted(*cross_fit.read_pairs(folder / CROSS_FIT), limits)


def _column(table: pa.Table, name: str) -> Floats:
    return np.asarray(table[name].to_numpy(), dtype=np.float64)
