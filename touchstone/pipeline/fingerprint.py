"""What a run is: one hash over commands, source dependencies, parameters, gates and name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from touchstone.errors import PipelineError
from touchstone.pipeline import dvc
from touchstone.pipeline.graph import Stage, lookup
from touchstone.runtime.files import digest_file, digest_folder, digest_value
from touchstone.settings import Settings


def fingerprint(folder: Path, stages: Sequence[Stage], settings: Settings) -> str:
    """SHA-256 in hex, from the files below `folder` and the settings of the run.

    Only what numbers come from enters: a comment in a file that no stage depends on changes nothing, and neither does
    a `params.yaml` that is spelt differently.

    Raises:
        PipelineError: a stage depends on a file that doesn't exist.
    """
    values = settings.model_dump(mode="json")
    graph = {
        stage.name: {
            "cmd": stage.cmd,
            "sources": {path: _digest(folder, path) for path in stage.sources},
            "params": {name: lookup(values, name) for name in stage.params},
        }
        for stage in stages
    }
    return digest_value({"graph": graph, "gates": values["gates"], "name": values["name"]})


def _digest(folder: Path, path: str) -> Any:
    pointer = dvc.pointer_hash(folder / f"{path}.dvc")
    if pointer is not None:
        return pointer
    place = folder / path
    if place.is_dir():
        digests = digest_folder(place)
        return {name: digest for name, digest in digests.items() if "__pycache__" not in name}
    if not place.is_file():
        raise PipelineError(f"dvc.yaml names {path}, which does not exist")
    return digest_file(place)
