"""The stage `evaluate` of a process model: chains into rows, metrics, pictures and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scipy import special

from touchstone import statistics as st
from touchstone.errors import ArtifactError
from touchstone.evaluation.baselines import GOLD, MODEL
from touchstone.evaluation.chain_baselines import chain_baselines
from touchstone.evaluation.chain_metrics import measure_chains
from touchstone.evaluation.chains import ChainRow, chain_rows, chains_of, labelled_values
from touchstone.evaluation.pictures import accuracy_chart, step_reliability
from touchstone.groups import Group
from touchstone.model.card import StepCalibration
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer


def evaluate_chains(
    scorer: Scorer, groups: Sequence[Group], train: Sequence[Group], calibration: Sequence[Group]
) -> tuple[list[ChainRow], dict[str, Any]]:
    """Score groups with a sealed process model: rows and metrics (see `measure_chains`).

    Raises:
        DataError: there are no chains of both kinds.
        ArtifactError: the artifact is of another kind.
    """
    process = scorer.card.process
    if process is None:
        raise ArtifactError("this artifact is no process model: it has no map of steps; seal one with step labels")
    scores = scorer.raw([as_item(group) for group in groups], description=f"score {len(groups):,} groups", values=True)
    rows, chains = chain_rows(groups, scores), chains_of(groups)
    baselines = chain_baselines(chains, chains_of(train), chains_of(calibration))
    return rows, measure_chains(rows, chains, baselines, process, known_world=is_known_world(groups))


def is_known_world(groups: Sequence[Group]) -> bool:
    """Whether the labels come from a world whose truth is known: its completions carry the known reward."""
    return all(GOLD in completion.ratings for group in groups for completion in group.completions)


def draw_chains(
    rows: Sequence[ChainRow], metrics: Mapping[str, Any], process: StepCalibration, subject: str
) -> dict[str, bytes]:
    """The pictures of one evaluation, as PNG bytes by file name.

    Args:
        subject: the set's name, for the titles ("validation").
    """
    results = {MODEL: metrics, **metrics["baselines"]}
    values, labels, _ = labelled_values(rows)
    return {
        "f1.png": accuracy_chart(
            {
                name: (result["f1"], st.Interval(result["f1_low"], result["f1_high"]))
                for name, result in results.items()
            },
            subject=f"{metrics['chains']:,} {subject} chains",
            model=MODEL,
            what="F1",
            about="F1 of the first wrong step, as ProcessBench counts it",
            chance=None,
        ),
        "reliability.png": step_reliability(
            special.expit(st.outcome_log_odds(values, process.map)),
            labels,
            error=metrics["step_calibration_error"],
            null_error=metrics["step_calibration_error_null"],
            subject=f"{len(values):,} {subject} steps",
        ),
    }


def chain_table(metrics: Mapping[str, Any]) -> str:
    """The metrics as aligned plain text, the model and its baselines first."""
    lines = [f"{'':<24}{'F1':>9}   95% interval       on errors  on correct  step AUC"]
    for name, result in {MODEL: metrics, **metrics["baselines"]}.items():
        interval = f"{result['f1_low']:.3f} to {result['f1_high']:.3f}"
        parts = f"{result['on_errors']:>13.3f}{result['on_correct']:>12.3f}{result['step_auc']:>10.3f}"
        lines.append(f"{name.replace('_', ' '):<24}{result['f1']:>9.3f}   {interval}{parts}")
    for axis, result in metrics["axes"].items():
        shown = "-" if result["f1"] is None else f"{result['f1']:.3f}"
        lines.append(f"{'on ' + axis:<24}{shown:>9}   {result['chains']:,} chains")
    lines.append("")
    null = f"(a perfect model: up to {metrics['step_calibration_error_null']:.3f} by chance)"
    notes = {"step_calibration_error": null, "threshold": "(log odds, from the calibration set)"}
    for key in ("gap_closed", "threshold", "step_accuracy", "step_calibration_error", "step_brier", "reward_auc"):
        value = metrics[key]
        shown = f"{value:>9.3f}   {notes.get(key, '')}" if value is not None else f"{'-':>9}   the best isn't known"
        lines.append(f"{key.replace('_', ' '):<24}{shown}".rstrip())
    for key in ("chains", "chains_with_error", "clusters", "steps", "unread_steps"):
        lines.append(f"{key.replace('_', ' '):<24}{metrics[key]:>9,}")
    return "\n".join(lines) + "\n"
