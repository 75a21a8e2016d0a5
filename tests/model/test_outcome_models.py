"""A sealed outcome model: what it reads, that batches and padding change nothing, and who may load it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from tests.worlds.outcomes import make_outcome_groups, outcome_artifact, outcome_world, without_labels
from touchstone import statistics
from touchstone.errors import ArtifactError, ModelError, ServingError
from touchstone.evaluation.outcomes import labelled, rewards_of
from touchstone.model import card as cards
from touchstone.model.aggregation import aggregate
from touchstone.model.layout import make_batches, padded_batch, token_log_odds
from touchstone.model.rendered import Rendered, encode_rendered
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer, padded_scores, raw_scores_encoded
from touchstone.model.sealing import seal
from touchstone.serving.engines.vllm import _servable
from touchstone.settings.seal import Aggregation

ALL: tuple[Aggregation, ...] = ("mean", "min", "product", "last")
ITEMS = [as_item(group) for group in make_outcome_groups(25, seed=9)]


def flat(scores: list[list[object]]) -> list[float]:
    return [score.reward for row in scores for score in row]  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ALL)
def test_packed_rows_score_as_one_by_one_whatever_the_padding(how: Aggregation) -> None:
    scorer = Scorer.load(outcome_artifact(how))
    together = flat(scorer.raw(ITEMS))
    alone = [flat(scorer.raw([(prompt, [text])]))[0] for prompt, texts in ITEMS for text in texts]
    padded = flat(padded_scores(scorer.model, ITEMS, rows=7))
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(padded, alone, atol=1e-5)
    backwards = flat(list(reversed(scorer.raw(list(reversed(ITEMS))))))
    np.testing.assert_allclose(backwards, alone, atol=1e-5)


def test_a_reward_is_the_aggregate_of_what_each_token_says() -> None:
    for how in ALL:
        scorer = Scorer.load(outcome_artifact(how))
        for row in scorer.raw_encoded(scorer.encode(ITEMS), values=True):
            for score in row:
                assert score.values is not None
                assert len(score.values) == score.tokens
                assert float(aggregate(torch.tensor(score.values), how)) == pytest.approx(score.reward, abs=1e-5)


def test_the_last_column_of_a_padded_row_is_no_token() -> None:
    """Whoever reads the last column gets a pad's value; whoever reads every column gets the prompt's and the pads'."""
    scorer = Scorer.load(outcome_artifact("mean"))
    encoded = scorer.encode([(ITEMS[0][0], ["egg", "egg water boil an egg soft water kings good"])])
    batch = padded_batch(encoded, [(0, 0), (0, 1)])
    short, _ = token_log_odds(scorer.model, batch).detach().split(batch.sizes)
    network = scorer.model.network
    states = network.base_model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
    ).last_hidden_state
    columns = network.score(states).squeeze(-1)[0].detach()
    end = int(batch.columns[0]) + 1
    torch.testing.assert_close(columns[end - batch.sizes[0] : end], short, rtol=0, atol=1e-5)
    assert abs(float(columns[-1] - short[-1])) > 1e-3
    assert abs(float(aggregate(columns, "mean") - aggregate(short, "mean"))) > 1e-3


def test_batches_name_the_tokens_of_each_completion() -> None:
    encoded = Scorer.load(outcome_artifact("mean")).encode(ITEMS)
    for batch in make_batches(encoded, 256):
        assert batch.sizes == [len(encoded[item].completion_ids[k]) for item, k in batch.owners]


def test_the_aggregation_is_sealed_and_another_one_needs_no_training() -> None:
    rewards = {}
    for how in ALL:
        card = cards.read(outcome_artifact(how))
        assert card.rule["unit"] == "token"
        assert card.rule.get("aggregation", "last") == how
        assert card.schema_version == 3
        rewards[how] = flat(Scorer.load(outcome_artifact(how)).raw(ITEMS))
    assert all(p <= m + 1e-5 for p, m in zip(rewards["product"], rewards["min"], strict=True))
    assert all(m <= a + 1e-5 for m, a in zip(rewards["min"], rewards["mean"], strict=True))


def test_stock_loaders_refuse_what_they_would_read_at_the_last_token() -> None:
    for how in ("mean", "min", "product"):
        with pytest.raises(ValueError, match="Unrecognized configuration class"):
            AutoModelForSequenceClassification.from_pretrained(outcome_artifact(how))
        with pytest.raises(ServingError, match=r"seal\.aggregation=last"):
            _servable(outcome_artifact(how))
    network = AutoModelForSequenceClassification.from_pretrained(outcome_artifact("last"))
    scorer = Scorer.load(outcome_artifact("last"))
    prompt, texts = ITEMS[0]
    encoded = scorer.encode([(prompt, texts[:1])])[0]
    ids = torch.tensor([encoded.prompt(0) + encoded.completion_ids[0]])
    stock = float(network(input_ids=ids).logits.detach())
    assert stock == pytest.approx(scorer.raw([(prompt, texts[:1])])[0][0].reward, abs=1e-4)


def test_a_changed_aggregation_is_no_artifact(tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(outcome_artifact("min"), folder)
    values = json.loads((folder / cards.FILE).read_text())
    values["rule"]["aggregation"] = "mean"
    (folder / cards.FILE).write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match="token/min/2 of what is read, and the scoring rule token/mean/2"):
        Scorer.load(folder)
    values["rule"]["aggregation"] = "median"
    (folder / cards.FILE).write_text(json.dumps(values))
    with pytest.raises((ArtifactError, ModelError), match="aggregation median or 2 classes are unknown"):
        Scorer.load(folder)


def test_a_score_carries_the_probability_of_being_correct() -> None:
    scorer = Scorer.load(outcome_artifact("mean"))
    assert scorer.card.outcome is not None
    groups = make_outcome_groups(40, seed=12)
    scores = [score for row in scorer.score([as_item(group) for group in groups]) for score in row]
    labels = [text.outcome for group in groups for text in group.completions]
    chances: dict[float | None, list[float]] = {1.0: [], 0.0: [], None: []}
    for score, label in zip(scores, labels, strict=True):
        assert score.correct is not None
        odds = scorer.card.outcome.intercept + scorer.card.outcome.slope * score.reward
        assert score.correct == pytest.approx(1 / (1 + np.exp(-odds)))
        chances[label].append(score.correct)
    assert np.mean(chances[1.0]) > 0.8 > 0.2 > np.mean(chances[0.0])


def test_a_calibration_set_without_labels_is_refused(tmp_path: Path) -> None:
    groups = make_outcome_groups(60, seed=2)
    with pytest.raises(ArtifactError, match="no outcome label"):
        seal(
            outcome_world() / "build" / "model",
            without_labels(groups),
            groups,
            precision="fp32",
            self_test_vectors=4,
            seeds={},
            folder=tmp_path / "artifact",
        )


def test_a_text_that_does_not_say_where_the_answer_begins_is_refused() -> None:
    model = Scorer.load(outcome_artifact("mean")).model
    with pytest.raises(ModelError, match="where one begins"):
        encode_rendered(model, [Rendered("no template wrote this")])
    (group,) = encode_rendered(model, [Rendered("no template wrote", " this")])
    assert raw_scores_encoded(model, [group])[0][0].tokens == len(group.completion_ids[0])
    last = Scorer.load(outcome_artifact("last")).model
    assert encode_rendered(last, [Rendered("no template wrote this")])


def test_only_the_last_token_has_heard_all_of_the_answer() -> None:
    """Why `last` is the default: its probability is the best one, because early tokens can't know what comes."""
    groups = make_outcome_groups(120, seed=77)
    rows = labelled(groups)
    losses = {}
    for how in ALL:
        scorer = Scorer.load(outcome_artifact(how))
        assert scorer.card.outcome is not None
        rewards = rewards_of(groups, scorer.raw([as_item(group) for group in groups]))
        log_odds = statistics.outcome_log_odds(rewards, scorer.card.outcome.map)
        losses[how] = float(statistics.outcome_losses(log_odds, rows.labels).mean())
    assert losses["last"] < losses["mean"] < losses["min"] < losses["product"]
