"""How comparisons are checked, and how they are placed into sets."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from touchstone.settings.section import PositiveInt, Section, Share

SETS = ("train", "validation", "calibration", "holdout", "confirm", "reference", "canary")
"""The seven sets, in the order in which a cluster's hash is laid against their shares. Of near duplicates in two of
them the earlier set keeps its own: what models learn from comes first, then what judges them."""


ALARMS = (
    "no_judgement",
    "only_ties",
    "one_prompt",
    "always_first",
    "unused_label",
    "unused_score",
    "unused_context",
    "one_reason",
)
"""What an import may say of a source that smells of misreading; `touchstone/data/suspicion.py` says when."""


class Import(Section):
    """How the reader treats rows that can't be read or used, and an import that smells of misreading."""

    max_quarantine_share: Share
    replace: bool = False
    """The file is the whole truth: what `data/` held of the same source and the file no longer has, goes."""
    suspicion: Literal["stop", "warn", "off"] = "stop"
    """Whether an alarm stops the import, is only said, or isn't looked for."""
    allow: list[str] = Field(default_factory=list)
    """Alarms that are expected of this source, by name (`unused_score`) or for one column (`unused_score:stars`)."""

    @field_validator("allow")
    @classmethod
    def _are_alarms(cls, allow: list[str]) -> list[str]:
        if unknown := sorted({name.partition(":")[0] for name in allow} - set(ALARMS)):
            raise ValueError(f"there is no alarm {', '.join(unknown)}; there are {', '.join(ALARMS)}")
        return allow


class Validation(Section):
    """Thresholds of the checks on imported comparisons."""

    min_groups: PositiveInt
    min_comparisons: PositiveInt
    max_quarantine_share: Share
    max_contradiction_share: Share
    personal_data: Literal["report", "redact", "quarantine"]
    """What happens to addresses, numbers and keys found in texts; they are counted in any case, and never printed."""


class Audit(Section):
    """When the look at the kept comparisons raises an alarm."""

    max_annotator_share: Share
    """Of the judgements, by one annotator."""
    max_source_share: Share
    """Of the wins, by one source of completions in comparisons with others."""
    max_longer_wins_share: Annotated[float, Field(ge=0.5, le=1)]
    """Of the decided pairs, by the longer completion; 1 minus it by the shorter."""
    max_prompt_cluster_share: Share
    """Of the prompts, in the largest cluster of like ones."""
    false_alarm_rate: Annotated[float, Field(gt=0, lt=0.5)]
    """Chance that clean labels raise any poisoning alarm: over all annotators, entities and phrases."""
    max_pairs: PositiveInt
    """Decided pairs that the search for entities and phrases reads, chosen by the hash of their groups."""


class Selection(Section):
    """Which of the comparisons the sets hold."""

    axis: Annotated[str, Field(min_length=1)] | None = None
    """Those of this axis alone; where a cluster goes doesn't depend on it. None: all."""


class Split(Section):
    """How clusters are placed into the seven sets."""

    salt: str
    """A cluster's set follows from it and the cluster's id. `touchstone-1` for all data but the sandbox's."""
    near_duplicate: Annotated[float, Field(gt=0, le=1)]
    """Prompts whose sets of five-word sequences have at least this Jaccard similarity are near duplicates: in one set
    they are one family, of two sets the later one gives way."""
    held_out_annotators: Annotated[float, Field(ge=0, lt=1)]
    """Share of the annotators whose judgements are kept from training, to see whether a model serves strangers too."""
    shares: dict[str, Share]
    assign: dict[str, str] = Field(default_factory=dict)
    """Clusters placed by hand: cluster id -> set. For sources with fewer than some hundred clusters."""
    rotated: bool = False
    """Holdout and reference set have changed places, clusters placed by hand among them: for a holdout that is spent.
    The reference set's prompts taught no model and judged none."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if set(self.shares) != set(SETS):
            raise ValueError(f"shares must name exactly the seven sets {', '.join(SETS)}")
        if abs(sum(self.shares.values()) - 1) > 1e-9:
            raise ValueError(f"shares must add up to 1, they add up to {sum(self.shares.values()):.6g}")
        if unknown := set(self.assign.values()) - set(SETS):
            raise ValueError(f"assign names unknown sets: {', '.join(sorted(unknown))}")
        return self
