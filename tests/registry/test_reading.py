"""What is read without MLflow is what MLflow says."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.places import ROOT
from tests.worlds.registered import NAME, artifact, open_registry, publish
from touchstone.errors import RegistryError
from touchstone.registry import Registry, reading
from touchstone.registry.versions import from_mlflow


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    registry = open_registry(tmp_path_factory.mktemp("read"))
    for seed, alias in ((0, "champion"), (1, "challenger")):
        registry.set_alias(NAME, alias, publish(registry, seed).version, expected=None)
    return registry


def test_aliases_and_versions_are_those_of_mlflow(registry: Registry) -> None:
    client = MlflowClient(tracking_uri=registry.uri, registry_uri=registry.uri)
    for number in (1, 2):
        theirs = client.get_model_version(NAME, str(number))
        ours = reading.version(registry.uri, NAME, number)
        assert ours == {"source": theirs.source, "run_id": theirs.run_id, "tags": theirs.tags}
    assert registry.versions(NAME) == [from_mlflow(client.get_model_version(NAME, number)) for number in ("1", "2")]
    aliases = client.get_registered_model(NAME).aliases
    assert reading.aliases(registry.uri, NAME) == {alias: int(number) for alias, number in aliases.items()}
    assert registry.aliases(NAME) == {"champion": 1, "challenger": 2}
    assert registry.version(NAME, 1) == registry.version(NAME, "champion")
    assert registry.version(NAME, 3) is None
    assert registry.aliases("reward-other") == {}
    client.delete_model_version(NAME, "2")
    assert registry.version(NAME, 2) is None
    assert [version.version for version in registry.versions(NAME)] == [1]
    assert registry.versions("reward-other") == []


def test_another_schema_is_left_to_mlflow(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "a b#.db"
    path.write_bytes(Path(registry.uri.removeprefix("sqlite:///")).read_bytes())
    uri = f"sqlite:///{path}"
    assert reading.aliases(uri, NAME)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'later'")
    connection.close()
    assert reading.aliases(uri, NAME) is None
    assert reading.version(uri, NAME, 1) is None
    assert reading.versions(uri, NAME) is None
    assert reading.aliases("http://127.0.0.1:5000", NAME) is None
    assert reading.aliases(f"sqlite:///{tmp_path}/none.db", NAME) is None


def test_a_version_that_somebody_else_made_is_refused_by_name(tmp_path: Path) -> None:
    registry = open_registry(tmp_path)
    client = MlflowClient(tracking_uri=registry.uri, registry_uri=registry.uri)
    client.create_registered_model(NAME)
    client.create_model_version(NAME, source=str(artifact(0)))
    with pytest.raises(RegistryError, match="version 1 was not published by Touchstone"):
        registry.version(NAME, 1)


def test_an_endpoint_that_starts_imports_no_mlflow(registry: Registry) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom touchstone.registry import Registry\n"
        f"registry = Registry.open(Path({str(registry.root)!r}))\n"
        f"number = registry.aliases({NAME!r})['champion']\n"
        f"print(registry.download(registry.version({NAME!r}, number)).name, 'mlflow' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["artifact", "False"]
