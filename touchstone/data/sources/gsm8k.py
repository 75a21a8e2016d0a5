"""GSM8K's example model solutions (Cobbe et al. 2021, arXiv 2110.14168): four solutions of a problem, right or wrong.

    touchstone data import gsm8k data.path=../shared/data/gsm8k

Two models, each with one solution by fine-tuning alone and one that a verifier chose among many; the name of the four
is the completion's policy. A solution is right where its final number is the problem's: it carries outcome 1, else 0,
whatever its steps say. Nobody compared solutions, so there are no comparisons: `objective=outcome` learns from labels.

The calculator's annotations (`<<48/2=24>>`) are left out: models wrote them for a calculator to fill in, and no reader
sees them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from touchstone.data.sources.files import local_path, raw_rows
from touchstone.data.sources.rows import About, Quarantined, Unusable, answer_text, groups_of
from touchstone.errors import SourceError
from touchstone.groups import Completion, Group, Message, make_group
from touchstone.settings.data import Gsm8kData

ABOUT = About(
    licence="MIT",
    cluster="the prompt: a problem",
    annotators="none: a solution's last number is compared with the answer",
    not_carried="the reference solution, and what the calculator filled in",
)
FILE = "example_model_solutions.jsonl"
"""Of the publisher's files the one with labelled solutions; it may be compressed."""
POLICIES = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")

_CALCULATION = re.compile("<<[^<>]*>>")


def read(settings: Gsm8kData, root: Path) -> Iterator[Group | Quarantined]:
    """One group of up to four labelled solutions per problem; problems that can't be used are quarantined.

    A solution that repeats an earlier one of its problem word for word is left to that one.

    Raises:
        SourceError: nothing can be read at `settings.path`.
    """
    return groups_of(raw_rows(_solutions(settings.path, root), root), lambda values: _group(values, settings.name))


def _solutions(path: str, root: Path) -> str:
    """The file to read: of the publisher's folder the one that holds labelled solutions.

    Raises:
        SourceError: a folder without it.
    """
    local = local_path(path, root)
    if local is None or not local.is_dir():
        return path
    files = sorted(local.rglob(f"{FILE}*"))
    if not files:
        raise SourceError(
            f"data.path: {path} holds no {FILE} (or .gz); name the folder or the file that the publisher has"
        )
    return str(files[0])


def _group(values: dict[str, Any], source: str) -> Group:
    completions: dict[str, Completion] = {}
    for policy in POLICIES:
        completion = _completion(values.get(policy), policy)
        earlier = completions.setdefault(completion.text, completion)
        if earlier.outcome != completion.outcome:
            raise Unusable(f"'{policy}' has the text of another solution, and another label")
    return make_group(
        prompt=[Message("user", answer_text(values.get("question"), "question").strip())],
        completions=completions.values(),
        comparisons=(),
        source=source,
    )


def _completion(value: object, policy: str) -> Completion:
    """A solution without what the calculator filled in.

    Raises:
        Unusable: it isn't a solution with a label.
    """
    if not isinstance(value, dict) or type(value.get("is_correct")) is not bool:
        raise Unusable(f"'{policy}' holds no solution with true or false under 'is_correct'")
    text = _CALCULATION.sub("", answer_text(value.get("solution"), f"{policy}.solution")).strip()
    if not text:
        raise Unusable(f"'{policy}' holds a solution that says nothing")
    return Completion(text, policy, float(value["is_correct"]))
