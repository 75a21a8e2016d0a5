"""A wheel in an empty environment: `touchstone init demo && cd demo && touchstone retrain` to a verdict."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]

SMALL = ["data.groups=600", "gates.min_clusters=20", "model.hidden=32", "model.layers=1", "model.warmup_steps=20"]


def run(*command: str | Path, cwd: Path, env: dict[str, str], codes: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True)
    output = f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert done.returncode in codes, f"{command} ended with {done.returncode}:\n{output}"
    return done.stdout


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A shell that knows the wheel's environment and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    ours = {"PYTHONPATH", "VIRTUAL_ENV", "TOUCHSTONE_ROOT", "MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME"}
    outside = {name: value for name, value in os.environ.items() if name not in ours}
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT, env=outside)
    (wheel,) = folder.glob("*.whl")

    # torch by pip, whose configuration chooses its build; what the wheel asks for beside it by uv, in the versions of
    # the lock, which lie in its cache where this checkout was set up.
    run(sys.executable, "-m", "venv", folder / "env", cwd=folder, env=outside)
    lock = (ROOT / "requirements.lock").read_text()
    pins = re.findall(r"^([\w.-]+==[^ \n\\]+)", lock, re.MULTILINE)
    (folder / "constraints.txt").write_text("\n".join(pins))
    python = folder / "env" / "bin" / "python"
    (torch,) = (pin for pin in pins if pin.startswith("torch=="))
    run(python, "-m", "pip", "install", "--quiet", "--no-compile", torch, cwd=folder, env=outside)
    uv = Path(sys.executable).with_name("uv")
    run(uv, "pip", "install", "--python", python, "-c", "constraints.txt", wheel, cwd=folder, env=outside)
    run(uv, "pip", "check", "--python", python, cwd=folder, env=outside)
    return {**outside, "PATH": os.pathsep.join([str(python.parent), outside["PATH"]]), "HOME": str(folder)}


def test_the_installed_package_makes_a_project_and_takes_it_to_a_verdict(env: dict[str, str], tmp_path: Path) -> None:
    run("touchstone", "init", "demo", cwd=tmp_path, env=env)
    demo = tmp_path / "demo"
    words = run("touchstone", "retrain", *SMALL, cwd=demo, env=env, codes=(0, 3))
    verdict = re.search(r"^(PROMOTE|REJECT|INCONCLUSIVE): ", words, re.MULTILINE)
    assert verdict
    (record,) = (json.loads(path.read_text()) for path in demo.glob("runs/*/run.json"))
    assert (record["status"], record["verdict"]) == ("finished", verdict[1])

    # What ran is the installed package, and it is on record.
    code = "import touchstone; print(touchstone.__file__)"
    package = Path(run("python", "-c", code, cwd=demo, env=env).strip()).parent
    assert not package.is_relative_to(ROOT)
    lock = (demo / "runs" / record["id"] / "dvc.lock").read_text()
    assert "installed/train.sha256" in lock
    assert " touchstone/" not in lock

    # The same again is nothing to do; another version of a file that only `seal` and what follows run reruns those.
    assert "Nothing to do" in run("touchstone", "retrain", *SMALL, cwd=demo, env=env, codes=(0, 3))
    listing = demo / "installed" / "seal.sha256"
    sealing = next(line.split("  ")[1] for line in listing.read_text().splitlines() if line.endswith("/sealing.py"))
    with (package.parent / sealing).open("a") as file:
        file.write("# another version\n")
    refusal = subprocess.run(["touchstone", "plan"], cwd=demo, env=env, capture_output=True, text=True)
    assert refusal.returncode == 1
    assert "touchstone/model/sealing.py is another" in refusal.stderr
    run("touchstone", "init", "--update", cwd=demo, env=env)
    steps = json.loads(run("touchstone", "plan", "--json", *SMALL, cwd=demo, env=env))["steps"]
    reasons = {step["name"]: step["reasons"] for step in steps}
    assert reasons["train"] == []
    assert reasons["seal"] == ["installed/seal.sha256 changed"]
    shutil.rmtree(demo)
