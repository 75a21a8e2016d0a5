"""What the page says in its own words: verdicts, policies, checks, pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from touchstone.gate.page.bars import Side
from touchstone.gate.record import Metrics
from touchstone.model.optimisation_budget import OptimisationBudget
from touchstone.pages.figures import BLUE, INK, ORANGE
from touchstone.pages.text import number, percent, points

Kind = Literal["share", "points", "count", "number"]

MEANING = {
    "PROMOTE": "The version may become the champion, for exactly the digests below.",
    "REJECT": "{stays} This candidate does not get further; a better one may.",
    "INCONCLUSIVE": "{stays} The evidence is too thin for a yes or a no.",
    "ERROR": "{stays} Something went wrong before a verdict could be reached.",
}
STAYS = {True: "No model is promoted.", False: "The champion stays as it is."}
"""By whether this would be the first of its name."""

POLICIES = {
    "strict": "strict: it must be better than the champion",
    "refresh": "refresh: the same recipe with newer data must not be worse than the champion by more than a margin",
    "first_model": "first model: there is no champion yet, so the fixed limits decide",
    "small_data": "small data: few labels, and never a promotion without a person",
}

MODELS = {
    "model": "this model",
    "champion": "the champion",
    "majority": "majority",
    "longer_wins": "length alone",
    "length": "length and place of a step",
    "words": "words and length of a step",
    "linear": "words and length",
    "bayes_optimal": "best possible (known reward)",
}

STATUSES = {"warn": "warning", "not_run": "not run", "gated": "tested", "printed": "too few prompts"}


PROBES = {"pass": "within the limit", "undecided": "too few prompts", "fail": "wins too often"}


@dataclass(frozen=True, slots=True)
class About:
    """What a check asks, how its numbers read, and on which side of the threshold they must lie."""

    question: str
    kind: Kind = "number"
    side: Side | None = None

    def asked(self, threshold: float) -> str:
        """What is asked, in words."""
        return asked(threshold, self.kind, self.side)


CHECKS = {
    "integrity": About("Does every text have a finite score, and do scores tell texts apart?", "count", "most"),
    "reload": About("Does the saved model give the same scores when it is loaded again?", "number", "most"),
    "leakage": About("Were the judged prompts kept out of the training?", "count", "most"),
    "evidence": About("Are there enough independent prompts to judge by?", "count", "least"),
    "floor": About("Does it agree with people clearly more often than simple rules do?", "share", "least"),
    "champion": About("How does it compare with the model that serves today?", "points", "least"),
    "calibration": About("When it says 80%, is it right in 80% of the cases?", "number", "most"),
    "slices": About("Is any kind of prompt served worse? The lowest is drawn.", "points", "least"),
    "length": About("Does it judge what is said, and not how long it is?", "number", "within"),
    "probes": About("Do empty and meaningless texts lose?", "share", "most"),
    "refusals": About("Does a plain refusal hold where people preferred one, and only there?", "share", "most"),
    "auc": About("Does it tell correct answers from wrong ones to other prompts too?", "share", "least"),
    "outcome_calibration": About("Of answers that it calls 80% likely to be correct, are 80%?", "number", "most"),
    "best_of_n": About(
        "Is the answer that it would choose correct more often than by simple rules?", "points", "least"
    ),
    "noise_ceiling": About("Is it suspiciously better than labels as noisy as these allow?", "share", "most"),
    "seeds": About("Would the same recipe with another random seed be as good?", "number", "most"),
    "overoptimisation": About("Does real quality still rise where a policy chases the reward?", "number", "least"),
    "holdout_use": About("Has this holdout been used too often to be believed?", "count", "most"),
    "centering": About("Is the zero point of the scores known well enough?", "number", "most"),
    "spread": About("Are the members of the ensemble further apart where it errs?", "share", "least"),
    "asked": About("Do the labels that were asked for beside the holdout tell the same as it?", "share"),
    "judge_bias": About("How often does its verdict depend on the order of the answers?", "share"),
    "model_labels": About("Did people make the comparisons that judge here?", "share", "most"),
    "confirm": About("Does it hold on prompts that were kept in reserve?", "share", "least"),
    "cross_fit": About(
        "Do models of the same recipe agree with people on prompts that they never saw?", "share", "least"
    ),
    "unattended": About("May it be promoted without a person?"),
}
"""Of every check that a decision can hold, under every policy."""


PROCESS_CHECKS = {
    "evidence": About("Are there enough independent prompts with chains of steps to judge by?", "count", "least"),
    "floor": About("Does it find the first wrong step clearly better than simple rules do? (F1)", "number", "least"),
    "champion": About("How does its F1 compare with that of the model that serves today?", "number", "least"),
    "calibration": About("Of steps that it calls 80% likely to be right, are 80%?", "number", "most"),
    "slices": About("Is any kind of chain served worse? The lowest difference of F1 is drawn.", "number", "least"),
    "length": About("Does it judge the steps, and not how many there are?", "number", "within"),
    "confirm": About("Does its F1 hold on prompts that were kept in reserve?", "number", "least"),
}
"""Of those that ask something else of a process model."""


def about(name: str, *, of_chains: bool) -> About:
    """What a check asks: of a process model, or of any other."""
    return (PROCESS_CHECKS if of_chains else CHECKS).get(name, CHECKS[name])


PARTS: Mapping[str, tuple[Kind, Side]] = {
    "a": ("number", "within"),
    "b": ("share", "least"),
    "c": ("share", "least"),
    "d": ("points", "within"),
    "e": ("share", "least"),
}
"""Parts of the check of length: how their numbers read, and what is asked."""


def asked(threshold: float, kind: Kind, side: Side | None) -> str:
    """What is asked, in words."""
    limit = shown(threshold, kind)
    if side is None:
        return limit
    return f"within ±{limit.lstrip('+')}" if side == "within" else f"at {side} {limit}"


def shown(value: float, kind: Kind) -> str:
    """A check's number for people."""
    return f"{bare(value, kind)} points" if kind == "points" else bare(value, kind)


def bare(value: float, kind: Kind) -> str:
    """A check's number without its unit, where a column or a second number says it."""
    if kind == "points":
        return points(value) if value else "0"
    return percent(value) if kind == "share" else number(value)


def between(bounds: Sequence[float], kind: Kind) -> str:
    """Bounds for people."""
    return f"{bare(bounds[0], kind)} to {shown(bounds[1], kind)}"


def status(name: str) -> str:
    """A status in words."""
    return STATUSES.get(name, name)


def figures(
    measured: Metrics, *, with_champion: bool
) -> Iterator[tuple[str, str, str, str, tuple[tuple[str, str], ...]]]:
    """File name, title, alternative, caption and key of each picture of a holdout.

    Args:
        measured: on the holdout.
    """
    error, null = measured.calibration_error, measured.null_error
    yield (
        "reliability.svg",
        "Can its probabilities be believed?",
        f"How sure the model is against how often it is right, in 15 groups of {measured.pairs:,} pairs. "
        f"The calibration error is {error:.3f}; chance alone gives a perfectly calibrated model up to {null:.3f}. "
        "The numbers stand in the table of checks under calibration.",
        f"On the dotted line, 80% sure means right in 80% of the cases. Lines: 95% intervals. Calibration error "
        f"{error:.3f}; a perfect model reads up to {null:.3f} by chance. Below: how many pairs lie where.",
        (),
    )
    key = ((BLUE, "ordered as labelled"), (ORANGE, "the other way round"))
    yield (
        "margins.svg",
        "How sure is it, and of what?",
        "Histogram of the probability that the model gives the labelled winner of each pair; above one half it agrees "
        f"with the label, which it does in {measured.accuracy:.1%} of the pairs. On average the winner is "
        f"{measured.margin:.2f} reward units ahead." + (" The champion's histogram is an outline." * with_champion),
        "Far left is where it contradicts the labels most: the texts stand below. The axis is stretched towards its "
        "ends (log odds), where the outermost bars hold what lies beyond.",
        (*key, (INK, "outline: the champion")) if with_champion else key,
    )
    correlation = measured.length_correlation
    outcome = "is undefined: nothing varies" if correlation is None else f"is {correlation:+.2f}"
    yield (
        "length.svg",
        "Does length buy reward?",
        f"Reward against length in tokens, in cells coloured by how many completions lie there. Their rank "
        f"correlation within a prompt {outcome}.",
        f"The rank correlation within a prompt {outcome}; 0 is indifference. The stronger the colour, the more "
        "completions.",
        ((BLUE, "completions"), (ORANGE, "median reward of each tenth by length")),
    )


def optimisation(budget: OptimisationBudget) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    """Alternative, caption and key of the picture of how far the reward may be optimised."""
    last, peak = budget.points[-1], budget.fitted.peak
    turns = "The fitted curve only rises." if peak is None else f"The fitted curve turns at sqrt(KL) {peak:.2f}."
    return (
        f"Reward and gold of the best of n, up to n = {last.n:,}, where the reward has gained {last.proxy:.2f} and "
        f"gold {last.gold:.2f} standard deviations. The numbers stand in the table beside.",
        f"Dotted: the budget, the best of {budget.n:,}, up to which gold is seen to rise at every doubling. Line and "
        f"band: the fitted curve of gold, and 95% bounds of each point. {turns}",
        ((ORANGE, "the reward"), (BLUE, "gold")),
    )
