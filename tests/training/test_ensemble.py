"""Members in training: the first seed is the single model, heads differ, weights are by cluster, a kill loses one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.worlds.tiny import make_tiny_base
from tests.worlds.trained import configure, make_build, make_groups
from touchstone.errors import SettingsError
from touchstone.model.combining import unsealed
from touchstone.model.network import load_base, load_reward_model
from touchstone.model.scores import as_item
from touchstone.model.scoring import raw_scores
from touchstone.model.templating import encode_many
from touchstone.runtime.files import digest_folder
from touchstone.settings import Settings, parse
from touchstone.training import run
from touchstone.training.ensemble import loss_of, member_weights, weighted
from touchstone.training.objective import total_loss
from touchstone.training.plan import make_steps, micro_batches

GROUPS = make_groups(16)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base") / "base")


def ensemble(kind: str, members: int = 2, train: dict[str, object] | None = None, **values: object) -> Settings:
    plain = configure(checkpoint_steps=0, **(train or {})).model_dump(mode="json")
    return parse({**plain, "ensemble": {"kind": kind, "members": members, **values}})


def trained(folder: Path, base: Path, settings: Settings) -> Path:
    build = make_build(folder, base, GROUPS)
    run.train(settings, build)
    return build


@pytest.mark.slow
def test_the_first_of_several_seeds_is_the_single_model_and_the_others_are_not(tmp_path: Path, base: Path) -> None:
    single = trained(tmp_path / "single", base, ensemble("none"))
    several = trained(tmp_path / "several", base, ensemble("seeds"))
    members = [digest_folder(several / "model" / "members" / name) for name in ("0", "1")]
    assert members[0] == digest_folder(single / "model")
    assert members[1]["model.safetensors"] != members[0]["model.safetensors"]
    curves = [(folder / "curve.jsonl").read_text().splitlines() for folder in (single, several)]
    rows = [json.loads(line) for line in curves[1]]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["member"] for row in rows] == [0] * len(curves[0]) + [1] * (len(rows) - len(curves[0]))


def test_heads_over_one_trunk_learn_apart(tmp_path: Path, base: Path) -> None:
    build = trained(tmp_path / "heads", base, ensemble("heads", members=3, bootstrap=True))
    model = load_reward_model(build / "model")
    assert model.ensemble is not None
    assert model.ensemble.rule == unsealed("heads", 3)
    members = np.array([score.members for row in raw_scores(model, [as_item(g) for g in GROUPS]) for score in row])
    assert members.shape[1] == 3
    assert (np.abs(np.diff(members, axis=1)).max(axis=0) > 1e-3).all()
    trunk = load_reward_model(build / "model" / "trunk")
    alone = [score.reward for row in raw_scores(trunk, [as_item(g) for g in GROUPS]) for score in row]
    np.testing.assert_allclose(members[:, 0], alone, atol=1e-5)


@pytest.mark.slow
def test_adapters_share_one_base_and_differ(tmp_path: Path, base: Path) -> None:
    lora: dict[str, object] = {"method": "lora", "lora_rank": 4, "learning_rate": 1e-2}
    build = trained(tmp_path / "adapters", base, ensemble("adapters", train=lora))
    single = trained(tmp_path / "single", base, ensemble("none", train=lora))
    items = [as_item(group) for group in GROUPS]
    scores = [score for row in raw_scores(load_reward_model(build / "model"), items) for score in row]
    merged = [score for row in raw_scores(load_reward_model(single / "model"), items) for score in row]
    # The first member is the single model, its adapter beside the base instead of in it.
    np.testing.assert_allclose([s.members[0] for s in scores], [s.reward for s in merged], atol=1e-4)
    assert max(abs(s.members[0] - s.members[1]) for s in scores) > 1e-3


@pytest.mark.slow
def test_the_head_alone_may_be_several(tmp_path: Path, base: Path) -> None:
    values: dict[str, object] = {"method": "head_only"}
    build = trained(tmp_path / "heads", base, ensemble("heads", train=values, bootstrap=True))
    model = load_reward_model(build / "model")
    scores = [score.members for row in raw_scores(model, [as_item(g) for g in GROUPS]) for score in row]
    assert max(abs(first - second) for first, second in scores) > 1e-3


def test_a_head_of_one_axis_learns_from_that_axis_alone(tmp_path: Path, base: Path) -> None:
    settings = ensemble("axes", axes=["helpfulness", "safety"])
    halves = [replace(group, axis=("helpfulness", "safety")[number % 2]) for number, group in enumerate(GROUPS)]
    weights = member_weights(halves, settings)
    assert weights is not None
    assert weights[:2].tolist() == [[2.0, 0.0], [0.0, 2.0]]
    build = make_build(tmp_path / "axes", base, halves)
    run.train(settings, build)
    model = load_reward_model(build / "model")
    assert model.ensemble is not None
    assert model.ensemble.rule.axes == ("helpfulness", "safety")


def test_bootstrap_weights_are_a_clusters_own() -> None:
    settings = ensemble("heads", members=3, bootstrap=True)
    groups = [replace(group, cluster_id=f"cluster {number // 2}") for number, group in enumerate(make_groups(400))]
    weights = member_weights(groups, settings)
    assert weights is not None
    assert weights.shape == (400, 3)
    torch.testing.assert_close(weights.mean(dim=0), torch.ones(3))
    assert torch.equal(weights[0::2], weights[1::2])
    assert weights.std(dim=0).sub(1).abs().max() < 0.2  # of an exponential distribution as large as the mean
    assert np.corrcoef(weights[0::2].T.numpy())[0, 1] < 0.3
    reordered = member_weights(groups[::-1], settings)
    assert reordered is not None
    torch.testing.assert_close(reordered.flip(0), weights)
    assert member_weights(groups, ensemble("seeds")) is None
    assert member_weights(groups, ensemble("none")) is None


@pytest.mark.parametrize("objective", [{}, {"name": "plackett_luce", "weighting": "group"}], ids=str)
def test_the_loss_of_several_heads_is_the_mean_of_theirs(base: Path, objective: dict[str, object]) -> None:
    values = ensemble("heads", bootstrap=True).model_dump(mode="json")
    settings = parse({**values, "objective": {**values["objective"], **objective}})
    model = load_base(base, max_tokens=128, seed=0)
    encoded = encode_many(model.tokenizer, model.rule, [as_item(group) for group in GROUPS])
    step = make_steps(GROUPS, settings.objective, settings.train)[0]
    (micro,) = micro_batches(step.chunks, encoded, 10**6, shared=True)
    count = sum(len(batch.owners) for batch in micro.batches)
    rewards = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
    ones = torch.ones(len(GROUPS), 2)
    alone = [total_loss(settings.objective, rewards[:, k], micro) for k in range(2)]
    torch.testing.assert_close(loss_of(settings.objective, rewards, micro, ones), torch.stack(alone).mean())
    equal = rewards[:, :1].expand(-1, 2)
    torch.testing.assert_close(loss_of(settings.objective, equal, micro, ones), alone[0])
    torch.testing.assert_close(loss_of(settings.objective, rewards[:, 0], micro, None), alone[0])
    twice = weighted(micro, torch.full((len(GROUPS),), 2.0))
    torch.testing.assert_close(total_loss(settings.objective, rewards[:, 0], twice), 2 * alone[0])


@pytest.mark.slow
def test_a_killed_training_goes_on_with_the_next_member(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = ensemble("seeds").model_dump(mode="json")
    settings = parse({**values, "train": {**values["train"], "checkpoint_steps": 2}})
    whole = make_build(tmp_path / "whole", base, GROUPS)
    run.train(settings, whole)
    build = make_build(tmp_path / "killed", base, GROUPS)
    plain, count = run._train_steps, [0]

    def counted(*arguments: object, **named: object) -> object:
        count[0] += 1
        if count[0] == 2:
            raise KeyboardInterrupt
        return plain(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "_train_steps", counted)
    with pytest.raises(KeyboardInterrupt):
        run.train(settings, build)
    assert not (build / "model").exists()
    run.train(settings, build)
    assert count[0] == 3  # the first member once, the second twice
    assert digest_folder(build / "model") == digest_folder(whole / "model")
    assert (build / "curve.jsonl").read_text() == (whole / "curve.jsonl").read_text()
    assert not (build / "checkpoints").exists()


@pytest.mark.parametrize(
    ("kind", "train", "values", "message"),
    [
        ("adapters", {}, {}, "needs train.method=lora or qlora"),
        ("seeds", {"method": "head_only"}, {}, "one optimum"),
        ("heads", {}, {}, "set bootstrap to true"),
        ("axes", {}, {}, "axes go with kind=axes"),
        ("axes", {}, {"axes": ["a", "b", "c"]}, "set members to 3"),
        ("axes", {}, {"axes": ["a", "b"], "combination": "uncertainty"}, "no uncertainty"),
        ("seeds", {}, {"axes": ["a", "b"]}, "axes go with kind=axes"),
        ("seeds", {}, {"members": 1}, "greater than or equal to 2"),
    ],
)
def test_settings_that_make_no_ensemble_are_refused(
    kind: str, train: dict[str, object], values: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        ensemble(kind, train=train, **values)


@pytest.mark.parametrize(("section", "length"), [("objective", "separate"), ("seal", "subtract")])
@pytest.mark.parametrize("kind", ["heads", "seeds"])
def test_length_is_taken_out_of_one_model_alone(section: str, length: str, kind: str) -> None:
    values = ensemble(kind, bootstrap=kind == "heads").model_dump(mode="json")
    with pytest.raises(SettingsError, match="an ensemble has several"):
        parse({**values, section: {**values[section], "length": length}})
