"""The optimisation budget of a version or an artifact in this project: what it is measured on, and where it is kept.

runs/budgets/<digest>.json    the record, which `judge` and an endpoint on this machine read
runs/budgets/<digest>.png     its picture
the registry's versions       a tag with the same record, which every endpoint reads
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from touchstone.errors import GateError, RegistryError, SettingsError
from touchstone.evaluation import budget as measuring
from touchstone.evaluation.budget import Samples
from touchstone.evaluation.optimisation_picture import optimisation_curve
from touchstone.model import card, optimisation_budget
from touchstone.model.optimisation_budget import OptimisationBudget
from touchstone.pipeline.runs import folder_of
from touchstone.registry import Registry, Version
from touchstone.runtime.files import write_atomic
from touchstone.settings import Settings
from touchstone.settings.gates import Overoptimisation


@dataclass(frozen=True, slots=True)
class Measured:
    """A budget, and where it is kept.

    Attributes:
        path: the record's file; its picture lies beside it.
        versions: registered ones with this artifact, which now bear it.
        quarantined: lines of the samples that can't be used.
    """

    budget: OptimisationBudget
    path: Path
    versions: Sequence[int]
    quarantined: int
    summary: str


def measure(
    root: Path,
    settings: Settings,
    *,
    which: str | None = None,
    artifact: Path | None = None,
    samples: Path | None = None,
    gold: Path | None = None,
) -> Measured:
    """Measure a registered version, or an artifact's folder, and keep what comes out.

    Args:
        which: a version's number or alias.
        artifact: the folder, instead; with neither the champion.
        samples, gold: as in `gates.overoptimisation`, in place of its own.

    Raises:
        SettingsError: nobody knows a gold reward: only the sandbox has one of its own.
        RegistryError: there is no such version.
        ArtifactError, DataError: see `measuring.measure_budget`.
    """
    from touchstone.model.processor import prepare  # torch comes with these
    from touchstone.model.scoring import Scorer

    prepare(settings.training_threads)
    registry = Registry.open(root)
    folder = artifact
    if folder is None:
        version = registry.version(settings.name, which or "champion")
        if version is None:
            raise RegistryError(f"{settings.name} has no version {which or 'champion'}; name one that it has")
        folder = registry.download(version)
    asked = settings.gates.overoptimisation or Overoptimisation()
    digest = card.verify_digests(folder).digest
    chosen = _samples(root, settings, asked, samples, gold, digest)
    budget, _ = measuring.measure_budget(chosen, Scorer.load(folder))
    path = optimisation_budget.write(optimisation_budget.folder_of(folder_of(root)), budget)
    write_atomic(path.with_suffix(".png"), optimisation_curve(budget, subject=f"artifact {digest[:12]}"))
    versions = [each for each in registry.versions(settings.name) if each.digest == digest]
    for each in versions:
        attach(registry, each, budget)
    numbers = [each.version for each in versions]
    return Measured(budget, path, numbers, chosen.quarantined.total(), measuring.summary(budget))


def attach(registry: Registry, version: Version, budget: OptimisationBudget) -> None:
    """Let a version bear its budget, over an earlier one."""
    from touchstone.registry.versions import BUDGET

    registry.tag(version, BUDGET, budget.to_text())


def attach_known(root: Path, registry: Registry, version: Version) -> None:
    """Let a version bear what was measured of its artifact before it was registered, if anything was."""
    budget = optimisation_budget.read(optimisation_budget.folder_of(folder_of(root)), version.digest)
    if budget is not None:
        attach(registry, version, budget)


def ensure(root: Path, settings: Settings, artifact: Path) -> None:
    """Measure an artifact that is to be judged, where the gate asks for it and nobody has done so.

    Raises:
        as for `measure`.
    """
    if settings.gates.overoptimisation is None:
        return
    digest = card.verify_digests(artifact).digest
    if optimisation_budget.read(optimisation_budget.folder_of(folder_of(root)), digest) is None:
        measure(root, settings, artifact=artifact)


def _samples(
    root: Path, settings: Settings, asked: Overoptimisation, file: Path | None, gold: Path | None, digest: str
) -> Samples:
    """The samples with their gold rewards."""
    path = file or (None if asked.samples is None else root / asked.samples)
    if path is not None:
        samples = measuring.read_samples(path, completions=asked.completions)
    elif settings.data.source == "sandbox":
        samples = measuring.sandbox_samples(settings.data, prompts=asked.prompts, completions=asked.completions)
    else:
        raise SettingsError(
            f"data={settings.data.source} knows no gold reward of its own: name a file of a policy's completions "
            "(--samples, or gates.overoptimisation.samples), with their gold rewards or with a second model (--gold)"
        )
    judge = gold or (None if asked.gold is None else root / asked.gold)
    if judge is not None:
        from touchstone.model.scoring import Scorer

        scorer = Scorer.load(judge)
        if scorer.card.digest == digest:
            raise GateError(f"{judge} is the artifact that is to be measured: gold must be independent of it")
        samples = measuring.gold_by(samples, scorer, f"the reward model {judge.name} ({scorer.card.digest[:12]})")
    if samples.gold is None:
        raise SettingsError(
            f"{samples.policy} has completions without a gold reward: give each one, or name a model (--gold)"
        )
    return samples
