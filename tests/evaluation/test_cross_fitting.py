"""Cross-fitted evidence: folds without leaks, models that are really trained, and a check that can't be fooled."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, reject
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.places import ROOT
from tests.worlds.judged import write_sets
from tests.worlds.registered import open_registry
from tests.worlds.sealed import make_tiny_artifact, make_tiny_groups
from tests.worlds.tiny import make_tiny_base
from touchstone.cli.main import app
from touchstone.errors import GateError
from touchstone.evaluation.cross_fitting import (
    POOLED,
    CrossFit,
    assign_folds,
    check_apart,
    cross_fit,
    divide,
    join_near,
    write,
)
from touchstone.evaluation.rows import differences
from touchstone.gate.cross_fit import cross_fitted, pairs_of, read_pairs
from touchstone.groups import Comparison, Completion, Group, Message, judged_pairs, make_group, write_parquet
from touchstone.model.base import pin
from touchstone.model.scores import RawScore
from touchstone.pipeline import workspace
from touchstone.runtime.parallel import cores
from touchstone.settings import Settings, dump, load, parse
from touchstone.statistics import CalibrationMap

WORDS = ["how", "do", "I", "boil", "an", "egg", "water", "capital", "France", "kings", "yolk", "soft", "bad"]


def make_world(count: int, seed: int = 0, *, shuffled: bool = False) -> list[Group]:
    """Pairs in which the answer with the word `good` wins, or, shuffled, either."""
    dice = random.Random(seed)
    groups = []
    for number in range(count):
        words = dice.choices(WORDS, k=8)
        texts = [" ".join([*words, *ends]) for ends in (["good"], ["evil"])]
        first = dice.random() < 0.5
        wins = dice.random() < 0.5 if shuffled else first
        groups.append(
            make_group(
                prompt=[Message("user", f"question {number}: {' '.join(dice.choices(WORDS, k=9))}")],
                completions=[Completion(text) for text in (texts if first else texts[::-1])],
                comparisons=[Comparison(0, 1, float(wins), float(not wins))],
                source="test",
            )
        )
    return groups


def configure(model: dict[str, object] | None = None, **train_values: object) -> Settings:
    values = load(ROOT / "params.yaml").model_dump(mode="json")
    values["model"] = model or {**values["model"], "max_tokens": 128}
    values["train"] |= {"comparisons_per_step": 8, "tokens_per_microbatch": 512, "threads": 1, "learning_rate": 1e-3}
    values["train"] |= train_values
    values["objective"]["decoys"] = 0.0
    # TF-IDF knows the word that wins as well as any model could.
    values["gates"] |= {"min_clusters": 50, "gain_over_linear": -1.0, "bootstrap_draws": 2000}
    return parse(values)


def make_build(folder: Path, groups: Sequence[Group]) -> Path:
    """A build with the groups dealt out to the five sets, a candidate of whatever weights, and the configurations."""
    build = folder / "build"
    make_tiny_artifact(folder / "tiny", seed=load(ROOT / "params.yaml").train.seed)
    shutil.copytree(folder / "tiny", build / "artifact")
    shutil.copytree(ROOT / "configs" / "accelerate", folder / "configs" / "accelerate")
    for place, name in enumerate(POOLED):
        write_parquet(build / "splits" / f"{name}.parquet", groups[place :: len(POOLED)])
    write_parquet(build / "splits" / "reference.parquet", make_tiny_groups(30, seed=102))
    return build


def alone(groups: Sequence[Group]) -> dict[str, str]:
    return {group.cluster_id: group.cluster_id for group in groups}


@given(
    sizes=st.lists(st.integers(1, 4), min_size=6, max_size=40),
    joined=st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=10),
    folds=st.integers(2, 5),
    seed=st.integers(0, 3),
    early=st.booleans(),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_every_group_is_scored_once_by_a_model_that_saw_nothing_of_its_family(
    sizes: list[int], joined: list[tuple[int, int]], folds: int, seed: int, early: bool
) -> None:
    groups = [
        group
        for number, size in enumerate(sizes)
        for group in (
            make_group(
                prompt=[Message("user", f"prompt {number}")],
                completions=[Completion(f"a {copy}"), Completion("b")],
                comparisons=[Comparison(0, 1, 1.0, 0.0)],
                source="test",
            )
            for copy in range(size)
        )
    ]
    clusters = list(dict.fromkeys(group.cluster_id for group in groups))
    family = dict(zip(clusters, clusters, strict=True))
    for one, other in joined:
        first, second = (family[clusters[index % len(clusters)]] for index in (one, other))
        family = {name: first if root == second else root for name, root in family.items()}
    load = Counter(family[group.cluster_id] for group in groups)
    assume(len(load) >= folds + 3)
    settings = configure(early_stopping_steps=5 if early else 0)
    fold_of = assign_folds(groups, family, folds, seed)
    filled = Counter(fold_of)
    assert max(filled.values()) - min(filled.values()) <= max(load.values())
    order = random.Random(seed).sample(range(len(groups)), len(groups))
    again = assign_folds([groups[place] for place in order], family, folds, seed)
    assert again == [fold_of[place] for place in order]
    scored: list[str] = []
    for fold in range(folds):
        try:
            parts = divide(groups, fold_of, fold, family, settings)
        except GateError:  # a family that is most of the data leaves the other folds next to nothing
            reject()
        learnt = [*parts.train, *parts.validation, *parts.calibration]
        assert parts.train
        assert parts.calibration
        assert bool(parts.validation) == early
        assert sorted(g.id for g in [*learnt, *parts.scored]) == sorted(g.id for g in groups)
        sides = [{family[g.cluster_id] for g in part} for part in (parts.train, parts.validation, parts.calibration)]
        assert sum(map(len, sides)) == len(set().union(*sides))
        check_apart(parts.scored, learnt, family)
        scored += [group.id for group in parts.scored]
    assert sorted(scored) == sorted(group.id for group in groups)


def test_near_duplicates_share_a_fold_and_a_leak_stops_everything(tmp_path: Path) -> None:
    groups = make_world(30)
    said = " ".join(f"word{number}" for number in range(40))
    twins = [
        replace(group, prompt=(Message("user", f"{said} {end}"),), cluster_id=f"twin {end}")
        for group, end in zip(groups, ("one", "two", "three"), strict=False)
    ]
    pool = [*groups[3:], *twins]
    families = join_near(pool, 0.8, tmp_path)
    assert {families[twin.cluster_id] for twin in twins} == {"twin one"}
    assert len(set(families.values())) == 28
    fold_of = assign_folds(pool, families, 4, 17)
    assert len(set(fold_of[-3:])) == 1
    with pytest.raises(GateError, match=f"group {twins[0].id} .* leak"):
        check_apart(twins[:1], [*groups[3:], twins[2]], families)
    other_name = replace(groups[5], cluster_id="another name")
    with pytest.raises(GateError, match="leak"):
        check_apart([other_name], groups[3:], families | {"another name": "another name"})
    with pytest.raises(GateError, match="28 independent clusters can't be cut into 40 folds"):
        assign_folds(pool, families, 40, 17)
    with pytest.raises(GateError, match="without fold 1 there are 1 independent clusters"):
        divide(groups[:2], [0, 1], 0, alone(groups), configure())


def test_annotators_held_out_by_the_split_teach_nobody(tmp_path: Path) -> None:
    def by(group: Group, name: str) -> Group:
        return replace(group, comparisons=tuple(replace(edge, annotator=name) for edge in group.comparisons))

    groups = [by(group, f"person {place % 10}") for place, group in enumerate(make_world(60))]
    values = configure().model_dump(mode="json")
    values["split"]["held_out_annotators"] = 0.3
    settings = parse(values)
    fold_of = assign_folds(groups, alone(groups), 3, 17)
    parts = divide(groups, fold_of, 0, alone(groups), settings)
    teachers = {edge.annotator for group in parts.train for edge in group.comparisons}
    judges = {edge.annotator for group in parts.scored for edge in group.comparisons}
    assert teachers < judges


def make_found(groups: list[Group], rewards: Sequence[Sequence[float]], scales: Sequence[float]) -> CrossFit:
    """What folds with these rewards would have found, if every fold's model had a scale of its own."""
    fold_of = assign_folds(groups, alone(groups), len(scales), 17)
    return CrossFit(
        groups,
        fold_of,
        [
            [RawScore(value * scales[fold], False, 3) for value in row]
            for row, fold in zip(rewards, fold_of, strict=True)
        ],
        [CalibrationMap(scale) for scale in scales],
        [f"digest {fold}" for fold in range(len(scales))],
        {
            name: differences(groups, [[0.0] * len(group.completions) for group in groups])
            for name in ("longer_wins", "linear")
        },
    )


@given(scales=st.lists(st.floats(0.1, 20.0), min_size=3, max_size=3), seed=st.integers(0, 5))
@hypothesis_settings(max_examples=15, deadline=None)
def test_a_fold_s_scale_moves_nothing(scales: list[float], seed: int) -> None:
    groups = make_tiny_groups(40, seed=seed)
    dice = np.random.default_rng(seed)
    rewards = [dice.normal(size=len(group.completions)).tolist() for group in groups]
    plain, scaled = (pairs_of(make_found(groups, rewards, found)) for found in ((1.0, 1.0, 1.0), scales))
    assert scaled.calibration_map == CalibrationMap(1.0)
    np.testing.assert_allclose(scaled.differences, plain.differences)
    np.testing.assert_allclose(scaled.differences, differences(groups, rewards))


def test_the_check_follows_from_the_table_alone(tmp_path: Path) -> None:
    limits = configure().gates
    groups = make_world(200)
    dice = np.random.default_rng(0)
    gold = [[float(" good" in completion.text) for completion in group.completions] for group in groups]
    noise = [dice.normal(size=2).tolist() for _ in groups]
    statuses = {}
    for name, rewards in (("gold", gold), ("noise", noise), ("inverted", [[-value for value in row] for row in gold])):
        found = make_found(groups, rewards, (2.0, 0.5, 1.0))
        direct = cross_fitted(pairs_of(found), found.baselines, limits)
        write(found, tmp_path / "cross_fit.parquet")
        assert cross_fitted(*read_pairs(tmp_path / "cross_fit.parquet"), limits) == direct
        assert direct.n == 200
        statuses[name] = direct.status
    assert statuses == {"gold": "pass", "noise": "fail", "inverted": "fail"}
    few = make_found(groups[:40], gold[:40], (1.0, 1.0, 1.0))
    assert cross_fitted(pairs_of(few), few.baselines, limits).status == "undecided"


def test_what_the_recipe_says_nothing_of_is_refused(tmp_path: Path) -> None:
    continued = configure({"kind": "pretrained", "base": "owner/model", "max_tokens": 128, "keep_head": True})
    with pytest.raises(GateError, match="keep_head"):
        cross_fit(tmp_path, continued, tmp_path / "work")
    with pytest.raises(GateError, match="not trained by the recipe"):
        cross_fit(make_build(tmp_path, make_world(10)), configure(seed=5), tmp_path / "work")


@pytest.mark.slow
def test_a_stage_that_fails_is_one_sentence(tmp_path: Path) -> None:
    values = configure().model_dump(mode="json")
    values["model"]["max_tokens"] = 1
    with pytest.raises(
        GateError, match=r"building the base of fold 1 failed: .*max_tokens.* \(all that it said: "
    ) as told:
        cross_fit(make_build(tmp_path, make_world(20)), parse(values), tmp_path / "work", 3)
    assert "question" not in str(told.value)


SCRIPT = """
import sys
from pathlib import Path
from touchstone.evaluation.cross_fitting import cross_fit
from touchstone.settings import load
cross_fit(Path("build"), load(), Path("work"), 3)
"""


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_folds_are_trained_once_though_the_run_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_tiny_base(tmp_path / "pretrained")
    settings = configure({"kind": "pretrained", "base": str(base), "max_tokens": 128}, epochs=3, threads=cores())
    groups = make_world(90)
    build = make_build(tmp_path, groups)
    assert settings.model.kind == "pretrained"
    pin(settings.model, build / "base")
    (tmp_path / "params.yaml").write_text(dump(settings))
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 180
    while not list(tmp_path.glob("work/*/fold-1")):
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode
    (folder,) = (tmp_path / "work").iterdir()
    assert not (folder / "fold-2").exists()
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "fold-1").iterdir()}
    (folder / "training-1").mkdir(exist_ok=True)  # the stop may have come before its end

    found = cross_fit(build, settings, tmp_path / "work", 3)
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "fold-1").iterdir()} == before
    assert {path.name for path in folder.iterdir()} == {"fold-1", "fold-2", "fold-3", "groups.parquet", ".lock"}
    assert len(set(found.artifacts)) == 3
    assert [group.id for group in found.groups] == [g.id for place in range(5) for g in groups[place::5]]
    assert [len(row) for row in found.scores] == [len(group.completions) for group in found.groups]
    assert sum(len(judged_pairs(group)) for group in found.groups) == len(pairs_of(found).differences) == 90
    check = cross_fitted(pairs_of(found), found.baselines, settings.gates)
    assert (check.name, check.status, check.n) == ("cross_fit", "pass", 90)

    again = cross_fit(build, settings, tmp_path / "work", 3)
    assert again.scores == found.scores
    shutil.copy(folder / "fold-2" / "scores.parquet", folder / "fold-1" / "scores.parquet")
    with pytest.raises(GateError, match="another model's scores"):
        cross_fit(build, settings, tmp_path / "work", 3)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_shuffled_labels_don_t_pass_however_well_they_are_learnt_by_heart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scratch base too: its warm-up reads labels, so one for all folds would carry them into every fold."""
    monkeypatch.chdir(tmp_path)
    tiny = {"vocabulary": 300, "hidden": 32, "layers": 1, "heads": 4, "head_dim": 8, "intermediate": 64}
    tiny |= {"kind": "scratch", "max_tokens": 128, "key_value_heads": 2, "warmup_steps": 10}
    tiny |= {"warmup_tokens_per_step": 1024, "warmup_learning_rate": 2e-3}
    settings = configure(tiny, epochs=15)
    build = make_build(tmp_path, make_world(120, shuffled=True))
    found = cross_fit(build, settings, tmp_path / "work", 2)
    check = cross_fitted(pairs_of(found), found.baselines, settings.gates)
    assert (check.status, check.n) == ("fail", 120)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_another_artifact_of_the_recipe_is_judged_by_its_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its build is a folder of links far from the project, whose configs/ the folds are trained with."""
    open_registry(tmp_path)
    base = make_tiny_base(tmp_path / "pretrained")
    values = configure({"kind": "pretrained", "base": str(base), "max_tokens": 128}).model_dump(mode="json")
    values["gates"] |= {"policy": "small_data", "bootstrap_draws": 100}
    settings = parse(values)
    assert settings.model.kind == "pretrained"
    build = make_build(tmp_path, make_world(10))
    write_sets(build / "splits")
    pin(settings.model, build / "base")
    shutil.move(build / "artifact", tmp_path / "artifact-again")
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    (tmp_path / "params.yaml").write_text(dump(settings))
    workspace.git(tmp_path, "init", "--quiet")
    named = ("-c", "user.name=a", "-c", "user.email=a@b")
    workspace.git(tmp_path, *named, "commit", "--quiet", "--allow-empty", "-m", "start")
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(app, ["judge", "--artifact", "artifact-again", "--json"])
    assert answer.exit_code == 3, answer.exception
    record = json.loads(answer.stdout)
    (check,) = [check for check in record["checks"] if check["name"] == "cross_fit"]
    assert check["status"] != "error"
    assert check["n"] > 100
    page = (build / "judged" / "again" / "decision" / "decision.html").read_text()
    assert "By models that had not seen the prompts" in page
