"""The pipeline on a small project: a git repository with three trivial stages, real DVC, real processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import yaml

from tests.places import ROOT
from tests.worlds.projects import COPY, edit, make_project, run_all, taken
from touchstone import settings as settings_module
from touchstone.errors import BusyError, DataError, PipelineError, SettingsError, StageError
from touchstone.pipeline import dvc, following, graph, lease, overrides, runs, steps, workspace
from touchstone.pipeline.dvc import How
from touchstone.pipeline.fingerprint import fingerprint
from touchstone.pipeline.plan import plan
from touchstone.runtime import processes


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed project whose data is in its cache."""
    return make_project(tmp_path_factory.mktemp("template") / "project")


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "project"))


# The graph.


def test_the_graph_is_in_topological_order_with_variables_resolved(project: Path) -> None:
    stages = graph.read(project / "dvc.yaml", project / "params.yaml")
    assert [stage.name for stage in stages] == ["first", "middle", "last"]
    assert stages[0].description == "Copy the data"
    assert stages[0].sources == ("data", "code")
    assert stages[1].parents == ("first",)
    assert stages[1].sources == ("code/cpu.py",)
    assert stages[1].cmd == "python code/cpu.py build/first build/middle"
    assert stages[2].outs == ("build/last", "build/last.json")


def test_the_projects_own_graph_has_the_stages_and_edges_of_dvc_dag() -> None:
    stages = graph.read(ROOT / "dvc.yaml", ROOT / "params.yaml")
    done = processes.run([sys.executable, "-m", "dvc", "dag", "--dot"], cwd=ROOT, env=dvc.environment())
    edges = {pair for pair in re.findall(r'"([^"]+)" -> "([^"]+)"', done.output) if pair[0] != "data.dvc"}
    assert {(parent, stage.name) for stage in stages for parent in stage.parents} == edges
    names = [stage.name for stage in stages]
    assert all(names.index(parent) < names.index(child) for parent, child in edges)


@pytest.mark.parametrize(
    ("text", "words"),
    [("stages: {}", "no stages"), ("stages: {a: {cmd: 'x ${no.such}'}}", "no.such"), ("{", "not YAML")],
)
def test_a_wrong_graph_is_refused(project: Path, text: str, words: str) -> None:
    (project / "dvc.yaml").write_text(text)
    with pytest.raises(PipelineError, match=words):
        graph.read(project / "dvc.yaml", project / "params.yaml")


def test_a_cycle_is_refused(project: Path) -> None:
    (project / "dvc.yaml").write_text("stages: {a: {cmd: x, deps: [p], outs: [q]}, b: {cmd: x, deps: [q], outs: [p]}}")
    with pytest.raises(PipelineError, match=r"a, b of dvc\.yaml form a cycle"):
        graph.read(project / "dvc.yaml", project / "params.yaml")


# Overrides.


def test_overrides_on_the_default_are_what_composing_gives() -> None:
    default = settings_module.compose([], ROOT / "configs")
    for words in (["train.learning_rate=5e-4"], ["data=hh_rlhf", "data.path=x"], ["train=gpu", "train.seed=3"]):
        expected = settings_module.compose(words, ROOT / "configs")
        assert overrides.apply(default, words, ROOT / "configs") == expected


def test_overrides_keep_what_was_configured() -> None:
    configured = settings_module.compose(
        ["data=ukpconvarg1", "data.path=x", "train.seed=99", "name=mine"], ROOT / "configs"
    )
    changed = overrides.apply(configured, ["train.learning_rate=5e-4"], ROOT / "configs")
    assert changed.train.learning_rate == 5e-4
    assert (changed.data, changed.split, changed.train.seed) == (configured.data, configured.split, 99)
    back = overrides.apply(configured, ["data=sandbox"], ROOT / "configs")
    assert (back.split.assign, back.train.seed) == ({}, 99)


def test_the_name_follows_the_data_and_the_axis() -> None:
    default = settings_module.compose([], ROOT / "configs")
    safety = overrides.apply(default, ["axis=safety"], ROOT / "configs")
    assert (safety.name, safety.selection.axis) == ("reward-sandbox-safety", "safety")
    assert safety.split == default.split
    other = overrides.apply(safety, ["data=hh_rlhf", "data.path=x"], ROOT / "configs")
    assert (other.name, other.selection.axis) == (f"reward-{other.data.name}-safety", "safety")
    named = overrides.apply(default, ["axis=safety", "selection.axis=harmless"], ROOT / "configs")
    assert named.name == "reward-sandbox-harmless"
    assert overrides.apply(safety, ["axis=all"], ROOT / "configs").name == "reward-sandbox"
    configured = settings_module.compose(["data=ukpconvarg1", "data.path=x"], ROOT / "configs")
    chosen = overrides.apply(configured, ["ensemble=heads"], ROOT / "configs")
    assert (chosen.name, chosen.ensemble.kind) == (configured.name, "heads")


@pytest.mark.parametrize("words", ["train.learning_rat=1", "+train.new=1", "data=nothing", "train.seed=[1"])
def test_a_wrong_override_is_named(words: str) -> None:
    default = settings_module.compose([], ROOT / "configs")
    with pytest.raises(SettingsError):
        overrides.apply(default, [words], ROOT / "configs")


# Processes.


def _alive(marker: str) -> list[psutil.Process]:
    """Processes that carry the marker on their command line."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if marker in " ".join(process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def _until(condition: object, seconds: float = 10.0) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_output_comes_line_by_line_without_what_bars_rewrote(tmp_path: Path) -> None:
    code = "import sys; print('a'); sys.stderr.write('10%\\r\\x1b[2K100%\\n'); print('error: no space'); sys.exit(3)"
    done = processes.run([sys.executable, "-u", "-c", code], cwd=tmp_path, log=tmp_path / "log")
    assert (done.code, done.complaint) == (3, "no space")
    assert done.output == (tmp_path / "log").read_text() == "a\n100%\nerror: no space\n"


def test_a_command_that_does_not_exist_says_so(tmp_path: Path) -> None:
    done = processes.run(["no-such-command"], cwd=tmp_path)
    assert (done.code, done.complaint) == (127, "no-such-command can't be started: No such file or directory")


def test_what_a_command_leaves_running_is_ended_with_it(tmp_path: Path) -> None:
    marker = f"left-{tmp_path.name}-{os.getpid()}"
    # A session of its own, as torch's launcher starts its workers: no process group holds it.
    code = f"import subprocess; subprocess.Popen(['sleep', '300', '{marker}'], start_new_session=True)"
    code = code.replace("['sleep', '300', ", f"['{sys.executable}', '-c', 'import time; time.sleep(300)', ")
    assert processes.run([sys.executable, "-c", code], cwd=tmp_path).code == 0
    assert not _alive(marker)


STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) == 2:
    subprocess.Popen([sys.executable, __file__, sys.argv[1], "child"], start_new_session=True)
print("ready", flush=True)
time.sleep(300)
"""
CALLER = """
import sys
from pathlib import Path
from touchstone.runtime import processes
processes.GRACE_SECONDS = 0.5
with processes.stopped_by_sigterm():
    try:
        processes.run([sys.executable, *sys.argv[1:]], cwd=Path.cwd(), echo=True)
    except KeyboardInterrupt as error:
        sys.exit(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGTERM, "Terminated"), (signal.SIGINT, "KeyboardInterrupt"), (signal.SIGKILL, "")]
)
def test_no_process_survives_its_caller(tmp_path: Path, number: int, said: str) -> None:
    """Children that ignore SIGTERM and leave the process group, under every way for the caller to end."""
    marker = f"stubborn-{tmp_path.name}-{os.getpid()}"
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, str(tmp_path / "stubborn.py"), marker],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    _until(lambda: len([p for p in _alive(marker) if "stubborn.py" in p.cmdline()[1]]) == 2)
    time.sleep(0.3)
    caller.send_signal(number)
    _, told = caller.communicate(timeout=20)
    assert caller.returncode != 0
    assert told.strip().endswith(said)
    _until(lambda: not _alive(marker))


# Leases.


def test_a_lease_is_held_once_and_names_its_owner(tmp_path: Path) -> None:
    with lease.hold(tmp_path, "key", "a run of the same fingerprint"):
        assert not lease.is_free(tmp_path, "key")
        with (
            pytest.raises(BusyError, match=f"a run of the same fingerprint is under way .process {os.getpid()} on"),
            lease.hold(tmp_path, "key", "a run of the same fingerprint"),
        ):
            pass
        with lease.hold(tmp_path, "other", "another run"):
            pass
    assert lease.is_free(tmp_path, "key")


# Events.


def test_events_are_followed_while_they_are_written(tmp_path: Path) -> None:
    path, rows, seen = tmp_path / "events.jsonl", [], threading.Event()

    def receive(found: following.Rows) -> None:
        rows.extend(found)
        seen.set()

    with following.followed(path, receive, seconds=0.02), path.open("w") as file:
        file.write('{"step": 1}\n{"step":')
        file.flush()
        assert seen.wait(5)
        assert rows == [{"step": 1}]
        file.write(" 2}\n")
        file.flush()
    assert rows == [{"step": 1}, {"step": 2}]


def test_following_ends_with_a_warning_where_nobody_can_take_the_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(found: following.Rows) -> None:
        raise PipelineError("no database")

    path = tmp_path / "events.jsonl"
    path.write_text('{"step": 1}\n')
    with following.followed(path, refuse, seconds=0.02):
        pass
    assert capsys.readouterr().err == "warning: live curves stop here: no database\n"


# Runs.


@pytest.mark.slow
def test_a_run_leaves_evidence_and_a_commit_and_nothing_else(project: Path) -> None:
    (project / "code" / "copy.py").write_text(COPY + "# edited\n")
    (project / "notes.txt").write_text("untracked\n")
    before = workspace.git(project, "status", "--porcelain"), workspace.git(project, "rev-parse", "HEAD")

    run, found = run_all(project)

    assert found == {"first": How.RAN, "middle": How.RAN, "last": How.RAN}
    assert (workspace.git(project, "status", "--porcelain"), workspace.git(project, "rev-parse", "HEAD")) == before
    assert not run.workspace.exists()
    assert workspace.git(project, "worktree", "list").count("\n") == 0
    assert (run.folder / "dvc.lock").exists()
    ref = f"{workspace.REFS}/{run.id}"
    assert workspace.git(project, "show", f"{ref}:code/copy.py").endswith("# edited")
    assert workspace.git(project, "show", f"{ref}:notes.txt") == "untracked"
    assert workspace.git(project, "show", f"{ref}:build/last.json") == '{"lines": 5}'
    assert workspace.git(project, "show", f"{ref}:dvc.lock") == (run.folder / "dvc.lock").read_text().strip()

    again, found = run_all(project)
    assert set(found.values()) == {How.RESTORED}
    assert again.fingerprint == run.fingerprint
    assert (again.folder / "dvc.lock").read_bytes() == (run.folder / "dvc.lock").read_bytes()


@pytest.mark.slow
def test_plain_dvc_repro_writes_the_same_lock(project: Path, tmp_path: Path) -> None:
    run, _ = run_all(project)
    clone = tmp_path / "clone"
    workspace.git(tmp_path, "clone", "--quiet", str(project), str(clone))
    shutil.copytree(project / "data", clone / "data")
    done = processes.run([sys.executable, "-m", "dvc", "repro"], cwd=clone, env=dvc.environment())
    assert done.code == 0, done.output
    assert (clone / "dvc.lock").read_bytes() == (run.folder / "dvc.lock").read_bytes()


def _fingerprint(root: Path, *words: str) -> str:
    chosen = overrides.apply(settings_module.load(root / "params.yaml"), list(words), root / "configs")
    return fingerprint(root, graph.read(root / "dvc.yaml", root / "params.yaml"), chosen)


def test_what_enters_the_fingerprint(project: Path) -> None:
    base = _fingerprint(project)
    (project / "README.md").write_text("more words\n")
    (project / "code" / "__pycache__").mkdir()
    (project / "code" / "__pycache__" / "copy.pyc").write_text("compiled")
    assert _fingerprint(project) == _fingerprint(project, "serve.port=9000") == base
    words = ("train.learning_rate=1e-4", "gates.floor_accuracy=0.7", "name=other", "split.salt=x")
    changed = {_fingerprint(project, word) for word in words}
    edit(project / "code" / "copy.py", "import json", "import json  # why")
    changed.add(_fingerprint(project))
    assert len(changed | {base}) == 6
    with runs.drafted(project, []) as draft:
        assert draft.fingerprint in changed
    with runs.drafted(project, [], clean=True) as draft:
        assert draft.fingerprint == base


def test_a_changed_row_is_used_as_it_stands_and_the_pointer_of_the_checkout_is_left(project: Path) -> None:
    pointer = (project / "data.dvc").read_bytes()
    before = _fingerprint(project)
    edit(project / "data" / "groups.jsonl", "one", "won")
    with runs.drafted(project, []) as draft:
        assert draft.fingerprint != before
        assert (draft.workspace / "data" / "groups.jsonl").read_text() == "won\ntwo\n"
        assert (draft.workspace / "data.dvc").read_bytes() != pointer
    assert (project / "data.dvc").read_bytes() == pointer
    with runs.drafted(project, [], clean=True) as draft:
        assert draft.fingerprint == before


@pytest.mark.slow
def test_data_comes_from_the_cache_or_from_the_checkout_or_is_an_error(project: Path) -> None:
    parked = project.parent / "parked"
    (project / "data").rename(parked)
    with taken(project) as run:
        assert (run.workspace / "data" / "groups.jsonl").read_text() == "one\ntwo\n"

    shutil.rmtree(project / ".dvc" / "cache")
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["data"] = {"source": "hh_rlhf", "name": "sandbox", "path": "x"}
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(DataError, match="neither in the cache nor in a remote"), taken(project):
        pass

    parked.rename(project / "data")
    with taken(project) as run:
        assert (run.workspace / "data" / "groups.jsonl").read_text() == "one\ntwo\n"


@pytest.mark.slow
def test_recreated_data_that_is_not_what_was_committed_names_both_hashes(project: Path) -> None:
    wanted = dvc.pointer_hash(project / "data.dvc")
    shutil.rmtree(project / "data")
    shutil.rmtree(project / ".dvc" / "cache")
    edit(project / "params.yaml", "groups: 12000", "groups: 20")
    with pytest.raises(DataError, match=f"names {wanted}, but the settings give [0-9a-f]+.dir"), taken(project):
        pass


def test_an_override_of_the_data_is_imported_into_the_run_alone(project: Path) -> None:
    with taken(project, "data.groups=20") as run:
        pass
    assert (project / "data" / "groups.jsonl").read_text() == "one\ntwo\n"
    assert "groups: 20" in (run.folder / "params.yaml").read_text()
    assert dvc.pointer_hash(run.folder / "data.dvc") != dvc.pointer_hash(project / "data.dvc")


@pytest.mark.slow
def test_a_second_run_of_the_same_fingerprint_is_refused_and_another_is_not(project: Path) -> None:
    with taken(project) as first:
        with pytest.raises(BusyError, match="same data, code and parameters"), taken(project):
            pass
        with taken(project, "train.learning_rate=1e-4"):
            assert first.workspace.is_dir(), "pruning must leave a living run alone"
    assert not first.workspace.exists()
    assert not (project / "runs" / ".new").exists()


@pytest.mark.slow
def test_the_folder_for_checkpoints_outlives_the_run_and_goes_by_what_is_run(project: Path) -> None:
    told = "import os; print('told', os.environ['TOUCHSTONE_CHECKPOINTS'])\nimport json, sys"
    edit(project / "code" / "copy.py", "import json, sys", told)
    folders = []
    for words in ([], [], ["train.learning_rate=1e-4"]):
        with taken(project, *words) as run:
            if not folders:
                steps.run_stage(run, "first")
                assert f"told {run.checkpoints}\n" in (run.folder / "logs" / "first.log").read_text()
            folders.append(run.checkpoints)
            assert not run.checkpoints.is_relative_to(run.folder)
    assert folders[0] == folders[1] != folders[2]


@pytest.mark.slow
def test_a_failed_stage_says_why_and_the_next_good_run_goes_on(project: Path) -> None:
    edit(project / "code" / "cpu.py", "import json, sys", "import sys; sys.exit('error: no space left')\nimport json")
    with pytest.raises(StageError, match=r"stage middle failed: no space left .its output: .*middle\.log"):
        run_all(project)
    record = runs.history(project)[0]
    assert record["status"] == "failed"
    assert not (project / "runs" / record["id"] / "workspace").exists()
    (project / "code" / "cpu.py").write_text(COPY)
    # `first` depends on the whole folder code/, so it is another stage than the one that ran.
    _, found = run_all(project)
    assert set(found.values()) == {How.RAN}


KILLED = """
import os, signal, sys
from contextlib import ExitStack
from pathlib import Path
from touchstone.pipeline import data, dvc, runs
root = Path(sys.argv[1])
with ExitStack() as stack:
    with runs.drafted(root, []) as draft:
        run = runs.take(draft, stack)
    data.bring(root, run.workspace, run.settings)
    dvc.repro(run.workspace, "first", log=run.folder / "log")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_what_a_killed_run_left_is_cleared_and_its_stages_are_kept(project: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", KILLED, str(project)], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    killed = runs.history(project)[0]
    assert (project / "runs" / killed["id"] / "workspace").is_dir()
    _, found = run_all(project)
    assert found == {"first": How.RESTORED, "middle": How.RAN, "last": How.RAN}
    record = json.loads((project / "runs" / killed["id"] / "run.json").read_text())
    assert (record["status"], record["error"]) == ("interrupted", "killed")
    assert not (project / "runs" / killed["id"] / "workspace").exists()
    assert workspace.git(project, "worktree", "list").count("\n") == 0


# The plan.


@pytest.mark.slow
def test_the_plan_says_what_would_run_and_why(project: Path) -> None:
    assert [step.reasons for step in plan(project, []).steps[:3]] == [("it never ran",)] * 3
    run_all(project)
    assert not any(step.reasons for step in plan(project, []).steps[:3])
    rate = settings_module.load(project / "params.yaml").train.learning_rate
    made = plan(project, [f"train.learning_rate={rate / 2}"])
    assert {step.name: step.reasons for step in made.steps[:3]} == {
        "first": (),
        "middle": (f"params.yaml:train.learning_rate {rate} -> {rate / 2}",),
        "last": ("middle would run",),
    }
    assert f"would run: params.yaml:train.learning_rate {rate} -> {rate / 2}\n" in made.render()
    assert made.render().endswith("; judged against the baselines alone")
    edit(project / "code" / "cpu.py", "import json", "import json  # why")
    edit(project / "data" / "groups.jsonl", "one", "won")
    first, middle, *_ = plan(project, []).steps
    assert set(first.reasons) == {"data changed", "code/cpu.py changed"}
    assert middle.reasons == ("code/cpu.py changed", "first would run")
    assert not (project / "runs" / ".new").exists()
    assert not (project / "mlflow").exists()


@pytest.mark.slow
def test_the_plan_says_how_long_it_would_take_from_runs_before(project: Path) -> None:
    assert [step.seconds for step in plan(project, []).steps] == [None] * 6
    for seconds in (60.0, 90.0, 600.0):
        with taken(project) as run:
            run.note_stage("first", "ran", seconds)
            run.note_stage("middle", "restored", 0.5)
    made = plan(project, [])
    assert {step.name: step.seconds for step in made.steps}["first"] == 90.0
    assert {step.name: step.seconds for step in made.steps}["middle"] is None
    assert made.minutes == 1.5
    assert "about 1.5 minutes, and what middle, last, judge, register, release take" in made.render()
    assert made.to_json()["minutes"] == 1.5
