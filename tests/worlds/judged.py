"""Projects whose versions were really judged: small sets, scores by a formula, evidence that can be recomputed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from tests.worlds import graded
from tests.worlds.holdout import outcome, question
from tests.worlds.registered import NAME, artifact, tiny_settings
from tests.worlds.sealed import make_tiny_groups
from touchstone import settings
from touchstone.gate import holdout_ledger, record
from touchstone.gate import judge as judge_module
from touchstone.gate.case import Champion
from touchstone.gate.checks import Verdict
from touchstone.gate.fresh_scores import Job, Role, Scores
from touchstone.gate.judge import ledger_file, recompute
from touchstone.gate.record import Decision, Provenance, load_decision
from touchstone.groups import Group, write_parquet
from touchstone.model.scores import RawScore
from touchstone.registry import Registry, Version
from touchstone.runtime.files import digest_text, digest_value
from touchstone.settings.checks import SETS

TINY = tiny_settings()
SETTINGS = TINY.model_copy(update={"gates": TINY.gates.model_copy(update={"bootstrap_draws": 100})})
SEEDS = {name: number for number, name in enumerate(SETS)} | {"calibration": 101, "reference": 102}
_KEEP = tempfile.TemporaryDirectory(prefix="touchstone-tests-")


def formula(jobs: Mapping[Role, Job], work: Path) -> dict[Role, Scores]:
    """Scores that depend on the artifact and the text alone, in no time: right as often as a coin."""

    def score(job: Job, group: Group, place: int) -> RawScore:
        text = group.completions[place].text
        return RawScore(int(digest_text(job.digest + group.id + text)[:8], 16) / 2**31 - 1.0, False, len(text.split()))

    return {
        role: [[score(job, group, k) for k in range(len(group.completions))] for group in job.groups]
        for role, job in jobs.items()
    }


def write_sets(folder: Path) -> None:
    """The seven sets, calibration and reference those of every `registered.artifact`."""
    for name in SETS:
        write_parquet(folder / f"{name}.parquet", make_tiny_groups(30 if name != "calibration" else 20, SEEDS[name]))


def judge(
    root: Path, seed: int, champion: Version | None = None, chosen: settings.Settings = SETTINGS, **said: str
) -> Decision:
    """Judge the artifact of a seed; the decision lies in runs/decisions and in `decided-<seed>`/decision."""
    build = root / f"decided-{seed}"
    (build / "splits").mkdir(parents=True, exist_ok=True)
    write_sets(build / "splits")
    shutil.copytree(artifact(seed), build / "artifact", dirs_exist_ok=True)
    before = Champion(str(champion.version), Registry.open(root).download(champion), None) if champion else None
    return judge_module.judge(
        build=build,
        state=root / "runs",
        output=build / "decision",
        settings=chosen,
        champion=before,
        who="ada",
        score=formula,
        provenance=Provenance(**said),
    )


def register(registry: Registry, seed: int, champion: Version | None = None) -> tuple[Version, Decision]:
    """A judged version as the pipeline registers one, whatever the verdict."""
    decision = judge(registry.root, seed, champion)
    tags = {"touchstone.decision": decision.digest, "touchstone.verdict": str(decision.verdict)}
    version = registry.publish(NAME, f"fingerprint-{seed}", artifact(seed), [decision.path], tags)
    return version, decision


@cache
def _promoted(with_champion: bool) -> Decision:
    """A PROMOTE of a model that knows what people want, where there is a champion against one that knows nothing."""
    folder = Path(tempfile.mkdtemp(dir=_KEEP.name))
    for name, count in graded.SIZES.items():
        (folder / "build" / "splits").mkdir(parents=True, exist_ok=True)
        write_parquet(folder / "build" / "splits" / f"{name}.parquet", graded.make_set(name, count))
    graded.make_artifact(folder / "build" / "artifact")
    champion = Champion("1", graded.make_artifact(folder / "champion", seed=18), None) if with_champion else None
    return judge_module.judge(
        build=folder / "build",
        state=folder / "runs",
        output=folder / "decision",
        settings=graded.SETTINGS,
        champion=champion,
        who="ada",
        score=graded.Scorer(folder / "runs", artifact=graded.gold, champion=graded.shuffled),
    )


def decide(root: Path, version: Version, champion: Version | None, verdict: Verdict = Verdict.PROMOTE) -> Decision:
    """A decision about a version that the holdout ledger knows and whose evidence gives the verdict.

    Scores and rows are those of another model; what makes a verdict other than PROMOTE is one fact or threshold.
    """
    before = _promoted(champion is not None)
    changes = {Verdict.REJECT: {"holdout_texts": 1}, Verdict.ERROR: {"shared_prompts": {}}}.get(verdict, {})
    facts = before.record.facts.model_copy(update=changes)
    thresholds = dict(before.record.thresholds)
    if verdict is Verdict.INCONCLUSIVE:
        thresholds["min_clusters"] = 10**6
    digests = before.record.digests.model_copy(
        update={
            "artifact": version.digest,
            "champion": champion.digest if champion else None,
            "thresholds": digest_value(thresholds),
            "leaks": digest_value(facts.model_dump(mode="json")),
        }
    )
    key = record.key_of(version.name, digests)
    folder = Path(shutil.copytree(before.path, root / "runs" / f"decision-{key}"))
    about = {"key": key, "name": version.name, "facts": facts, "thresholds": thresholds, "digests": digests}
    content = before.record.model_copy(update={**about, "summary": "Made for a test."})
    record.write(folder, content)
    checks, recomputed = recompute(folder)
    assert recomputed is verdict
    path = ledger_file(root / "runs")
    asked = question(key, artifact=version.digest, champion=digests.champion)
    use = holdout_ledger.open_holdout(path, asked, ["a"])
    place = record.LedgerPlace(sequence=use.entry.sequence, digest=use.entry.digest, uses=use.count)
    content = content.model_copy(update={"verdict": verdict, "checks": tuple(checks), "ledger": place})
    holdout_ledger.close(path, outcome(key, record.write(folder, content).digest, verdict))
    return load_decision(folder)
