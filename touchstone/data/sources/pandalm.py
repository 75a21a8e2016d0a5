"""PandaLM's human test set (Wang et al. 2023, arXiv 2306.05087): two responses to an instruction, three annotators.

    touchstone data import pandalm data.path=../shared/data/pandalm

One group per row, and one comparison per annotator (0 is a tie). The annotators have no other names than their three
columns; these are hashed with a public salt, as every name of a judge is.

`cmp_key` names the two models in the order of the responses (PandaLM's README says so, and a model's text for a prompt
is the same in all its rows). Some responses are JSON booleans, in which what the model wrote is lost; their rows are
set aside, as are those without a response. Rows that repeat others are kept here: validation sets them aside and
counts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from touchstone.data.sources.files import raw_rows
from touchstone.data.sources.labels import hash_annotator
from touchstone.data.sources.rows import About, Quarantined, Unusable, answer_text, field_text, groups_of
from touchstone.groups import Comparison, Completion, Group, Message, make_group
from touchstone.settings.data import PandalmData

ABOUT = About(
    licence="Apache-2.0",
    cluster="the prompt",
    annotators="the same three for every pair, hashed; the publisher left out pairs that they disagreed on widely, "
    "so that their agreement reads too high",
    not_carried="the application that an instruction was written for, and the publisher's row numbers",
)
ANNOTATORS = ("annotator1", "annotator2", "annotator3")


def read(settings: PandalmData, root: Path) -> Iterator[Group | Quarantined]:
    """One group of two completions per row; rows that can't be used are quarantined.

    Raises:
        SourceError: nothing can be read at `settings.path`.
    """
    return groups_of(raw_rows(settings.path, root), lambda values: _group(values, settings.name))


def _group(values: dict[str, Any], source: str) -> Group:
    first, second = _policies(values.get("cmp_key"))
    return make_group(
        prompt=[Message("user", _instruction(values))],
        completions=[
            Completion(answer_text(values.get("response1"), "response1"), first),
            Completion(answer_text(values.get("response2"), "response2"), second),
        ],
        comparisons=[_judgement(values.get(name), name) for name in ANNOTATORS],
        source=source,
    )


def _instruction(values: dict[str, Any]) -> str:
    """The instruction, with its input below it after an empty line where there is one (Alpaca's format)."""
    instruction, below = field_text(values.get("instruction"), "instruction"), values.get("input")
    if below is None:
        return instruction
    if not isinstance(below, str):
        raise Unusable("'input' is not text")
    return f"{instruction}\n\n{below}" if below.strip() else instruction


def _policies(key: object) -> tuple[str | None, str | None]:
    """The models' names in `first_second`; unknown where the key isn't exactly two names."""
    names = key.split("_") if isinstance(key, str) else []
    return (names[0], names[1]) if len(names) == 2 and all(names) else (None, None)


def _judgement(label: object, name: str) -> Comparison:
    # True equals 1 in Python, and this file holds booleans.
    if type(label) is not int or label not in (0, 1, 2):
        raise Unusable(f"'{name}' is none of 0, 1, 2")
    annotator = hash_annotator("pandalm", name)
    return Comparison(0, 1, float(label == 1), float(label == 2), float(label == 0), annotator=annotator)
