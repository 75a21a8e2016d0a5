"""A verdict in one or two sentences, for somebody who has never heard of a reward model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from touchstone.gate.checks import Check, Status, Verdict
from touchstone.gate.record import Needed

_STATUSES: Mapping[Verdict, tuple[Status, ...]] = {
    Verdict.PROMOTE: (),
    Verdict.REJECT: ("fail",),
    Verdict.INCONCLUSIVE: ("undecided", "not_run"),
    Verdict.ERROR: ("error",),
}
"""Statuses that a verdict comes from."""


def causes(verdict: Verdict, checks: Sequence[Check]) -> list[Check]:
    """The checks that made the verdict what it is: required ones, and any that could not be computed."""
    statuses = _STATUSES[verdict]
    return [check for check in checks if check.status in statuses and (check.required or check.status == "error")]


def askable(verdict: Verdict, checks: Sequence[Check], champion: str | None) -> bool:
    """Whether labels of pairs that the two models order differently may close what is open.

    They may not where outcomes (then there is a check `auc`) or steps are learnt: people are asked which answer they
    prefer.
    """
    blocking = {check.name for check in causes(verdict, checks)}
    by_people = not any(check.name == "auc" or (check.name == "floor" and of_chains(check)) for check in checks)
    open_to_labels = not blocking.isdisjoint({"champion", "slices"})
    return verdict is Verdict.INCONCLUSIVE and champion is not None and by_people and open_to_labels


def summarise(
    name: str,
    verdict: Verdict,
    checks: Sequence[Check],
    needed: Needed | None,
    champion: str | None,
    policy: str = "strict",
) -> str:
    """The sentences. A model that learnt from outcome labels is known by its check `auc`.

    Args:
        name: of the model.
        needed: how many more labelled prompts would decide; None where that isn't the question.
        champion: the label of the version compared with; None for the first of its name.
    """
    by_name = {check.name: check for check in checks}
    if verdict is Verdict.PROMOTE:
        floor = by_name["floor"]
        how = "is not worse than" if policy == "refresh" else "is better than"
        against = f" and {how} the champion, version {champion}" if champion else " and is the first of its name"
        if of_chains(floor):
            f1 = {str(row["model"]): float(row["f1"] or 0.0) for row in floor.table}
            others = ", ".join(f"{name} {value:.3f}" for name, value in f1.items() if name != "model")
            return (
                f"{name} may be promoted: in chains of steps that it never saw it finds the first wrong step with F1 "
                f"{f1['model']:.3f} ({others}){against}."
            )
        beaten = {baseline: floor.details[f"accuracy, {baseline}"] for baseline in ("longer_wins", "linear")}
        agrees = f"it agrees with the labels in {floor.value:.1%} of the comparisons"
        if "auc" in by_name:
            agrees = (
                f"it scores a correct answer above a wrong one to the same prompt in {floor.value:.1%} of the cases"
            )
        return (
            f"{name} may be promoted: on prompts it never saw {agrees} (length alone {beaten['longer_wins']:.1%}, "
            f"words and length {beaten['linear']:.1%}){against}.{_asked(by_name)}"
        )
    blocking = causes(verdict, checks)
    names = ", ".join(check.name.replace("_", " ") for check in blocking) or "a required check that is missing"
    # Scores that aren't finite stop most checks: then integrity says why.
    first = next(c for c in (by_name["integrity"], *blocking) if c.status in ("fail", *_STATUSES[verdict]))
    if verdict is Verdict.REJECT:
        return f"{name} is rejected; it fails on: {names}. {first.reason}"
    if verdict is Verdict.ERROR:
        return f"{name} has no verdict and stays out; not computed: {names}. {first.reason}"
    more = ""
    if needed:
        more = f" {needed_words(needed)}"
    elif askable(verdict, checks, champion):
        more = " `touchstone labels ask` asks for labels only where the two models disagree."
    return f"{name} can't be decided on yet; open: {names}. {first.reason}{more}"


def of_chains(floor: Check) -> bool:
    """Whether a floor is a process model's: then its table holds F1 by model."""
    return any("f1" in row for row in floor.table)


def _asked(checks: Mapping[str, Check]) -> str:
    """How many labels were asked for beside the holdout, where there were any."""
    if "asked" not in checks:
        return ""
    details = checks["asked"].details
    return f" {details['labels']:,} labels beside the holdout stand for {details['prompts']:,} prompts."


def needed_words(needed: Needed) -> str:
    """How many more labels would decide: where they have to be, as they come in, and by asking only what matters."""
    kind = f"{needed.slice_name} prompts" if needed.slice_name else "prompts"
    where = {"holdout": "in the holdout", "confirm": "in the reserved set"}[needed.set_name]
    ways = []
    if needed.labelled_prompts is not None:
        ways.append(f"about {needed.labelled_prompts:,} labelled prompts as they come in")
    if needed.labels is not None:
        ways.append(f"about {needed.labels:,} labels by `touchstone labels ask`")
    words = f"About {needed.prompts:,} more {kind} {where} would decide"
    return f"{words}: {', or '.join(ways)}." if ways else f"{words}."
