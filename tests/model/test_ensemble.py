"""An ensemble as one artifact: sealed, loaded again, refused by stock loaders, and scored as its members are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from tests.worlds.ensembles import KINDS, MEMBERS, ensemble_artifact, make_tiny_ensemble
from tests.worlds.registered import artifact
from tests.worlds.sealed import make_tiny_groups
from touchstone.errors import ArtifactError, ModelError, ServingError
from touchstone.model.ensemble import Adapted
from touchstone.model.network import load_reward_model
from touchstone.model.pyfunc import _load_pyfunc
from touchstone.model.score_files import rescore
from touchstone.model.scores import RawScore, as_item, read_scores, write_scores
from touchstone.model.scoring import Scorer, raw_scores
from touchstone.model.scoring_job import Job, Row, score_rows
from touchstone.serving.engines.vllm import script

GROUPS = make_tiny_groups(12, seed=7)
ITEMS = [as_item(group) for group in GROUPS]


def flat(rows: list[list[RawScore]]) -> list[RawScore]:
    return [score for row in rows for score in row]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sealed_ensemble_scores_the_same_however_it_is_batched(kind: str) -> None:
    scorer = Scorer.load(ensemble_artifact(kind), prefix_cache_mib=1)  # its self-test has passed
    rewards = np.array([score.reward for score in flat(scorer.raw(ITEMS))])
    assert np.ptp(rewards) > 0
    for batching in ("alone", "8"):
        again = flat(rescore(scorer, GROUPS, batching, reverse=True))  # type: ignore[arg-type]
        np.testing.assert_allclose([score.reward for score in again], rewards, atol=1e-4)
    spreads = [score.spread for row in scorer.score(ITEMS) for score in row]
    assert (spreads[0] is None) == (kind == "axes")
    if kind != "axes":
        assert min(spreads) > 0  # type: ignore[type-var]


def test_members_of_seeds_are_plain_checkpoints_whose_centred_rewards_the_ensemble_takes() -> None:
    folder = ensemble_artifact("seeds")
    reference = [as_item(group) for group in make_tiny_groups(30, seed=102)]
    columns, centred = [], []
    for number in range(MEMBERS):
        member = load_reward_model(folder / "members" / str(number))
        AutoModelForSequenceClassification.from_pretrained(folder / "members" / str(number))
        on_reference = np.array([score.reward for score in flat(raw_scores(member, reference))])
        columns.append([score.reward for score in flat(raw_scores(member, ITEMS))])
        centred.append((np.array(columns[-1]) - on_reference.mean()) / on_reference.std(ddof=1))
    for name, expected in (("mean", np.mean(centred, axis=0)), ("worst", np.min(centred, axis=0))):
        scorer = Scorer.load(ensemble_artifact("seeds", name))  # type: ignore[arg-type]
        rule = scorer.model.rule.ensemble
        assert rule is not None
        rewards = [score.reward for score in flat(scorer.raw(ITEMS))]
        np.testing.assert_allclose(rewards, expected * np.mean(rule.sds), atol=1e-4)
        spreads = [score.spread for row in scorer.score(ITEMS) for score in row]
        np.testing.assert_allclose(spreads, np.std(centred, axis=0), atol=1e-4)  # type: ignore[arg-type]


def test_heads_read_one_pass_and_adapters_are_what_merging_would_give() -> None:
    heads = load_reward_model(ensemble_artifact("heads"))
    assert heads.ensemble is not None
    assert heads.ensemble.passes == 1
    adapted = load_reward_model(ensemble_artifact("adapters"))
    assert adapted.ensemble is not None
    assert adapted.ensemble.passes == MEMBERS
    before = flat(raw_scores(adapted, ITEMS))
    assert adapted.ensemble.heads is not None
    for member in range(MEMBERS):
        merged = load_reward_model(ensemble_artifact("adapters") / "trunk")
        for name, layer in adapted.network.named_modules():
            if isinstance(layer, Adapted):
                down, up = getattr(layer, f"down_{member}"), getattr(layer, f"up_{member}")
                with torch.no_grad():
                    merged.network.get_submodule(name).weight += up @ down  # type: ignore[operator]
        with torch.no_grad():
            merged.network.score.weight.copy_(adapted.ensemble.heads[0][member : member + 1])
        expected = [score.reward for score in flat(raw_scores(merged, ITEMS))]
        np.testing.assert_allclose([score.members[member] for score in before], expected, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_stock_loaders_refuse_it(kind: str) -> None:
    folder = ensemble_artifact(kind)
    for loader in (AutoConfig, AutoModelForSequenceClassification):
        with pytest.raises(ValueError, match="touchstone_ensemble"):
            loader.from_pretrained(folder)
    with pytest.raises(ServingError, match="ensemble"):
        script(folder, "reward-sandbox")


def test_another_rule_is_another_digest_of_the_same_members() -> None:
    cards = [Scorer.load(ensemble_artifact("heads", name)).card for name in ("mean", "worst", "uncertainty")]  # type: ignore[arg-type]
    assert len({card.digest for card in cards}) == 3
    assert len({json.dumps(card.files) for card in cards}) == 1
    assert [card.rule["ensemble"]["variance_weight"] for card in cards] == [0.0, 0.0, 0.5]
    assert "ensemble" not in Scorer.load(artifact(0)).card.rule


def test_a_member_that_is_changed_or_gone_is_an_error(tmp_path: Path) -> None:
    broken = Path(shutil.copytree(ensemble_artifact("seeds"), tmp_path / "broken"))
    shutil.rmtree(broken / "members" / "1")
    with pytest.raises(ArtifactError, match="is missing"):
        Scorer.load(broken)
    unsealed = make_tiny_ensemble(tmp_path / "heads", "heads")
    config = json.loads((unsealed / "config.json").read_text())
    (unsealed / "config.json").write_text(json.dumps({**config, "members": 4}))
    with pytest.raises(ModelError, match="doesn't hold 4 heads"):
        load_reward_model(unsealed)


def test_spread_travels_through_files_and_tables(tmp_path: Path) -> None:
    scorer = Scorer.load(ensemble_artifact("seeds"))
    scores = scorer.raw(ITEMS)
    write_scores(tmp_path / "scores.parquet", GROUPS, scores, scorer.card.digest)
    assert read_scores(tmp_path / "scores.parquet", GROUPS) == scores
    report = score_rows(
        scorer, [Row(number, item) for number, item in enumerate(ITEMS)], tmp_path / "job.parquet", Job("a", "b")
    )
    table = pd.read_parquet(tmp_path / "job.parquet")
    assert report.completions == len(table)
    assert list(table["spread"]) == pytest.approx([s.spread for row in scorer.score(ITEMS) for s in row], abs=1e-4)
    frame = pd.DataFrame({"prompt": ["2+2?"], "completion": ["4"]})
    assert list(_load_pyfunc(str(ensemble_artifact("seeds"))).predict(frame).columns)[-1] == "spread"
    assert "spread" not in _load_pyfunc(str(ensemble_artifact("axes", members=2))).predict(frame)
