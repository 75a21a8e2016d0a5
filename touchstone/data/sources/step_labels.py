"""Chains of reasoning with a label per step: BIG-Bench Mistake and PRMBench.

    touchstone data import bigbench_mistake data.path=../shared/data/bigbench-mistake
    touchstone data import prmbench data.path=../shared/data/prmbench

Steps are kept as `groups.text_of_steps` writes them, so that each is found again in the completion's text.

BIG-Bench Mistake (Tyen et al. 2024, arXiv 2311.08516; README of WHGTyen/BIG-Bench-Mistake): one chain per prompt, of
one model, and where its first mistake is (`mistake_index`, counted from 0; null: there is none). Steps before it are
right, it is wrong, and of those after it nobody has said anything. `outcome` is whether the answer is the target,
where one was found in the chain. The axis is the task, which is the file's name.

PRMBench (Song et al. 2025, arXiv 2501.03124; README of ssmisya/PRMBench): from a right solution of PRM800K GPT-4o made
one with errors, and `error_steps` (counted from 1) says which of its steps are wrong. One group per question: the
right solutions, and all that was made of them. The policy is `original`, or the kind of error that was asked for
(`classification`). Each right solution beats those that were made of it, and nothing else is compared. The prompt is
`question`, which labels are about: what was changed in `modified_question` counts as an error. A kind of error in
which the answer may still be right is no outcome, so there is none.

Set aside are rows whose labels name a step that isn't there, with an empty step, or where nothing was changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from touchstone.data.sources.archives import members, opened
from touchstone.data.sources.columns import tallied
from touchstone.data.sources.files import raw_rows
from touchstone.data.sources.formats import stem_of
from touchstone.data.sources.json_rows import stream_rows
from touchstone.data.sources.rows import About, Quarantined, RawRow, Unusable, answer_text, field_text, groups_of
from touchstone.errors import SourceError
from touchstone.groups import Comparison, Completion, Group, Message, make_group, text_of_steps
from touchstone.runtime.texts import cleaned
from touchstone.settings.data import StepLabelData

RIGHT, WRONG = 1.0, 0.0
ORIGINAL = "original"
"""The policy of a solution that was right from the beginning."""
ARCHIVE = ".tar.gz"

_Rows = Iterator[RawRow | Quarantined]


@dataclass(frozen=True, slots=True)
class _BigBenchMistake:
    """Chains with their first mistake."""

    ABOUT: About

    def read(self, settings: StepLabelData, root: Path) -> Iterator[Group | Quarantined]:
        """One group of one completion per chain; those that can't be used are quarantined.

        Raises:
            SourceError: nothing can be read at `settings.path`.
        """
        for row in raw_rows(settings.path, root):
            if isinstance(row, Quarantined):
                yield row
                continue
            try:
                yield _chain(row, settings.name)
            except Unusable as fault:
                yield Quarantined(row.file, row.line, str(fault))


def _chain(row: RawRow, source: str) -> Group:
    values = row.values
    text, count = _steps(values, "steps")
    mistake = values.get("mistake_index")
    # True equals 1 in Python.
    if mistake is not None and (type(mistake) is not int or not 0 <= mistake < count):
        raise Unusable("'mistake_index' is neither null nor the index of a step")
    right = count if mistake is None else mistake
    labels = [RIGHT] * right + [WRONG] * (right < count) + [None] * (count - right - 1)
    answer, target = values.get("answer"), answer_text(values.get("target"), "target").strip()
    if not isinstance(answer, str):
        raise Unusable("'answer' is not text")
    outcome = float(answer.strip() == target) if answer.strip() else None
    return make_group(
        prompt=[Message("user", field_text(values.get("input"), "input"))],
        completions=[Completion(text, outcome=outcome, steps=tuple(labels))],
        comparisons=[],
        source=source,
        axis=stem_of(Path(row.file).name),
    )


@dataclass(slots=True)
class _Solutions:
    """The solutions of one question, as rows bring them; equal texts are one completion."""

    completions: list[Completion] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)
    pairs: dict[tuple[int, int], None] = field(default_factory=dict)

    def add(self, original: Completion, modified: Completion) -> None:
        """Add a right solution and what was made of it."""
        if any(self._contradicts(completion) for completion in (original, modified)):
            raise Unusable("a row before labels the same steps otherwise")
        pair = self._place(original), self._place(modified)
        if pair in self.pairs:
            raise Unusable("a row before says the same")
        self.pairs[pair] = None

    def _contradicts(self, completion: Completion) -> bool:
        place = self.places.get(completion.text)
        return place is not None and self.completions[place].steps != completion.steps

    def _place(self, completion: Completion) -> int:
        if completion.text not in self.places:
            self.places[completion.text] = len(self.completions)
            self.completions.append(completion)
        return self.places[completion.text]


@dataclass(frozen=True, slots=True)
class _PrmBench:
    """Right solutions, and what was made of them."""

    ABOUT: About

    def read(self, settings: StepLabelData, root: Path) -> Iterator[Group | Quarantined]:
        """One group per question, after all rows are read; rows that can't be used are quarantined.

        Raises:
            SourceError: nothing can be read at `settings.path`.
        """
        solutions: dict[str, _Solutions] = {}
        for added in groups_of(_archived_rows(settings.path, root), lambda values: _add(values, solutions)):
            if isinstance(added, Quarantined):
                yield added
        for question, answers in solutions.items():
            if answers.pairs:
                yield make_group(
                    prompt=[Message("user", question)],
                    completions=answers.completions,
                    comparisons=[Comparison(right, wrong, 1.0, 0.0) for right, wrong in answers.pairs],
                    source=settings.name,
                    axis="correctness",
                )


def _add(values: Mapping[str, Any], solutions: dict[str, _Solutions]) -> None:
    question = field_text(values.get("question"), "question")
    kind = answer_text(values.get("classification"), "classification").strip()
    (original, right), (modified, count) = _steps(values, "original_process"), _steps(values, "modified_process")
    errors = values.get("error_steps")
    # True equals 1 in Python.
    if not isinstance(errors, list) or not errors or not all(type(step) is int for step in errors):
        raise Unusable("'error_steps' is not a list of numbers, or empty")
    if not all(1 <= step <= count for step in errors):
        raise Unusable("'error_steps' names a step that isn't there")
    if cleaned(original) == cleaned(modified):
        raise Unusable("'modified_process' is the same as 'original_process'")
    labels = tuple(WRONG if step in set(errors) else RIGHT for step in range(1, count + 1))
    solutions.setdefault(question, _Solutions()).add(
        Completion(original, ORIGINAL, steps=(RIGHT,) * right), Completion(modified, kind, steps=labels)
    )


def _steps(values: Mapping[str, Any], field: str) -> tuple[str, int]:
    """The text of a list of steps, and how many there are.

    Raises:
        Unusable: it is no list of texts, or a step is empty.
    """
    steps = values.get(field)
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) for step in steps):
        raise Unusable(f"'{field}' is not a list of texts, or empty")
    try:
        return text_of_steps(steps), len(steps)
    except ValueError:
        raise Unusable(f"'{field}' holds an empty step") from None


def _archived_rows(path: str, root: Path) -> _Rows:
    """Rows of a .tar.gz, or of those in a folder; where there is none, of plain files.

    Raises:
        SourceError: nothing lies there, or an archive is damaged or holds no rows.
    """
    local = root / Path(path).expanduser()
    archives = [local] if path.endswith(ARCHIVE) and local.is_file() else sorted(local.glob(f"*{ARCHIVE}"))
    return _rows_within(archives) if archives else raw_rows(path, root)


@tallied
def _rows_within(archives: Sequence[Path]) -> _Rows:
    """Rows of the files of JSON lines in some archives."""
    for archive in archives:
        count = 0
        with opened(archive) as tar:
            for name, stream in members(tar, archive.name, ".jsonl"):
                for row in stream_rows(stream, name):
                    count += 1
                    yield row
        if not count:
            raise SourceError(f"{archive.name} is empty: it holds no rows in a .jsonl file")


BIGBENCH_MISTAKE = _BigBenchMistake(
    About(
        licence="Apache-2.0",
        cluster="the prompt",
        annotators="three or more people per chain, or rules (dyck_languages); what they agreed on is published",
        not_carried="labels of single annotators; what a step after the first mistake is worth",
    )
)
PRMBENCH = _PrmBench(
    About(
        licence="Apache-2.0",
        cluster="the question",
        annotators="none: errors were put into right solutions by GPT-4o, and looked through by the publisher",
        not_carried="the reasons given for errors, and what was changed in the question",
    )
)
