"""What the files for containers say, read from their text: no container engine runs here.

Users, health checks, pins, addresses, secrets; and that what they start and send is what there is.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import touchstone
from tests.places import ROOT
from touchstone.cli.main import app
from touchstone.pipeline import project

DOCKERFILES = ("Dockerfile", "mlflow/Dockerfile")
COMPOSE = ("mlflow/compose.yaml", "deploy/compose.yaml")
LOCKED = dict(re.findall(r"^([\w.-]+)==([^ \n\\]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
SERVICES = [(file, name) for file in COMPOSE for name in yaml.safe_load((ROOT / file).read_text())["services"]]
ONE_SHOT = {"bucket"}
"""Services that end by themselves."""


def text(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


def service(file: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text(file))["services"][name]
    return found


def instructions(file: str) -> list[tuple[str, str]]:
    """Instructions and their words, lines joined."""
    lines = [line for line in text(file).splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


@pytest.mark.parametrize("file", DOCKERFILES)
def test_an_image_runs_as_another_user_than_root_and_says_whether_it_is_healthy(file: str) -> None:
    users = [words for word, words in instructions(file) if word == "USER"]
    assert users
    assert re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", users[-1]), "a number, so that Kubernetes can see that it isn't root"
    (check,) = (words for word, words in instructions(file) if word == "HEALTHCHECK")
    assert "urllib.request.urlopen('http://127.0.0.1:" in check


@pytest.mark.parametrize("file", [*DOCKERFILES, *COMPOSE])
def test_a_file_says_that_it_was_not_built_or_run(file: str) -> None:
    head = text(file).split("FROM")[0].split("services:")[0]
    assert re.search(r"Unbuilt where it is\s+(# )?developed|Not run where it is developed", head)


@pytest.mark.parametrize(("file", "name"), SERVICES)
def test_a_service_is_pinned_limited_and_watched(file: str, name: str) -> None:
    entry = service(file, name)
    repository, _, tag = entry["image"].partition(":")
    assert re.search(r"\d", tag), f"{entry['image']} is whatever is newest"
    assert "." not in repository.split("/")[0], "the engine's own registry, under no address"
    assert all(str(port).startswith("127.0.0.1:") for port in entry.get("ports", []))
    if name not in ONE_SHOT:
        assert entry["security_opt"] == ["no-new-privileges:true"]
        assert entry["restart"] == "unless-stopped"
        ours = "touchstone" in repository and name != "worker"
        assert ours or "healthcheck" in entry  # ours have the image's own
    if name in ("worker", "endpoint", "prefect", "mlflow"):
        assert entry["cap_drop"] == ["ALL"]


def test_the_bases_are_pinned_and_versions_are_those_of_the_lock() -> None:
    assert ("ARG", "BASE=python:3.11.14-slim-bookworm") in instructions("Dockerfile")
    assert ("FROM", "python:3.11.14-slim-bookworm") in instructions("mlflow/Dockerfile")
    assert service("mlflow/compose.yaml", "mlflow")["image"] == f"touchstone-registry:{LOCKED['mlflow']}"
    assert service("deploy/compose.yaml", "prefect")["image"] == f"prefecthq/prefect:{LOCKED['prefect']}-python3.11"
    for name in ("worker", "endpoint"):
        assert service("deploy/compose.yaml", name)["image"] == f"touchstone:{touchstone.__version__}"
    pins = [line for line in text("mlflow/requirements.txt").splitlines() if line and not line.startswith("#")]
    versions = dict(re.fullmatch(r"([\w.-]+)(?:\[\w+\])?==([\w.]+)", line).groups() for line in pins)  # type: ignore[union-attr]
    assert {"mlflow", "flask-wtf", "psycopg2-binary", "boto3"} <= set(versions)
    assert {name: LOCKED[name] for name in versions if name in LOCKED} == {
        name: version for name, version in versions.items() if name in LOCKED
    }


FETCHING = (
    *DOCKERFILES,
    *COMPOSE,
    ".ci/run",
    "Makefile",
    "mlflow/requirements.txt",
    "pyproject.toml",
    "requirements.in",
    "requirements.lock",
    "scripts/setup.sh",
)


@pytest.mark.parametrize("file", FETCHING)
def test_nothing_that_fetches_packages_names_where_from(file: str) -> None:
    """The clients' defaults, or a build argument without a value."""
    hosts = re.findall(r"\w+://(?:[^/@\s]*@)?([\w.-]+)", text(file))
    assert [host for host in hosts if "." in host and host != "127.0.0.1"] == []
    assert not re.search(r"(--(extra-)?index-url|--find-links|-i)[= ]\S*\w+\.\w|\bppa:|add-apt-repository", text(file))
    arguments = [words for word, words in instructions("Dockerfile") if word == "ARG"]
    assert "TORCH_INDEX" in arguments


@pytest.mark.parametrize("file", COMPOSE)
def test_secrets_come_from_an_env_file_whose_example_names_them_all(file: str) -> None:
    folder = (ROOT / file).parent
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", text(file)))
    example = dict(re.findall(r"^(\w+)=(.*)$", (folder / ".env.example").read_text(), re.MULTILINE))
    assert used == set(example)
    assert set(filter(example.get, example)) <= {"PROJECT", "PROJECT_UID", "PROJECT_GID"}
    demanded = set(re.findall(r"\$\{(\w+):\?", text(file)))
    assert used - demanded <= {"PROJECT", "POSTGRES_PASSWORD", "STORE_USER", "STORE_PASSWORD"} | demanded
    assert f"/{folder.name}/.env" in text(".gitignore")
    assert not re.search(r"postgresql\S*://\w+:", text(file)), "a password in an address ends in logs"


def test_the_commands_are_ones_that_there_are() -> None:
    endpoint = service("deploy/compose.yaml", "endpoint")
    assert CliRunner().invoke(app, [*endpoint["command"], "--help"]).exit_code == 0
    port = endpoint["command"][-1]
    assert endpoint["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"127.0.0.1:{port}/readyz" in text("Dockerfile")
    pools = {d["work_pool"]["name"] for d in yaml.safe_load(text("prefect.yaml"))["deployments"]}
    assert pools == {service("deploy/compose.yaml", "worker")["command"][3]}
    networks = [yaml.safe_load(text(file))["networks"] for file in COMPOSE]
    assert networks[0]["default"]["name"] == networks[1]["registry"]["name"]
    assert "mlflow:5000" in service("mlflow/compose.yaml", "mlflow")["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"]


def sent() -> list[str]:
    """Files that .dockerignore lets through, as git lists them: it holds `*`, and then what is not ignored."""
    allowed = re.findall(r"^!(\S+)$", text(".dockerignore"), re.MULTILINE)
    assert text(".dockerignore").split("\n")[1] == "*"
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *allowed]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def test_what_is_sent_to_the_engine_is_what_the_image_is_built_of(tmp_path: Path) -> None:
    files = [name for name in sent() if (ROOT / name).is_file()]
    assert not [name for name in files if Path(name).name == ".env" or name.startswith((".git/", "data/", "runs/"))]
    assert {"requirements.lock", "scripts/setup.sh"} <= set(files)
    for name in files:
        (tmp_path / "build" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / "build" / name)
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=tmp_path / "build", check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    paths = [path.relative_to(ROOT).as_posix() for path in project._paths(project._template())]
    assert {f"touchstone/template/{path}" for path in paths} <= inside


@pytest.mark.parametrize("file", DOCKERFILES)
def test_the_linter_finds_nothing(file: str) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        pytest.skip("hadolint isn't installed in this environment")
    done = subprocess.run([str(linter), file], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
