"""Encoders as reward models: pairs of texts, the mean over their tokens, and folders that stock loaders refuse."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from tests.worlds.encoders import ENCODERS, SPECIAL, make_encoder, make_tokenizer
from tests.worlds.sealed import WORDS, make_tiny_groups
from tests.worlds.trained import configure, make_build
from touchstone.errors import ModelError
from touchstone.evaluation.report import evaluate_set
from touchstone.groups import Comparison, Completion, Group, Message, make_group
from touchstone.model.base import pin
from touchstone.model.layout import make_batches, padded_batch, read_hidden, rewards, shares_prompt
from touchstone.model.network import RewardModel, head_of, load_base, load_base_folder, load_reward_model, save
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer, padded_scores, raw_scores
from touchstone.model.sealing import seal
from touchstone.model.templating import ScoringRule, encode, encode_many, scoring_rule
from touchstone.runtime.files import digest_file
from touchstone.settings import Settings, parse
from touchstone.settings.model import PretrainedModel
from touchstone.training.plan import make_steps, micro_batches
from touchstone.training.run import train


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("base") / "base")


TOKENIZER = make_tokenizer()
RULE = scoring_rule(TOKENIZER, 4096, "mean")
PROMPT = [Message("user", "how do i boil an egg?")]


def seen(tokenizer: PreTrainedTokenizerFast, rule: ScoringRule, prompt: Sequence[Message], text: str) -> list[int]:
    encoded = encode(tokenizer, rule, prompt, [text])
    return encoded.prompt(0) + encoded.completion_ids[0]


def stock_pair(tokenizer: PreTrainedTokenizerFast, prompt: str, text: str) -> Any:
    return tokenizer(prompt, text, truncation=False, padding=False, return_token_type_ids=True)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_prompt_and_a_completion_are_the_tokenizers_own_pair(kind: str) -> None:
    tokenizer = make_tokenizer(kind)
    rule = scoring_rule(tokenizer, 100, "mean")
    encoded = encode(tokenizer, rule, PROMPT, ["Put it into water.", "No"])
    batch = padded_batch([encoded], [(0, 0), (0, 1)])
    for row, text in enumerate(["Put it into water.", "No"]):
        stock = stock_pair(tokenizer, PROMPT[0].content, text)
        length = len(stock["input_ids"])
        assert encoded.tokens(row) == length
        assert batch.input_ids[row, :length].tolist() == stock["input_ids"]
        assert batch.segments is not None
        if kind == "bert":
            assert batch.segments[row].tolist() == stock["token_type_ids"] + [0] * (batch.input_ids.shape[1] - length)


def test_roles_are_words_and_a_turn_ends_in_a_separator() -> None:
    prompt = [Message("system", "be kind"), Message("user", "why"), Message("assistant", "no")]
    assert TOKENIZER.decode(seen(TOKENIZER, RULE, prompt, "because")) == (
        "[CLS] system : be kind [SEP] user : why [SEP] assistant : no [SEP] because [SEP]"
    )
    assert TOKENIZER.decode(seen(TOKENIZER, RULE, prompt[:1], "because")) == (
        "[CLS] system : be kind [SEP] because [SEP]"
    )
    assert TOKENIZER.decode(seen(TOKENIZER, RULE, [], "because")) == "[CLS] [SEP] because [SEP]"
    with pytest.raises(ModelError, match="role is none of"):
        encode(TOKENIZER, RULE, [Message("king", "why")], ["no"])


def make_unigram() -> PreTrainedTokenizerFast:
    """As XLM-RoBERTa's: `</s>` is a piece of the vocabulary, with the best score."""
    special = ("<s>", "<pad>", "</s>", "<unk>")
    letters = dict.fromkeys("▁</s>paduni[]SEPCL")
    pieces = [*((piece, 0.0) for piece in special), *((letter, -3.0) for letter in letters)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


UNIGRAM = make_unigram()


@given(st.text(max_size=30), st.sampled_from([*SPECIAL, "</s>", "<s>", "<pad>", " </s>", "[sep]", "\ud800"]))
@hypothesis_settings(max_examples=60, deadline=None)
def test_content_never_yields_control_ids(text: str, poison: str) -> None:
    for tokenizer in (TOKENIZER, UNIGRAM):
        rule = scoring_rule(tokenizer, 4096, "mean")
        control = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
        turns = [Message("user", text + poison), Message("assistant", poison), Message("user", poison + text)]

        def controls(ids: Sequence[int], control: set[int] = control) -> list[int]:
            return [token for token in ids if token in control]

        plain = [Message(turn.role, "") for turn in turns]
        poisoned = seen(tokenizer, rule, turns, poison + text)
        assert controls(poisoned) == controls(seen(tokenizer, rule, plain, ""))


@given(st.integers(0, 40), st.lists(st.integers(0, 60), min_size=1, max_size=4), st.integers(5, 50))
@hypothesis_settings(max_examples=60, deadline=None)
def test_truncation_keeps_completion_end_of_prompt_and_separators(words: int, sizes: list[int], most: int) -> None:
    start, separator = TOKENIZER.cls_token_id, TOKENIZER.sep_token_id
    prompt = [Message("user", " ".join(str(n % 10) for n in range(words)))]
    texts = [" ".join(str(n % 7) for n in range(size)) for size in sizes]
    cut = encode(TOKENIZER, scoring_rule(TOKENIZER, most, "mean"), prompt, texts)
    for k, (text, size) in enumerate(zip(texts, sizes, strict=True)):
        ids = cut.prompt(k) + cut.completion_ids[k]
        assert len(ids) == cut.tokens(k) == min(most, words + size + 3)
        assert cut.truncated[k] == (words + size + 3 > most)
        assert ids[0] == start
        assert [place for place, token in enumerate(ids) if token == separator] == [
            len(cut.prompt(k)) - 1,
            len(ids) - 1,
        ]
        whole = seen(TOKENIZER, RULE, prompt, text)
        if size <= most - 3:
            assert ids[1:] == whole[1:][-(most - 1) :]
        else:
            assert ids[2:-1] == whole[words + 2 :][: most - 3]
        alone = encode(TOKENIZER, scoring_rule(TOKENIZER, most, "mean"), prompt, [text])
        assert alone.prompt(0) + alone.completion_ids[0] == ids


def test_a_tokenizer_that_parts_no_pair_is_refused() -> None:
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", pair="[CLS] $A $B:1", special_tokens=[("[CLS]", 2)]
    )
    with pytest.raises(ModelError, match="writes nothing between two texts") as caught:
        scoring_rule(tokenizer, 64, "mean")
    assert "\n" not in str(caught.value)


ITEMS = [as_item(group) for group in make_tiny_groups(8, seed=3, completions=(2, 3, 5))]


@pytest.mark.parametrize("kind", ENCODERS)
def test_neither_batch_nor_padding_nor_the_disk_moves_a_reward(kind: str, tmp_path: Path) -> None:
    model = load_base(make_encoder(tmp_path / "base", kind), max_tokens=40, seed=4)
    alone = padded_scores(model, ITEMS, rows=1)
    assert any(score.truncated for row in alone for score in row)
    values = torch.tensor([score.reward for row in alone for score in row])
    assert values.std() > 0.01
    (tmp_path / "model").mkdir()
    save(model, tmp_path / "model")
    again = load_reward_model(tmp_path / "model")
    for found in (
        padded_scores(model, ITEMS, rows=8),
        padded_scores(model, ITEMS, rows=32),
        raw_scores(model, ITEMS, token_budget=90),
        raw_scores(model, ITEMS[::-1])[::-1],
        padded_scores(again, ITEMS, rows=1),
    ):
        others = torch.tensor([score.reward for row in found for score in row])
        torch.testing.assert_close(others, values, rtol=0, atol=2e-6)
    assert again.rule == model.rule
    assert again.network.config.model_type not in ENCODERS


def test_the_reward_is_linear_in_the_mean_over_all_real_tokens(base: Path) -> None:
    model = load_base(base, max_tokens=64, seed=4)
    (batch,) = make_batches(encode_many(model.tokenizer, model.rule, ITEMS[:2]), 10_000, shared=False)
    backbone = AutoModel.from_pretrained(base).train(False)
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert not any(isinstance(layer, torch.nn.Dropout) and layer.p for layer in model.network.modules())
    with torch.inference_mode():
        hidden, found = read_hidden(model.network, batch), rewards(model, batch)
        for row in range(len(found)):
            ids = batch.input_ids[row, : batch.columns[row] + 1]
            whole = ids.tolist()
            border = len(whole) - 1 - whole[:-1][::-1].index(tokenizer.sep_token_id)
            segments = torch.tensor([[int(place >= border) for place in range(len(whole))]])
            states = backbone(input_ids=ids[None], token_type_ids=segments).last_hidden_state
            torch.testing.assert_close(hidden[row], states[0].mean(dim=0), rtol=0, atol=1e-5)
            torch.testing.assert_close(found[row], head_of(model.network).weight[0] @ hidden[row], rtol=0, atol=1e-5)
        low = rewards(model, batch, "bf16")
    assert low.dtype == torch.float32
    assert not torch.equal(low, low.bfloat16().float())


def test_an_encoder_is_not_tried_with_packed_rows(base: Path) -> None:
    model = load_base(base, max_tokens=64, seed=4)
    own = model.network.encoder.config._attn_implementation
    assert own == "sdpa"
    assert shares_prompt(model) is False
    assert model.network.encoder.config._attn_implementation == own
    (packed,) = make_batches(encode_many(model.tokenizer, model.rule, ITEMS[:1]), 10_000)
    with pytest.raises(ModelError, match="takes no packed rows"):
        rewards(model, packed)


def debate(texts: int, seed: int = 1) -> Group:
    """One prompt whose completions are compared with one another; those with `good` win."""
    dice = random.Random(seed)
    answers = [f"{n} " + " ".join(dice.choices(WORDS, k=dice.randint(1, 20))) for n in range(texts)]
    answers = [answer + " good" if number % 2 else answer for number, answer in enumerate(answers)]
    edges = [
        Comparison(i, j, float(i % 2), float(j % 2)) for i in range(texts) for j in range(i + 1, texts) if (i + j) % 2
    ]
    prompt = [Message("user", f"how do i boil egg {seed}?")]
    return make_group(prompt=prompt, completions=map(Completion, answers), comparisons=edges, source="test")


@pytest.mark.parametrize("budget", [100, 10_000])
def test_each_text_is_encoded_once_per_step_for_all_its_comparisons(base: Path, budget: int) -> None:
    model = load_base(base, max_tokens=64, seed=4)
    group = debate(12)
    settings = configure(comparisons_per_step=1000)
    (step,) = make_steps([group], settings.objective, settings.train)
    encoded = encode_many(model.tokenizer, model.rule, [as_item(group)])
    (micro,) = micro_batches(step.chunks, encoded, budget, shared=shares_prompt(model))
    owners = [owner for batch in micro.batches for owner in batch.owners]
    assert sorted(owners) == [(0, k) for k in range(12)]
    assert len(micro.chosen) == 36
    lengths = [batch.input_ids.shape[1] for batch in micro.batches]
    assert lengths == sorted(lengths)
    assert len(lengths) == 1 or all(batch.input_ids.numel() <= budget for batch in micro.batches)


def encoder_settings(folder: str, **train_values: object) -> Settings:
    values = configure(**train_values).model_dump(mode="json")
    values["model"] = {"kind": "pretrained", "max_tokens": 128, "base": folder}
    return parse(values)


STOCK = """
import sys
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
print(tokenizer("how", "why", padding=False).input_ids)
for loader in (AutoModelForSequenceClassification, AutoModel):
    try:
        loader.from_pretrained(sys.argv[1])
        print("loaded")
    except ValueError as error:
        print("refused", "touchstone_encoder" in str(error))
"""


@pytest.mark.parametrize(
    "method", ["full", *(pytest.param(method, marks=pytest.mark.slow) for method in ("lora", "head_only"))]
)
def test_trained_sealed_evaluated_and_scored(
    method: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(base.parent))
    build = make_build(tmp_path / "build", base, [debate(12, seed) for seed in range(4)])
    (build / "base").unlink()
    settings = encoder_settings(
        "base", method=method, comparisons_per_step=50, epochs=8, lora_rank=4, learning_rate=5e-3, checkpoint_steps=0
    )
    assert settings.model.kind == "pretrained"
    pin(settings.model, build / "base")
    rows = train(settings, build)
    assert rows[-1]["loss"] < rows[0]["loss"]
    before = load_base_folder(build / "base", settings.model, seed=settings.train.seed)
    after = load_reward_model(build / "model")
    same = [
        torch.equal(weight, after.network.get_parameter(name))
        for name, weight in before.network.named_parameters()
        if name.startswith("encoder.encoder.")
    ]
    assert len(same) == 32
    assert all(same) if method == "head_only" else sum(same) <= (0 if method == "full" else 20)

    sets = {name: make_tiny_groups(20, seed=seed) for name, seed in (("calibration", 101), ("reference", 102))}
    options: dict[str, Any] = {"precision": "fp32", "self_test_vectors": 12, "seeds": {"train": 1}}
    seal(build / "model", **sets, **options, folder=tmp_path / "artifact")
    scorer = Scorer.load(tmp_path / "artifact")
    assert scorer.card.rule["pooling"] == "mean"
    assert any(vector.truncated for vector in scorer.card.self_test)
    _, metrics = evaluate_set(scorer, [debate(12, 90), debate(12, 91)], sets["reference"], sets["calibration"])
    if method != "lora":  # adapters lean on what a base knows, and this one knows nothing
        assert metrics["accuracy"] > 0.8
    if method == "full":
        command = [sys.executable, "-c", STOCK, str(tmp_path / "artifact")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        # The base's own tokenizer: training one twice may order pieces of the same frequency differently.
        assert said == [str(stock_pair(before.tokenizer, "how", "why")["input_ids"]), "refused True", "refused True"]


def test_a_sealed_encoder_is_continued_from_with_its_head(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(tmp_path))
    model = load_base(base, max_tokens=64, seed=4)
    (tmp_path / "model").mkdir()
    save(model, tmp_path / "model")
    for keep, folder in ((True, "model"), (False, "model"), (True, "bare")):
        settings = PretrainedModel(kind="pretrained", max_tokens=64, base=folder, keep_head=keep)
        if folder == "bare":
            make_encoder(tmp_path / "bare")
        pin(settings, tmp_path / "pinned")
        if folder == "bare":
            with pytest.raises(ModelError, match=r"lacks the weights score\.weight"):
                load_base_folder(tmp_path / "pinned", settings, seed=9)
            continue
        again = load_base_folder(tmp_path / "pinned", settings, seed=9)
        assert torch.equal(head_of(again.network).weight, head_of(model.network).weight) is keep
        assert torch.equal(
            again.network.get_parameter("encoder.embeddings.word_embeddings.weight"),
            model.network.get_parameter("encoder.embeddings.word_embeddings.weight"),
        )


@pytest.mark.parametrize("kind", ["bert", "roberta", "mpnet"])
def test_more_tokens_than_positions_is_one_sentence_at_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(tmp_path))
    make_encoder(tmp_path / "mine", kind)
    with pytest.raises(ModelError, match=r"model\.max_tokens \(161\) exceeds the 160 positions"):
        pin(PretrainedModel(kind="pretrained", max_tokens=161, base="mine"), tmp_path / "base")
    model = load_base(tmp_path / "mine", max_tokens=160, seed=0)
    (row,) = raw_scores(model, [(PROMPT, ["egg " * 500])])
    assert row[0].truncated


def test_another_template_for_pairs_than_the_rules_is_an_error(base: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    model = load_base(base, max_tokens=64, seed=4)
    save(model, tmp_path / "model")
    path = tmp_path / "model" / "tokenizer.json"
    described = json.loads(path.read_text())
    pair = described["post_processor"]["pair"]
    described["post_processor"]["pair"] = [*pair[:3], pair[2], *pair[3:]]
    path.write_text(json.dumps(described))
    with pytest.raises(ModelError, match=r"template for pairs in .* is not the one"):
        load_reward_model(tmp_path / "model", rule=model.rule)


def test_an_installed_package_is_a_base_that_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "tiny_checkpoint"
    make_encoder(package / "model")
    (package / "__init__.py").write_text("raise SystemExit('a base ran code')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    settings = PretrainedModel(kind="pretrained", max_tokens=64, base="package:tiny_checkpoint/model")
    pin(settings, tmp_path / "base")
    record = json.loads((tmp_path / "base" / "base.json").read_text())
    assert record["base"] == "package:tiny_checkpoint/model"
    assert record["files"]["model.safetensors"] == digest_file(package / "model" / "model.safetensors")
    model = load_base_folder(tmp_path / "base", settings, seed=1)
    assert isinstance(model, RewardModel)
    assert model.rule.pooling == "mean"
    make_encoder(package / "model", "electra")
    with pytest.raises(ModelError, match="has changed since it was pinned"):
        load_base_folder(tmp_path / "base", settings, seed=1)
    with pytest.raises(ModelError, match="there is no folder package:tiny_checkpoint/elsewhere"):
        pin(settings.model_copy(update={"base": "package:tiny_checkpoint/elsewhere"}), tmp_path / "base")


def test_a_package_that_is_missing_is_one_sentence_with_the_remedy(tmp_path: Path) -> None:
    said = r"no package nobody_has_this is installed; .*touchstone-rm\[minilm\]"
    with pytest.raises(ModelError, match=said) as caught:
        pin(PretrainedModel(kind="pretrained", max_tokens=64, base="package:nobody_has_this/model"), tmp_path / "base")
    assert "\n" not in str(caught.value)
