"""Invented rows in the shape of every preset of the table source: the better answer always says what to do."""

from __future__ import annotations

import json
from typing import Any

GOOD, FAIR, BAD = "Dry it first, then cover it.", "Perhaps cover it.", "I don't know."
ASKED = "How do I store a kettle over winter?"


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
    "ranked": [{"prompt": ASKED, "completions": [GOOD, FAIR, BAD]}],
    "rated": [{"prompt": ASKED, "completion": text, "rating": stars} for text, stars in ((BAD, 1), (GOOD, 4.5))],
    "oasst_rank_zh": [
        {"instruction": ASKED, "input": "", "output": [GOOD, FAIR, BAD], "history": [["Hello.", "Hello to you."]]}
    ],
    "topical_chat": [
        {"source": ASKED, "context": "Kettles rust.", "system_id": name, "system_output": text,
         "scores": {"overall": stars, "coherence": 3}}
        for name, text, stars in (("m1", BAD, 1.0), ("m2", GOOD, 5), ("m3", FAIR, 2.3333333333))
    ],
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


def copied(value: Any, number: int) -> Any:
    """A row for another prompt: every long text but the answers ends with a number."""
    if isinstance(value, dict):
        return {key: copied(item, number) for key, item in value.items()}
    if isinstance(value, list):
        return [copied(item, number) for item in value]
    return value.replace("?", f" {number}?") if isinstance(value, str) else value
