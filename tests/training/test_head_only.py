"""The head alone: the optimum that scikit-learn finds, in seconds, as a plain model."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tests.worlds.tiny import make_tiny_base
from tests.worlds.trained import configure, make_build, make_groups
from touchstone.errors import TrainingError
from touchstone.groups import Group
from touchstone.model.layout import make_batches, rewards
from touchstone.model.network import RewardModel, head_of, load_base, load_reward_model
from touchstone.model.templating import EncodedGroup, encode_many
from touchstone.settings import Settings, parse
from touchstone.training.head_only import TOLERANCE, embed, fit, train_head
from touchstone.training.objective import total_loss
from touchstone.training.run import train


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base") / "base")


def head_settings(**objective: object) -> Settings:
    values = configure(method="head_only", head_penalty=1e-2).model_dump(mode="json")
    values["objective"] |= objective
    return parse(values)


def load(base: Path, groups: list[Group]) -> tuple[RewardModel, list[EncodedGroup]]:
    model = load_base(base, max_tokens=128, seed=0)
    items = [(group.prompt, [completion.text for completion in group.completions]) for group in groups]
    return model, encode_many(model.tokenizer, model.rule, items)


def test_it_finds_the_optimum_that_scikit_learn_finds(base: Path) -> None:
    groups = make_groups(150)
    settings = head_settings(centering=0.0)
    model, encoded = load(base, groups)
    hidden, micro, weight = embed(model, groups, encoded, settings)
    rows = fit(head_of(model.network), hidden, micro, weight, settings.objective, settings.train.head_penalty)
    assert rows[-1]["gradient_norm"] < 100 * TOLERANCE

    spread = hidden.std(dim=0, correction=0)
    features = (hidden / spread).numpy()
    differences = features[micro.chosen] - features[micro.rejected]
    # Every other one seen from its loser's side, because a classifier needs two classes.
    sides = np.where(np.arange(len(differences)) % 2 == 0, 1.0, -1.0)
    judge = LogisticRegression(
        C=1 / (settings.train.head_penalty * weight), fit_intercept=False, tol=1e-10, max_iter=10_000
    ).fit(differences * sides[:, None], sides)
    ours = (head_of(model.network).weight[0].double() * spread).detach().numpy()
    np.testing.assert_allclose(ours, judge.coef_[0], rtol=0, atol=1e-5 * np.abs(judge.coef_).max())
    # The curve's accuracy and margin are those of the fitted rewards, seen from the winners' side.
    assert rows[-1]["accuracy"] == pytest.approx((differences @ ours > 0).mean())
    assert rows[-1]["margin"] == pytest.approx((differences @ ours).mean(), rel=1e-4)
    assert rows[-1]["margin"] > 0


@pytest.mark.parametrize(
    "objective",
    [
        {},
        {"labels": "votes"},
        {"use_margin": True},
        {"name": "rao_kupper", "tie_parameter": 2.0},
        {"name": "davidson", "tie_parameter": 1.0},
        {"name": "plackett_luce", "weighting": "group"},
    ],
    ids=str,
)
def test_every_objective_converges(base: Path, objective: dict[str, object]) -> None:
    groups = make_groups(60)
    settings = head_settings(**objective)
    model, encoded = load(base, groups)
    rows = train_head(model, groups, encoded, settings)
    assert rows[-1]["gradient_norm"] < 100 * TOLERANCE
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert [row["step"] for row in rows] == list(range(len(rows)))


def test_rewards_of_the_fitted_model_are_those_that_were_fitted(base: Path) -> None:
    groups = make_groups(60)
    settings = head_settings()
    model, encoded = load(base, groups)
    hidden, micro, weight = embed(model, groups, encoded, settings)
    rows = fit(head_of(model.network), hidden, micro, weight, settings.objective, settings.train.head_penalty)
    values = hidden @ head_of(model.network).weight[0].double()
    loss = total_loss(settings.objective, values, micro) / weight
    assert loss.item() == pytest.approx(rows[-1]["loss"], abs=1e-6)
    # Each completion that is compared stands among the embeddings once, and gives the reward of ordinary scoring.
    scored = torch.cat([rewards(model, batch) for batch in make_batches(encoded, 512, shared=False)])
    assert len(values) <= len(scored)
    nearest = (values[:, None] - scored.double()[None]).abs().min(dim=1).values
    assert nearest.max().item() < 1e-5


def test_training_is_one_forward_and_writes_the_usual_outputs(tmp_path: Path, base: Path) -> None:
    build = make_build(tmp_path / "build", base, make_groups(300))
    began = time.monotonic()
    rows = train(head_settings(), build)
    assert time.monotonic() - began < 20
    assert rows[-1]["accuracy"] > rows[0].get("accuracy", 0.0)
    assert {"step", "loss", "accuracy", "margin", "reward_mean", "gradient_norm", "comparisons"} <= set(rows[-1])
    curve = [json.loads(line) for line in (build / "curve.jsonl").read_text().splitlines()]
    assert curve == rows
    # Only the head has moved.
    model = load_reward_model(build / "model")
    before = load_base(base, max_tokens=128, seed=0)
    moved = {
        name
        for name, weight in model.network.named_parameters()
        if not torch.equal(weight, before.network.get_parameter(name))
    }
    assert moved == {"score.weight"}


def test_embeddings_that_are_not_finite_are_an_error(base: Path) -> None:
    groups = make_groups(5)
    model, encoded = load(base, groups)
    with torch.no_grad():
        model.network.get_parameter("model.norm.weight")[0] = float("inf")
    with pytest.raises(TrainingError, match="not finite"):
        train_head(model, groups, encoded, head_settings())
