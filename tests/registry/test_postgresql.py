"""A team's servers over a real PostgreSQL, as the compose files start them: the whole loop, and promotions at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.places import ROOT
from tests.worlds.postgresql import PASSWORD, Postgres, cluster, mlflow_server, prefect_server
from tests.worlds.registered import NAME
from touchstone.pipeline import project
from touchstone.registry import Registry
from touchstone.registry.entries import all_moves

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]

SMALL = ["data.groups=600", "gates.min_clusters=20", "model.hidden=32", "model.layers=1", "model.warmup_steps=20"]
ATONCE = 4


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with cluster() as running:
        for name in ("mlflow", "prefect"):
            running.create(name)
        yield running


@pytest.fixture(scope="module")
def registry(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with mlflow_server(postgres, tmp_path_factory.mktemp("mlflow")) as variables:
        yield variables


def environment(folder: Path, *variables: dict[str, str]) -> dict[str, str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    for part in variables:
        env |= part
    return {**env, "PREFECT_HOME": str(folder / "prefect-home")}


def test_nobody_is_let_in_without_a_password_or_by_another_sites_name(registry: dict[str, str]) -> None:
    url = f"{registry['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/search?max_results=1"
    with httpx.Client(timeout=60) as client:
        assert client.get(url).status_code == 401
        assert client.get(url, auth=("ada", "wrong")).status_code == 401
        assert client.get(url, auth=("ada", PASSWORD)).status_code == 200
        elsewhere = {"Host": "another.example:5000"}
        assert client.get(url, auth=("ada", PASSWORD), headers=elsewhere).status_code == 403


def test_the_whole_loop_from_empty_databases(
    postgres: Postgres, registry: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "demo"
    project.make(root)
    with prefect_server(postgres, tmp_path / "server") as prefect:
        env = environment(tmp_path, registry, prefect)
        flow = [sys.executable, "-m", "flows", *SMALL]
        done = subprocess.run(flow, cwd=root, env=env, capture_output=True, text=True)
        assert done.returncode in (0, 3), done.stderr[-4000:]
        (run_id,) = (path.parent.name for path in root.glob("runs/*/run.json"))
        if done.returncode == 3:  # so small a model seldom convinces; a person may
            override = ["--override", "--by", "ada", "--reason", "a test"]
            command = [sys.executable, "-m", "touchstone.cli", "promote", run_id, *override]
            promoted = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
            assert promoted.returncode == 0, promoted.stderr[-4000:]
        again = subprocess.run(flow, cwd=root, env=env, capture_output=True, text=True)
        assert "Nothing to do" in again.stdout

    # Everything lies in PostgreSQL and in the server's store; nothing of it in the project.
    for name, value in registry.items():
        monkeypatch.setenv(name, value)
    book = Registry.open(root)
    assert book.aliases(NAME) == {"champion": 1}
    version = book.version(NAME, "champion")
    assert version is not None
    assert (book.download(version) / "reward.json").is_file()
    assert not (root / "mlflow" / "mlflow.db").exists()
    aliases = postgres.query("mlflow", "SELECT alias, version FROM registered_model_aliases WHERE name = %s", NAME)
    assert aliases == [("champion", 1)]
    assert postgres.query("mlflow", "SELECT username, is_admin FROM users") == [("ada", True)]
    flows = postgres.query("prefect", "SELECT name, state_type, state_name FROM flow_run")
    ended = "Promoted" if done.returncode == 0 else "Blocked"
    assert flows == [(run_id, "COMPLETED", ended)]
    tasks = postgres.query("prefect", "SELECT count(*) FROM task_run WHERE state_type = 'COMPLETED'")
    assert tasks[0][0] >= 9


ONE = """
import os
import sys
from pathlib import Path

uri = os.environ["MLFLOW_TRACKING_URI"]  # which the tests' worlds take away

from tests.worlds.judged import decide
from tests.worlds.registered import artifact
from touchstone.errors import RegistryError
from touchstone.registry import Registry
from touchstone.release import promote
from touchstone.release.champion import present_champion

os.environ["MLFLOW_TRACKING_URI"] = uri
root, name, seed = sys.argv[1:]
registry = Registry.open(Path(root))
version = registry.publish(name, f"fingerprint-{seed}", artifact(int(seed)))
for judged in range(1, 20):
    decision = decide(registry.root, version, present_champion(registry, name))
    try:
        promote(registry, version, decision)
        break
    except RegistryError as error:  # another one was promoted meanwhile
        assert "judge again" in str(error) or "moved" in str(error), error
print("promoted", version.version, "judged", judged)
"""


def test_promotions_at_once_leave_one_champion_and_one_history(
    postgres: Postgres, registry: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{NAME}-at-once"
    env = environment(tmp_path, registry)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", ONE, str(tmp_path), name, str(seed)],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(ATONCE)
    ]
    ended = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0] * ATONCE, [err[-3000:] for _, err in ended]
    said = [re.fullmatch(r"promoted (\d+) judged (\d+)", out.strip()) for out, _ in ended]
    assert sorted(int(match[1]) for match in said if match) == list(range(1, ATONCE + 1))

    for key, value in registry.items():
        monkeypatch.setenv(key, value)
    book = Registry.open(tmp_path)
    moves = [entry.moves["champion"] for entry in all_moves(book.history(name)) if "champion" in entry.moves]
    assert len(moves) == ATONCE
    assert [move.from_ for move in moves] == [None, *(move.to for move in moves[:-1])]
    present = book.aliases(name)
    assert (present["champion"], present["previous"]) == (moves[-1].to, moves[-2].to)
    stored = postgres.query("mlflow", "SELECT alias, version FROM registered_model_aliases WHERE name = %s", name)
    assert dict(stored) == present
