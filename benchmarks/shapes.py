"""Whether data in the shapes that people bring is read rightly: as `touchstone data look` proposes, and by presets.

    python -m benchmarks.shapes                       # the presets' own invented rows
    python -m benchmarks.shapes --cases ../cases      # and a folder with a folder for each case

A case is a folder of files, or a cloned data set. Its rows are invented: the better answer says what to do, the worse
one doesn't, so that every label can be checked by its text; where the row's own label is plain (`winner: model_a`,
`chosen`), by that. A shape is *read* if the first proposal (or the preset) turns every label the right way and no row
is lost without a reason; *asked* if the rows don't say what a label means, both readings are shown, and one of them
is right; *refused*, which counts as read, if it holds no data (a pointer of Git LFS) and a sentence says so.

The last line is RESULT; the exit code is 1 where a label is wrong or a row is lost without a word.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import hardware
from tests.places import ROOT
from tests.worlds.preset_rows import ROWS, copied
from touchstone.data.look.look import MAX_ROWS, Trial, look, try_out
from touchstone.data.look.proposals import Proposal, choices_in
from touchstone.data.sources import Quarantined, read_source
from touchstone.data.sources.files import raw_rows
from touchstone.data.sources.formats import is_data
from touchstone.data.sources.hh_rlhf import FOLDERS
from touchstone.data.sources.rows import RawRow
from touchstone.errors import SourceError
from touchstone.groups import Group, judged_pairs

RESULT = ROOT / "benchmarks" / "results" / "shapes.json"
POINTER = b"version https://git-lfs"
COPIES = 12
"""Times that the presets' rows are written, each for other prompts."""
MAIN_AXES = frozenset({"helpfulness", "harmlessness"})
"""Axes on which the texts say which is the better one; a second axis of a row may say otherwise."""

_BETTER = re.compile(r"\b(Dry|Cover|Keep) ")
_WORSE = re.compile(r"\b(I don't know|No|Never|Why|Leave|Perhaps)\b")
_ANSWERS = (("response_a", "response_b"), ("answer1", "answer2"))
_SIDES = {"a": 0, "model_a": 0, "model a": 0, "b": 1, "model_b": 1, "model b": 1}
_TIES = frozenset({"tie", "both_bad"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a shape by one way.

    Attributes:
        way: "look", or "preset".
        state: read, asked, refused, or not read.
        wrong: judged pairs whose better one is the worse one.
        lost: rows, or their verdicts, that neither stand in a group nor were set aside.
    """

    shape: str
    way: str
    state: str
    choice: str = ""
    pairs: int = 0
    wrong: int = 0
    lost: int = 0
    set_aside: int = 0
    alarms: tuple[str, ...] = ()


def main() -> int:
    """Run it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, help="a folder with a folder for each case")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    outcomes = list(_of_presets())
    if arguments.cases is None or not arguments.cases.is_dir():
        print(f"cases: skipped, {arguments.cases or '--cases'} names no folder")
    else:
        outcomes += [outcome for path, name in cases_in(arguments.cases) for outcome in of_case(path, name)]
    for outcome in outcomes:
        _tell(outcome)
    shapes = {outcome.shape for outcome in outcomes}
    failed = {outcome.shape for outcome in outcomes if outcome.state == "not read"}
    asked = {outcome.shape for outcome in outcomes if outcome.state == "asked"} - failed
    wrong, lost = (sum(getattr(outcome, name) for outcome in outcomes) for name in ("wrong", "lost"))
    summary = {
        "shapes": len(shapes), "read": len(shapes - failed - asked), "asked": len(asked),
        "wrong_labels": wrong, "silent_losses": lost,
    }  # fmt: skip
    record = {"hardware": hardware(), **summary, "outcomes": [asdict(outcome) for outcome in outcomes]}
    arguments.result.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"asked about: {', '.join(sorted(asked)) or 'none'}; not read: {', '.join(sorted(failed)) or 'none'}")
    print("RESULT " + " ".join(f"{name}={summary[name]}" for name in summary if name != "asked"))
    return int(wrong > 0 or lost > 0)


def cases_in(folder: Path) -> Iterator[tuple[Path, str]]:
    """What is looked at, with its name: the files of a case, or its whole folder where they lie further below."""
    for case in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(path for path in case.iterdir() if path.is_file() and is_data(path.name))
        is_clone = any(path.is_dir() for path in case.iterdir())
        yield from [(case, case.name)] if is_clone else [(file, f"{case.name}/{file.name}") for file in files]


def of_case(path: Path, name: str) -> Iterator[Outcome]:
    """What becomes of a file or folder by what `data look` proposes, and by the preset of the case's name."""
    try:
        seen = look(str(path), ROOT)
    except SourceError:
        is_pointer = path.is_file() and path.read_bytes()[: len(POINTER)] == POINTER
        packed = path.suffix in (".gz", ".xz", ".zst")
        yield Outcome(name, "look", "refused" if is_pointer or packed else "not read")
        return
    outcomes = [judge(name, "look", trial) for trial in seen.best]
    if len(outcomes) > 1:
        right = [each for each in outcomes if not each.wrong and not each.lost]
        yield right[0] if right else outcomes[0]
    else:
        yield outcomes[0] if outcomes else Outcome(name, "look", "not read")
    choice = name.partition("/")[0]
    choices = choices_in(ROOT / "configs")
    if choice in choices and not any(outcome.choice == choice for outcome in outcomes):
        trial = try_out(Proposal(choice, {"path": str(path)}, is_preset=True), choices, ROOT)
        yield judge(name, "preset", trial) if trial else Outcome(name, "preset", "not read", choice)


def _of_presets() -> Iterator[Outcome]:
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in ROWS.items():
            path = Path(folder) / f"{name}.jsonl"
            many = [copied(row, number) for number in range(COPIES) for row in rows]
            path.write_text("".join(json.dumps(row) + "\n" for row in many), encoding="utf-8")
            yield from of_case(path, name)


def judge(shape: str, way: str, trial: Trial) -> Outcome:
    """Check every label of a trial, and that every row is in a group or set aside."""
    items = list(read_source(trial.data, ROOT))
    groups = [item for item in items if isinstance(item, Group)]
    set_aside = sum(isinstance(item, Quarantined) for item in items)
    rows = _rows(trial)
    verdicts = {key: verdict for row in rows for key, verdict in _verdicts(row)}
    pairs = wrong = 0
    decided: set[frozenset[str]] = set()
    for group in groups:
        for pair in judged_pairs(group):
            texts = [_text(group.completions[place].text) for place in (pair.first, pair.second)]
            better = None if pair.chosen is None else _text(group.completions[pair.chosen].text)
            pairs += 1
            decided.add(frozenset(texts))
            wrong += group.axis in MAIN_AXES and not _is_right(texts, better, verdicts)
    carried = {_text(completion.text) for group in groups for completion in group.completions}
    lost = sum(not any(text in carried for text in _texts(row)) for row in rows)
    lost += sum(key not in decided for key in verdicts if key & carried)
    lost = max(0, lost - set_aside)
    state = "not read" if wrong or lost or not pairs else "asked" if trial.proposal.question else "read"
    alarms = tuple(alarm.name for alarm in trial.alarms)
    return Outcome(shape, way, state, trial.proposal.choice, pairs, wrong, lost, set_aside, alarms)


def _rows(trial: Trial) -> list[Mapping[str, Any]]:
    """The rows of the file as they are, of the part that was read."""
    data: Any = trial.data
    folder = FOLDERS.get(data.axis) if data.source == "hh_rlhf" else getattr(data, "folder", None)
    rows = raw_rows(data.path, ROOT, split="train", folder=folder)
    return [row.values for row in rows if isinstance(row, RawRow)][:MAX_ROWS]


def _text(text: str) -> str:
    return " ".join(text.split())


def _texts(value: Any) -> Iterator[str]:
    """Every text of a row, also in JSON inside a text, and the last turn of a transcript."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield _text(value)
        if value.startswith(("[", "{")):
            yield from _texts(_json(value))
        yield _text(value.rpartition("Assistant:")[2])


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _verdicts(row: Mapping[str, Any]) -> Iterator[tuple[frozenset[str], str | None]]:
    """What a row says by a plain label: for a pair of texts the better one, None for a tie."""
    values = row["data"] if isinstance(row.get("data"), Mapping) else row
    label = row.get("winner", row.get("preference"))
    if isinstance(row.get("annotations"), list):
        choices = [result["value"]["choices"][0] for each in row["annotations"] for result in each.get("result", [])]
        label = choices[0] if len(choices) == 1 else None
    pair = [values.get(name) for name in ("chosen", "rejected")]
    is_pair = all(isinstance(text, str) and "\n\nAssistant:" not in text for text in pair)
    if is_pair and "generations" not in values:  # beside generations their ratings are the judgement
        yield frozenset(map(_text, pair)), _text(pair[0])
    for names in _ANSWERS:
        if isinstance(label, str) and all(isinstance(values.get(name), str) for name in names):
            texts = [_text(values[name]) for name in names]
            word = label.casefold()
            if word in _SIDES:
                yield frozenset(texts), texts[_SIDES[word]]
            elif word in _TIES:
                yield frozenset(texts), None


def _is_right(texts: Sequence[str], better: str | None, verdicts: Mapping[frozenset[str], str | None]) -> bool:
    """Whether the label is the row's, or else (but for ties) that of the texts."""
    key = frozenset(texts)
    if key in verdicts:
        return verdicts[key] == better
    helps = [bool(_BETTER.search(text)) and not _WORSE.search(text) for text in texts]
    if better is None or helps[0] == helps[1]:
        return True
    return better == texts[helps.index(True)]


def _tell(outcome: Outcome) -> None:
    more = f", {outcome.set_aside} set aside" if outcome.set_aside else ""
    more += f", wrong {outcome.wrong}, lost {outcome.lost}" if outcome.wrong or outcome.lost else ""
    more += f", alarms {', '.join(outcome.alarms)}" if outcome.alarms else ""
    print(f"{outcome.shape:<40} {outcome.way:<7} {outcome.state:<9} {outcome.choice}, {outcome.pairs} pairs{more}")


if __name__ == "__main__":
    sys.exit(main())
