"""The base: built from nothing with the same bytes each time, or pinned by the digests of its files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import Qwen3Config, Qwen3ForSequenceClassification

from tests.worlds.tiny import make_tiny_base
from touchstone.data.sources import sandbox
from touchstone.errors import ModelError
from touchstone.groups import Comparison, Completion, Group, Message, make_group
from touchstone.model import attention
from touchstone.model.base import build_base, pin, preferred, train_tokenizer, warm_up_loss
from touchstone.model.network import load_base_folder
from touchstone.model.templating import encode, scoring_rule
from touchstone.runtime.files import digest_file, digest_folder
from touchstone.settings.data import SandboxData
from touchstone.settings.model import PretrainedModel, ScratchModel

MODEL = ScratchModel(
    kind="scratch", max_tokens=256, vocabulary=512, hidden=32, layers=2, heads=2, key_value_heads=1, head_dim=16,
    intermediate=64, warmup_steps=6, warmup_tokens_per_step=1024, warmup_learning_rate=2e-3,
)  # fmt: skip


@cache
def make_groups() -> list[Group]:
    """A hundred groups of the small world."""
    knobs = SandboxData(
        source="sandbox", name="sandbox", groups=100, seed=5, tie_share=0.04, label_noise=0.0, length_bias=0.0,
        multi_turn_share=0.2, ranked_share=0.15, safety_share=0.2, poison="none", poison_share=0.0,
    )  # fmt: skip
    return list(sandbox.read(knobs, Path()))


def make_base(folder: Path, *, seed: int = 1, groups: list[Group] | None = None) -> Path:
    build_base(make_groups() if groups is None else groups, MODEL, seed=seed, threads=1, folder=folder)
    return folder


def make_pretrained(base: str, revision: str | None = None) -> PretrainedModel:
    return PretrainedModel(kind="pretrained", max_tokens=256, base=base, revision=revision)


@pytest.fixture(autouse=True)
def _restore_torch() -> object:
    """Building sets threads and determinism for the whole process: put them back for the other tests."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def test_the_same_groups_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    assert digest_folder(make_base(tmp_path / "one")) == digest_folder(make_base(tmp_path / "two"))


def test_another_seed_gives_other_weights_and_the_same_tokenizer(tmp_path: Path) -> None:
    one, two = make_base(tmp_path / "one"), make_base(tmp_path / "two", seed=2)
    assert digest_file(one / "model.safetensors") != digest_file(two / "model.safetensors")
    assert digest_file(one / "tokenizer.json") == digest_file(two / "tokenizer.json")


def test_training_can_load_what_was_built(tmp_path: Path) -> None:
    model = load_base_folder(make_base(tmp_path / "base"), MODEL, seed=3)
    assert model.tokenizer.pad_token != model.tokenizer.eos_token
    assert model.rule.max_tokens == MODEL.max_tokens
    assert model.network.score.out_features == 1


def test_the_template_ends_at_the_turns_end_and_opens_the_assistants_turn() -> None:
    tokenizer = train_tokenizer(make_groups(), MODEL)
    question = [{"role": "user", "content": "Hi"}]
    answered = [*question, {"role": "assistant", "content": "Yes."}]
    opened = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert opened == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.apply_chat_template(answered, tokenize=False) == opened + "Yes.<|im_end|>"


def test_the_reward_is_read_at_the_turns_end_token() -> None:
    tokenizer = train_tokenizer(make_groups(), MODEL)
    encoded = encode(tokenizer, scoring_rule(tokenizer, 256), [Message("user", "Hi")], ["Yes."])
    assert encoded.completion_ids[0][-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    "text", ["naïve café", "日本語のテキスト", "emoji 🙂 and\ttabs\n", "<|im_end|> said the user"]
)
def test_every_text_survives_the_tokenizer(text: str) -> None:
    tokenizer = train_tokenizer(make_groups(), MODEL)
    rule = scoring_rule(tokenizer, 256)
    ids = encode(tokenizer, rule, [Message("user", "Hi")], [text]).completion_ids[0]
    assert tokenizer.decode(ids[:-1]) == text
    assert tokenizer.eos_token_id not in ids[:-1]


def test_a_group_without_winners_teaches_all_its_completions() -> None:
    completions = [Completion("a"), Completion("b"), Completion("c")]
    prompt = [Message("user", "Which?")]
    edges = [Comparison(0, 1, 2, 1), Comparison(2, 1, 1, 0)]
    judged = make_group(prompt=prompt, completions=completions, comparisons=edges, source="test")
    unjudged = make_group(prompt=prompt, completions=completions, comparisons=[], source="test")
    assert preferred(judged) == [0, 2]
    assert preferred(unjudged) == [0, 1, 2]


def test_one_prompt_alone_is_enough_to_build_from(tmp_path: Path) -> None:
    """Nothing to tell a prompt's own completion from: the warm-up goes without that half of its loss."""
    assert (make_base(tmp_path / "base", groups=make_groups()[:1]) / "model.safetensors").is_file()


def test_the_warm_up_s_loss_is_that_of_every_text_by_itself() -> None:
    """Prompts shared and nothing padded: the same numbers as one row per text, in the library's own attention."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        intermediate_size=24, max_position_embeddings=64, pad_token_id=0, num_labels=1,
    )  # fmt: skip
    network = Qwen3ForSequenceClassification(config).double()
    # The first and the last answer the same prompt: they don't compare.
    texts = [([5, 6, 7], [8, 9]), ([10], [11, 12, 13, 14]), ([15, 16], [17]), ([5, 6, 7], [18, 19, 20])]

    def read(prompt: list[int], completion: list[int]) -> Tensor:
        return network.model(input_ids=torch.tensor([prompt + completion])).last_hidden_state[0]

    losses, scores = [], {}
    for number, (prompt, completion) in enumerate(texts):
        logits = read(prompt, completion)[:-1] @ network.model.embed_tokens.weight.T
        losses.append(functional.cross_entropy(logits, torch.tensor([*prompt, *completion][1:]), reduction="none"))
        for row in (number, (number + 1) % len(texts)):
            scores[number, row] = network.score(read(prompt, texts[row][1])[-1])
    gaps = torch.cat([scores[number, number] - scores[number, number + 1] for number in range(3)])
    expected = torch.cat(losses).mean() - functional.logsigmoid(gaps).mean()
    attention.use(network)
    torch.testing.assert_close(warm_up_loss(network, texts), expected, rtol=1e-12, atol=1e-12)


def test_a_folder_is_pinned_by_the_digest_of_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(tmp_path))
    folder = make_tiny_base(tmp_path / "models" / "mine")
    settings = make_pretrained("models/mine")
    pin(settings, tmp_path / "base")
    record = json.loads((tmp_path / "base" / "base.json").read_text())
    assert record["kind"] == "pretrained"
    assert record["revision"] is None
    assert record["files"]["model.safetensors"] == digest_file(folder / "model.safetensors")
    assert load_base_folder(tmp_path / "base", settings, seed=1).rule.max_tokens == 256


def test_a_pinned_folder_that_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(tmp_path))
    make_tiny_base(tmp_path / "mine")
    pin(make_pretrained("mine"), tmp_path / "base")
    make_tiny_base(tmp_path / "mine", seed=1)
    with pytest.raises(ModelError, match=r"model\.safetensors of base mine has changed"):
        load_base_folder(tmp_path / "base", make_pretrained("mine"), seed=1)


@pytest.mark.parametrize(
    ("removed", "what"),
    [("config.json", "config"), ("tokenizer*", "tokenizer"), ("*.safetensors", "weights in safetensors")],
)
def test_a_folder_that_lacks_something_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: str, what: str
) -> None:
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(tmp_path))
    for path in make_tiny_base(tmp_path / "mine").glob(removed):
        path.unlink()
    with pytest.raises(ModelError, match=f"base folder mine has no {what}"):
        pin(make_pretrained("mine"), tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_a_folder_without_chat_template_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(tmp_path))
    (make_tiny_base(tmp_path / "mine") / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template"):
        pin(make_pretrained("mine"), tmp_path / "base")


def test_a_name_that_is_neither_folder_nor_hub_id_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(tmp_path))
    with pytest.raises(ModelError, match=r"model\.base: there is no folder \./nowhere"):
        pin(make_pretrained("./nowhere"), tmp_path / "base")


@pytest.mark.slow
@pytest.mark.parametrize("closed", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_an_unreachable_hub_is_one_sentence_soon(tmp_path: Path, closed: dict[str, str]) -> None:
    """In a process of its own: the hub's library reads its environment once, on import."""
    code = (
        "from pathlib import Path\n"
        "from touchstone.model.base import pin\n"
        "from touchstone.settings.model import PretrainedModel\n"
        "from touchstone.runtime.stage import run_stage\n"
        "model = PretrainedModel(kind='pretrained', max_tokens=64, base='nobody/nothing')\n"
        "run_stage(lambda: pin(model, Path('base')))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "HF_HOME": str(tmp_path / "hub"), **closed}
    environment["TOUCHSTONE_ROOT"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    [sentence] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "nobody/nothing" in sentence
    assert "hub" in sentence
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "base").exists()
