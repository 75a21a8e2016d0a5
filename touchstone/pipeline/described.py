"""What MLflow shows of a judged run: the figures that decided, words, tags, the data, the decision page's place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from touchstone.data import sources
from touchstone.gate.record import Decision, Metrics
from touchstone.model import card
from touchstone.pipeline import data, dvc
from touchstone.pipeline.adopted import build_with
from touchstone.pipeline.runs import Run
from touchstone.registry.description import DataVersion, Description
from touchstone.release.publishing import short_card
from touchstone.settings import Settings

PAGE = "evidence/decision/decision.html"


def describe(run: Run, decision: Decision) -> Description:
    """A run's description, whatever its verdict."""
    return _description(
        decision,
        run.settings,
        run.build,
        name=run.id,
        pointer=dvc.pointer_hash(run.workspace / data.POINTER) or "",
        origin=f"Run {run.id}, commit `{run.commit[:12]}`.",
        tags={"touchstone.run": run.id, "touchstone.commit": run.commit, "mlflow.source.git.commit": run.commit},
    )


def describe_adopted(root: Path, settings: Settings, artifact: Path, decision: Decision) -> Description:
    """The description of an artifact that no run of the project trained."""
    with build_with(root / "build", artifact) as build:
        return _description(
            decision,
            settings,
            build,
            name=artifact.name,
            pointer=dvc.pointer_hash(root / data.POINTER) or "",
            origin=f"Sealed as `{artifact.name}`; no run of this project trained it.",
            tags={},
        )


def _description(
    decision: Decision,
    settings: Settings,
    build: Path,
    *,
    name: str,
    pointer: str,
    origin: str,
    tags: Mapping[str, str],
) -> Description:
    record = decision.record
    metrics: dict[str, float] = {}
    for set_name, judged in (("holdout", record.metrics.holdout), ("confirm", record.metrics.confirm)):
        if judged is not None:
            metrics |= {f"{set_name}.{key}": value for key, value in _figures(judged).items()}
    splits = build / "splits" / "summary.json"
    sets = json.loads(splits.read_text(encoding="utf-8"))["sets"] if splits.exists() else {}
    groups = {set_name: counts["groups"] for set_name, counts in sets.items()}
    licence = sources.about(settings.data).licence
    return Description(
        name=name,
        metrics=metrics,
        tags={
            "verdict": str(decision.verdict),
            "policy": record.policy,
            "data": pointer,
            "artifact": decision.artifact_digest,
            "touchstone.verdict": str(decision.verdict),
            **tags,
        },
        text=_text(decision, origin),
        version_text=short_card(card.read(build / "artifact"), decision, licence, settings.name),
        model_text=_model_text(settings),
        data=DataVersion(settings.data.name, pointer, groups),
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
        **{
            f"accuracy{end}.{name}": value
            for name, baseline in judged.baselines.items()
            for end, value in (
                ("", baseline.accuracy),
                ("_low", baseline.accuracy_low),
                ("_high", baseline.accuracy_high),
            )
        },
        **{f"accuracy.axis.{name}": axis.accuracy for name, axis in judged.axes.items()},
    }
    return figures if judged.gap_closed is None else {**figures, "gap_closed": judged.gap_closed}


def _text(decision: Decision, origin: str) -> str:
    """The verdict, the judged accuracy beside every baseline, and where the page is."""
    lines = [f"**{decision.verdict}**: {decision.summary}", ""]
    if holdout := decision.record.metrics.holdout:
        lines += [f"On the holdout ({holdout.pairs:,} pairs of {holdout.clusters:,} prompts):", ""]
        lines += ["| | accuracy | 95% interval |", "|---|---|---|"]
        for name, row in (("**this model**", holdout), *holdout.baselines.items()):
            interval = f"{row.accuracy_low:.3f} to {row.accuracy_high:.3f}"
            lines.append(f"| {name.replace('_', ' ')} | {row.accuracy:.3f} | {interval} |")
        lines.append("")
    lines += [f"The decision page is the artifact `{PAGE}`.", "", origin]
    return "\n".join(lines)


def _model_text(settings: Settings) -> str:
    sandbox = " The sandbox is a simulated world: it says nothing about people." * (settings.data.source == "sandbox")
    return (
        f"Reward models of data `{settings.data.name}` by objective `{settings.objective.name}`. A score "
        f"compares completions of one prompt and is no grade of a single text; the alias `champion` is the version "
        f"that the gate promoted last.{sandbox}"
    )
