"""Reasoning between <think> and </think> is scored as the chat template writes it, or the template is refused."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tests.worlds.tiny import CHATML, QWEN3_KIND, make_thinking_tokenizer
from touchstone.errors import ModelError
from touchstone.groups import Message
from touchstone.model.templating import ScoringRule, encode, scoring_rule

TOKENIZER = make_thinking_tokenizer()
RULE = scoring_rule(TOKENIZER, 4096)
ASK = (Message("user", "2+2?"),)
LONG = (*ASK, Message("assistant", "<think>\nEasy.\n</think>\n\n4"), Message("user", "Sure?"))
TEXTS = (
    "4",
    "<think>\nTwo and two.\n</think>\n\n4",
    "<think>Two and two.</think>4",
    "Two and two.</think>\n4",
    "<think>\n\n</think>\n\n4",
    "<think> no end",
    "</think>",
)
CUTS_REASONING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content.split('</think>')[-1] + '<|im_end|>' }}"
    "{% endfor %}"
)
GLM_KIND = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}"
    "{% if '</think>' in m.content %}"
    "{{ '<think>' + m.content.split('</think>')[0].split('<think>')[-1].strip() + '</think>\\n' "
    "+ m.content.split('</think>')[-1].strip() }}"
    "{% else %}{{ '<think></think>\\n' + m.content }}{% endif %}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>{% endfor %}"
)


def as_transformers_writes(tokenizer: PreTrainedTokenizerFast, prompt: tuple[Message, ...], text: str) -> list[int]:
    messages = [
        {"role": message.role, "content": message.content} for message in (*prompt, Message("assistant", text))
    ]
    ids: list[int] = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False))["input_ids"]
    return ids


@pytest.mark.parametrize("template", [QWEN3_KIND, CUTS_REASONING, GLM_KIND], ids=["qwen3", "cuts", "glm"])
@pytest.mark.parametrize("prompt", [ASK, LONG], ids=["one turn", "reasoning in an earlier turn"])
@pytest.mark.parametrize("text", TEXTS)
def test_reasoning_is_written_as_the_template_writes_it(template: str, prompt: tuple[Message, ...], text: str) -> None:
    tokenizer = make_thinking_tokenizer(template)
    encoded = encode(tokenizer, scoring_rule(tokenizer, 4096), prompt, ["another", text])
    assert encoded.prompt(1) + encoded.completion_ids[1] == as_transformers_writes(tokenizer, prompt, text)
    assert encoded.prompt(0) + encoded.completion_ids[0] == as_transformers_writes(tokenizer, prompt, "another")


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "\n", "four", " ", "<|im_end|>", "\ue0001\ue001"]), max_size=8)
)
@settings(max_examples=80, deadline=None)
def test_reasoning_never_yields_control_ids(pieces: list[str]) -> None:
    encoded = encode(TOKENIZER, RULE, ASK, ["".join(pieces)])
    end = TOKENIZER.eos_token_id
    assert encoded.completion_ids[0].count(end) == 1
    assert TOKENIZER.convert_tokens_to_ids("<|im_start|>") not in encoded.completion_ids[0]


def test_a_cut_completion_keeps_the_block_that_the_template_writes() -> None:
    least = len(encode(TOKENIZER, RULE, (), [""]).completion_ids[0])
    cut = encode(TOKENIZER, scoring_rule(TOKENIZER, least + 3), ASK, ["four " * 50, "<think>\na\n</think>\n\nb"])
    assert [cut.tokens(0), cut.truncated[0]] == [least + 3, True]
    assert cut.completion_ids[0][0] == TOKENIZER.convert_tokens_to_ids("<think>")


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + ('<think/>\\n' if '</think>' not in m.content "
        "else '') + m.content + '<|im_end|>' }}{% endfor %}",
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + ('<|im_end|>' if '</think>' not in "
        "m.content else '</s><|im_end|>\\n') }}{% endfor %}",
    ],
    ids=["another mark in front", "another end"],
)
def test_a_template_that_rewrites_beyond_repeating_is_refused(template: str) -> None:
    with pytest.raises(ModelError, match="rewrites texts that reason between <think> and </think> in a way"):
        scoring_rule(make_thinking_tokenizer(template), 4096)


def test_a_template_whose_tags_are_control_tokens_is_refused() -> None:
    with pytest.raises(ModelError, match="which are control tokens of"):
        scoring_rule(make_thinking_tokenizer(special=True), 4096)
    plain = make_thinking_tokenizer(
        "{% for m in messages %}{{ m.role + m.content + '<|im_end|>' }}{% endfor %}", special=True
    )
    assert scoring_rule(plain, 4096).text_form == 1


def test_a_rule_of_before_writes_reasoning_as_it_did() -> None:
    older = ScoringRule(4096, RULE.template_digest)
    text = TEXTS[1]
    encoded = encode(TOKENIZER, older, ASK, [text])
    assert TOKENIZER.decode(encoded.prompt_ids).endswith("assistant\n<think>\n\n</think>\n\n")
    assert TOKENIZER.decode(encoded.completion_ids[0]).startswith(text)


def test_a_prompt_of_endless_turns_is_encoded_at_once_or_refused() -> None:
    """A template is asked about every turn that reasons, with all the others around it: that would be quadratic."""
    turn = [Message("user", "2+2?"), Message("assistant", "4")]
    start = time.monotonic()
    encode(TOKENIZER, RULE, [*turn * 500, *ASK], ["4", TEXTS[1]])
    reasons = [Message("user", "2+2?"), Message("assistant", TEXTS[1])]
    with pytest.raises(ModelError, match="more than 64 turns of a prompt reason"):
        encode(TOKENIZER, RULE, [*reasons * 500, *ASK], ["4"])
    plain = make_thinking_tokenizer(CHATML)
    encode(plain, scoring_rule(plain, 4096), [*reasons * 500, *ASK], ["4", TEXTS[1]])
    assert time.monotonic() - start < 60
