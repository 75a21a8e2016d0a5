"""Projects with a registry and tiny sealed artifacts, for tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from tests.places import ROOT
from tests.worlds.sealed import make_tiny_artifact, make_tiny_groups
from touchstone import settings
from touchstone.groups import write_parquet
from touchstone.registry import Registry, Version

NAME = "reward-sandbox"
os.environ.pop("MLFLOW_TRACKING_URI", None)  # whoever runs the tests may have a registry of their own
_KEEP = tempfile.TemporaryDirectory(prefix="touchstone-tests-")


def tiny_settings(**serve: object) -> settings.Settings:
    """The committed settings, made small and quick."""
    chosen = settings.load(ROOT / "params.yaml")
    quick = {"poll_seconds": 0.1, "threads": 1, **serve}
    return chosen.model_copy(
        update={
            "serve": chosen.serve.model_copy(update=quick),
            "gates": chosen.gates.model_copy(update={"parity_texts": 40}),
        }
    )


@cache
def artifact(seed: int) -> Path:
    """A sealed artifact, made once; copy it before you change it."""
    return make_tiny_artifact(Path(_KEEP.name) / f"artifact-{seed}", seed=seed)


@cache
def reference() -> Path:
    """The reference set that every `artifact` was centred on."""
    path = Path(_KEEP.name) / "reference.parquet"
    write_parquet(path, make_tiny_groups(30, seed=102))
    return path


@cache
def _database() -> Path:
    """An initialised, empty database: initialising takes seconds."""
    Registry.open(Path(_KEEP.name))
    return Path(_KEEP.name) / "mlflow" / "mlflow.db"


def open_registry(root: Path) -> Registry:
    """The registry of a fresh project in `root`."""
    target = root / "mlflow" / "mlflow.db"
    if not target.exists():
        target.parent.mkdir(parents=True)
        shutil.copyfile(_database(), target)
    return Registry.open(root)


def publish(registry: Registry, seed: int) -> Version:
    """Version of the artifact with that seed."""
    return registry.publish(NAME, f"fingerprint-{seed}", artifact(seed))
