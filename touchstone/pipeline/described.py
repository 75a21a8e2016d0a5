"""What MLflow shows of a judged run: the figures that decided, words, tags, the data, the decision page's place."""

from __future__ import annotations

import json

from touchstone.gate.record import Decision, Metrics
from touchstone.pipeline import data, dvc
from touchstone.pipeline.runs import Run
from touchstone.registry.description import DataVersion, Description

PAGE = "evidence/decision/decision.html"


def describe(run: Run, decision: Decision) -> Description:
    """A run's description, whatever its verdict."""
    record = decision.record
    metrics: dict[str, float] = {}
    for name, judged in (("holdout", record.metrics.holdout), ("confirm", record.metrics.confirm)):
        if judged is not None:
            metrics |= {f"{name}.{key}": value for key, value in _figures(judged).items()}
    pointer = dvc.pointer_hash(run.workspace / data.POINTER) or ""
    splits = run.build / "splits" / "summary.json"
    sets = json.loads(splits.read_text(encoding="utf-8"))["sets"] if splits.exists() else {}
    return Description(
        name=run.id,
        metrics=metrics,
        tags={
            "verdict": str(decision.verdict),
            "policy": record.policy,
            "data": pointer,
            "artifact": decision.artifact_digest,
            "touchstone.verdict": str(decision.verdict),
            "touchstone.run": run.id,
            "touchstone.commit": run.commit,
        },
        text=_text(run, decision),
        model_text=_model_text(run),
        data=DataVersion(run.settings.data.name, pointer, {name: counts["groups"] for name, counts in sets.items()}),
    )


def _figures(judged: Metrics) -> dict[str, float]:
    figures = {
        "accuracy": judged.accuracy,
        "accuracy_low": judged.accuracy_low,
        "accuracy_high": judged.accuracy_high,
        "calibration_error": judged.calibration_error,
        "log_loss": judged.log_loss,
        "pairs": float(judged.pairs),
        "prompts": float(judged.clusters),
        **{f"accuracy.{name}": baseline.accuracy for name, baseline in judged.baselines.items()},
        **{f"accuracy.axis.{name}": axis.accuracy for name, axis in judged.axes.items()},
    }
    return figures if judged.gap_closed is None else {**figures, "gap_closed": judged.gap_closed}


def _text(run: Run, decision: Decision) -> str:
    """The verdict, the judged accuracy beside every baseline, and where the page is."""
    lines = [f"**{decision.verdict}**: {decision.summary}", ""]
    if holdout := decision.record.metrics.holdout:
        lines += [f"On the holdout ({holdout.pairs:,} pairs of {holdout.clusters:,} prompts):", ""]
        lines += ["| | accuracy | 95% interval |", "|---|---|---|"]
        for name, row in (("**this model**", holdout), *holdout.baselines.items()):
            interval = f"{row.accuracy_low:.3f} to {row.accuracy_high:.3f}"
            lines.append(f"| {name.replace('_', ' ')} | {row.accuracy:.3f} | {interval} |")
        lines.append("")
    lines += [f"The decision page is the artifact `{PAGE}`.", "", f"Run {run.id}, commit `{run.commit[:12]}`."]
    return "\n".join(lines)


def _model_text(run: Run) -> str:
    sandbox = " The sandbox is a simulated world: it says nothing about people." * (
        run.settings.data.source == "sandbox"
    )
    return (
        f"Reward models of data `{run.settings.data.name}` by objective `{run.settings.objective.name}`. A score "
        f"compares completions of one prompt and is no grade of a single text; the alias `champion` is the version "
        f"that the gate promoted last.{sandbox}"
    )
