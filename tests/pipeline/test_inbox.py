"""An inbox: each file a version of the data or refused with its reason, once; and past data with today's code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.places import ROOT
from tests.worlds.projects import commit
from touchstone import settings as settings_module
from touchstone.errors import PipelineError, SettingsError
from touchstone.pipeline import dvc, inbox, incoming, runs, workspace
from touchstone.pipeline.inbox import BatchRefused, BatchTaken
from touchstone.settings import Settings

PIPELINE = """
stages:
  validate:
    cmd: python code/check.py groups
    deps: [data, code/check.py]
    outs: [build/groups.parquet]
  split:
    cmd: python code/check.py split
    deps: [build/groups.parquet, code/check.py]
    outs: [build/splits]
  train:
    cmd: python code/check.py never
    deps: [build/splits]
    outs: [build/model]
"""
CHECK = """
import sys
from pathlib import Path
from touchstone.groups import read_jsonl, read_parquet, write_parquet
step = sys.argv[1]
Path("build/splits").mkdir(parents=True, exist_ok=True)
if step == "groups":
    groups = list(read_jsonl(Path("data/groups.jsonl")))
    if any("poison" in completion.text for group in groups for completion in group.completions):
        sys.exit("error: a completion is poisoned")
    write_parquet(Path("build/groups.parquet"), groups)
elif step == "split":
    write_parquet(Path("build/splits/train.parquet"), read_parquet(Path("build/groups.parquet")))
else:
    sys.exit("error: no run is wanted")
"""


def lay(path: Path, numbers: range, worse: str = "Keep wet.") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"prompt": f"How to store item {n}?", "chosen": "Keep dry.", "rejected": worse} for n in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def chosen(root: Path) -> Settings:
    return settings_module.load(root / "params.yaml")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose data/ holds ten pairs of a file."""
    root = tmp_path_factory.mktemp("template") / "project"
    shutil.copytree(ROOT / "configs", root / "configs")
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, root / name)
    words = ["data=preference", "data.path=pairs.jsonl", "data.name=mine", "importing.suspicion=off"]
    (root / "params.yaml").write_text(settings_module.dump(settings_module.compose(words, root / "configs")))
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "code").mkdir()
    (root / "code" / "check.py").write_text(CHECK)
    lay(root / "inbox" / "first.jsonl", range(10))
    workspace.git(root, "init", "--quiet")
    commit(root, "start")
    taken = inbox.take(root, chosen(root))
    assert [type(entry) for entry in taken.entries] == [BatchTaken]
    assert taken.difference is None
    commit(root, "the first ten")
    return root


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "project"))


@pytest.mark.slow
def test_each_file_becomes_a_version_or_is_refused(project: Path) -> None:
    before = dvc.pointer_hash(project / "data.dvc")
    lay(project / "inbox" / "second.jsonl", range(8, 15))
    lay(project / "inbox" / "third.jsonl", range(20, 22), worse="poison")
    (project / "inbox" / "fourth.jsonl").write_text("no rows at all\n")
    lay(project / "inbox" / "zeta.jsonl", range(30, 31))
    lay(project / "inbox" / ".half.jsonl", range(40, 41))
    taken = inbox.take(project, chosen(project))

    # In the order of their names; what is wrong with one doesn't touch the others.
    assert taken.known == 1
    fourth, second, third, zeta = taken.entries
    assert isinstance(fourth, BatchRefused)
    assert isinstance(third, BatchRefused)
    assert "a completion is poisoned" in third.reason
    assert isinstance(second, BatchTaken)
    assert isinstance(zeta, BatchTaken)
    assert (second.before, second.groups) == (before, 15)
    assert (zeta.before, zeta.groups) == (second.after, 16)
    assert dvc.pointer_hash(project / "data.dvc") == zeta.after
    assert "poison" not in (project / "data" / "groups.jsonl").read_text()
    assert taken.difference is not None
    assert (taken.difference.added, taken.difference.removed) == (6, 0)
    assert not (project / "runs" / ".new").exists()

    # Again: nothing. Mended: taken.
    again = inbox.take(project, chosen(project))
    assert (again.entries, again.known) == ((), 5)
    assert again.render() == "nothing new: 5 batches were seen before"
    lay(project / "inbox" / "third.jsonl", range(20, 22))
    mended = inbox.take(project, chosen(project))
    assert [type(entry) for entry in mended.entries] == [BatchTaken]


@pytest.mark.slow
def test_what_was_killed_before_it_was_noted_is_taken_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(project / "inbox" / "second.jsonl", range(8, 15))
    with monkeypatch.context() as killed:
        killed.setattr(inbox, "_enter", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            inbox.take(project, chosen(project))
    after = dvc.pointer_hash(project / "data.dvc")
    (entry,) = inbox.take(project, chosen(project)).entries
    assert isinstance(entry, BatchTaken)
    assert entry.after == after == dvc.pointer_hash(project / "data.dvc")
    assert len(inbox.read(project)) == 2


@pytest.mark.slow
def test_past_data_is_run_under_a_name_of_its_own(project: Path) -> None:
    before = dvc.pointer_hash(project / "data.dvc")
    lay(project / "inbox" / "second.jsonl", range(8, 15))
    inbox.take(project, chosen(project))
    commit(project, "more")
    with runs.drafted(project, [], as_of="HEAD~1") as draft:
        assert dvc.pointer_hash(draft.workspace / "data.dvc") == before
        assert draft.settings.name == f"reward-mine-as-of-{str(before)[:8]}"
        assert chosen(draft.workspace).name == draft.settings.name
    with pytest.raises(PipelineError, match=r"v9 is no git revision and no run's id with a data\.dvc"):
        runs.drafted(project, [], as_of="v9").__enter__()


@pytest.mark.slow
def test_a_run_takes_the_inbox_first_and_a_run_of_head_follows_it(project: Path) -> None:
    lay(project / "inbox" / "second.jsonl", range(8, 15))
    taken = incoming.take(project, ["loop.inbox=inbox"])
    assert taken is not None
    assert [type(entry) for entry in taken.entries] == [BatchTaken]
    assert incoming.take(project, []) is None, "the settings name no inbox"
    after = dvc.pointer_hash(project / "data.dvc")
    (project / "code" / "check.py").write_text("an edit that isn't committed")
    for words, data in (([], workspace.git(project, "show", "HEAD:data.dvc")), (["loop.inbox=inbox"], None)):
        with runs.drafted(project, words, clean=True) as draft:
            assert (draft.workspace / "code" / "check.py").read_text() == CHECK
            if data is None:
                assert dvc.pointer_hash(draft.workspace / "data.dvc") == after
            else:
                assert (draft.workspace / "data.dvc").read_text().strip() == data


def test_an_inbox_needs_a_source_of_files(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="source sandbox reads no files"):
        inbox.take(tmp_path, settings_module.load(ROOT / "params.yaml"))
    with pytest.raises(SettingsError, match="source sandbox has no revisions"):
        inbox.take(tmp_path, settings_module.load(ROOT / "params.yaml"), revision="main")
    words = ["data=preference", "data.path=pairs.jsonl", "data.name=mine"]
    with pytest.raises(SettingsError, match="there is no inbox"):
        inbox.take(tmp_path, settings_module.compose(words, ROOT / "configs"))
