"""Pairs of completions as people are asked about them: for a spreadsheet, a program, Label Studio and Argilla.

    ask.csv             one row per pair; `answer` is for first, second or tie, `annotator` for a name
    ask.jsonl           the same, the prompt as chat messages
    label_studio.json   tasks; label_studio.xml is the labelling interface for them
    argilla.json        records with the fields prompt, first and second, for a label question `preference`

All four hold the same pairs in the same order. `touchstone.data.answers` reads what comes back.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from touchstone.groups import Completion, Group, Message, make_group
from touchstone.pages.text import uncalculated
from touchstone.runtime.files import canonical_json, pretty_json, write_atomic

FIELDS = ("first", "second")
"""Names of the two completions wherever people or tools see them."""
QUESTION = "preference"
"""Name of the question in the labelling tools."""

INTERFACE = """\
<View>
  <Header value="Which answer is better? ($axis)"/>
  <Text name="prompt" value="$prompt"/>
  <Header value="first"/>
  <Text name="first_text" value="$first"/>
  <Header value="second"/>
  <Text name="second_text" value="$second"/>
  <Choices name="preference" toName="prompt" choice="single" showInline="true">
    <Choice value="first"/>
    <Choice value="second"/>
    <Choice value="tie"/>
  </Choices>
</View>
"""


@dataclass(frozen=True, slots=True)
class AskedPair:
    """Two completions of a prompt, in the order in which they are shown."""

    axis: str
    prompt: tuple[Message, ...]
    first: str
    second: str

    @property
    def text(self) -> str:
        """The prompt as one text: a single message as it is, several with their roles."""
        if len(self.prompt) == 1:
            return self.prompt[0].content
        return "\n\n".join(f"{message.role}: {message.content}" for message in self.prompt)

    @property
    def id(self) -> str:
        """Hash of what is shown: the id of the group that a labelling tool's export holds for this pair."""
        return shown_group(self.text, self.first, self.second).id


def asked_pair(group: Group) -> AskedPair:
    """A group of two completions as a pair."""
    first, second = (completion.text for completion in group.completions)
    return AskedPair(group.axis, group.prompt, first, second)


def shown_group(text: str, first: str, second: str) -> Group:
    """What a labelling tool holds of a pair, as the readers of its exports make a group of it."""
    return make_group(
        prompt=[Message("user", text)], completions=map(Completion, (first, second)), comparisons=(), source="shown"
    )


def write_questions(folder: Path, pairs: Sequence[AskedPair]) -> None:
    """Write the files that the module names into an existing folder, the pairs in the order given."""
    write_atomic(folder / "ask.csv", _csv(pairs))
    write_atomic(folder / "ask.jsonl", "".join(_line(pair) for pair in pairs))
    tasks = [{"data": {"pair": pair.id, "axis": pair.axis, **_fields(pair)}} for pair in pairs]
    write_atomic(folder / "label_studio.json", pretty_json(tasks))
    write_atomic(folder / "label_studio.xml", INTERFACE)
    write_atomic(folder / "argilla.json", pretty_json([{"id": pair.id, "fields": _fields(pair)} for pair in pairs]))


def _fields(pair: AskedPair) -> dict[str, str]:
    return {"prompt": pair.text, "first": pair.first, "second": pair.second}


def _line(pair: AskedPair) -> str:
    prompt = [{"role": message.role, "content": message.content} for message in pair.prompt]
    values = {"id": pair.id, "axis": pair.axis, "prompt": prompt, "first": pair.first, "second": pair.second}
    return canonical_json(values) + "\n"


def _csv(pairs: Sequence[AskedPair]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["id", "axis", "prompt", *FIELDS, "answer", "annotator"])
    for pair in pairs:
        # Answers are found by their id, so the texts here are only for reading.
        texts = [uncalculated(text) for text in (pair.axis, pair.text, pair.first, pair.second)]
        table.writerow([pair.id, *texts, "", ""])
    return text.getvalue()
