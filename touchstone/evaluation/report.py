"""The stage `evaluate`: held-out scores into evidence, with the baselines beside the model.

    python -m touchstone.evaluation        # build/artifact + build/splits -> build/evaluation, build/metrics.json

Scores the validation set only: rows.parquet, metrics.json and plots/ come out, and beside them the few figures and
plots that stand in git (`headline`). The holdout is the gate's, which computes the same rows and metrics.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from touchstone import settings
from touchstone import statistics as st
from touchstone.errors import DataError
from touchstone.evaluation.baselines import (
    MODEL,
    baseline_differences,
    outcome_baselines,
)
from touchstone.evaluation.chain_report import chain_table, draw_chains, evaluate_chains
from touchstone.evaluation.chains import ChainRow, labelled_values, write_chain_rows
from touchstone.evaluation.headline import (
    Table,
    chain_headline,
    curve_table,
    headline,
    length_table,
    reliability_table,
)
from touchstone.evaluation.headline import write as write_headline
from touchstone.evaluation.metrics import by_annotators, measure, rounded, signs_of_error
from touchstone.evaluation.outcomes import labelled, measure_outcomes, of_labelled, outcome_table, rewards_of
from touchstone.evaluation.pictures import (
    accuracy_chart,
    margin_histogram,
    reliability_diagram,
    reward_against_length,
    spread_chart,
)
from touchstone.evaluation.rows import Row, completions, count_pairs, score_rows, told_apart, write_rows
from touchstone.groups import Group, read_parquet
from touchstone.model.card import StepCalibration
from touchstone.model.processor import prepare
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer
from touchstone.runtime.files import write_atomic, write_folder, write_json
from touchstone.settings.objective import Learns


def evaluate_set(
    scorer: Scorer, groups: Sequence[Group], train: Sequence[Group], calibration: Sequence[Group]
) -> tuple[list[Row], dict[str, Any]]:
    """Score groups with a sealed artifact: rows and metrics (see `score_rows` and `measure`).

    Pairs that the model sees the same tokens of on both sides are left out (see `told_apart`); `equal_once_cut` among
    the metrics counts them.

    Raises:
        DataError: no pair is left.
    """
    scores = scorer.raw([as_item(group) for group in groups], description=f"score {len(groups):,} groups")
    telling = told_apart(groups, scores)
    rows = score_rows(telling, scores)
    equal = count_pairs(groups) - len(rows)
    if equal and not rows:
        raise DataError(
            f"the completions of all {equal:,} pairs are equal once cut to {scorer.card.rule.get('max_tokens')} tokens"
            "; raise model.max_tokens"
        )
    fitted, outcome = scorer.card.calibration, scorer.card.outcome
    learns: Learns = "comparisons" if outcome is None else "outcome"
    metrics = measure(rows, baseline_differences(telling, train, calibration, learns), fitted.map, fitted.map_error)
    metrics |= {"equal_once_cut": equal, "annotators": by_annotators(telling, scores, train)}
    if outcome is not None:
        baselines = {name: of_labelled(groups, odds) for name, odds in outcome_baselines(groups, train).items()}
        rewards = rewards_of(groups, scores)
        metrics["outcome"] = measure_outcomes(labelled(groups), rewards, outcome.map, outcome.covariance, baselines)
    return rows, metrics


def draw(
    rows: Sequence[Row], metrics: Mapping[str, Any], calibration_map: st.CalibrationMap, subject: str
) -> dict[str, bytes]:
    """The pictures of one evaluation, as PNG bytes by file name.

    Args:
        subject: the set's name, for the titles ("validation").
    """
    every = np.array([row.difference for row in rows])
    decided = np.array([row.difference for row in rows if row.chosen is not None])
    confidence = st.probability(np.abs(every), calibration_map)
    rewards, tokens, _ = zip(*completions(rows).values(), strict=True)
    accuracies = {MODEL: metrics, **metrics["baselines"]}
    pairs = f"{metrics['pairs']:,} {subject} comparisons"
    spreads = [row for row in rows if row.chosen is not None and row.spread_difference is not None]
    return {
        **(
            {
                "spread.png": spread_chart(
                    signs_of_error(spreads),
                    st.credit([row.difference for row in spreads]),
                    metrics["spread"],
                    subject=pairs,
                )
            }
            if spreads
            else {}
        ),
        "accuracy.png": accuracy_chart(
            {
                name: (result["accuracy"], st.Interval(result["accuracy_low"], result["accuracy_high"]))
                for name, result in accuracies.items()
            },
            subject=f"{metrics['clusters']:,} {subject} prompts",
            model=MODEL,
        ),
        "reliability.png": reliability_diagram(
            confidence,
            st.agreement(every, [row.strength for row in rows]),
            error=metrics["calibration_error"],
            null_error=metrics["calibration_error_null"],
            subject=pairs,
        ),
        "margins.png": margin_histogram(decided, subject=pairs),
        "length.png": reward_against_length(
            tokens,
            rewards,
            correlation=metrics["length_correlation"],
            subject=f"{len(rewards):,} {subject} completions",
        ),
    }


def plot_tables(rows: Sequence[Row], calibration_map: st.CalibrationMap) -> dict[str, Table]:
    """The tables behind two of the plots in git, by name."""
    differences = np.array([row.difference for row in rows])
    confidence = st.probability(np.abs(differences), calibration_map)
    rewards, tokens, _ = zip(*completions(rows).values(), strict=True)
    return {
        "reliability": reliability_table(confidence, st.agreement(differences, [row.strength for row in rows])),
        "length": length_table(tokens, rewards),
    }


def chain_plot_tables(rows: Sequence[ChainRow], process: StepCalibration) -> dict[str, Table]:
    """`plot_tables` of a process model: how probable steps were called, and its chains' rewards."""
    values, labels, _ = labelled_values(rows)
    probabilities = special.expit(st.outcome_log_odds(values, process.map))
    return {
        "reliability": reliability_table(probabilities, labels),
        "length": length_table([row.tokens for row in rows], [row.reward for row in rows]),
    }


def table(metrics: Mapping[str, Any]) -> str:
    """The metrics as aligned plain text, the model and its baselines first."""
    lines = [f"{'':<24}{'accuracy':>9}   95% interval"]
    for name, result in {MODEL: metrics, **metrics["baselines"]}.items():
        interval = f"{result['accuracy_low']:.3f} to {result['accuracy_high']:.3f}"
        lines.append(f"{name.replace('_', ' '):<24}{result['accuracy']:>9.3f}   {interval}")
    for axis, result in metrics["axes"].items():
        lines.append(f"{'on ' + axis:<24}{result['accuracy']:>9.3f}   {result['clusters']:,} prompts")
    for name, result in metrics.get("annotators", {}).items():
        people = f"{result['pairs']:,} pairs judged by {result['annotators']} annotators {name} in training"
        lines.append(f"{'by annotators ' + name:<24}{result['accuracy']:>9.3f}   {people}")
    lines.append("")
    null = f"(a perfect model: up to {metrics['calibration_error_null']:.3f} by chance)"
    notes = {"calibration_error": null, "log_loss": "(guessing: 0.693)", "slope": "(calibrated: 1)"}
    for key in ("gap_closed", "log_loss", "calibration_error", "slope", "margin", "length_correlation"):
        value, note = metrics[key], notes.get(key, "")
        shown = f"{value:>9.3f}   {note}" if value is not None else f"{'-':>9}   {metrics['missing'].get(key, '')}"
        lines.append(f"{key.replace('_', ' '):<24}{shown}".rstrip())
    if "spread" in metrics and metrics["spread"]["error_area"] is not None:
        areas = metrics["spread"]
        for name, words in (("error", "errors by spread"), ("like", "at like margin"), ("margin", "errors by margin")):
            interval = (
                f"{areas[f'{name}_area_low']:.3f} to {areas[f'{name}_area_high']:.3f} (no sign of an error: 0.5)"
            )
            lines.append(f"{words:<24}{areas[f'{name}_area']:>9.3f}   {interval}")
    for key in ("pairs", "labelled_ties", "equal_once_cut", "clusters"):
        if key in metrics:
            lines.append(f"{key.replace('_', ' '):<24}{metrics[key]:>9,}")
    of_outcomes = "\n" + outcome_table(metrics["outcome"]) if "outcome" in metrics else ""
    return "\n".join(lines) + "\n" + of_outcomes


def main() -> None:
    """Evaluate build/artifact on the validation set into build/evaluation."""
    options = settings.load()
    prepare(options.training_threads)
    build = Path("build")
    train, calibration, validation = (
        read_parquet(build / "splits" / f"{name}.parquet") for name in ("train", "calibration", "validation")
    )
    scorer = Scorer.load(build / "artifact")
    process = scorer.card.process
    if process is not None:
        chains, metrics = evaluate_chains(scorer, validation, train, calibration)
        pictures, text = draw_chains(chains, metrics, process, "validation"), chain_table(metrics)
        figures, tables = chain_headline(metrics), chain_plot_tables(chains, process)
        write = partial(write_chain_rows, rows=chains)
    else:
        rows, metrics = evaluate_set(scorer, validation, train, calibration)
        pictures, text = draw(rows, metrics, scorer.card.calibration.map, "validation"), table(metrics)
        figures, tables = headline(metrics), plot_tables(rows, scorer.card.calibration.map)
        write = partial(write_rows, rows=rows)

    def fill(folder: Path) -> None:
        write(folder / "rows.parquet")
        write_json(folder / "metrics.json", {"artifact": scorer.card.digest, **rounded(metrics)})
        (folder / "plots").mkdir()
        for name, picture in pictures.items():
            write_atomic(folder / "plots" / name, picture)

    write_folder(build / "evaluation", fill)
    curve = (build / "curve.jsonl").read_text(encoding="utf-8").splitlines()
    write_headline(build, figures, {"curve": curve_table(curve), **tables})
    sys.stdout.write(text)
