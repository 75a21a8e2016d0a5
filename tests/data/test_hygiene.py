"""One declared rule for every text, and the names of what is wrong with one."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from touchstone.data.hygiene import FAULTS, LONGEST_RUN, UNUSABLE, clean_group, faults, with_texts
from touchstone.groups import Comparison, Completion, Group, Message, make_group
from touchstone.runtime.texts import RULES, cleaned

DIRT = (
    "\r\n\t\x00\x07\x1b\x7f\x85\u200b\u200c\u200d\u200e\u202a\u202e\u2060"
    "\u2066\u2069\ufeff\u0301eA\u00e9\ud800\udc00\u212b"
)
TEXTS = st.text(st.sampled_from(DIRT) | st.characters(), max_size=40)

MANY = hypothesis_settings(max_examples=300, deadline=None)


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("plain text\twith a tab\nand a line", "plain text\twith a tab\nand a line"),
        ("one\r\ntwo\rthree\n\rfour", "one\ntwo\nthree\n\nfour"),
        ("\ufeffwith a mark", "with a mark"),
        ("zero\u200bwidth\u2060joined", "zerowidthjoined"),
        ("\u202eevil\u202c \u2067isolated\u2069", "evil isolated"),
        ("bell\x07, NUL\x00, escape\x1b[31m, delete\x7f, next line\x85", "bell, NUL, escape[31m, delete, next line"),
        ("cafe\u0301 \u212bngstro\u0308m", "caf\u00e9 \u00c5ngstr\u00f6m"),
        ("\r\u200b\n", "\n"),
        ("e\u200b\u0301", "\u00e9"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        ("\U0001f469\u200d\U0001f52c", "\U0001f469\u200d\U0001f52c"),
        ("\u05d0\u200e1\u200f", "\u05d0\u200e1\u200f"),
        ("half\ud800 a pair\x00", "half\ud800 a pair"),
        ("", ""),
    ],
)
def test_the_rule_text_by_text(dirty: str, clean: str) -> None:
    assert cleaned(dirty) == clean


@given(TEXTS)
@example("\r\u2060\r\n")
@MANY
def test_cleaning_twice_changes_nothing_and_leaves_nothing_to_clean(text: str) -> None:
    clean = cleaned(text)
    assert cleaned(clean) is clean or cleaned(clean) == clean
    assert unicodedata.is_normalized("NFC", clean)
    kept = [character for character in clean if character not in "\n\t"]
    assert not any(unicodedata.category(character) == "Cc" for character in kept)
    assert not set(clean) & set("\r\u200b\u2060\ufeff\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    assert [c for c in clean if c in "\u200c\u200d"] == [c for c in text if c in "\u200c\u200d"]


@given(TEXTS)
@MANY
def test_the_same_meaning_has_the_same_text(text: str) -> None:
    plain = cleaned(text)
    parted = unicodedata.normalize("NFD", plain)
    for other in (parted, plain.replace("\n", "\r\n"), "\ufeff" + plain, "\x00".join(plain)):
        assert cleaned(other) == plain


def make(prompt: str, *texts: str, cluster: str | None = None) -> Group:
    return make_group(
        prompt=[Message("user", prompt)],
        completions=[Completion(text, policy="someone", ratings={"gold": 1.0}) for text in texts],
        comparisons=[Comparison(0, 1, 2, 1, annotator="abc")],
        source="test",
        axis="safety",
        cluster_id=cluster,
        created_at="2020-01-01",
    )


def test_a_clean_group_is_the_same_object() -> None:
    group = make("Why?", "Because.", "caf\u00e9 \u200d")
    assert clean_group(group) == (group, ())
    assert clean_group(group)[0] is group


def test_a_group_becomes_what_a_clean_source_would_have_given() -> None:
    group, changed = clean_group(make("Why\r\n\x00?", "Be\u200bcause.", "cafe\u0301"))
    assert group == make("Why\n?", "Because.", "caf\u00e9")
    assert changed == ("control_character", "invisible_character", "line_ending", "composition")
    named, changed = clean_group(make("\u2066Why?", "Because.", "No.", cluster="topic"))
    assert named == make("Why?", "Because.", "No.", cluster="topic")
    assert changed == ("bidirectional_control",)


@given(st.lists(TEXTS, min_size=3, max_size=3))
@MANY
def test_a_rule_is_named_exactly_where_something_changed(texts: list[str]) -> None:
    group = make(*texts)
    clean, changed = clean_group(group)
    assert clean == with_texts(group, cleaned) == make(*map(cleaned, texts))
    assert (clean is group) == (not changed) == (texts == [cleaned(text) for text in texts])
    assert list(changed) == [rule for rule in RULES if rule in changed]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("An ordinary answer: 3 < 4 [see 1], ### heading, <b>bold</b>.", ()),
        ("Human rights\n\nThe Assistant: a novel", ()),
        ("### Instructions\nWhisk the eggs. ## Response times", ()),
        ("x <sub>2</sub> <strong> a|b <|> [cls] <S>", ()),
        ("broken \ud83d half", ("lone_surrogate",)),
        ("broken \ufffd decoding", ("replacement_character",)),
        ("a" * LONGEST_RUN, ()),
        ("x" + "a" * (LONGEST_RUN + 1), ("one_character_run",)),
        ("=" * 999 + "\n" + "=" * 999, ()),
        ("\u00e9" * 5000, ("one_character_run",)),
        ("Fine.\n\nHuman: and now?", ("role_marker",)),
        ("Assistant: I am.", ("role_marker",)),
        ("### Instruction:\nObey.", ("role_marker",)),
        ("<|user|> hello", ("role_marker", "special_token")),
        ("<start_of_turn>model", ("role_marker", "special_token")),
        ("[INST] hello [/INST]", ("role_marker", "special_token")),
        ("<|im_start|>user\nhi<|im_end|>", ("role_marker", "special_token")),
        ("the end<|endoftext|>", ("special_token",)),
        ("<s>text</s>", ("special_token",)),
        ("[CLS] a [SEP]", ("special_token",)),
        ("<bos>", ("special_token",)),
        ("<\uff5cend\u2581of\u2581sentence\uff5c>", ("special_token",)),
        ("\ud800\ufffd<s>\n\nHuman:" + " " * 1001, FAULTS),
    ],
)
def test_faults_by_name(text: str, names: tuple[str, ...]) -> None:
    assert faults(text) == names


@given(st.integers(0, 700), st.integers(LONGEST_RUN - 3, LONGEST_RUN + 4), st.integers(0, 700))
@MANY
def test_a_run_is_found_wherever_it_lies(before: int, length: int, after: int) -> None:
    text = "ab" * (before // 2) + "c" * length + "ba" * (after // 2)
    assert ("one_character_run" in faults(text)) == (length > LONGEST_RUN)


@given(TEXTS)
@MANY
def test_what_no_encoding_can_write_is_named(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        assert "lone_surrogate" in faults(cleaned(text))
    else:
        assert "lone_surrogate" not in faults(cleaned(text))


def test_only_what_says_nothing_sets_a_row_aside() -> None:
    assert set(UNUSABLE) == {"lone_surrogate", "one_character_run"} < set(FAULTS)


def test_a_long_text_takes_time_in_proportion() -> None:
    """Millions of characters in runs just short of a fault: a quadratic rule would take hours."""
    assert faults(("a" * LONGEST_RUN + "b") * 5_000) == ()
    assert faults("<|[#" * 1_000_000) == ()
    assert cleaned("\x00e\u0301\r" * 500_000) == "\u00e9\n" * 500_000
