"""Models that no run of this project made: judged, registered, scored on public benchmarks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from touchstone.errors import GateError, RegistryError
from touchstone.runtime.files import digest_value
from touchstone.settings import Settings

if TYPE_CHECKING:
    from touchstone.gate.record import Decision
    from touchstone.registry import Version


def shown(path: Path, root: Path) -> Path:
    """A path as a person at the project's root would type it."""
    return path.relative_to(root) if path.is_relative_to(root) else path


def judge_artifact(
    root: Path, settings: Settings, artifact: Path, *, with_champion: bool = True, seeds: Sequence[Path] = ()
) -> Decision:
    """Judge another sealed artifact than build/artifact; the record goes to build/judged/ARTIFACT/decision.

    Raises:
        ArtifactError, DataError, GateError, LedgerError: there is no verdict at all.
    """
    from touchstone.pipeline.steps import judge_build

    output = root / "build" / "judged" / artifact.resolve().name.removeprefix("artifact-") / "decision"
    with build_with(root / "build", artifact) as build:
        return judge_build(root, settings, with_champion=with_champion, seeds=seeds, build=build, output=output)


def register_artifact(root: Path, settings: Settings, artifact: Path, decision: Decision) -> Version:
    """Publish a judged artifact that no run has made, whatever its verdict but ERROR, exactly once per decision.

    Its evidence holds what a release needs and a run would have: the reference set that it was centred on.

    Raises:
        ArtifactError: it doesn't verify.
        DataError: build/splits/reference.parquet is missing.
        GateError: the decision is about another artifact, or an ERROR; or the reference set is another one.
        RegistryError: MLflow refused.
    """
    from touchstone.groups import read_parquet, set_digest
    from touchstone.model import card
    from touchstone.pipeline.budget import attach_known
    from touchstone.pipeline.described import describe_adopted
    from touchstone.registry import Registry

    sealed = card.verify_digests(artifact)
    if sealed.is_judge:
        raise GateError(
            f"{artifact} is a generative judge: it compares and gives no rewards, so there is no version to serve; "
            "label with it (`touchstone labels judge`), and train on that"
        )
    if sealed.digest != decision.artifact_digest or decision.verdict == "ERROR":
        raise GateError(f"{artifact} has no verdict of its own: {decision.summary}")
    reference = root / "build" / "splits" / "reference.parquet"
    if set_digest(read_parquet(reference)) != sealed.centering.reference_digest:
        raise GateError(f"{reference} is not the reference set that {artifact} was centred on; seal it again")
    registry = Registry.open(root)
    version = registry.publish(
        settings.name,
        digest_value({"artifact": sealed.digest, "name": settings.name, "decision": decision.digest}),
        artifact,
        [decision.path, root / "params.yaml", reference],
        {"touchstone.decision": decision.digest, "touchstone.verdict": str(decision.verdict)},
    )
    description = describe_adopted(root, settings, artifact, decision)
    registry.describe(version.run_id, description)
    registry.describe_version(version, description)
    attach_known(root, registry, version)
    return version


@contextmanager
def build_with(build: Path, artifact: Path) -> Iterator[Path]:
    """A folder like build/ whose artifact is another one: links to everything else that stands there."""
    with TemporaryDirectory(prefix="touchstone-judge-") as place:
        for path in build.iterdir():
            if path.name != "artifact":
                (Path(place) / path.name).symlink_to(path.resolve())
        (Path(place) / "artifact").symlink_to(artifact.resolve())
        yield Path(place)


def run_benchmark(
    root: Path, settings: Settings, benchmark: str, data: str, *, artifact: Path | None, version: str | None
) -> tuple[dict[str, Any], str]:
    """Score an artifact, or a registered version, on a public benchmark, into build/benchmarks/BENCHMARK.

    Returns:
        What results.json holds, and the same as text.

    Raises:
        ArtifactError: it doesn't verify.
        RegistryError: there is no such version.
        DataError, ModelError: see `reward_benchmarks.run`.
    """
    from touchstone.evaluation import benchmarks
    from touchstone.model.processor import prepare
    from touchstone.model.scoring import Scorer

    prepare(settings.training_threads)
    folder = artifact or root / "build" / "artifact"
    called = str(shown(folder.resolve(), root))
    if version is not None:
        from touchstone.registry import Registry

        registry = Registry.open(root)
        registered = registry.version(settings.name, version)
        if registered is None:
            raise RegistryError(f"{settings.name} has no version {version}; name a number or an alias that it has")
        folder, called = registry.download(registered), f"{registered.name} version {registered.version}"
    result = benchmarks.run(benchmark, data, root, Scorer.load(folder), model=called)
    target = root / "build" / "benchmarks" / benchmark
    benchmarks.write(result, target)
    return result.facts, f"{benchmarks.table(result.facts)}{shown(target / 'plot.png', root)}\n"
