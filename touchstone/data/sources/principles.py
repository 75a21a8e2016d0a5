"""Comparisons that a language model made by written principles, as `touchstone labels judge` writes them.

    touchstone labels judge --pool pool.jsonl --principles my_principles.yaml --out labelled.jsonl
    touchstone data import principles data.path=labelled.jsonl

A line holds a prompt, its completions, the axis, the judge and its verdicts:

    {"prompt": [...], "completions": [{"text": "...", "policy": null}, ...], "axis": "helpfulness",
     "cluster_id": "...", "judge": "judge:0123456789abcdef",
     "verdicts": [{"i": 0, "j": 1, "wins_i": 1.0, "wins_j": 0.0, "ties": 0.0},
                  {"i": 0, "j": 2, "reason": "the last line is no verdict"}]}

Both orders of a pair were asked; a tie is where they disagree. The judge becomes the annotator of its comparisons,
which marks them as a model's for good (`groups.by_model`). Pairs without a verdict are set aside with the reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from touchstone.data.sources.files import local_rows
from touchstone.data.sources.rows import (
    MAX_COMPLETIONS,
    About,
    Quarantined,
    Unusable,
    answer_text,
    check_turns,
    finite_number,
    prompt_messages,
)
from touchstone.groups import JUDGE, Comparison, Completion, Group, make_group
from touchstone.settings.data import PrinciplesData

ABOUT = About(
    licence="that of the prompts and completions; the terms of the judging model may say more",
    cluster="the prompt, or what the pool named",
    annotators="no person: one language model, named by the digest of model, instructions and principles",
    not_carried="what the model wrote before its verdicts; the principles, which lie beside the file",
)
NO_VERDICT = "the judge gave no verdict: "
REASONS = (
    "the last line is no verdict",
    "the verdict carries another code",
    "the answer holds two verdicts",
    "the answer is empty",
    "the answer was cut",
    "the answer ended in an unknown way",
    "the judge refused",
    "the endpoint refused the question",
    "the question is longer",
    "no answer in",
)
"""How the reasons begin that a judge's pairs have no verdict (`touchstone.model.llm_judge`); any other is not
repeated: whatever a file says may be a text."""
WITHOUT = "a row without any verdict"
_JUDGE = re.compile(re.escape(JUDGE) + r"[0-9a-f]{16}")


def read(settings: PrinciplesData, root: Path) -> Iterator[Group | Quarantined]:
    """One group for each line with a verdict; lines that can't be used, and pairs without a verdict, are quarantined.

    Raises:
        SourceError: nothing can be read at `settings.path`.
    """
    for row in local_rows(settings.path, root):
        if isinstance(row, Quarantined):
            yield row
            continue
        try:
            group, reasons = _group(row.values, settings.name)
        except Unusable as fault:
            yield Quarantined(row.file, row.line, str(fault))
            continue
        yield group if group is not None else Quarantined(row.file, row.line, WITHOUT)
        for reason in reasons:
            yield Quarantined(row.file, row.line, NO_VERDICT + reason)


def _group(values: dict[str, Any], source: str) -> tuple[Group | None, list[str]]:
    """The group, None where no pair has a verdict, and why the other pairs have none."""
    prompt = prompt_messages(values.get("prompt"), "prompt")
    check_turns(prompt)
    listed = values.get("completions")
    if not isinstance(listed, list) or not 2 <= len(listed) <= MAX_COMPLETIONS:
        raise Unusable(f"'completions' is no list of 2 to {MAX_COMPLETIONS:,}")
    completions = [_completion(value) for value in listed]
    judge = values.get("judge")
    if not isinstance(judge, str) or not _JUDGE.fullmatch(judge):
        raise Unusable("'judge' is no name of a judge")
    comparisons, reasons = _verdicts(values.get("verdicts"), len(completions), judge)
    if not comparisons:
        return None, reasons
    group = make_group(
        prompt=prompt,
        completions=completions,
        comparisons=comparisons,
        source=source,
        axis=answer_text(values.get("axis"), "axis"),
        cluster_id=_optional(values, "cluster_id"),
    )
    return group, reasons


def _completion(value: Any) -> Completion:
    if not isinstance(value, dict):
        raise Unusable("'completions' holds something else than objects")
    return Completion(answer_text(value.get("text"), "text"), policy=_optional(value, "policy"))


def _optional(values: dict[str, Any], field: str) -> str | None:
    value = values.get(field)
    return None if value is None else answer_text(value, field)


def _verdicts(value: Any, count: int, judge: str) -> tuple[list[Comparison], list[str]]:
    if not isinstance(value, list) or not value or not all(isinstance(verdict, dict) for verdict in value):
        raise Unusable("'verdicts' is no list of objects")
    comparisons, reasons, pairs = [], [], set()
    for verdict in value:
        i, j = verdict.get("i"), verdict.get("j")
        if type(i) is not int or type(j) is not int or not 0 <= i < j < count or (i, j) in pairs:
            raise Unusable("'verdicts' names a pair that is not there, or one twice")
        pairs.add((i, j))
        if "reason" in verdict:
            reason = str(verdict["reason"])
            reasons.append(next((known for known in REASONS if reason.startswith(known)), "for another reason"))
            continue
        wins_i, wins_j, ties = (finite_number(verdict.get(name), name) for name in ("wins_i", "wins_j", "ties"))
        if min(wins_i, wins_j, ties) < 0 or not math.isclose(wins_i + wins_j + ties, 1.0, abs_tol=1e-6):
            raise Unusable("a verdict's shares don't add up to 1")
        comparisons.append(Comparison(i, j, wins_i, wins_j, ties, annotator=judge))
    return comparisons, reasons
