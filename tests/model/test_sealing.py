"""A sealed artifact: repeatable, readable by stock transformers, and refused when anything in it has changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.worlds.sealed import make_tiny_groups, make_tiny_model
from touchstone import statistics
from touchstone.errors import ArtifactError, ModelError
from touchstone.groups import Comparison, Group, Message, judged_pairs, make_group, set_digest
from touchstone.model import card as cards
from touchstone.model import sealing
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer
from touchstone.model.sealing import seal
from touchstone.runtime.files import canonical_json, digest_file, digest_text
from touchstone.runtime.texts import cleaned

CALIBRATION = make_tiny_groups(20, seed=1)
REFERENCE = make_tiny_groups(30, seed=2)


def make(model: Path, folder: Path, **changed: Any) -> str:
    options: dict[str, Any] = {"precision": "fp32", "self_test_vectors": 12, "seeds": {"train": 3}} | changed
    calibration = options.pop("calibration", CALIBRATION)
    return seal(model, calibration, options.pop("reference", REFERENCE), **options, folder=folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("sealing") / "model")


@pytest.fixture(scope="module")
def artifact(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sealed") / "artifact"
    make(model, folder)
    return folder


@pytest.fixture
def copy(artifact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifact, tmp_path / "copy"))


def test_equal_inputs_give_equal_bytes_and_one_digest(model: Path, artifact: Path, tmp_path: Path) -> None:
    digest = make(model, tmp_path / "again")
    assert digest == Scorer.load(artifact).card.digest
    names = sorted(path.name for path in artifact.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    assert all((artifact / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)
    assert str(tmp_path) not in (artifact / "reward.json").read_text()


def test_the_digest_is_the_one_of_the_cards_canonical_json(artifact: Path) -> None:
    value = json.loads((artifact / "reward.json").read_text())
    assert cards.read(artifact).digest == digest_text(canonical_json(value))
    assert value["files"]["model.safetensors"] == digest_file(artifact / "model.safetensors")


def test_another_reference_set_changes_the_digest_and_not_the_weights(
    model: Path, artifact: Path, tmp_path: Path
) -> None:
    make(model, tmp_path / "other", reference=make_tiny_groups(30, seed=9))
    one, other = cards.read(artifact), cards.read(tmp_path / "other")
    assert one.digest != other.digest
    assert one.files == other.files
    assert one.calibration == other.calibration


def test_statistics_are_those_of_the_reference_rewards(artifact: Path) -> None:
    scorer = Scorer.load(artifact)
    centering = scorer.card.centering
    rewards = np.array([s.reward for row in scorer.raw([as_item(group) for group in REFERENCE]) for s in row])
    assert (centering.n, centering.n_prompts) == (len(rewards), 30)
    assert centering.mean == pytest.approx(rewards.mean(), abs=1e-6)
    assert centering.sd == pytest.approx(rewards.std(ddof=1), abs=1e-6)
    assert centering.median == pytest.approx(np.median(rewards), abs=1e-6)
    assert 0 < centering.se_mean < centering.sd
    assert [level for level, _ in centering.quantiles][:2] == [0.001, 0.01]
    assert centering.reference_digest == set_digest(REFERENCE)
    assert sum(centering.reference_source["policies"].values()) == len(rewards)
    assert centering.reference_source["sources"] == {"test": len(rewards)}
    centred = [scorer.meaning(s).centered for row in scorer.raw([as_item(g) for g in REFERENCE]) for s in row]
    assert np.mean(centred) == pytest.approx(0.0, abs=1e-5)
    assert scorer.card.calibration.calibration_digest == set_digest(CALIBRATION)
    assert scorer.card.calibration.n_prompts == 20


def test_self_test_covers_odd_texts_and_the_ends_of_the_reference_set(artifact: Path) -> None:
    vectors = cards.read(artifact).self_test
    kinds = [vector.kind for vector in vectors]
    assert len(vectors) == 12
    assert {"special tokens", "non-Latin", "empty", "one space", "long prompt", "shortest", "longest"} <= set(kinds)
    assert len({(canonical_json(v.model_dump(mode="json")["prompt"]), v.completion) for v in vectors}) == 12
    assert any(vector.truncated for vector in vectors)
    assert len({vector.reward for vector in vectors}) == 12


@pytest.mark.parametrize("count", [1, 2, 5])
def test_as_many_self_tests_as_asked_for(model: Path, tmp_path: Path, count: int) -> None:
    make(model, tmp_path / "few", self_test_vectors=count)
    assert len(cards.read(tmp_path / "few").self_test) == count


def test_stock_transformers_gives_the_sealed_rewards(artifact: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(artifact)
    network = AutoModelForSequenceClassification.from_pretrained(artifact)
    assert network.config.num_labels == 1
    assert network.config.problem_type == "regression"
    # Texts that spell control tokens are what stock tokenizers turn into control tokens, and long ones they don't cut.
    plain = [v for v in cards.read(artifact).self_test if v.kind != "special tokens" and not v.truncated]
    assert len(plain) >= 8
    for vector in plain:
        messages = [{"role": m.role, "content": m.content} for m in vector.messages()]
        messages.append({"role": "assistant", "content": vector.completion})
        ids = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), return_tensors="pt").input_ids
        with torch.inference_mode():
            assert float(network(input_ids=ids).logits) == pytest.approx(vector.reward, abs=1e-5)


def append_byte(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_bytes((folder / "tokenizer_config.json").read_bytes() + b" ")


def drop_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def add_file(folder: Path) -> None:
    (folder / "notes.txt").write_text("hello")


def add_pickle(folder: Path) -> None:
    (folder / "training_args.bin").write_bytes(b"\x80\x04.")


def add_code(folder: Path) -> None:
    (folder / "extra").mkdir()
    (folder / "extra" / "modeling.py").write_text("raise SystemExit")


def drop_card(folder: Path) -> None:
    (folder / "reward.json").unlink()


def break_card(folder: Path) -> None:
    (folder / "reward.json").write_text("{}")


def spoil_card(folder: Path) -> None:
    text = (folder / "reward.json").read_text()
    (folder / "reward.json").write_text(text.replace('"schema_version": 2', '"schema_version": 2, "more": 2'))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (append_byte, "tokenizer_config.json is not the file that was sealed"),
        (drop_template, "chat_template.jinja is missing"),
        (add_file, "notes.txt isn't in reward.json"),
        (add_pickle, "training_args.bin is of a kind that may run code"),
        (add_code, "extra/modeling.py is of a kind that may run code"),
        (drop_card, "is no sealed artifact"),
        (break_card, "schema_version: Field required"),
        (spoil_card, "more: Extra inputs are not permitted"),
    ],
)
def test_a_changed_folder_is_refused_without_loading_it(
    copy: Path, change: Callable[[Path], None], message: str
) -> None:
    change(copy)
    with pytest.raises(ArtifactError, match=message):
        cards.verify_digests(copy)
    with pytest.raises(ArtifactError, match=message):
        Scorer.load(copy)


HEADER = {"format": "pt"}


def forge(folder: Path, scale: float | None) -> None:
    """Scale the head (None: drop it) and write the new digest into the card, so that digests can't tell."""
    path = folder / "model.safetensors"
    state = load_file(path)
    head = state.pop("score.weight")
    if scale is not None:
        state["score.weight"] = head * scale
    save_file(state, path, HEADER)
    value = json.loads((folder / "reward.json").read_text())
    value["files"]["model.safetensors"] = digest_file(path)
    (folder / "reward.json").write_text(canonical_json(value))


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (1.01, r"self-test 1 \(special tokens\) gives .* sealed were"),
        (None, r"lacks the weights score\.weight"),
        (float("nan"), r"score\.weight is not finite"),
    ],
)
def test_another_head_under_a_matching_digest_is_refused(copy: Path, scale: float | None, message: str) -> None:
    forge(copy, scale)
    assert cards.verify_digests(copy)
    with pytest.raises(ArtifactError, match=message):
        Scorer.load(copy)


def test_no_message_tells_a_self_tests_text(copy: Path) -> None:
    value = json.loads((copy / "reward.json").read_text())
    value["self_test"][0] |= {"completion": "a private sentence", "reward": "a private number"}
    (copy / "reward.json").write_text(canonical_json(value))
    with pytest.raises(ArtifactError) as caught:
        Scorer.load(copy)
    assert "private" not in str(caught.value)


def test_only_the_checkpoint_is_copied(model: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(model, tmp_path / "model"))
    (source / "optimizer.pt").write_bytes(b"\x80\x04.")
    (source / "notes.md").write_text("secret")
    make(source, tmp_path / "artifact")
    names = {path.name for path in (tmp_path / "artifact").iterdir()}
    assert names.isdisjoint({"optimizer.pt", "notes.md"})
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "reward.json"} <= names


def test_rewards_without_spread_are_not_sealed_and_nothing_is_left(model: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(model, tmp_path / "model"))
    state = load_file(source / "model.safetensors")
    state["score.weight"].zero_()
    save_file(state, source / "model.safetensors", HEADER)
    with pytest.raises(ArtifactError, match=r"rewards have no spread: all \d+ reference texts score 0"):
        make(source, tmp_path / "artifact")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize("unit", [1e-5, 1e5])
def test_a_model_is_sealed_and_loaded_in_any_unit(model: Path, artifact: Path, tmp_path: Path, unit: float) -> None:
    source = Path(shutil.copytree(model, tmp_path / "model"))
    state = load_file(source / "model.safetensors")
    state["score.weight"].mul_(unit)
    save_file(state, source / "model.safetensors", HEADER)
    make(source, tmp_path / "artifact")
    before, after = Scorer.load(artifact), Scorer.load(tmp_path / "artifact")
    assert after.card.centering.sd == pytest.approx(unit * before.card.centering.sd, rel=1e-4)
    items = [as_item(group) for group in REFERENCE]
    for row, other in zip(before.score(items), after.score(items), strict=True):
        assert [score.centered for score in other] == pytest.approx([score.centered for score in row], abs=1e-3)


def unlabelled() -> list[Group]:
    return [make_group(prompt=g.prompt, completions=g.completions, comparisons=[], source="test") for g in CALIBRATION]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"calibration": unlabelled()}, "holds no comparison"),
        ({"calibration": []}, "holds no comparison"),
        ({"reference": REFERENCE[:1]}, r"1 prompt\(s\); centering needs at least two"),
        ({"reference": []}, r"0 prompt\(s\)"),
    ],
)
def test_sets_that_are_too_small_are_one_sentence(
    model: Path, tmp_path: Path, changed: dict[str, list[Group]], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        make(model, tmp_path / "artifact", **changed)


def test_a_weak_model_is_sealed_with_its_temperature_at_the_bound(model: Path, artifact: Path, tmp_path: Path) -> None:
    # Labels that always contradict the model leave no finite temperature.
    against = []
    for group, row in zip(CALIBRATION, Scorer.load(artifact).raw(list(map(as_item, CALIBRATION))), strict=True):
        worst = min(range(len(row)), key=lambda k: row[k].reward)
        edges = [Comparison(worst, (worst + 1) % len(row), 1.0, 0.0)]
        against.append(make_group(prompt=group.prompt, completions=group.completions, comparisons=edges, source="t"))
    make(model, tmp_path / "weak", calibration=against)
    calibration = cards.read(tmp_path / "weak").calibration
    assert calibration.temperature_at_bound
    assert calibration.noise_floor == 0.0
    differences, clusters = [], []
    for group, row in zip(against, Scorer.load(tmp_path / "weak").raw(list(map(as_item, against))), strict=True):
        for pair in judged_pairs(group):
            differences.append(row[pair.first].reward - row[pair.second].reward)
            clusters.append(group.cluster_id)
    assert calibration.temperature == pytest.approx(20.0 * statistics.spread(differences, clusters))


def test_a_folder_without_a_checkpoint_or_with_code_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no checkpoint"):
        make(tmp_path, tmp_path / "artifact")
    source = Path(shutil.copytree(model, tmp_path / "model"))
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "x.Y"}}))
    with pytest.raises(ArtifactError, match="needs code of its own"):
        make(source, tmp_path / "artifact")


def test_a_checkpoint_without_a_head_is_refused(model: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(model, tmp_path / "model"))
    state = load_file(source / "model.safetensors")
    del state["score.weight"]
    save_file(state, source / "model.safetensors", HEADER)
    with pytest.raises(ModelError, match=r"lacks the weights score\.weight"):
        make(source, tmp_path / "artifact")


def test_fixed_texts_hold_nobodys_data_and_no_system_turn() -> None:
    # Some templates refuse a system turn, and every artifact must be able to carry these.
    for _, prompt, _ in sealing.FIXED_TEXTS:
        assert {message.role for message in prompt} <= {"user", "assistant"}
        assert isinstance(prompt[0], Message)


def test_cards_are_read_without_torch(artifact: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from touchstone.model.card import verify_digests; "
        "print(verify_digests(Path(sys.argv[1])).digest); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(artifact)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == cards.read(artifact).digest


def test_a_card_of_before_the_text_form_keeps_its_digest_and_scores_texts_as_they_stand(copy: Path) -> None:
    card = json.loads((copy / "reward.json").read_text())
    del card["rule"]["text_form"]
    (copy / "reward.json").write_text(canonical_json(card))
    scorer = Scorer.load(copy)
    assert scorer.card.digest == digest_text(canonical_json(card))
    assert "text_form" not in scorer.card.to_json()["rule"]
    ask = (Message("user", "2+2?"),)
    first, second = scorer.score([(ask, ["four\nor five", "four\r\nor five"])])[0]
    assert first != second


def test_a_sealed_rule_names_the_form_of_texts_and_its_self_test_asks_for_it(model: Path, tmp_path: Path) -> None:
    make(model, tmp_path / "more", self_test_vectors=16)
    card = cards.read(tmp_path / "more")
    assert card.rule["text_form"] == 1
    (vector,) = (vector for vector in card.self_test if vector.kind == "other code points")
    assert cleaned(vector.completion) != vector.completion
    scorer = Scorer.load(tmp_path / "more")
    prompt = [Message(turn.role, cleaned(turn.content)) for turn in vector.messages()]
    (stored,) = scorer.score([(prompt, [cleaned(vector.completion)])])[0]
    assert stored.reward == pytest.approx(vector.reward, abs=1e-6)
    assert "reasoning" in {vector.kind for vector in card.self_test}
