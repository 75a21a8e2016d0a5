"""The data as one static page: what came in, what was set aside and why, who judged, and what the seven sets hold.

The page opens from a file, loads nothing from anywhere, and reads well on a telephone. It is an output of a stage:
the same data give the same bytes. All text is escaped, and what acts or hides is spelt out (see `pages/text.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from touchstone.data.difference import Difference
from touchstone.data.known import HISTORY
from touchstone.data.page import pictures
from touchstone.data.page.set_aside import Reason, reasons
from touchstone.data.page.sets import SAMPLE, SetFacts, base_tokenizer, read_sets
from touchstone.errors import DataError
from touchstone.pages.template import environment
from touchstone.pages.text import percent
from touchstone.settings import Settings
from touchstone.statistics import wilson_interval

TEMPLATE = "page.html.jinja"
MISREAD = {
    "no_judgement": "no group holds a comparison",
    "only_ties": "no comparison prefers a side",
    "one_prompt": "most groups have the same prompt",
    "always_first": "the first completion always wins, beside a column that looks like a label and is not used as one",
    "unused_label": "a column looks like a label and is not read",
    "unused_score": "a column looks like a score and is not read",
    "unused_context": "a column looks like context and is not read",
    "one_reason": "many rows were set aside, all for the same reason",
}
"""What each of `settings.checks.ALARMS` says."""
FIRST = 12
"""Rows of a long table that are shown at once; the others unfold."""


@dataclass(frozen=True, slots=True)
class Content:
    """Everything that the page shows.

    Attributes:
        source: data/source.json.
        validation: build/validation.json.
        audit: build/audit.json.
        unreadable: rows that the import set aside.
        misread: what smelt of misreading in the import: (alarm, column or "", whether `importing.allow` expects it).
        split: build/splits/summary.json.
        difference: to the version that `previous` names; None where none is given.
    """

    source: Mapping[str, Any]
    validation: Mapping[str, Any]
    audit: Mapping[str, Any]
    set_aside: Sequence[Reason]
    unreadable: int
    misread: Sequence[tuple[str, str, bool]]
    split: Mapping[str, Any]
    sets: Sequence[SetFacts]
    max_tokens: int
    difference: Difference | None = None
    previous: str = ""


def read(root: Path, settings: Settings, difference: Difference | None = None, previous: str = "") -> Content:
    """Read what the stages up to `split` and `base` left in data/ and build/.

    Args:
        difference, previous: what has changed, and the name of the version that it was compared with.

    Raises:
        DataError: an output is missing.
        ModelError: the base's tokenizer can't be loaded.
    """
    data, build = root / "data", root / "build"
    quarantines = (build / "quarantine.parquet", build / "splits" / "quarantine.parquet")
    tokenizer, rule = base_tokenizer(build / "base", settings.model)
    set_aside = reasons(quarantines, data / "groups.jsonl", build / "groups.parquet")
    source = _json(data / "source.json")
    split = _json(build / "splits" / "summary.json")
    return Content(
        source=source,
        validation=_json(build / "validation.json"),
        audit=_json(build / "audit.json"),
        set_aside=set_aside,
        unreadable=sum(source["counts"]["quarantined"].values()),
        misread=_misread(source.get("alarms", []), settings.importing.allow),
        split=split,
        sets=read_sets(build / "splits", split["sets"], tokenizer, rule),
        max_tokens=rule.max_tokens,
        difference=difference,
        previous=previous,
    )


def render(content: Content) -> str:
    """The page's HTML."""
    audit = content.audit
    suspects = [alarm["name"] for alarm in audit["alarms"] if alarm["kind"].startswith("annotator")]
    template = environment(Path(__file__).parent).get_template(TEMPLATE)
    return template.render(
        content=content,
        headline=_headline(content),
        totals=content.validation["totals"],
        audit=audit,
        suspects=frozenset(suspects),
        unexpected=[alarm for alarm in content.misread if not alarm[2]],
        meanings=MISREAD,
        history=content.source.get(HISTORY, []),
        policies=[{**row, "interval": _interval(row)} for row in audit["policies"]],
        composition={
            name: sorted(counts.items(), key=_numbers_as_such) for name, counts in audit["composition"].items()
        },
        strengths=pictures.strengths(audit["agreement"]["strengths"]) if audit["agreement"]["strengths"] else None,
        annotators=pictures.annotators(audit["annotators"], suspects),
        lengths=pictures.lengths(audit["length"]["by_difference"]),
        axes=pictures.axis_mix(content.sets),
        first=FIRST,
        sample=SAMPLE,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; run the stages before this one (`dvc repro`)") from None
    return value


def _misread(keys: Sequence[str], allow: Sequence[str]) -> list[tuple[str, str, bool]]:
    """The import's alarms, as source.json keeps them, one by one."""
    parts = [(key, *key.partition(":")) for key in keys]
    return [(name, column, key in allow or name in allow) for key, name, _, column in parts]


def _headline(content: Content) -> str:
    """What somebody who reads one sentence must know."""
    totals = content.validation["totals"]
    alarms = len(content.audit["alarms"]) + sum(not expected for _, _, expected in content.misread)
    imported, accepted, set_aside = (
        totals[key] for key in ("comparisons", "comparisons_kept", "comparisons_set_aside")
    )
    share = percent(set_aside / imported if imported else 0.0)
    sentence = f"{imported:,} comparisons came in: {accepted:,} were kept and {set_aside:,} ({share}) set aside"
    if content.unreadable:
        sentence += f"; {content.unreadable:,} more rows could not be read"
    if left_out := content.split["groups_set_aside"]:
        groups = "one kept group stays" if left_out == 1 else f"{left_out:,} kept groups stay"
        sentence += f"; {groups} out of the sets, because another set nearly holds the same prompt"
    if axis := content.split.get("axis"):
        sentence += f"; {content.split['groups_of_other_axes']:,} groups of other axes than {axis} are in no set"
    raised = {0: "no alarm was raised", 1: "one alarm was raised"}.get(alarms, f"{alarms:,} alarms were raised")
    sentence += f"; {raised}."
    leaked = content.difference.leaked if content.difference is not None else 0
    if leaked:
        prompts = "one prompt has" if leaked == 1 else f"{leaked:,} prompts have"
        sentence = f"{sentence[:-1]}; {prompts} leaked from one set into another."
    return sentence


def _numbers_as_such(item: tuple[str, int]) -> tuple[int, str]:
    """10 after 9, although both are words in JSON."""
    return (len(item[0]) if item[0].isdigit() else 0, item[0])


def _interval(policy: Mapping[str, Any]) -> tuple[float, float] | None:
    """95% interval of a policy's win share."""
    if policy["win_share"] is None:
        return None
    return wilson_interval(policy["win_share"] * policy["comparisons"], policy["comparisons"], 0.95)
