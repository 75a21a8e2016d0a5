"""A judge in this process: a tiny causal language model, made of nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.places import ROOT
from tests.worlds.tiny import make_tiny_base
from touchstone.errors import JudgeError, ModelError
from touchstone.groups import Completion, Group, Message, make_group
from touchstone.model.llm_judge.judge import Identity, Judge
from touchstone.model.llm_judge.local import TOO_LONG
from touchstone.model.llm_judge.verdicts import PairVerdict, verdict_line
from touchstone.settings.llm_judge import LlmJudge, LocalEngine


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("judge") / "tiny")


def settings(base: Path, folder: Path, **engine: object) -> LlmJudge:
    return LlmJudge(
        engine=LocalEngine.model_validate({"kind": "local", "base": str(base), **engine}),
        instructions=str(ROOT / "configs/llm_judge/instructions.txt"),
        principles=str(ROOT / "configs/principles/default.yaml"),
        max_answer_tokens=8,
        cache=str(folder / "cache"),
    )


def group(second: str = "No.") -> Group:
    return make_group(
        prompt=[Message("user", "Tea?")],
        completions=[Completion("Yes, please."), Completion(second)],
        comparisons=[],
        source="test",
    )


def ask(chosen: LlmJudge, folder: Path, second: str = "No.") -> PairVerdict:
    with Judge.open(chosen, folder) as judge:
        return judge.compare([(group(second), [(0, 1)])])[0][0]


def test_the_likeliest_verdict_line_is_the_verdict(base: Path, tmp_path: Path) -> None:
    """Against probabilities that transformers computes by itself, one line at a time."""
    chosen = settings(base, tmp_path)
    pair = ask(chosen, tmp_path)
    assert pair.reason is None

    tokenizer, network = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base).eval()
    instructions = Identity.of(chosen, tmp_path).instructions
    question = instructions.question((Message("user", "Tea?"),), "Yes, please.", "No.", "helpfulness")
    chat = [{"role": message.role, "content": message.content} for message in question.messages]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    likelihoods = []
    for name in ("A", "B", "tie"):
        start = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
        line = tokenizer(verdict_line(question.code, name), return_tensors="pt", add_special_tokens=False).input_ids
        ids = torch.cat([start, line], dim=1)
        with torch.inference_mode():
            labels = torch.where(torch.arange(ids.shape[1]) < start.shape[1], -100, ids)
            loss = network(input_ids=ids, labels=labels).loss
        likelihoods.append(-float(loss) * line.shape[1])
    expected = torch.softmax(torch.tensor(likelihoods), dim=0).tolist()
    assert pair.forward.shares == pytest.approx(expected, abs=1e-4)
    assert pair.forward.choice == ("first", "second", "tie")[expected.index(max(expected))]


def test_a_second_process_says_the_same(base: Path, tmp_path: Path) -> None:
    assert ask(settings(base, tmp_path / "a"), tmp_path) == ask(settings(base, tmp_path / "b"), tmp_path)


def test_what_a_random_model_writes_is_no_verdict(base: Path, tmp_path: Path) -> None:
    pair = ask(settings(base, tmp_path, answer="generate"), tmp_path)
    assert pair.winner is None
    assert pair.reason in ("the answer was cut at llm_judge.max_answer_tokens", "the last line is no verdict")


def test_a_question_that_is_too_long_has_no_verdict(base: Path, tmp_path: Path) -> None:
    pair = ask(settings(base, tmp_path, max_tokens=3000), tmp_path, "No. " * 2_000)
    assert pair.reason == TOO_LONG


def test_the_judge_is_its_weights_wherever_they_lie(base: Path, tmp_path: Path) -> None:
    identity = Identity.of(settings(base, tmp_path), tmp_path)
    copy = tmp_path / base.name
    copy.mkdir()
    for path in base.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert Identity.of(settings(copy, tmp_path), tmp_path).digest == identity.digest
    other = make_tiny_base(tmp_path / "other" / base.name, seed=1)
    assert Identity.of(settings(other, tmp_path), tmp_path).digest != identity.digest


def test_what_is_no_chat_model_is_refused(base: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    for path in base.iterdir():
        if path.name != "chat_template.jinja":
            (plain / path.name).write_bytes(path.read_bytes())
    with pytest.raises(JudgeError, match="no chat template"):
        ask(settings(plain, tmp_path), tmp_path)
    with pytest.raises(ModelError, match="no folder"):
        ask(settings(tmp_path / "nowhere", tmp_path), tmp_path)
