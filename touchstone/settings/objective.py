"""What training minimises."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from touchstone.settings.section import (
    NonNegativeFloat,
    PositiveFloat,
    Section,
)

Learns = Literal["comparisons", "outcome", "process"]
"""Which labels teach a model, and judge it: comparisons of completions, each completion's outcome, or each step's
label."""


class Objective(Section):
    """What training minimises; formulas and sources in docs/losses.md and docs/outcome_and_process.md."""

    name: Literal["bradley_terry", "rao_kupper", "davidson", "plackett_luce", "outcome", "process"]
    labels: Literal["majority", "votes"]
    """What a comparison says: its preferred side, or the share of judgements for each side and for a tie."""
    use_margin: bool
    """Subtract the margin from the reward difference (Llama 2, equation 2)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)]
    """Share of a label that is given to the other side; keeps the best difference finite."""
    noise_rate: Annotated[float, Field(ge=0, lt=0.5)]
    """Known share of flipped labels, which the likelihood then accounts for."""
    tie_parameter: PositiveFloat | None
    """How likely ties are: theta of Rao and Kupper (> 1), or nu of Davidson. None for the models without ties."""
    weighting: Literal["comparison", "group"]
    """What weighs the same: every comparison (outcome: every labelled completion, whatever its length), or every group
    however many it has."""
    agreement: Literal["keep", "weight", "bucket", "filter", "hard_negatives"]
    """What becomes of how far a comparison's judges agreed; docs/losses.md says when to use which."""
    agreement_threshold: Annotated[float, Field(gt=0.5, le=1)] | None
    """The least share of judgements for the preferred side, ties counted half, that agreement=filter learns from."""
    agreement_buckets: Annotated[int, Field(ge=2)] | None
    """Into how many parts agreement=bucket cuts an epoch, from the comparisons most agreed on to the least."""
    length: Literal["keep", "balance", "separate"]
    """What is done so that length is not what is learned: wins of the longer and of the shorter text weigh the same,
    or a head of its own takes length up (docs/length.md)."""
    length_penalty: PositiveFloat
    """For length=separate: what the terms that keep the two heads apart weigh beside the loss."""
    decoys: Annotated[float, Field(ge=0, le=4, allow_inf_nan=False)]
    """Texts without an answer in them that each group's best completion beats, per group on average."""
    centering: NonNegativeFloat
    """Weight of mean((r_chosen + r_rejected)^2), Eisenstein et al. 2312.09244; 0 switches it off."""

    step_classes: Literal[2, 3]
    """What name=process tells apart in a step: wrong from all else, or wrong, neutral and correct."""

    @property
    def learns(self) -> Learns:
        """Which labels it learns from."""
        return self.name if self.name in ("outcome", "process") else "comparisons"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.learns != "comparisons":
            self._check_pointwise()
        if self.step_classes != 2 and self.name != "process":
            raise ValueError(f"step_classes={self.step_classes} goes with name=process only; set it to 2")
        extras = {
            "use_margin": self.use_margin,
            "label_smoothing": self.label_smoothing > 0,
            "noise_rate": self.noise_rate > 0,
            f"agreement={self.agreement}": self.agreement in ("weight", "filter", "hard_negatives"),
        }
        # Refinements that are defined for the pairwise likelihood alone.
        if self.name != "bradley_terry" and any(extras.values()):
            used = ", ".join(name for name, on in extras.items() if on)
            raise ValueError(f"{used} goes with name=bradley_terry only; switch it off for name={self.name}")
        # Votes already say how strong a preference is, and where there is none.
        if self.labels == "votes" and (self.use_margin or self.agreement == "weight"):
            which = "use_margin" if self.use_margin else "agreement=weight"
            raise ValueError(f"{which} and labels=votes would count the strength of a preference twice; choose one")
        if self.labels == "votes" and self.agreement in ("filter", "hard_negatives"):
            raise ValueError(
                f"agreement={self.agreement} leaves out ties or contested comparisons, and labels=votes is there to "
                "learn from them; choose one"
            )
        for policy, name, start in (("filter", "agreement_threshold", 0.75), ("bucket", "agreement_buckets", 4)):
            given = getattr(self, name) is not None
            if self.agreement == policy and not given:
                raise ValueError(f"agreement={policy} needs {name}; {start} is a start")
            if self.agreement != policy and given:
                raise ValueError(f"{name} goes with agreement={policy} only; set it to null")
        # Parts that contradict each other.
        if self.label_smoothing and self.noise_rate:
            raise ValueError(
                "label_smoothing and noise_rate are two remedies for the same noise; set one of them to 0"
            )
        if self.decoys and (self.use_margin or self.name == "plackett_luce"):
            which = "use_margin" if self.use_margin else "name=plackett_luce"
            raise ValueError(f"a decoy has neither a margin nor a rank, and {which} needs one; set decoys to 0")
        if self.name == "plackett_luce" and (self.labels, self.weighting) != ("majority", "group"):
            raise ValueError(
                "name=plackett_luce learns one ranking per group: it needs labels=majority and weighting=group"
            )
        if self.length != "keep" and self.name == "plackett_luce":
            raise ValueError(f"length={self.length} is about comparisons, and name=plackett_luce learns rankings")
        # Models of ties need their parameter, and no other has one.
        ties = self.name in ("rao_kupper", "davidson")
        if ties and self.tie_parameter is None:
            raise ValueError(f"name={self.name} needs tie_parameter; 2 for rao_kupper or 1 for davidson is a start")
        if not ties and self.tie_parameter is not None:
            raise ValueError(f"name={self.name} knows no ties: set tie_parameter to null")
        if self.name == "rao_kupper" and self.tie_parameter is not None and self.tie_parameter <= 1:
            raise ValueError(
                f"tie_parameter ({self.tie_parameter}) must exceed 1 for rao_kupper, or ties can't happen"
            )
        return self

    def _check_pointwise(self) -> None:
        """Refuse what speaks of pairs alone.

        Raises:
            ValueError: it is set.
        """
        if self.centering:
            raise ValueError(f"centering pulls pairs of rewards to 0, and name={self.name} has none: set it to 0")
        if self.labels == "votes" or self.agreement != "keep":
            which = "labels=votes" if self.labels == "votes" else f"agreement={self.agreement}"
            raise ValueError(
                f"{which} speaks of comparisons, and name={self.name} learns from a label of each completion; set "
                "labels to majority and agreement to keep"
            )
