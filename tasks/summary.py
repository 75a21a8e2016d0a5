"""How the run ended, in its record and as Prefect artifacts."""

from __future__ import annotations

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from touchstone.gate.record import Decision
from touchstone.pipeline import retrain
from touchstone.pipeline.opening import Outcome
from touchstone.pipeline.runs import Run
from touchstone.registry import Version
from touchstone.release import Release


@task(name="conclude", task_run_name="conclude", cache_policy=NO_CACHE)
def conclude(run: Run, decision: Decision, version: Version | None, released: Release | None) -> Outcome:
    """Write the run's end into its record, and the summary and the decision's page into Prefect."""
    outcome = retrain.conclude(run, decision, version, released)
    text = f"# {run.settings.name}: {outcome.verdict}\n\n{outcome.reason}\n\n```\n{outcome.summary.strip()}\n```\n"
    create_markdown_artifact(key="retrain-summary", markdown=text, description=outcome.reason)
    page = (run.folder / "decision" / "decision.html").as_uri()
    create_link_artifact(key="retrain-decision", link=page, link_text="decision", description=outcome.reason)
    return outcome
