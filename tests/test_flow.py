"""The Prefect flow: what it is made of, and (slow) what it does on a real server."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tasks.summary import escaped
from tests.places import ROOT
from tests.worlds.product import copy_product
from tests.worlds.registered import artifact
from touchstone.pipeline import graph, workspace
from touchstone.runtime.processes import stopped_by_sigterm

SMALL = ["data.groups=1200", "model.hidden=64", "model.layers=2", "model.warmup_steps=40", "gates.min_clusters=20"]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of prefect 3.8.8's own imports


@pytest.fixture(autouse=True)
def prefect_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def _deployment(name: str = "retrain") -> dict[str, object]:
    found = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    return dict(next(deployment for deployment in found if deployment["name"] == name))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("retrain", {"overrides": [], "clean": True, "as_of": None, "asked": False}),
        ("monitor", {"look": True, "clean": True, "hand_over": False}),
        ("inbox", {}),
    ],
)
def test_the_deployment_names_a_flow_that_takes_its_parameters(name: str, parameters: dict[str, object]) -> None:
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.flows import load_flow_from_entrypoint

    deployment = _deployment(name)
    flow = load_flow_from_entrypoint(str(deployment["entrypoint"]), use_placeholder_flow=False)
    assert flow.name == name
    assert flow.validate_parameters(deployment["parameters"]) == parameters
    for schedule in deployment["schedules"]:  # type: ignore[attr-defined]
        CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])


def test_readme_and_prefect_yaml_deploy_the_same_deployment() -> None:
    names = {
        "README.md": ("retrain", "monitor", "inbox"),
        "prefect.yaml": ("retrain", "monitor", "inbox"),
        "flows/retrain.py": ("retrain",),
    }
    for file, deployed in names.items():
        commands = re.findall(
            r"prefect (?:--no-prompt )?deploy (--\S+ ?\w*)", (ROOT / file).read_text(encoding="utf-8")
        )
        assert commands == [f"--name {name}" for name in deployed], file
    readme, head = (
        re.findall(r"prefect (work-pool create .*|worker start .*)", (ROOT / file).read_text(encoding="utf-8"))
        for file in ("README.md", "prefect.yaml")
    )
    assert readme == head


def test_a_server_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from flows.server import server
from touchstone.errors import PipelineError
try:
    with server(Path.cwd()):
        pass
except PipelineError as error:
    sys.exit(f"error: {error}")
"""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/api"
        env = {**os.environ, "PREFECT_API_URL": url}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: no Prefect server answers at PREFECT_API_URL={url} (")
    assert "--plain" in done.stderr
    assert done.stderr.count("\n") == 1


def test_sigterm_reaches_prefect_as_its_own_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything else is a crash to it, also where somebody cancelled the run."""
    from prefect.exceptions import TerminationSignal

    from flows import retrain

    @contextlib.contextmanager
    def opened(*_: object, **__: object) -> Iterator[None]:
        with stopped_by_sigterm():
            os.kill(os.getpid(), signal.SIGTERM)
            yield

    monkeypatch.setattr(retrain, "opened", opened)
    with pytest.raises(TerminationSignal):
        retrain.retrain.fn()


def test_markdown_shows_a_reason_word_for_word() -> None:
    words = "a <b>name</b> | [link](x) `code` *more* 1_000 \\"
    assert re.sub(r"\\(.)", r"\1", escaped(words)) == words
    assert not re.search(r"(?<!\\)[<>|`*_\[]", escaped(words))


def test_the_flow_has_one_task_per_stage() -> None:
    from prefect.cache_policies import NO_CACHE

    from tasks.stages import stage_task
    from touchstone.pipeline.retrain import go_stage

    stages = graph.read(ROOT / "dvc.yaml", ROOT / "params.yaml")
    tasks = [stage_task(stage, go_stage) for stage in stages]
    assert [task.name for task in tasks] == [stage.name for stage in stages]
    assert all(task.retries == 0 and task.cache_policy == NO_CACHE for task in tasks)
    assert all(task.description == stage.description for task, stage in zip(tasks, stages, strict=True))


def test_nothing_to_do_is_found_out_without_prefect() -> None:
    """Importing it takes longer than finding out; what asks the registry imports MLflow where it must."""
    heavy = {"prefect", "mlflow", "torch", "pandas"}
    code = f"import sys, flows.__main__; print(sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_folder_that_is_no_repository_is_one_sentence(tmp_path: Path) -> None:
    done = _flow(tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path} must be a git repository with a commit")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_flow_that_scores_a_file(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "Why?", "completion": "So."}) + "\n{\n")
    code = """
import sys
from flows.score import score
state = score(*sys.argv[1:], return_state=True)
print(state.name, state.message)
"""
    words = [str(tmp_path / "rows.jsonl"), str(artifact(0)), str(tmp_path / "scores.parquet")]
    command = [sys.executable, "-c", code, *words]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "Scored scored      1 completions of 1 rows" in answer
    assert "set aside   1 rows" in answer
    assert (tmp_path / "scores.parquet").is_file()


def _flow(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows", *words]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


ASK = """
from pathlib import Path
from flows.server import server
from prefect.client.orchestration import get_client
from prefect.client.schemas.sorting import FlowRunSort, TaskRunSort
with server(Path.cwd()), get_client(sync_client=True) as client:
    for run in client.read_flow_runs(sort=FlowRunSort.ID_DESC, limit=100):
        print("flow", run.state.type.value, run.state.name)
        print("named", run.name)
    for run in client.read_task_runs(sort=TaskRunSort.ID_DESC, limit=100):
        print("task", run.name)
    for artifact in client.read_artifacts(limit=100):
        print("artifact", artifact.key, artifact.type, len(str(artifact.data)))
    print("logged", sum("Families are independent prompts" in log.message for log in client.read_logs(limit=200)))
"""


@pytest.mark.slow
def test_a_small_run_ends_with_a_verdict_and_is_not_run_again(tmp_path: Path) -> None:
    root = copy_product(tmp_path / "product")
    done = _flow(root, *SMALL)
    assert done.returncode in (0, 3), done.stderr
    ended = {0: "Promoted", 3: "Blocked"}[done.returncode]
    record = json.loads(next((root / "runs").glob("*/run.json")).read_text())
    assert (record["status"], record["outcome"]) == ("finished", ended.lower())
    assert record["reason"] in done.stdout

    ledger = (root / "runs" / "ledger" / "holdout_use.jsonl").read_bytes()
    start = time.monotonic()
    again = _flow(root, *SMALL)
    assert again.returncode == done.returncode
    assert again.stdout.startswith("Nothing to do")
    assert time.monotonic() - start < 30
    assert (root / "runs" / "ledger" / "holdout_use.jsonl").read_bytes() == ledger

    answer = subprocess.run(
        [sys.executable, "-c", ASK], cwd=root, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.splitlines()
    assert [line for line in answer if line.startswith("flow")] == [f"flow COMPLETED {ended}"]
    assert f"named {record['id']}" in answer, "the flow's run is called what its folder is called"
    shown = {line.split()[1]: int(line.split()[3]) for line in answer if line.startswith("artifact")}
    assert set(shown) == {"retrain-summary", "retrain-decision"}
    assert min(shown.values()) > 1_000, "they can be read in Prefect itself"
    assert "logged 1" in answer, "what split printed stands in its task's log"
    stages = [stage.name for stage in graph.read(ROOT / "dvc.yaml", ROOT / "params.yaml")]
    after = ["register", "release"] if ended == "Promoted" else []
    assert sorted(line for line in answer if line.startswith("task")) == sorted(
        f"task {name}" for name in ["data", *stages, "judge", *after, "conclude"]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM, signal.SIGKILL]
)
def test_a_stopped_flow_leaves_no_process(tmp_path: Path, number: int) -> None:
    root = copy_product(tmp_path / "product")
    program = subprocess.Popen(
        [sys.executable, "-m", "flows", *SMALL],
        cwd=root,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A test started in the background would hand down an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    children: list[psutil.Process] = []
    while not any("touchstone.model.base" in " ".join(_words(child)) for child in children):
        assert program.poll() is None, program.stderr and program.stderr.read()
        time.sleep(0.2)
        children = psutil.Process(program.pid).children(recursive=True)
    os.killpg(program.pid, number)  # as a terminal's Ctrl-C does
    _, told = program.communicate(timeout=120)
    if number != signal.SIGKILL:
        assert program.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[signal.Signals(number)]
        assert told.strip().splitlines()[-1].startswith("stopped by")
        assert not list((root / "runs").glob("*/workspace"))
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


DEPLOY = """
import subprocess, sys
from pathlib import Path
from flows.server import server
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL
with server(Path.cwd()), get_client(sync_client=True) as client:
    import os
    env = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value()}
    def run(*words, check=True):
        subprocess.run([sys.executable, "-m", "prefect", "--no-prompt", *words], env=env, check=check, timeout=100)
    run("work-pool", "create", "--type", "process", "touchstone")
    run("deploy", "--name", "retrain")
    made = client.read_deployment_by_name("retrain/retrain")
    print("MADE", made.entrypoint, made.schedules[0].schedule.cron, made.parameters["clean"], made.work_pool_name)
    made_run = client.create_flow_run_from_deployment(made.id)
    # What a worker of a process pool starts.
    run("flow-run", "execute", str(made_run.id), check=False)
    state = client.read_flow_run(made_run.id).state
    print("RAN", state.type.value, state.message)
"""


@pytest.mark.slow
def test_the_deployment_is_accepted_and_a_scheduled_run_takes_head(tmp_path: Path) -> None:
    root = copy_product(tmp_path / "product")
    # Somebody's edit, which would stop any run of the checkout.
    (root / "dvc.yaml").write_text("not a pipeline")
    workspace.git(root, "rm", "--quiet", "--cached", "touchstone/data/splits.py")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    workspace.git(root, *identity, "commit", "--quiet", "-m", "HEAD has no splits.py")
    # prefect.yaml takes the folder from the shell's PWD, which `cwd` leaves alone.
    env = {**os.environ, "PWD": str(root), "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", DEPLOY]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert "MADE flows.retrain.retrain 0 3 * * * True touchstone" in done.stdout, done.stdout + done.stderr
    ran = [line for line in done.stdout.splitlines() if line.startswith("RAN")]
    assert len(ran) == 1
    assert "dvc.yaml names touchstone/data/splits.py, which does not exist" in ran[0]


CANCEL = """
import os, subprocess, sys, time
from pathlib import Path
import psutil
from flows.server import server
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL
def words(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
with server(Path.cwd()), get_client(sync_client=True) as client:
    env = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value()}
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    for line in (["work-pool", "create", "--type", "process", "touchstone"], ["deploy", "--name", "retrain"]):
        subprocess.run([*prefect, *line], env=env, check=True, timeout=100)
    deployment = client.read_deployment_by_name("retrain/retrain")
    parameters = {"overrides": sys.argv[1:], "clean": True}
    made = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
    worker = subprocess.Popen([*prefect, "flow-run", "execute", str(made.id)], env=env)
    children = []
    while not any("touchstone.data" in words(child) for child in children):
        assert worker.poll() is None
        time.sleep(0.2)
        children = psutil.Process(worker.pid).children(recursive=True)
    subprocess.run([*prefect, "flow-run", "cancel", str(made.id)], env=env, check=True, timeout=100)
    worker.wait(timeout=120)
    _, alive = psutil.wait_procs(children, timeout=20)
    print("ENDED", client.read_flow_run(made.id).state.name, len(alive))
"""


@pytest.mark.slow
def test_a_run_cancelled_in_prefect_ends_as_cancelled(tmp_path: Path) -> None:
    root = copy_product(tmp_path / "product")
    env = {**os.environ, "PWD": str(root), "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", CANCEL, *SMALL]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert "ENDED Cancelled 0" in done.stdout, done.stdout + done.stderr
    (record,) = (root / "runs").glob("*/run.json")
    assert json.loads(record.read_text())["status"] == "interrupted"
    assert not list((root / "runs").glob("*/workspace"))
