"""Two models behind one address: helpfulness and safety, and the rule that makes one score of theirs.

    combination = Combination(settings.serve.combination, helpfulness, safety)    # two `Live`
    combined = combination.find()                        # the versions in memory, and the digest of all that decides
    score = combined.score(helpful_score, safe_score)

Two reward models rather than one, because the aims pull in two directions: Sparrow adds the rewards of a preference
model and a rule model (Glaese et al. 2022, arXiv 2209.14375), Llama 2 takes R_c = R_s if the prompt is tagged for
safety or R_s < 0.15, and R_h otherwise, and whitens what comes out (Touvron et al. 2023, arXiv 2307.09288, section
3.2.2). Here a request carries no tags, and whitening comes first: the rule takes centred scores, each in standard
deviations of its own model's reference set, so that neither model's scale decides; what stands in for R_s < 0.15 is
safety's percentile in its reference set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from touchstone.model.scores import Score
from touchstone.runtime.files import digest_value
from touchstone.serving.live import Live, Served
from touchstone.serving.pins import Pin
from touchstone.settings.serve import Combination as Rule

PARTS = ("helpfulness", "safety")

NO_NUMBER = 0
"""Stands for the version of a combination, which is no registered one."""

Rows = Sequence[Sequence[Score]]
"""Per item one score per completion."""


@dataclass(frozen=True)
class Combined:
    """A version of each part, and the rule.

    Attributes:
        names: of the parts, as their answers bear them: NAME@ALIAS.
    """

    rule: Rule
    names: tuple[str, str]
    helpfulness: Served
    safety: Served

    @property
    def name(self) -> str:
        """What its answers call it."""
        return self.rule.name

    @property
    def version(self) -> int:
        """NO_NUMBER: its digest says which it is."""
        return NO_NUMBER

    @property
    def parts(self) -> dict[str, tuple[str, Served]]:
        """Name and version by part."""
        return dict(zip(PARTS, zip(self.names, (self.helpfulness, self.safety), strict=True), strict=True))

    @property
    def digest(self) -> str:
        """Of both artifacts' digests and of the rule with its numbers: a change of any is another stamp.

        Names and aliases don't enter: the same artifacts by the same rule give the same scores.
        """
        numbers = self.rule.model_dump(mode="json", include={"rule", "weights", "percentile"})
        digests = {part: served.version.digest for part, (_, served) in self.parts.items()}
        return digest_value({"combination": numbers, **digests})

    def rows(self, helpfulness: Rows, safety: Rows) -> list[list[Score]]:
        """The parts' scores of the same items into one score per completion."""
        return [
            [self.score(helpful, safe) for helpful, safe in zip(*row, strict=True)]
            for row in zip(helpfulness, safety, strict=True)
        ]

    def score(self, helpfulness: Score, safety: Score) -> Score:
        """One completion's score by the rule.

        Returns:
            `centered` and `reward` are the rule's value: a combination has no raw reward. `percentile` is that of the
            part whose score was taken, and by weights the weighted mean of both: it says how good, and is no place in
            a reference set of the combination. `tokens` is the larger of both, `truncated` if either was.
        """
        truncated, tokens = helpfulness.truncated or safety.truncated, max(helpfulness.tokens, safety.tokens)
        if self.rule.weights is not None:
            first, second = self.rule.weights
            value = first * helpfulness.centered + second * safety.centered
            mean = (first * helpfulness.percentile + second * safety.percentile) / (first + second)
            return Score(value, value, mean, truncated, tokens)
        if self.rule.percentile is not None:
            chosen = safety if safety.percentile < self.rule.percentile else helpfulness
        else:
            chosen = min(helpfulness, safety, key=lambda score: score.centered)
        return replace(chosen, reward=chosen.centered, truncated=truncated, tokens=tokens, values=None, correct=None)


class Combination:
    """Both parts as they are in memory now, and the name that they are served by.

    Attributes:
        name: of the model that they make.
        nameless: whether requests that name no model mean this one.
    """

    def __init__(self, rule: Rule, helpfulness: Live, safety: Live, *, nameless: bool = False) -> None:
        self.rule = rule
        self.name = rule.name
        self.nameless = nameless
        self.helpfulness = helpfulness
        self.safety = safety

    def meant(self, model: str | None) -> bool:
        """Whether a request's model is this one: its name, with or without `@champion`."""
        return self.nameless if model is None else model.removesuffix("@champion") == self.name

    def find(self, digest: str = "") -> Combined | None:
        """What is in memory now; None while a part isn't, or if nothing's combined digest begins as it must.

        Args:
            digest: how it begins; previous versions of the parts are combined too then.
        """
        if digest:
            return next((combined for combined in self._all() if Pin(digest=digest).fits(0, combined.digest)), None)
        helpfulness, safety = self.helpfulness.find(None), self.safety.find(None)
        return None if helpfulness is None or safety is None else self._combined(helpfulness, safety)

    def _all(self) -> Iterator[Combined]:
        """Every combination of versions in memory."""
        pairs = product(self.helpfulness.memory, self.safety.memory)
        for helpfulness, safety in pairs:
            yield self._combined(
                (f"{self.helpfulness.name}@{helpfulness.version.version}", helpfulness),
                (f"{self.safety.name}@{safety.version.version}", safety),
            )

    def _combined(self, helpfulness: tuple[str, Served], safety: tuple[str, Served]) -> Combined:
        return Combined(self.rule, (helpfulness[0], safety[0]), helpfulness[1], safety[1])
