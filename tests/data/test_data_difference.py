"""What has changed between two versions of the data, counted against a plain reading of the definitions."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.places import ROOT
from tests.worlds.tiny import make_tiny_base
from touchstone.cli import main
from touchstone.data.difference import Difference, Leak, compare
from touchstone.errors import DataError, PipelineError
from touchstone.groups import Comparison, Completion, Group, Message, judged_pairs, make_group, write_parquet
from touchstone.pipeline import data_versions, dvc, workspace
from touchstone.runtime.files import write_json
from touchstone.settings.checks import SETS

WON, LOST, TIED = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def make(
    question: str,
    *votes: tuple[float, float, float],
    texts: Sequence[str] = ("Yes.", "No."),
    axis: str = "help",
    source: str = "test",
    turns: int = 1,
) -> Group:
    """A group whose first two completions were compared once per vote."""
    messages = [Message("user" if place % 2 == 0 else "assistant", f"{question} {place}") for place in range(turns)]
    edges = [Comparison(0, 1, *vote, annotator=f"a{place}") for place, vote in enumerate(votes)]
    return make_group(
        prompt=messages, completions=[Completion(text) for text in texts], comparisons=edges, source=source, axis=axis
    )


def lay(folder: Path, sets: Mapping[str, Sequence[Group]], unplaced: Sequence[Group] = ()) -> Path:
    """A version: groups.parquet and splits/."""
    write_parquet(folder / "groups.parquet", [*unplaced, *(group for groups in sets.values() for group in groups)])
    for name in SETS:
        write_parquet(folder / "splits" / f"{name}.parquet", sets.get(name, ()))
    return folder


def test_nothing_changes_between_a_version_and_itself_in_another_order(tmp_path: Path) -> None:
    edges = (Comparison(0, 1, 2.0, 1.0, margin=0.5), Comparison(2, 1, 0.0, 1.0, annotator="b"))
    turned = (Comparison(1, 2, 1.0, 0.0, annotator="b"), Comparison(1, 0, 1.0, 2.0, margin=0.5))
    group = replace(make("q", texts=("a", "b", "c")), comparisons=edges)
    others = [make(f"other {number}", WON) for number in range(5)]
    before = lay(tmp_path / "a", {"train": [group, *others]})
    after = lay(tmp_path / "b", {"train": [*reversed(others), replace(group, comparisons=turned)]})
    found = compare(before, after)
    assert (found.added, found.removed, found.changed, found.flipped, found.leaked) == (0, 0, 0, 0, 0)
    assert found.pairs == 7
    assert all(row.before == row.after for row in found.drift)


def test_every_kind_of_change_is_counted_and_named(tmp_path: Path) -> None:
    kept, gone, new = make("kept", WON), make("gone", WON), make("new", LOST, turns=3, axis="harm", source="other")
    more, flipped, tied = make("more", WON), make("flipped", WON), make("tied", WON)
    wanderer, sibling = make("wanderer", WON), make("wanderer", WON, texts=("Perhaps.", "Never."))
    before = lay(tmp_path / "a", {"train": [kept, gone, more, flipped, tied, wanderer]})
    now = {
        "train": [kept, make("more", WON, WON), make("flipped", LOST), make("tied", TIED), new],
        "holdout": [sibling],
        "canary": [wanderer],
    }
    found = compare(before, lay(tmp_path / "b", now))
    assert (found.groups_before, found.groups_after) == (6, 7)
    assert (found.added, found.removed, found.changed) == (2, 1, 3)
    assert (found.pairs, found.flipped, found.flipped_groups) == (4, 1, (flipped.id,))
    assert found.leaked == 1
    assert found.leaks == tuple(
        sorted(
            (Leak(sibling.id, "train", "holdout"), Leak(wanderer.id, "train", "canary")),
            key=lambda leak: leak.group_id,
        )
    )
    drift = {(row.slice, row.value): (row.before, row.after) for row in found.drift}
    assert drift["axis", "harm"] == (0.0, round(1 / 7, 6))
    assert drift["source", "test"] == (1.0, round(6 / 7, 6))
    assert drift["turns", "3"] == (0.0, round(1 / 7, 6))
    assert "1  of 4 pairs" in found.render()
    assert f"group {sibling.id}: train before, holdout now" in found.render()


def test_a_prompt_that_stays_or_is_only_set_aside_is_no_leak(tmp_path: Path) -> None:
    one, other = make("q", WON), make("q", WON, texts=("a", "b"))
    before = lay(tmp_path / "a", {"train": [one], "holdout": [other]})
    assert compare(before, lay(tmp_path / "b", {"holdout": [one]}, [other])).leaked == 0
    assert compare(lay(tmp_path / "c", {}, [one]), before).leaked == 0


def expected(before: Mapping[str, Sequence[Group]], after: Mapping[str, Sequence[Group]]) -> tuple[int, ...]:
    """Added, removed, changed, decided in both, flipped and leaked, group by group."""
    old, new = ({g.id: g for groups in sets.values() for g in groups} for sets in (before, after))
    both = old.keys() & new.keys()

    def edges(group: Group) -> list[str]:
        return sorted(
            str((e.i, e.j, e.wins_i, e.wins_j, e.ties, e.margin, e.annotator))
            if e.i < e.j
            else str((e.j, e.i, e.wins_j, e.wins_i, e.ties, e.margin, e.annotator))
            for e in group.comparisons
        )

    chosen = [
        {(g, p.first, p.second): p.chosen for g in both for p in judged_pairs(side[g]) if p.chosen is not None}
        for side in (old, new)
    ]
    decided = chosen[0].keys() & chosen[1].keys()
    places: list[dict[Any, set[str]]] = [defaultdict(set), defaultdict(set)]
    for side, sets in zip(places, (before, after), strict=True):
        for name, groups in sets.items():
            for group in groups:
                side[group.prompt].add(name)
    leaked = [prompt for prompt, names in places[1].items() if places[0][prompt] and names - places[0][prompt]]
    return (
        len(new) - len(both),
        len(old) - len(both),
        sum(edges(old[name]) != edges(new[name]) for name in both),
        len(decided),
        sum(chosen[0][pair] != chosen[1][pair] for pair in decided),
        len(leaked),
    )


votes = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 1)).filter(any)
edge_lists = st.lists(st.tuples(st.sampled_from([(0, 1), (1, 0), (1, 2), (2, 0)]), votes), max_size=4)
versions_drawn = st.dictionaries(
    st.tuples(st.integers(0, 5), st.integers(0, 1)), st.tuples(st.sampled_from(SETS[:3]), edge_lists), min_size=1
)


def drawn(version: Mapping[tuple[int, int], Any]) -> dict[str, list[Group]]:
    sets: dict[str, list[Group]] = {}
    for (prompt, variant), (name, edges) in version.items():
        comparisons = tuple(Comparison(*pair, *map(float, counts)) for pair, counts in edges)
        group = replace(make(f"q{prompt}", texts=("a", "b", f"c{variant}")), comparisons=comparisons)
        sets.setdefault(name, []).append(group)
    return sets


@settings(max_examples=20, deadline=None)
@given(versions_drawn, versions_drawn)
def test_any_two_versions_differ_as_a_plain_reading_says(before: Any, after: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        old, new = drawn(before), drawn(after)
        found = compare(lay(Path(folder) / "a", old), lay(Path(folder) / "b", new))
    counts = (found.added, found.removed, found.changed, found.pairs, found.flipped, found.leaked)
    assert counts == expected(old, new)


def test_a_folder_without_groups_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    lay(tmp_path / "a", {"train": [make("q", WON)]})
    with pytest.raises(DataError, match=r"groups\.parquet does not exist; run the stage"):
        compare(tmp_path / "a", tmp_path / "b")
    with pytest.raises(DataError, match="holds no groups"):
        compare(lay(tmp_path / "b", {}), tmp_path / "a")


# Versions by name: folders, and revisions through DVC.

PIPELINE = """
stages:
  validate:
    cmd: mkdir -p build && cp data/groups.parquet build/groups.parquet
    deps: [data]
    outs: [build/groups.parquet]
  split:
    cmd: mkdir -p build && cp -r data/splits build/splits
    deps: [data]
    outs: [build/splits]
"""


def commit(root: Path, message: str) -> None:
    workspace.git(root, "add", "--all")
    workspace.git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", message)


@pytest.mark.slow
def test_a_revision_is_brought_from_the_cache_and_leaves_nothing_behind(tmp_path: Path) -> None:
    root = tmp_path / "project"
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    shutil.copy(ROOT / ".dvcignore", root)
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / ".gitignore").write_text("/data/\n/build/\n")
    workspace.git(root, "init", "--quiet")
    commit(root, "nothing yet")
    kept, gone, new = (make(name, WON) for name in ("kept", "gone", "new"))
    lay(root / "data", {"train": [kept, gone]})
    for stage in data_versions.STAGES:
        dvc.repro(root, stage, log=tmp_path / "log")
    commit(root, "results")
    workspace.git(root, "update-ref", f"{workspace.REFS}/20261121T000000Z-abc", "HEAD")
    shutil.rmtree(root / "build")
    lay(root / "build", {"train": [kept], "holdout": [new]})

    found = data_versions.differ(root, "20261121T000000Z-abc")
    assert (found.groups_before, found.groups_after, found.added, found.removed) == (2, 2, 1, 1)
    assert workspace.git(root, "worktree", "list").count("\n") == 0

    with pytest.raises(PipelineError, match=r"HEAD~1 has neither a dvc\.lock nor a data\.dvc"):
        data_versions.differ(root, "HEAD~1")
    with pytest.raises(PipelineError, match="nowhere is no folder with"):
        data_versions.differ(root, "nowhere")
    shutil.rmtree(root / ".dvc" / "cache")
    with pytest.raises(PipelineError, match="neither in the cache nor in a remote"):
        data_versions.differ(root, "HEAD")
    assert workspace.git(root, "worktree", "list").count("\n") == 0


@pytest.mark.slow
def test_a_revision_without_a_lock_is_validated_and_split_anew_and_the_newest_run_is_compared(tmp_path: Path) -> None:
    """As after a clone and `make retrain`: no commit has a dvc.lock, and the checkout has no build/."""
    root = tmp_path / "project"
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    for name in (".dvcignore", "params.yaml"):
        shutil.copy(ROOT / name, root)
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / ".gitignore").write_text("/data/\n/build/\n/runs/\n")
    workspace.git(root, "init", "--quiet")
    first, second = make("first", WON), make("second", WON)
    lay(root / "data", {"train": [first]})
    dvc.add(root, "data")
    commit(root, "one group")
    with pytest.raises(PipelineError, match="no run has made one"):
        data_versions.differ(root, "HEAD")

    # A run on more data, which leaves its results in a ref of its own.
    lay(root / "data", {"train": [first, second]})
    dvc.add(root, "data")
    for stage in data_versions.STAGES:
        dvc.repro(root, stage, log=tmp_path / "log")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    workspace.git(root, "add", "dvc.lock", "data.dvc")
    workspace.git(root, *identity, "commit", "--quiet", "-m", "results")
    workspace.git(root, "update-ref", f"{workspace.REFS}/20261121T000000Z-abc", "HEAD")
    workspace.git(root, "reset", "--quiet", "--hard", "HEAD~1")
    shutil.rmtree(root / "build")
    record = {"id": "20261121T000000Z-abc", "fingerprint": "f", "status": "finished"}
    (root / "runs" / record["id"]).mkdir(parents=True)
    write_json(
        root / "runs" / record["id"] / "run.json", {**record, "stages": dict.fromkeys(data_versions.STAGES, "ran")}
    )

    found = data_versions.differ(root, "HEAD")
    assert (found.groups_before, found.groups_after, found.added, found.removed) == (1, 2, 1, 0)
    assert workspace.git(root, "worktree", "list").count("\n") == 0


@pytest.mark.slow
def test_the_page_of_a_real_project_tells_what_changed_since_a_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "project"
    for name in (".dvc", "configs", "touchstone"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    for name in (".dvcignore", ".gitignore", "dvc.yaml"):
        shutil.copy(ROOT / name, root)
    workspace.git(root, "init", "--quiet")
    monkeypatch.chdir(root)
    runner = CliRunner()
    for noise, stages in ((0.0, data_versions.STAGES), (0.3, (*data_versions.STAGES, "audit"))):
        changes = ["data.groups=400", f"data.label_noise={noise}"]
        for command in (["configure", *changes], ["data", "import"]):
            assert runner.invoke(main.app, command).exit_code == 0
        for stage in stages:
            dvc.repro(root, stage, log=tmp_path / "log")
        commit(root, f"noise {noise}")
    make_tiny_base(root / "build" / "base", vocabulary=300)

    said = runner.invoke(main.app, ["data", "page", "--previous", "HEAD~1"])
    assert said.output.endswith("data page: build/data_page_difference/index.html\n"), said.output
    found = data_versions.differ(root, "HEAD~1")
    assert (found.groups_before, found.groups_after, found.added, found.leaked) == (400, 400, 0, 0)
    assert 0.2 < found.flipped / found.pairs < 0.4
    page = (root / "build" / "data_page_difference" / "index.html").read_text()
    assert "HEAD~1" in page
    assert f"{found.flipped:,}" in page
    assert not (root / "build" / "data_page").exists(), "the stage's own output is not touched"
    assert workspace.git(root, "worktree", "list").count("\n") == 0


def test_the_command_compares_folders_for_people_and_for_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)
    hostile = make("new", WON, axis="\x1b[31mred\u202e")
    lay(tmp_path / "old", {"train": [make("kept", WON)]})
    lay(tmp_path / "build", {"train": [make("kept", LOST), hostile]})
    runner = CliRunner()
    told = runner.invoke(main.app, ["data", "diff", "old"])
    assert told.exit_code == 0
    assert "1 groups before, 2 after" in told.output
    assert "\x1b" not in told.output
    assert "␛[31mred⟨U+202E⟩" in told.output
    answer = json.loads(runner.invoke(main.app, ["data", "diff", "old", "build", "--json"]).output)
    assert answer["flipped"] == 1
    assert answer.keys() == set(Difference.__slots__)
