"""How the run ended, in its record and as Prefect artifacts."""

from __future__ import annotations

import re

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from touchstone.gate.page.words import CHECKS
from touchstone.gate.record import Decision
from touchstone.pipeline import retrain
from touchstone.pipeline.opening import Outcome
from touchstone.pipeline.runs import Run
from touchstone.registry import Version
from touchstone.release import Release

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~-])")
"""What Markdown would read as more than a character."""


@task(name="conclude", task_run_name="conclude", cache_policy=NO_CACHE)
def conclude(run: Run, decision: Decision, version: Version | None, released: Release | None) -> Outcome:
    """Write the run's end into its record, and the summary and every check into Prefect.

    Browsers refuse links from Prefect's pages to files, so the decision's page is named, not linked.
    """
    outcome = retrain.conclude(run, decision, version, released)
    title = f"{run.settings.name}: {decision.verdict}, {outcome.verdict}"
    text = (
        f"# {escaped(title)}\n\n{escaped(outcome.reason)}\n\n```\n{outcome.summary.strip()}\n```\n\n"
        f"The decision's page is `{run.folder / 'decision' / 'decision.html'}`, an artifact of the run in MLflow.\n"
    )
    create_markdown_artifact(key="retrain-summary", markdown=text, description=escaped(outcome.reason))
    rows = [
        {
            "check": check.name.replace("_", " "),
            "status": check.status.replace("_", " "),
            "required": "yes" if check.required else "no",
            "finding": escaped(check.reason),  # long, and cut at the table's edge: before what is known anyway
            "asks": escaped(CHECKS[check.name].question),
        }
        for check in decision.checks
    ]
    create_table_artifact(key="retrain-decision", table=rows, description=escaped(decision.summary))
    return outcome


def escaped(text: str) -> str:
    """The text as Markdown shows it word for word."""
    return _SPECIAL.sub(r"\\\1", text)
