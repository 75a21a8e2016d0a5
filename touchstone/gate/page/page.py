"""From the record to the page's HTML.

The page opens from a file, loads nothing from anywhere, and reads well on a telephone. All text is escaped, and what
acts or hides in it is spelt out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from touchstone.gate.checks import Check, lineage_chance
from touchstone.gate.page import words
from touchstone.gate.page.bars import Mark, bar, ruler, scale
from touchstone.gate.record import Metrics, OutcomeMetrics, Record
from touchstone.gate.summary import askable, causes, needed_words
from touchstone.pages.svg import Picture
from touchstone.pages.template import environment
from touchstone.pages.text import Excerpt, excerpt, percent

TEMPLATE = "page.html.jinja"
FIRST, MOST = 400, 2_000
"""Characters of a text that are shown at once, and at all: beyond them lies disagreements.json."""
TURNS = 5
"""Last turns of a prompt that are shown."""


def render(record: Record, disagreements: Sequence[Mapping[str, Any]], pictures: Mapping[str, bytes]) -> str:
    """The page's HTML.

    Args:
        disagreements: `disagreements.json`, the worst first.
        pictures: SVG by file name, as `pictures` gives them; none where nothing could be measured.
    """
    checks = {check.name: check for check in record.checks}
    measured = record.metrics.holdout
    first = record.champion_version is None
    chains = record.facts.learns == "process"
    digests = [(name, digest) for name, digest in sorted(record.digests) if digest is not None]
    return (
        environment(Path(__file__).parent)
        .get_template(TEMPLATE)
        .render(
            record=record,
            digests=digests,
            meaning=words.MEANING[record.verdict].format(stays=words.STAYS[first]),
            policy=words.POLICIES[record.policy],
            asked=checks["asked"].details if "asked" in checks else None,
            causes=causes(record.verdict, record.checks),
            needed=None if record.needed is None else needed_words(record.needed),
            sizes=_sizes(record),
            luck=_luck(record),
            askable=askable(record.verdict, record.checks, record.champion_version),
            checks=[_check(check, first=first, of_chains=chains) for check in record.checks],
            of_chains=chains,
            accuracies=_accuracies(measured, checks) if measured else _f1(checks) if chains else [],
            gap_closed=measured.gap_closed if measured else None,
            outcome=measured.outcome if measured else None,
            areas=_areas(measured.outcome) if measured and measured.outcome else [],
            difference=_check(checks["champion"], first=first, of_chains=chains) if "champion" in checks else None,
            slices=_slices(record, checks),
            optimised=_optimised(record, pictures),
            figures=_figures(measured, pictures, with_champion=not first) if measured else [],
            probes=_probes(checks),
            lengths=[_length_part(row) for row in _table(checks, "length")],
            worst=[_disagreement(pair) for pair in disagreements],
            model=list(_flat(record.model.rule)),
            centering=list(_flat(record.model.centering)),
        )
    )


def _table(checks: Mapping[str, Check], name: str) -> Sequence[Mapping[str, Any]]:
    return checks[name].table if name in checks else ()


def _sizes(record: Record) -> list[dict[str, Any]]:
    """How many more prompts would decide each open comparison, by the difference that may be true."""
    rows = []
    for check in record.checks:
        share = record.new_prompt_shares["holdout"] * check.needed_share
        for row in check.sizes:
            more = row["more_prompts"]
            labelled = math.ceil(more / share) if isinstance(more, int) and share else None
            gain = words.shown(float(row["gain"] or 0.0), "points")
            rows.append(
                {**row, "gain": gain, "what": check.needed_slice or "all prompts", "labelled_prompts": labelled}
            )
    return rows


def _luck(record: Record) -> float | None:
    """The chance that luck promoted a candidate on this lineage of holdouts; None where equal models shall pass."""
    return lineage_chance(record.ledger.uses) if record.policy in ("strict", "small_data") else None


def _check(check: Check, *, first: bool, of_chains: bool = False) -> dict[str, Any]:
    """A row of the table of checks; `first`: there is no champion, so slices have accuracies and no differences."""
    about = words.about(check.name, of_chains=of_chains)
    if first and check.name == "slices":
        about = replace(about, kind="share")
    value, interval, threshold = check.value, check.interval, check.threshold
    shown = {
        "value": None if value is None else words.shown(value, about.kind),
        "bounds": None if interval is None else words.between(interval, about.kind),
        "threshold": None if threshold is None else about.asked(threshold),
    }
    drawn = None
    if value is not None and (interval is not None or threshold not in (None, value)):
        mirrored = -threshold if about.side == "within" and threshold is not None else None
        ends = scale(
            (value, threshold, mirrored, *(interval or ())), from_zero=about.side == "most" or about.kind == "count"
        )
        description = "; ".join(f"{name} {text}" for name, text in shown.items() if text is not None)
        drawn = bar(ends, value, description, interval=interval, threshold=threshold, side=about.side)
    return {**asdict(check), **shown, "question": about.question, "bar": drawn, "label": words.status(check.status)}


def _accuracies(measured: Metrics, checks: Mapping[str, Check]) -> list[dict[str, Any]]:
    """Accuracy of the candidate, the champion, the baselines and the best possible one, with a bar each."""
    rows: list[tuple[str, float, tuple[float, float] | None]] = [
        ("model", measured.accuracy, (measured.accuracy_low, measured.accuracy_high))
    ]
    floor, gain = (checks[name].value if name in checks else None for name in ("floor", "champion"))
    if "asked" in checks:  # then the difference that decides is not the holdout's alone
        on_holdout = checks["asked"].details.get("difference_on_holdout")
        gain = on_holdout if isinstance(on_holdout, float) else None
    if floor is not None and gain is not None:
        # Both are means over the same clusters: the difference of the means is the mean difference.
        rows.append(("champion", floor - gain, None))
    rows += [
        (name, baseline.accuracy, (baseline.accuracy_low, baseline.accuracy_high))
        for name, baseline in measured.baselines.items()
    ]
    return _bars(rows)


def _areas(measured: OutcomeMetrics) -> list[dict[str, Any]]:
    """AUC, Brier score and log loss of the candidate and the baselines, with a bar each."""
    models = {"model": measured, **measured.baselines}
    rows = _bars([(name, each.auc, (each.auc_low, each.auc_high)) for name, each in models.items()])
    return [
        {**row, "accuracy": each.accuracy, "auc": each.auc, "brier": each.brier, "log_loss": each.log_loss}
        for row, each in zip(rows, models.values(), strict=True)
    ]


def _bars(rows: Sequence[tuple[str, float, tuple[float, float] | None]]) -> list[dict[str, Any]]:
    """Shares between guessing and certainty by model, each with its bounds and a bar on a common scale."""
    ends = scale([0.5, 1.0, *(value for _, value, _ in rows), *(low for _, _, bounds in rows for low in bounds or ())])
    return [
        {
            "name": words.MODELS.get(name, name),
            "accuracy": value,
            "bounds": bounds,
            "bar": bar(
                ends,
                value,
                f"{value:.1%}" + (f", {bounds[0]:.1%} to {bounds[1]:.1%}" if bounds else ""),
                interval=bounds,
                line=0.5,
                mark="dot" if name == "model" else "hollow",
            ),
        }
        for name, value, bounds in rows
    ]


def _f1(checks: Mapping[str, Check]) -> list[dict[str, Any]]:
    """F1 of the candidate and the baselines, of a process model, with a bar each."""
    table = _table(checks, "floor")
    ends = scale([0.0, 1.0])
    return [
        {
            "name": words.MODELS.get(row["model"], row["model"]) if row["model"] != "model" else words.MODELS["model"],
            "accuracy": row["f1"],
            "bounds": (row["low"], row["high"]),
            "bar": bar(
                ends,
                row["f1"],
                f"{row['f1']:.3f}, {row['low']:.3f} to {row['high']:.3f}",
                interval=(row["low"], row["high"]),
                mark="dot" if row["model"] == "model" else "hollow",
            ),
        }
        for row in table
    ]


def _slices(record: Record, checks: Mapping[str, Check]) -> dict[str, Any] | None:
    """The forest plot: one line per slice on a common scale; None where no slice was measured.

    Differences to the champion where there are some, else accuracies.
    """
    # Choose what is compared with what.
    table = _table(checks, "slices")
    paired = any(row["difference"] is not None for row in table)
    keys = ("difference", "low", "high") if paired else ("accuracy", "accuracy_low", "accuracy_high")
    rows = [row for row in table if row[keys[0]] is not None]
    if not rows:
        return None
    kind: words.Kind = "points" if paired else "share"
    overall = checks["champion" if paired else "floor"]
    limit = -record.limits.slice_margin if paired else None
    line = 0.0 if paired else overall.value
    bounds = [row[key] for row in rows for key in keys]
    ends = scale([*bounds, line, limit, overall.value, *(overall.interval or ())])

    def drawn(name: str, value: float, interval: tuple[float, float] | None, mark: Mark) -> dict[str, Any]:
        description = f"{name}: {words.shown(value, kind)}"
        description += f", {words.between(interval, kind)}" if interval else ""
        return {
            "bar": bar(ends, value, description, interval=interval, threshold=limit, line=line, mark=mark),
            "value": words.bare(value, kind),
            "bounds": " to ".join(words.bare(bound, kind) for bound in interval or ()),
        }

    # Draw: critical slices first, then those that are open.
    lines = []
    for row in sorted(rows, key=lambda row: (not row["critical"], row["status"] not in ("fail", "undecided"))):
        value, low, high = (row[key] for key in keys)
        interval = None if low is None or high is None else (low, high)
        mark: Mark = "hollow" if row["status"] == "printed" else "dot"
        label = words.status(row["status"])
        lines.append({**row, **drawn(row["slice"], value, interval, mark), "label": label})
    all_prompts = None
    if overall.value is not None:
        all_prompts = drawn("all prompts", overall.value, overall.interval, "diamond")
    return {
        "paired": paired,
        "limit": None if limit is None else words.shown(limit, kind),
        "all_prompts": all_prompts,
        "clusters": overall.n,
        "tested": [row for row in lines if row["status"] != "printed"],
        "printed": [row for row in lines if row["status"] == "printed"],
        "ruler": ruler(ends, "+g" if paired else "g"),
        "hidden": len(table) - len(rows),
    }


def _probes(checks: Mapping[str, Check]) -> list[dict[str, Any]]:
    """Each probe's win rate with its upper bound against its limit."""
    table = _table(checks, "probes")
    if not table:
        return []
    ends = scale([row[name] for row in table for name in ("limit", "upper", "rate")], from_zero=True)
    rows = []
    for row in table:
        drawn, limit = None, row["limit"]
        if row["rate"] is not None:
            name = row["probe"] if row["axis"] is None else f"{row['probe']} on {row['axis']}"
            description = f"{name}: wins {percent(row['rate'])}, at most {percent(row['upper'])}"
            bounds = (row["rate"], row["upper"])
            drawn = bar(ends, row["rate"], description, interval=bounds, threshold=limit, side="most")
        rows.append({**row, "bar": drawn, "label": words.PROBES[row["status"]]})
    return rows


def _length_part(row: Mapping[str, Any]) -> dict[str, Any]:
    kind, side = words.PARTS[row["part"]]
    numbers = {name: None if row[name] is None else words.shown(row[name], kind) for name in ("value", "low")}
    asked = words.asked(row["threshold"], kind, side)
    return {**row, **numbers, "asked": asked, "label": words.status(row["status"])}


def _figures(measured: Metrics, pictures: Mapping[str, bytes], *, with_champion: bool) -> list[tuple[str, Picture]]:
    """Titles and pictures, with what somebody who can't see them needs to know."""
    # They come from `pictures`, which draws numbers and our own words alone.
    return [
        (title, Picture(Markup(pictures[name].decode()), alt, caption, key))  # noqa: S704
        for name, title, alt, caption, key in words.figures(measured, with_champion=with_champion)
        if name in pictures
    ]


def _optimised(record: Record, pictures: Mapping[str, bytes]) -> dict[str, Any] | None:
    """How far the reward may be optimised; None where nobody has measured it."""
    budget = record.facts.budget
    if budget is None:
        return None
    alt, caption, key = words.optimisation(budget)
    # It comes from `pictures`, as in `_figures`.
    drawn = pictures.get("optimisation.svg")
    picture = None if drawn is None else Picture(Markup(drawn.decode()), alt, caption, key)  # noqa: S704
    return {"budget": budget, "picture": picture}


def _disagreement(pair: Mapping[str, Any]) -> dict[str, Any]:
    """A pair that the candidate orders against its label."""
    turns: list[tuple[str, Excerpt]] = [
        (turn["role"], excerpt(turn["content"], FIRST, MOST)) for turn in pair["prompt"][-TURNS:]
    ]
    return {
        **pair,
        "turns": turns,
        "earlier": len(pair["prompt"]) - len(turns),
        "winner": excerpt(pair["chosen"], FIRST, MOST),
        "loser": excerpt(pair["rejected"], FIRST, MOST),
        "sure": 1 - pair["probability"],
    }


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Names and plain values of nested mappings; longer lists are left to decision.json."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}: ")
        elif not isinstance(value, list):
            yield above + name, value
