"""What real files of comparisons hold, and what Touchstone does with it: the two tables of docs/real_data.md.

    python -m benchmarks.real_data --data ../shared/data     # half a minute

`--data` names a folder with `pandalm/`, `hh-rlhf/`, `ukpconvarg1/`, `finegrained-qa/`, `oasst-rank-zh/` and
`topical-chat/` in their original formats. Each is imported and validated as a run would do it, with thresholds so wide
that nothing stops. Numbers only: no text is printed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from touchstone.data.importing import ImportSummary, import_source
from touchstone.data.validation.run import validate
from touchstone.groups import Group, judged_pairs, read_jsonl
from touchstone.settings import compose

ROOT = Path(__file__).resolve().parent.parent
WIDE = (
    "importing.max_quarantine_share=1",
    "validation.max_quarantine_share=1",
    "validation.max_contradiction_share=1",
    "validation.personal_data=report",
)
Row = tuple[str, str | int, str]
"""A finding, its number, and what Touchstone does with it."""


@dataclass(frozen=True, slots=True)
class Look:
    """One source, imported and validated.

    Attributes:
        groups: as imported, before validation.
        report: of `validation.json`.
    """

    summary: ImportSummary
    groups: list[Group]
    report: dict[str, Any]

    def aside(self, words: str) -> int:
        """Rows that the import set aside for a reason that holds these words."""
        return sum(count for reason, count in self.summary.quarantined.items() if words in reason)


def look(overrides: tuple[str, ...], folder: Path) -> Look:
    """Import and validate a source into a folder."""
    settings = compose([*overrides, *WIDE], ROOT / "configs")
    summary = import_source(settings, ROOT, folder / "data")
    lines = folder / "data" / "groups.jsonl"
    report = validate(lines, folder / "groups.parquet", settings.validation).report
    return Look(summary, list(read_jsonl(lines)), report)


def equal_pairs(group: Group) -> list[tuple[int, int]]:
    """Pairs of completions with equal texts but for their blanks."""
    texts = [" ".join(completion.text.split()) for completion in group.completions]
    return [(i, j) for i, j in combinations(range(len(texts)), 2) if texts[i] == texts[j]]


def equals_compared(group: Group) -> int:
    """Judged pairs whose texts are equal."""
    equal = set(equal_pairs(group))
    return sum((pair.first, pair.second) in equal for pair in judged_pairs(group))


def tied(group: Group) -> int:
    """Judged pairs without a preference."""
    return sum(pair.chosen is None for pair in judged_pairs(group))


def of(part: int, whole: int) -> str:
    """The part, the whole, and the share."""
    return f"{part:,} of {whole:,} ({part / whole:.1%})"


def pandalm(found: Look) -> list[Row]:
    """Booleans, empty responses, repeats, agreement."""
    texts: dict[tuple[str, str | None], set[str]] = defaultdict(set)
    for group in found.groups:
        for completion in group.completions:
            texts[group.cluster_id, completion.policy].add(completion.text)
    votes = [Counter((e.wins_i, e.wins_j, e.ties) for e in group.comparisons) for group in found.groups]
    judgements = [edge for group in found.groups for edge in group.comparisons]
    return [
        ("a response is a JSON boolean", found.aside("is not text"), "row set aside on import: the text is lost"),
        ("a response is empty", found.aside("is empty"), "row set aside on import, under another reason"),
        (
            "the two responses are equal",
            sum(bool(equal_pairs(group)) for group in found.groups),
            "read; validation sets the comparison aside, and with it the pair",
        ),
        (
            "rows that repeat another (same prompt, same two responses)",
            found.report["set_aside"].get("no_duplicate", 0),
            "read; validation keeps one",
        ),
        (
            "a model with two different responses to one prompt",
            sum(len(written) > 1 for written in texts.values()),
            "none: so the models' names in `cmp_key` are trusted",
        ),
        ("judgements that are ties", of(sum(e.ties > 0 for e in judgements), len(judgements)), "kept as ties"),
        (
            "pairs on which the three agree",
            of(sum(len(labels) == 1 for labels in votes), len(votes)),
            "votes kept with hashed names; the publisher removed wide disagreement, so this reads too high",
        ),
        (
            "pairs without a majority",
            sum(len(labels) == 3 for labels in votes),
            "votes kept; two against each other and a tie are no preference",
        ),
    ]


def hh_rlhf(found: Look) -> list[Row]:
    """Dialogues that can't be used."""
    turns = sum(len(group.prompt) > 1 for group in found.groups)
    return [
        ("the chosen answer is empty", found.aside("is empty"), "pair set aside on import"),
        (
            "prompt mismatch: the dialogues part before their last turn",
            found.aside("part before"),
            "pair set aside on import: the two answers follow different prompts",
        ),
        (
            "other malformed dialogues",
            sum(found.summary.quarantined.values()) - found.aside("is empty") - found.aside("part before"),
            "pair set aside on import",
        ),
        (
            "equal answers",
            sum(bool(equal_pairs(group)) for group in found.groups),
            "read; validation sets the pair aside",
        ),
        (
            "rows that repeat another",
            found.report["set_aside"].get("no_duplicate", 0),
            "read; validation keeps one",
        ),
        (
            "prompts of more than one turn",
            of(turns, found.summary.groups),
            "shared prompt computed once for both answers",
        ),
    ]


def ukp_strict(found: Look) -> list[Row]:
    """The publisher's cleaned pairs."""
    return [
        (
            "rows that can't be used",
            sum(found.summary.quarantined.values()),
            "none; a bad row would be set aside with file and line",
        ),
        (
            "equal arguments compared",
            sum(map(equals_compared, found.groups)),
            "read; validation sets the comparison aside",
        ),
        (
            "topics and stances whose preferences run in a circle",
            of(found.report["totals"]["groups_with_cycle"], found.summary.groups),
            "kept and counted",
        ),
        (
            "topics (clusters)",
            len({group.cluster_id for group in found.groups}),
            "placed into sets by hand: too few to hash, and too few for a promotion",
        ),
    ]


def ukp_full(found: Look) -> list[Row]:
    """Every vote."""
    edges = [edge for group in found.groups for edge in group.comparisons]
    pairs = [pair for group in found.groups for pair in judged_pairs(group)]
    split = sum(pair.chosen is not None and pair.strength < 1 for pair in pairs)
    return [
        (
            "rows that can't be used",
            sum(found.summary.quarantined.values()),
            "set aside on import with file and number of the pair",
        ),
        ("votes that are ties", of(sum(edge.ties > 0 for edge in edges), len(edges)), "kept as ties"),
        ("workers", len({edge.annotator for edge in edges}), "names hashed on reading"),
        ("pairs with a preference that not every vote shares", of(split, len(pairs)), "votes kept"),
        (
            "pairs without a preference",
            of(sum(pair.chosen is None for pair in pairs), len(pairs)),
            "kept; used by the objectives that model ties or votes",
        ),
        (
            "topics and stances whose preferences run in a circle",
            of(found.report["totals"]["groups_with_cycle"], found.summary.groups),
            "kept and counted",
        ),
    ]


def finegrained_qa(found: Look) -> list[Row]:
    """Ties, circles, equal answers, marked errors."""
    preferred = sum(
        pair.chosen is not None and (pair.first, pair.second) in equal_pairs(group)
        for group in found.groups
        for pair in judged_pairs(group)
    )
    ties = sum(tied(group) for group in found.groups)
    marked = [group.completions[0].ratings for group in found.groups]
    return [
        ("pairs that are ties", of(ties, found.summary.pairs), "kept as ties"),
        (
            "questions whose four answers all tie",
            sum(tied(group) == len(judged_pairs(group)) for group in found.groups),
            "kept; nothing to learn from without an objective that models ties",
        ),
        (
            "questions whose preferences run in a circle",
            of(found.report["totals"]["groups_with_cycle"], found.summary.groups),
            "kept and counted",
        ),
        (
            "pairs of equal answers",
            sum(map(equals_compared, found.groups)),
            "read; validation sets these comparisons aside, alone",
        ),
        ("of these, pairs with a preference", preferred, "set aside with them; it bounds the noise of the labels"),
        (
            "errors and omissions marked in the first answers",
            f"{sum(sum(ratings.values()) for ratings in marked):,.0f}",
            "counts per kind become ratings of the first answer; where they lie is not carried",
        ),
    ]


def oasst_rank_zh(found: Look) -> list[Row]:
    """Histories and equal texts."""
    later = sum(len(group.prompt) > 1 for group in found.groups)
    clusters = len({group.cluster_id for group in found.groups})
    equal = [len(equal_pairs(group)) for group in found.groups]
    return [
        ("prompts with a history", of(later, found.summary.groups), "earlier turns become chat messages"),
        (
            "dialogues (clusters by opening message)",
            clusters,
            "rows of one dialogue lie in one set: they hold one another's completions",
        ),
        ("lists with equal texts", sum(count > 0 for count in equal), "read as they are"),
        (
            "implied comparisons of equal texts",
            of(sum(equal), found.summary.pairs),
            "validation sets them aside, and a list that has no others",
        ),
        (
            "lists that can't be used",
            sum(found.summary.quarantined.values()),
            "none; a bad list would be set aside whole",
        ),
    ]


def topical_chat(found: Look) -> list[Row]:
    """Derived ties."""
    equal = sum(len(equal_pairs(group)) for group in found.groups)
    ties = sum(tied(group) for group in found.groups)
    placeholders = sum(group.prompt[0].content.startswith("_nofact") for group in found.groups)
    return [
        ("pairs with equal mean ratings", of(ties, found.summary.pairs), "derived ties"),
        ("pairs of equal responses", equal, "read; validation sets these comparisons aside, alone"),
        (
            "prompts whose fact is a placeholder",
            of(placeholders, found.summary.groups),
            "read as it stands: it is what the file says",
        ),
        (
            "contexts (clusters)",
            len({group.cluster_id for group in found.groups}),
            "other shares of the seven sets; too few for a promotion",
        ),
    ]


SOURCES: dict[str, tuple[tuple[str, ...], str, Callable[[Look], list[Row]]]] = {
    "PandaLM": (("data=pandalm",), "pandalm", pandalm),
    "hh-rlhf harmlessness": (("data=hh_rlhf",), "hh-rlhf", hh_rlhf),
    "UKPConvArg1 strict": (("data=ukpconvarg1",), "ukpconvarg1", ukp_strict),
    "UKPConvArg1 full": (("data=ukpconvarg1", "data.variant=full"), "ukpconvarg1", ukp_full),
    "finegrained-qa": (("data=finegrained_qa",), "finegrained-qa", finegrained_qa),
    "oasst-rank-zh": (("data=oasst_rank_zh",), "oasst-rank-zh", oasst_rank_zh),
    "topical-chat": (("data=topical_chat",), "topical-chat", topical_chat),
}
"""Overrides, folder and findings of each source, by the name that the tables use."""


def measure(data: Path) -> dict[str, tuple[Look, list[Row]]]:
    """Every source, looked at."""
    found = {}
    for name, (overrides, folder, findings) in SOURCES.items():
        with tempfile.TemporaryDirectory(prefix="touchstone-real-") as place:
            seen = look((*overrides, f"data.path={data.resolve() / folder}"), Path(place))
        found[name] = (seen, findings(seen))
    return found


def tables(found: dict[str, tuple[Look, list[Row]]]) -> str:
    """Both tables in Markdown."""
    lines = [
        "| data | groups | completions | comparisons | pairs | no preference | set aside on import | "
        "groups set aside by validation | comparisons set aside by validation |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (seen, _) in found.items():
        summary, totals = seen.summary, seen.report["totals"]
        numbers = (summary.groups, summary.completions, summary.comparisons, summary.pairs)
        aside = (totals["groups_set_aside"], totals["comparisons_set_aside"])
        counts = (*numbers, sum(map(tied, seen.groups)), sum(summary.quarantined.values()), *aside)
        lines.append(f"| {name} | " + " | ".join(f"{count:,}" for count in counts) + " |")
    lines += ["", "| data | finding | how many | what Touchstone does |", "|---|---|---|---|"]
    for name, (_, rows) in found.items():
        for finding, count, answer in rows:
            lines.append(f"| {name} | {finding} | {count if isinstance(count, str) else f'{count:,}'} | {answer} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    print(tables(measure(parser.parse_args().data)))


if __name__ == "__main__":
    main()
