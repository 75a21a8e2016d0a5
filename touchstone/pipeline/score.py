"""`touchstone score`: a file of prompts and completions in, a file of their scores out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from touchstone.data.rollouts import Rollout, count_rows, read_rollouts
from touchstone.errors import ArtifactError, RegistryError, SettingsError
from touchstone.model import card
from touchstone.model.reference import read_reference
from touchstone.model.scoring_job import Job, Report, Row, Unscored, finished, score_rows, unscored_file
from touchstone.runtime.files import digest_file, digest_value
from touchstone.runtime.parallel import Threads
from touchstone.settings import checked_root


@dataclass(frozen=True, slots=True)
class Model:
    """The sealed artifact that scores.

    Attributes:
        folder: where it lies on this machine.
        name: NAME version N, or the folder.
        digest: its digest.
    """

    folder: Path
    name: str
    digest: str


def find_model(reference: str) -> Model:
    """The model that a person names, as `read_reference` takes it; relative folders count from here.

    Raises:
        ArtifactError: the folder holds no sealed artifact.
        RegistryError: there is no such version.
        SettingsError: the reference names no model, or a registered one outside a project.
    """
    meant = read_reference(reference, Path())
    if meant.folder is not None:
        return Model(meant.folder, reference, card.read(meant.folder).digest)
    root = checked_root()
    from touchstone.registry import Registry  # seconds of imports

    registry = Registry.open(root)
    version = registry.version(meant.name, meant.which)
    if version is None:
        raise RegistryError(f"the registry has no {reference}; name a version or an alias that it has")
    return Model(registry.download(version), f"{version.name} version {version.version}", version.digest)


def score_file(
    file: Path,
    model: Model,
    output: Path,
    *,
    prompt_field: str = "prompt",
    completion_field: str | None = None,
    threads: Threads = "auto",
) -> Report:
    """Score the rows of a file into a Parquet file; a job that was killed goes on, and one that is done does nothing.

    Rows that can't be scored are named in `unscored_file(output)`.

    Args:
        completion_field: None: `completion`, else `completions`.

    Raises:
        ArtifactError: the model doesn't verify.
        DataError: see `scoring_job.score_rows`.
        SourceError: the file can't be read.
    """
    if output.suffix != ".parquet":
        raise SettingsError(f"{output}: scores are written as Parquet; give it a name that ends in .parquet")
    fields = [prompt_field, completion_field]
    job = Job(digest_value({"file": digest_file(file), "fields": fields}), model.digest, model.name)
    done = finished(output, job)
    if done is not None:
        return done
    from touchstone.model.processor import prepare  # torch comes with it
    from touchstone.model.scoring import Scorer

    prepare(1)
    scorer = Scorer.load(model.folder, threads=threads)
    if scorer.card.digest != model.digest:
        raise ArtifactError(f"{model.folder} changed while it was loaded; run again")
    rows = _rows(file, prompt_field, completion_field)
    return score_rows(scorer, rows, output, job, total=count_rows(file))


def _rows(file: Path, prompt_field: str, completion_field: str | None) -> Iterator[Row | Unscored]:
    for row in read_rollouts(file, prompt_field, completion_field):
        if isinstance(row, Rollout):
            yield Row(row.line, (row.prompt, row.completions))
        else:
            yield Unscored(row.line, row.reason)


def summary(report: Report, model: Model, output: Path) -> str:
    """What a person wants to know of a job that is done, as aligned plain text."""
    unscored = sum(report.unscored.values())
    lines = [
        f"scored      {report.completions:,} completions of {report.rows - unscored:,} rows into {output}",
        f"truncated   {report.truncated:,}, because they are over the model's token limit",
        f"model       {model.name} (digest {model.digest[:16]})",
    ]
    if unscored:
        lines.append(f"set aside   {unscored:,} rows, named in {unscored_file(output)}")
        reasons = sorted(report.unscored.items(), key=lambda item: (-item[1], item[0]))
        lines += [f"            {reason}: {count:,}" for reason, count in reasons]
    return "\n".join(lines)
