"""What `touchstone data look` shows: 80 columns, and no text of a file unescaped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from math import ceil
from typing import Any

from touchstone.data.look.look import Comparison, Look, Trial
from touchstone.data.look.profile import Profile
from touchstone.data.reading import row
from touchstone.pages.terminal import WIDTH, columns_of, cut, padded, wrapped
from touchstone.pages.text import cell, percent, visible

MAX_COLUMNS = 40
MAX_NAME = 30
MAX_LINES = 4
"""Lines of a completion that are shown."""
OTHERS = 3
"""Further proposals that are named."""
HALF = (WIDTH - 5) // 2


def render(look: Look) -> str:
    """The whole screen."""
    lines = [*_head(look), "", *_columns(look), ""]
    best = look.best
    if not best:
        lines += _nothing(look)
        return "\n".join(lines)
    if len(best) > 1:
        lines += _paragraph(
            f"The rows don't say {visible(best[0].proposal.question)}. These are the readings; the comparisons below "
            "each show which one has the better completion on the left."
        )
        lines.append("")
    for number, trial in enumerate(best, start=1):
        lines += _trial(trial, f"reading {number} of {len(best)}" if len(best) > 1 else "fits best")
        lines.append("")
    others = [trial for trial in look.trials if trial not in best][:OTHERS]
    if others:
        lines += ["also possible", *(line for trial in others for line in _in_short(trial)), ""]
    lines.append("Nothing was written. Look at the comparisons before importing: is the better")
    lines.append("completion on the left?")
    return "\n".join(lines)


def _head(look: Look) -> list[str]:
    more = "" if look.is_all else ", the first of more"
    lines = _paragraph(f"{visible(look.path)}: {look.rows:,} rows looked at{more}")
    return lines + [row("can't be read", f"{count:,} rows: {reason}") for reason, count in look.quarantined.items()]


def _columns(look: Look) -> Iterator[str]:
    shown = list(look.profiles.values())[:MAX_COLUMNS]
    width = min(MAX_NAME, max([columns_of(_name(column)) for column in shown] or [6]))
    yield f"{'column':<{width}}  full  holds      for example"
    for column in shown:
        full = percent(column.rows / look.rows).split(".")[0].removesuffix("%") + "%"
        example = _example(column, WIDTH - width - 19)
        yield f"{padded(_name(column), width)}  {full:>4}  {_holds(column):<9}  {example}".rstrip()
    if len(look.profiles) > MAX_COLUMNS:
        yield f"... and {len(look.profiles) - MAX_COLUMNS} more"


def _name(column: Profile) -> str:
    name = visible(column.path)
    if columns_of(name) <= MAX_NAME:
        return name
    end = cut(name[::-1], MAX_NAME // 2)[-2::-1]  # without the ellipsis
    return cut(name, MAX_NAME - columns_of(end)) + end


def _holds(column: Profile) -> str:
    return "mixed" if len(column.kinds) > 1 and column.kinds.most_common(1)[0][1] < column.filled else column.kind


def _example(column: Profile, width: int) -> str:
    """Few different values with how often each comes, or else the first value."""
    if column.is_choice and len(column.values) > 1:
        text = ", ".join(f"{value} {count:,}x" for value, count in column.values.most_common(6))
    else:
        text = _plain(column.example)
    return cut(cell(text), max(width, 8))


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} of: {_plain(value[0])}" if value else ""
    if isinstance(value, dict):
        texts = [item for item in value.values() if isinstance(item, str) and len(item) > 12]
        return texts[0] if texts else ", ".join(map(str, value))
    return "" if value is None else str(value)


def _trial(trial: Trial, title: str) -> Iterator[str]:
    choice = trial.proposal.choice
    yield from _paragraph(
        f"{title}: data={choice}" + (f", where {visible(trial.proposal.remark)}" if trial.proposal.remark else "")
    )
    yield from map(visible, trial.proposal.command().split("\n"))
    yield trial.reading.render()
    yield from (row("alarm", str(alarm)) for alarm in trial.alarms)
    if trial.alarms:
        keys = ",".join(f'"{key}"' for alarm in trial.alarms for key in alarm.keys)
        yield row("an import stops", f"at the alarms; if all is right as it is, add 'importing.allow=[{keys}]'")
    if not trial.is_importable:
        share = f"importing.max_quarantine_share={ceil(100 * trial.share) / 100:.2f}"
        yield row("an import stops", f"at {percent(trial.share)} set aside; if they may be left out, add {share}")
    if trial.comparisons:
        yield ""
        yield f"  {'better':<{HALF}} {'worse':<{HALF}}".rstrip()
        for comparison in trial.comparisons:
            yield from _side_by_side(comparison)


def _side_by_side(comparison: Comparison) -> Iterator[str]:
    tie = "(a tie) " if comparison.tied else ""
    yield "  " + cut(cell(f"{tie}{comparison.prompt}"), WIDTH - 2)
    columns = [_cut(comparison.better), _cut(comparison.worse)]
    for left, right in zip_longest(*columns, fillvalue=""):
        yield f"  {padded(left, HALF)} {right}".rstrip()
    yield ""


def _cut(text: str) -> list[str]:
    """A completion's first lines."""
    lines = wrapped(cell(text, HALF * MAX_LINES), HALF, first="  ", later="  ")
    return lines[:MAX_LINES]


def _in_short(trial: Trial) -> Iterator[str]:
    reading = trial.reading
    seen = f"{reading.groups:,} groups, {reading.comparisons:,} comparisons, {trial.set_aside:,} rows set aside"
    alarms = f", alarms: {', '.join(alarm.name for alarm in trial.alarms)}" if trial.alarms else ""
    question = f"; if {trial.proposal.remark}" if trial.proposal.question and trial.proposal.remark else ""
    yield from wrapped(visible(f"{trial.proposal.choice}: {seen}{alarms}{question}"), first="  ", later="    ")
    yield from map(visible, trial.proposal.command().split("\n"))


def _nothing(look: Look) -> Sequence[str]:
    return _paragraph(
        "No settings were found by which these rows become comparisons. data=table reads any shape once it is told "
        "where prompt, completions and judgement are (docs/data_sets.md); configs/data/ has a choice for each other "
        "format." + ("" if look.rows else " There are no rows.")
    )


def _paragraph(text: str) -> list[str]:
    return wrapped(text, later="  ")
