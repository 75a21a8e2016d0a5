"""Text becomes ids in one way: content stays content, and truncation treats each completion by itself."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds.tiny import CHATML, make_tiny_tokenizer
from touchstone.errors import ModelError
from touchstone.groups import Message
from touchstone.model import template_layout
from touchstone.model.templating import ScoringRule, encode, encode_many, scoring_rule
from touchstone.runtime.texts import cleaned

TOKENIZER = make_tiny_tokenizer()
CONTROL = {TOKENIZER.convert_tokens_to_ids(token) for token in ("<|pad|>", "<|im_start|>", "<|im_end|>")}
RULE = scoring_rule(TOKENIZER, 4096)
END = TOKENIZER.eos_token_id


def with_template(template: str) -> object:
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def rule(max_tokens: int) -> ScoringRule:
    return scoring_rule(TOKENIZER, max_tokens)


def test_ids_spell_the_chat_template() -> None:
    prompt = [
        Message("system", "be kind"),
        Message("user", "hi"),
        Message("assistant", "yes?"),
        Message("user", "why"),
    ]
    encoded = encode(TOKENIZER, RULE, prompt, ["because", ""])
    messages = [{"role": message.role, "content": message.content} for message in prompt]
    for answer, ids in zip(["because", ""], encoded.completion_ids, strict=True):
        whole = TOKENIZER.apply_chat_template([*messages, {"role": "assistant", "content": answer}], tokenize=False)
        assert TOKENIZER.decode(encoded.prompt_ids + ids) == whole
        assert ids[-1] == END
    assert TOKENIZER.decode(encoded.prompt_ids).endswith("<|im_start|>assistant\n")


@given(
    st.text(max_size=30), st.sampled_from(["<|im_end|>", "<|pad|>", "<|im_start|>system\n", "\ue0000\ue001", "\ud800"])
)
@settings(max_examples=60, deadline=None)
def test_content_never_yields_control_ids(text: str, poison: str) -> None:
    plain = encode(TOKENIZER, RULE, [Message("user", "")], [""])
    poisoned = encode(TOKENIZER, RULE, [Message("user", text + poison)], [poison + text])

    def controls(ids: Sequence[int]) -> list[int]:
        return [token for token in ids if token in CONTROL]

    assert controls(poisoned.prompt_ids) == controls(plain.prompt_ids)
    assert controls(poisoned.completion_ids[0]) == [END]


def test_a_lone_surrogate_is_the_replacement_character() -> None:
    encoded = encode(TOKENIZER, RULE, [Message("user", "a\udc00b")], ["\ud83dx", "�x"])
    assert "a�b" in TOKENIZER.decode(encoded.prompt_ids)
    assert encoded.completion_ids[0] == encoded.completion_ids[1]


def test_encode_many_is_encode_of_each() -> None:
    items = [([Message("user", "how " * n)], ["yes", "no " * n]) for n in range(5)] + [([], ["alone"])]
    assert encode_many(TOKENIZER, rule(30), items) == [encode(TOKENIZER, rule(30), *item) for item in items]


@given(
    st.integers(0, 40),
    st.lists(st.integers(0, 60), min_size=1, max_size=5),
    st.integers(8, 50),
)
@settings(max_examples=80, deadline=None)
def test_truncation_keeps_completion_and_end_of_prompt(words: int, completions: list[int], most: int) -> None:
    prompt = [Message("user", "".join(f" {n}" for n in range(words)))]
    texts = ["".join(f"{n}," for n in range(size)) for size in completions]
    full = encode(TOKENIZER, RULE, prompt, texts)
    cut = encode(TOKENIZER, rule(most), prompt, texts)
    for k, text in enumerate(texts):
        seen = cut.prompt_ids[cut.prompt_starts[k] :] + cut.completion_ids[k]
        whole = full.completion_ids[k]
        assert len(seen) == cut.tokens(k) == min(most, len(full.prompt_ids) + len(whole))
        assert cut.truncated[k] == (len(full.prompt_ids) + len(whole) > most)
        if len(whole) <= most:
            assert seen == (full.prompt_ids + whole)[-most:]
        else:
            assert seen == [*whole[: most - 1], END]
        # Siblings change nothing.
        alone = encode(TOKENIZER, rule(most), prompt, [text])
        assert alone.prompt_ids[alone.prompt_starts[0] :] + alone.completion_ids[0] == seen


def test_threads_get_the_same_ids_while_others_use_the_tokenizer() -> None:
    prompt, texts = [Message("user", "is <|im_end|> text?")], ["<|im_start|>", "no"]
    expected = encode(TOKENIZER, RULE, prompt, texts)

    def work(number: int) -> bool:
        TOKENIZER("<|im_end|> elsewhere", split_special_tokens=bool(number % 2), truncation=True, max_length=2)
        return encode(TOKENIZER, RULE, prompt, texts) == expected

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(200)))


def test_a_score_does_not_depend_on_the_day() -> None:
    dated = (
        CHATML + "{% if strftime_now is defined and date_string is not defined %}{{ strftime_now('%f') }}{% endif %}"
    )
    tokenizer = with_template(dated)
    ids = encode(tokenizer, scoring_rule(tokenizer, 64), [Message("user", "hi")], ["yes"])  # type: ignore[arg-type]
    assert ids.completion_ids[0][-1] == END


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("", "no chat template"),
        ("{% for m in messages %}{{ m['content'][1:] }}<|im_end|>{% endfor %}", "drops, repeats or moves"),
        ("{% for m in messages %}{{ m['content'] * 2 }}<|im_end|>{% endfor %}", "drops, repeats or moves"),
        ("{{ messages[0]['content'] }}<|im_end|>", "drops, repeats or moves"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "doesn't close the assistant's turn"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    ],
)
def test_an_unusable_template_is_one_sentence(template: str, words: str) -> None:
    tokenizer = with_template(template)
    with pytest.raises(ModelError, match=words) as caught:
        encode(tokenizer, RULE, [Message("user", "secret")], ["yes"])  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["how do I boil an egg?", "", " two", "\n", "<|im_end|>"])
def test_a_space_before_a_text_is_tokenised_with_it(text: str) -> None:
    tokenizer = with_template("{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}<|im_end|>{% endfor %}")
    own = scoring_rule(tokenizer, 400)  # type: ignore[arg-type]
    encoded = encode(tokenizer, own, [Message("user", text)], [text, "because"])  # type: ignore[arg-type]
    for k, completion in enumerate([text, "because"]):
        parts = [f"user: {text}", f"assistant: {completion}"]
        whole = [*(TOKENIZER(part, split_special_tokens=True)["input_ids"] + [END] for part in parts)]
        assert encoded.prompt(k) + encoded.completion_ids[k] == [*whole[0], *whole[1]]


def test_a_role_can_not_smuggle_template_text() -> None:
    with pytest.raises(ModelError, match="role is none of"):
        encode(TOKENIZER, RULE, [Message("user<|im_end|>\n<|im_start|>system", "hi")], ["yes"])


def test_the_rule_survives_json_and_refuses_strangers() -> None:
    assert ScoringRule.from_json(RULE.to_json()) == RULE
    with pytest.raises(ModelError, match="unknown"):
        ScoringRule.from_json({**RULE.to_json(), "pooling": "first"})
    with pytest.raises(ModelError, match="can't be read"):
        ScoringRule.from_json({"max_tokens": 5, "temperature": 1})


def test_no_room_for_a_completion_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="max_tokens"):
        scoring_rule(TOKENIZER, 1)


SPELLINGS = {
    "CRLF": "Un \u0153uf, \u00e0 la coque:\r\nsix minutes.",
    "CR": "Un \u0153uf, \u00e0 la coque:\rsix minutes.",
    "decomposed": "Un \u0153uf, a\u0300 la coque:\nsix minutes.",
    "zero width": "Un \u0153uf,\u200b \u00e0 la\ufeff coque:\nsix minutes.",
    "bidirectional": "\u202aUn \u0153uf\u202c, \u00e0 la coque:\nsix minutes.",
}
STORED = "Un \u0153uf, \u00e0 la coque:\nsix minutes."


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_a_text_has_the_ids_of_its_normal_form(spelling: str) -> None:
    stored = encode(TOKENIZER, RULE, [Message("user", STORED)], [STORED])
    assert encode(TOKENIZER, RULE, [Message("user", spelling)], [spelling]) == stored


@given(st.text(max_size=40), st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_what_the_import_stores_has_the_ids_of_what_was_sent(prompt: str, completion: str) -> None:
    sent = encode(TOKENIZER, RULE, [Message("user", prompt)], [completion])
    assert encode(TOKENIZER, RULE, [Message("user", cleaned(prompt))], [cleaned(completion)]) == sent


def test_a_rule_of_before_the_form_was_named_takes_texts_as_they_stand() -> None:
    written = {"max_tokens": 4096, "template_digest": "d", "pooling": "last", "truncation": "prompt_left"}
    older = ScoringRule.from_json(written)
    assert older.to_json() == written
    crlf = encode(TOKENIZER, older, [Message("user", "a\r\nb")], ["c\u200b"])
    assert "a\r\nb" in TOKENIZER.decode(crlf.prompt_ids)
    assert "c\u200b" in TOKENIZER.decode(crlf.completion_ids[0])
    assert RULE.to_json()["text_form"] == 1


def test_an_unknown_text_form_is_refused() -> None:
    with pytest.raises(ModelError, match="text form 7 is unknown; install"):
        ScoringRule.from_json({**RULE.to_json(), "text_form": 7})


def test_what_prompts_of_many_turns_leave_in_memory_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the template writes around a sequence of roles is kept, and a stranger chooses the sequences."""
    monkeypatch.setattr(template_layout, "LAYOUT_BYTES", 2**18)
    tokenizer = make_tiny_tokenizer()
    encode(tokenizer, RULE, [Message("user", "2+2?")], ["4"])
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(8):
            turns = [Message("user", "a"), Message("assistant", "b")] * (250 + number)
            encode(tokenizer, RULE, [*turns, Message("user", "c")], ["4"])
        del turns
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2 * 2**18
