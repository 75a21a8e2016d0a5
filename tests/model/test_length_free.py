"""Rewards without what they gain by length: sealed in the rule, subtracted wherever it scores, refused elsewhere."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.worlds.encoders import make_encoder
from tests.worlds.sealed import make_tiny_groups, make_tiny_model
from touchstone import statistics
from touchstone.errors import ArtifactError, ModelError, ServingError
from touchstone.groups import Message
from touchstone.model.network import load_base, load_reward_model, save
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer, padded_scores
from touchstone.model.sealing import seal
from touchstone.model.templating import ScoringRule
from touchstone.serving.engines.vllm import script

CALIBRATION, REFERENCE = make_tiny_groups(20, seed=1), make_tiny_groups(30, seed=2)
ITEMS = [*(as_item(group) for group in make_tiny_groups(10, seed=3)), ([Message("user", "why?")], ["", "egg " * 300])]

STOCK = """
import sys
from transformers import AutoModelForSequenceClassification

try:
    AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
    print("loaded")
except ValueError as error:
    print("refused", "touchstone_length_free" in str(error))
"""


def make(model: Path, folder: Path, length: str) -> Scorer:
    assert length in ("keep", "subtract")
    options = {"precision": "fp32", "self_test_vectors": 12, "seeds": {"train": 3}, "length": length}
    seal(model, CALIBRATION, REFERENCE, **options, folder=folder)  # type: ignore[arg-type]
    return Scorer.load(folder)


@pytest.fixture(scope="module", params=["decoder", "encoder"])
def sealed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Scorer, Scorer, Path]:
    """The same model sealed as it is, and without length; the second one's folder."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "decoder":
        make_tiny_model(folder / "model")
    else:
        (folder / "model").mkdir()
        save(load_base(make_encoder(folder / "base"), max_tokens=64, seed=3), folder / "model")
    plain = make(folder / "model", folder / "plain", "keep")
    return plain, make(folder / "model", folder / "artifact", "subtract"), folder / "artifact"


def test_rewards_lose_their_slope_in_length_inside_prompts(sealed: tuple[Scorer, Scorer, Path]) -> None:
    plain, scorer, _ = sealed
    slope = scorer.card.rule["length_slope"]
    floor = scorer.card.rule["length_floor"]
    assert slope != 0
    assert floor > 0
    assert "length_slope" not in plain.card.rule
    for before, after in zip(plain.raw(ITEMS), scorer.raw(ITEMS), strict=True):
        for old, new in zip(before, after, strict=True):
            lost = slope * math.log1p(max(old.tokens, floor))
            assert new.reward == pytest.approx(old.reward - lost, abs=1e-5)
            assert (new.tokens, new.truncated) == (old.tokens, old.truncated)
    rows = scorer.raw([as_item(group) for group in CALIBRATION])
    rewards = [score.reward for row in rows for score in row]
    lengths = [math.log1p(max(score.tokens, floor)) for row in rows for score in row]
    clusters = [number for number, row in enumerate(rows) for _ in row]
    assert statistics.within_slope(rewards, lengths, clusters) == pytest.approx(0, abs=1e-5 * max(1, abs(slope)))
    # Everything that gives a reward its meaning is of the rewards that are served.
    centred = [score.centered for row in scorer.score([as_item(group) for group in REFERENCE]) for score in row]
    assert np.mean(centred) == pytest.approx(0, abs=1e-4)
    assert np.std(centred, ddof=1) == pytest.approx(1, abs=1e-4)


def test_a_text_that_is_shorter_than_any_that_was_judged_gains_nothing_by_it(
    sealed: tuple[Scorer, Scorer, Path],
) -> None:
    plain, scorer, _ = sealed
    slope, floor = scorer.card.rule["length_slope"], scorer.card.rule["length_floor"]
    items = [(prompt, [""]) for prompt, _ in ITEMS]
    for (old,), (new,) in zip(plain.raw(items), scorer.raw(items), strict=True):
        assert old.tokens < floor
        assert new.reward == pytest.approx(old.reward - slope * math.log1p(floor), abs=1e-5)


def test_every_way_to_a_score_subtracts(sealed: tuple[Scorer, Scorer, Path]) -> None:
    _, scorer, folder = sealed
    rewards = [[score.reward for score in row] for row in scorer.score(ITEMS)]
    model = load_reward_model(folder)  # by what its config.json says, without the card
    assert model.rule == scorer.model.rule
    apart = padded_scores(model, ITEMS, rows=3)
    for scores, expected in zip(apart, rewards, strict=True):
        assert [score.reward for score in scores] == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_stock_loaders_and_engines_refuse(sealed: tuple[Scorer, Scorer, Path]) -> None:
    _, _, folder = sealed
    command = [sys.executable, "-c", STOCK, str(folder)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["refused", "True"]
    with pytest.raises(ServingError, match=r"length|encoder"):
        script(folder, "reward")


def test_a_slope_that_was_changed_is_refused(sealed: tuple[Scorer, Scorer, Path], tmp_path: Path) -> None:
    """By its digest, and because the checkpoint's slope is no longer the card's."""
    _, scorer, folder = sealed
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    config["length_slope"] += 1
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="not the file that was sealed"):
        Scorer.load(copy)
    with pytest.raises(ModelError, match="scoring rule"):
        load_reward_model(copy, rule=ScoringRule.from_json(scorer.card.rule))


def test_prompts_of_one_completion_have_no_slope(tmp_path: Path) -> None:
    options = {"precision": "fp32", "self_test_vectors": 12, "seeds": {"train": 3}, "length": "subtract"}
    single = make_tiny_groups(8, seed=5, completions=(1,))
    with pytest.raises(ArtifactError, match=r"seal\.length=subtract needs prompts"):
        seal(make_tiny_model(tmp_path / "model"), single, REFERENCE, **options, folder=tmp_path / "no")  # type: ignore[arg-type]


def test_a_rule_of_another_kind_is_refused() -> None:
    rule = ScoringRule(64, "digest", length_slope=0.5)
    assert ScoringRule.from_json(rule.to_json()) == rule
    assert "length_slope" not in ScoringRule(64, "digest").to_json()
    with pytest.raises(ModelError, match="slope of length"):
        ScoringRule.from_json({**rule.to_json(), "length_slope": math.nan})
    with pytest.raises(ModelError, match="from -1 tokens"):
        ScoringRule.from_json({**rule.to_json(), "length_floor": -1})
