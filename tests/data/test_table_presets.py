"""Every preset of the table source, on invented rows of its shape: the better answer always says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.places import ROOT
from touchstone import settings as settings_module
from touchstone.data.importing import import_source
from touchstone.data.sources import Quarantined, about, read_source
from touchstone.groups import Group, Message, judged_pairs
from touchstone.settings.table import UNKNOWN_LICENCE, TableData

GOOD, FAIR, BAD = "Dry it first, then cover it.", "Perhaps cover it.", "I don't know."
ASKED = "How do I store a kettle over winter?"
PRESETS = sorted(
    path.stem for path in (ROOT / "configs" / "data").glob("*.yaml") if "defaults: [table]" in path.read_text()
)


def said(
    *texts: str, keys: tuple[str, str] = ("role", "content"), names: tuple[str, str] = ("user", "assistant")
) -> Any:
    return [{keys[0]: names[n % 2], keys[1]: text} for n, text in enumerate(texts)]


def _ultrafeedback(text: str, score: float) -> dict[str, Any]:
    aspects = ("helpfulness", "honesty", "instruction_following", "truthfulness")
    notes = {name: {"Rating": "N/A" if name == "honesty" else str(int(score)), "Rationale": "."} for name in aspects}
    return {"annotations": notes, "custom_system_prompt": "Be plain.", "model": "m", "principle": "helpfulness",
            "response": text, "critique": ".", "overall_score": 10 - score, "fine-grained_score": score}  # fmt: skip


def _message(text: str, role: str, rank: int | None, *replies: Any, **more: Any) -> dict[str, Any]:
    return {"message_id": text, "text": text, "role": role, "lang": "en", "review_count": 3, "review_result": True,
            "deleted": False, "rank": rank, "synthetic": False, "replies": list(replies), **more}  # fmt: skip


def _pku(better: int, safer: int) -> dict[str, Any]:
    return {"prompt": ASKED, "response_0": GOOD, "response_1": BAD, "prompt_source": "own", "response_0_source": "m1",
            "response_1_source": "m2", "is_response_0_safe": True, "is_response_1_safe": False,
            "response_0_severity_level": 0, "response_1_severity_level": 2,
            "better_response_id": better, "safer_response_id": safer}  # fmt: skip


def _arena(first: str, second: str, winner: str, **more: Any) -> dict[str, Any]:
    return {"question_id": "q", "model_a": "m1", "model_b": "m2", "winner": winner, "judge": "arena_user_1",
            "conversation_a": said(ASKED, first), "conversation_b": said(ASKED, second), "turn": 1, "anony": True,
            "language": "English", "tstamp": 1682351591.1, **more}  # fmt: skip


def _shp(first: str, second: str, label: int, scores: tuple[int, int]) -> dict[str, Any]:
    return {"post_id": "p", "domain": "askhow_train", "upvote_ratio": 0.9, "history": ASKED, "c_root_id_A": "a",
            "c_root_id_B": "b", "created_at_utc_A": 1600000000, "created_at_utc_B": 1600000100, "score_A": scores[0],
            "score_B": scores[1], "human_ref_A": first, "human_ref_B": second, "labels": label,
            "seconds_difference": 100.0, "score_ratio": 8.0}  # fmt: skip


def _summaries(first: str, second: str, choice: int, worker: str) -> dict[str, Any]:
    summaries = [{"text": text, "policy": f"of {text}", "note": None} for text in (first, second)]
    return {"info": {"id": "t3", "post": ASKED, "title": "Winter", "subreddit": "own", "site": None, "article": None},
            "summaries": summaries, "choice": choice, "worker": worker, "batch": "b", "split": "train",
            "extra": {"confidence": 7}}  # fmt: skip


ROWS: dict[str, list[dict[str, Any]]] = {
    "ultrafeedback_raw": [
        {"source": "own", "instruction": ASKED, "models": ["m"] * 3, "correct_answers": ["None"],
         "completions": [_ultrafeedback(FAIR, 3.25), _ultrafeedback(GOOD, 4.5), _ultrafeedback(BAD, 1.0)]}
    ],
    "helpsteer2": [
        {"prompt": ASKED, "response": text, "helpfulness": score, "correctness": score, "coherence": 4,
         "complexity": 1, "verbosity": 1} for text, score in ((BAD, 0), (GOOD, 4))
    ],
    "helpsteer2_preference": [
        {"split": "train", "prompt": ASKED, "response_1": first, "response_2": second, "preference_strength": strength,
         "preference_statement": ".", "all_preferences_unprocessed": [{"strength": strength, "justification": "j"}]}
        for first, second, strength in ((GOOD, BAD, -3), (BAD, GOOD, 1), (GOOD, FAIR, 0))
    ],
    "helpsteer3": [
        {"domain": "general", "language": "english", "context": said(ASKED), "response1": first, "response2": second,
         "overall_preference": strength, "individual_preference": [{"score": strength, "reasoning": "r"}]}
        for first, second, strength in ((GOOD, BAD, -2), (BAD, GOOD, 3), (GOOD, FAIR, 0))
    ],
    "nectar": [
        {"prompt": f"\n\nHuman: {ASKED}\n\nAssistant: ", "turns": 1, "num_responses": 3, "source": ["own"],
         "good_natured": True, "answers": [{"answer": text, "model": "m", "rank": rank}
                                           for text, rank in ((FAIR, 2.0), (BAD, 3.0), (GOOD, 1.0))]}
    ],
    "shp": [_shp(BAD, GOOD, 0, (5, 40)), _shp(GOOD, BAD, 1, (40, 5))],
    "pku_saferlhf": [_pku(0, 0), _pku(0, 1)],
    "webgpt": [
        {"question": {"dataset": "own", "id": "q", "full_text": ASKED}, "quotes_0": {"title": [], "extract": []},
         "answer_0": first, "answer_1": second, "tokens_0": {}, "score_0": score, "score_1": -score}
        for first, second, score in ((BAD, GOOD, -0.5), (GOOD, BAD, 1.0), (GOOD, FAIR, 0.0))
    ],
    "summarize_from_feedback": [
        _summaries(GOOD, BAD, 0, "w1"), _summaries(BAD, GOOD, 1, "w2"), _summaries(FAIR, BAD, 0, "w1")
    ],
    "chatbot_arena": [
        _arena(BAD, GOOD, "model_b"), _arena(GOOD, BAD, "model_a"), _arena(GOOD, FAIR, "tie"),
        _arena(BAD, BAD + "!", "tie (bothbad)"),
        _arena("", "", "model_a", conversation_a=said(ASKED, GOOD, "And?", GOOD),
               conversation_b=said(ASKED, BAD, "And?", BAD)),
    ],
    "arena55k": [
        {"id": 1, "model_a": "m1", "model_b": "m2", "prompt": json.dumps([ASKED]), "response_a": json.dumps([first]),
         "response_b": json.dumps([second]), "winner_model_a": a, "winner_model_b": b, "winner_tie": tie}
        for first, second, a, b, tie in ((GOOD, BAD, 1, 0, 0), (BAD, GOOD, "0", "1", "0"), (GOOD, FAIR, 0, 0, 1))
    ],
    "mt_bench_human": [
        {"question_id": 81, "model_a": a, "model_b": b, "winner": winner, "judge": judge, "turn": turn,
         "conversation_a": said(ASKED, texts[0], "And?", "Yes."),
         "conversation_b": said(ASKED, texts[1], "And?", "No.")}
        for a, b, winner, judge, turn, texts in (
            ("good", "bad", "model_a", "author_1", 1, (GOOD, BAD)),
            ("bad", "good", "model_b", "expert_2", 1, (BAD, GOOD)),
            ("good", "bad", "model_b", "expert_2", 2, (GOOD, BAD)),
        )
    ],
    "stack_exchange_preferences": [
        {"qid": 1, "question": ASKED, "date": "2015/07/29", "metadata": ["https://own/q/1"],
         "answers": [{"answer_id": n, "author": "x", "pm_score": score, "selected": n == 1, "text": text}
                     for n, (text, score) in enumerate(((BAD, "0"), (GOOD, 3), (FAIR, 1)))]}
    ],
    "oasst_trees": [
        {"message_tree_id": "t", "tree_state": "ready_for_export",
         "prompt": _message(ASKED, "prompter", None,
                            _message(BAD, "assistant", 1),
                            _message(GOOD, "assistant", 0, _message("And then?", "prompter", None,
                                                                    _message("Nothing.", "assistant", 0))),
                            _message("Buy!", "assistant", 2, deleted=True),
                            _message("Hm", "assistant", None, review_result=None))}
    ],
    "skywork_preference": [{"chosen": said(ASKED, GOOD), "rejected": said(ASKED, BAD), "source": "own"}],
    "orca_dpo_pairs": [{"system": "Be brief.", "question": ASKED, "chosen": GOOD, "rejected": BAD},
                       {"system": "", "question": ASKED + "?", "chosen": GOOD, "rejected": BAD}],
    "distilabel_pairs": [
        {"system": "", "input": ASKED, "chosen": texts[0], "rejected": texts[1], "generations": list(texts),
         "order": ["chosen", "rejected"], "rating": rating, "status": status}
        for texts, rating, status in (((BAD, GOOD), [1.0, 9.0], "swapped"), ((GOOD, FAIR), [8.0, 8.0], "tie"))
    ],
    "kto": [{"prompt": ASKED, "completion": text, "label": label} for text, label in ((GOOD, True), (BAD, False))],
    "llamafactory_alpaca": [
        {"instruction": "Answer the question below.", "input": ASKED, "chosen": GOOD, "rejected": BAD},
        {"instruction": ASKED, "input": "", "system": "Be brief.", "history": [["Hi.", "Hello."]], "chosen": GOOD,
         "rejected": BAD},
    ],
    "llamafactory_sharegpt": [
        {"conversations": said(ASKED, keys=("from", "value"), names=("human", "gpt")),
         "chosen": {"from": "gpt", "value": GOOD}, "rejected": {"from": "gpt", "value": BAD}}
    ],
    "ms_swift": [
        {"messages": [{"role": "system", "content": "Be brief."}, *said(ASKED, GOOD)], "rejected_response": BAD}
    ],
}  # fmt: skip
RANK = {GOOD: 2, FAIR: 1, BAD: 0}


def imported(name: str, root: Path, *overrides: str) -> tuple[list[Group], list[str]]:
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
    settings = settings_module.compose(
        [f"data={name}", "data.path=rows.jsonl", "data.revision=null", *overrides], ROOT / "configs"
    )
    rows = list(read_source(settings.data, root))
    return (
        [row for row in rows if isinstance(row, Group)],
        [row.reason for row in rows if isinstance(row, Quarantined)],
    )


def copied(value: Any, number: int) -> Any:
    """A row for another prompt: every long text but the answers ends with a number."""
    if isinstance(value, dict):
        return {key: copied(item, number) for key, item in value.items()}
    if isinstance(value, list):
        return [copied(item, number) for item in value]
    return value.replace("?", f" {number}?") if isinstance(value, str) else value


def outcomes(groups: list[Group]) -> list[tuple[str, str, str | None]]:
    """(axis, text, text, the better one) of every judged pair."""
    return [
        (
            group.axis,
            group.completions[pair.first].text,
            group.completions[pair.second].text,
            None if pair.chosen is None else group.completions[pair.chosen].text,
        )
        for group in groups
        for pair in judged_pairs(group)
    ]


def test_every_preset_has_rows_here_and_a_line_in_the_table() -> None:
    page = (ROOT / "docs" / "data_sets.md").read_text()
    assert sorted(ROWS) == PRESETS
    assert [name for name in PRESETS if f"`{name}`" not in page] == []


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_prefers_what_its_rows_prefer(name: str, tmp_path: Path) -> None:
    groups, aside = imported(name, tmp_path)
    pairs = [pair for pair in outcomes(groups) if pair[0] == "helpfulness"]
    assert any(better is not None for *_, better in pairs)
    for _, first, second, better in pairs:
        if better is not None:
            assert better == max(first, second, key=RANK.__getitem__)
        else:
            assert {first, second} in ({GOOD, FAIR}, {BAD, BAD + "!"})
    assert all(group.prompt[-1].role == "user" for group in groups)
    assert len(aside) == {"oasst_trees": 2, "chatbot_arena": 1, "mt_bench_human": 1}.get(name, 0)
    assert {group.source for group in groups} == {name}


@pytest.mark.parametrize("name", PRESETS)
def test_clean_rows_of_a_preset_raise_no_alarm(name: str, tmp_path: Path) -> None:
    many = [copied(row, number) for number in range(12) for row in ROWS[name]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many))
    settings = settings_module.compose(
        [f"data={name}", "data.path=rows.jsonl", "data.revision=null", "importing.suspicion=warn"], ROOT / "configs"
    )
    assert [str(alarm) for alarm in import_source(settings, tmp_path, tmp_path / "data").alarms] == []


def test_two_axes_of_pku_disagree_where_its_rows_do(tmp_path: Path) -> None:
    groups, _ = imported("pku_saferlhf", tmp_path)
    assert [(axis, better) for axis, _, _, better in outcomes(groups)] == [
        ("helpfulness", GOOD),
        ("safety", GOOD),
        ("helpfulness", GOOD),
        ("safety", BAD),
    ]
    assert [completion.ratings for completion in groups[0].completions] == [{"severity": 0.0}, {"severity": 2.0}]
    safety, _ = imported("pku_saferlhf", tmp_path, "~data.judgements.helpfulness")
    assert {group.axis for group in safety} == {"safety"}


def test_several_judges_of_a_pair_stay_several(tmp_path: Path) -> None:
    (posts,), _ = imported("summarize_from_feedback", tmp_path)
    assert posts.prompt == (Message("user", f"Winter\n\n{ASKED}"),)
    assert len(posts.completions) == 3
    names = [edge.annotator for edge in posts.comparisons]
    assert names[0] == names[2] != names[1]
    (question,), (why,) = imported("mt_bench_human", tmp_path)
    assert why == "the dialogues part before their last turn"
    assert len(question.completions) == 2
    assert [(edge.i, edge.wins_i) for edge in question.comparisons] == [(0, 1.0), (1, 0.0)]
    assert len({edge.annotator for edge in question.comparisons}) == 2


def test_margins_and_ratings_are_carried(tmp_path: Path) -> None:
    groups, _ = imported("helpsteer2_preference", tmp_path)
    assert [edge.margin for group in groups for edge in group.comparisons] == [3.0, 1.0, None]
    groups, _ = imported("shp", tmp_path)
    assert [edge.margin for group in groups for edge in group.comparisons] == [35.0, 35.0]
    assert groups[0].cluster_id == groups[1].cluster_id
    (group,), _ = imported("ultrafeedback_raw", tmp_path)
    assert group.completions[1].ratings == {
        "fine-grained_score": 4.5, "helpfulness": 4.0, "instruction_following": 4.0, "truthfulness": 4.0
    }  # fmt: skip
    (group,), _ = imported("helpsteer2", tmp_path)
    assert group.completions[1].ratings["correctness"] == 4.0
    each, _ = imported("helpsteer3", tmp_path, 'data.judgements.helpfulness.field="individual_preference[].score"')
    assert [edge.margin for group in each for edge in group.comparisons] == [2.0, 3.0, None]


def test_context_is_part_of_the_prompt(tmp_path: Path) -> None:
    first, second = imported("llamafactory_alpaca", tmp_path)[0]
    assert first.prompt == (Message("user", f"Answer the question below.\n\n{ASKED}"),)
    assert [message.role for message in second.prompt] == ["system", "user", "assistant", "user"]
    (group,), _ = imported("ms_swift", tmp_path)
    assert group.prompt == (Message("system", "Be brief."), Message("user", ASKED))
    first, second = imported("orca_dpo_pairs", tmp_path)[0]
    assert [len(first.prompt), len(second.prompt)] == [2, 1]
    groups, aside = imported("oasst_trees", tmp_path)
    assert [len(group.prompt) for group in groups] == [1, 3]
    assert aside == ["a reply left out by its 'deleted'", "a reply left out by its 'review_result'"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_states_the_licence_of_its_data(name: str) -> None:
    settings = settings_module.compose([f"data={name}", "data.path=x"], ROOT / "configs")
    assert isinstance(settings.data, TableData)
    own = name in ("kto", "llamafactory_alpaca", "llamafactory_sharegpt", "ms_swift")
    unstated = name in ("webgpt", "summarize_from_feedback")
    assert (about(settings.data).licence == UNKNOWN_LICENCE) == (own or unstated)
    assert settings.data.name == name


@pytest.mark.parametrize("name", PRESETS)
def test_the_commands_of_a_presets_head_compose(name: str) -> None:
    """What the head tells people to type is read as it stands."""
    import shlex

    head = [line.removeprefix("#").strip() for line in (ROOT / f"configs/data/{name}.yaml").read_text().splitlines()]
    text = "\n".join(line for line in head).replace("\\\n", " ")
    commands = [line for line in text.splitlines() if line.startswith(("make retrain", "touchstone data import"))]
    assert len(commands) == 2
    for command in commands:
        words = shlex.split(command, comments=True)
        if words[0] == "make":
            overrides = words[2].removeprefix("OVERRIDES=").split()
        else:
            overrides = [f"data={words[3]}", *words[4:]]
        settings_module.compose(overrides, ROOT / "configs")


def test_the_base_of_the_presets_names_every_setting() -> None:
    """Hydra overrides only what stands in a configuration."""
    base = yaml.safe_load((ROOT / "configs" / "data" / "table.yaml").read_text())["data"]
    assert set(base) == set(TableData.model_fields)
    assert set(base["judgements"]["helpfulness"]) == set(
        TableData.model_fields["judgements"].annotation.__args__[1].model_fields
    )
    assert set(base["tree"]) == set(TableData.model_fields["tree"].annotation.model_fields)
