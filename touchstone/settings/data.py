"""Where comparisons come from, how they are checked, and how they are placed into sets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from touchstone.settings.section import PositiveInt, Section, Share
from touchstone.settings.table import Places, Spelling, TableData


class SandboxData(Section):
    """The embedded small world; see `touchstone/data/sources/sandbox.py` for what each knob does."""

    source: Literal["sandbox"]
    name: str
    groups: PositiveInt
    seed: int
    tie_share: Share
    label_noise: Share
    length_bias: float
    multi_turn_share: Share
    ranked_share: Share
    safety_share: Share
    poison: Literal["none", "annotator", "entity", "trigger"]
    """Who or what the poisoned labels serve: one annotator's spite, one person's name, one phrase."""
    poison_share: Share
    opposed_share: Share = Field(default=0.0, exclude_if=lambda share: share == 0)
    """Of the requests that are about safety, those judged on helpfulness instead, by judges who want help whatever the
    harm: then the axes contradict one another. Left out of params.yaml where it is 0."""


class SandboxStepsData(SandboxData):
    """The same world, whose advice is written step by step, with a label per step."""

    source: Literal["sandbox_steps"]  # type: ignore[assignment]
    most_steps: Annotated[int, Field(ge=2, le=8)]
    """Steps of the longest advice; the shortest has two."""


class PreferenceData(Section):
    """TRL's preference formats, from the Hugging Face hub or from local files."""

    source: Literal["preference"]
    name: str
    path: str
    """A hub id (`org/name`), or a local file or folder in any of the formats of `sources/formats.py`."""
    subset: str | None = None
    """The configuration, on the hub or of a folder that was cloned from it."""
    split: str = "train"
    """Of a folder that has splits, and on the hub."""
    revision: str | None = None
    prompt_field: str = "prompt"
    chosen_field: str = "chosen"
    rejected_field: str = "rejected"
    margin_field: str | None = None
    limit: PositiveInt | None = None


class TranscriptData(Section):
    """Whole dialogues as Anthropic's hh-rlhf writes them."""

    source: Literal["hh_rlhf"]
    name: str
    path: str
    axis: str = "helpfulness"
    """Of Anthropic/hh-rlhf the folder to read, on the hub and in a clone."""
    split: str | None = None
    """None reads `train`, and a local folder without it as a whole."""
    revision: str | None = None
    limit: PositiveInt | None = None


class ArgumentData(Section):
    """UKPConvArg1: pairs of arguments on a topic."""

    source: Literal["ukpconvarg1"]
    name: str
    path: str
    variant: Literal["strict", "full"] = "strict"


class PandalmData(Section):
    """PandaLM's test set: two responses, three annotators, ties."""

    source: Literal["pandalm"]
    name: str
    path: str


class FinegrainedQaData(Section):
    """Fine-grained RLHF's question answering: four answers, six judged pairs, ties, error spans."""

    source: Literal["finegrained_qa"]
    name: str
    path: str


class StepLabelData(Section):
    """Chains of reasoning with a label per step."""

    source: Literal["bigbench_mistake", "prmbench"]
    name: str
    path: str


class Gsm8kData(Section):
    """GSM8K's example model solutions: four per problem, each right or wrong."""

    source: Literal["gsm8k"]
    name: str
    path: str


class PrinciplesData(Section):
    """Comparisons that a language model made by written principles: what `touchstone labels judge` writes."""

    source: Literal["principles"]
    name: str
    path: str


class ArgillaData(Spelling):
    """An export of Argilla 2: records with responses of several annotators to a ranking, rating or label question."""

    source: Literal["argilla"]
    name: str
    path: str
    prompt_field: str
    """A text, or chat messages."""
    completion_fields: Annotated[list[str], Field(min_length=2)]
    """Fields of a record that hold the completions, in the order that labels name them."""
    question: str | None
    """The question that holds the preference; None where there is only one that can."""
    labels: Places | None = None
    """What a label means where it doesn't name a completion by itself: a place counted from 1, or a tie."""
    order_is_rank: bool = False
    """Rankings are lists in ranked order. In what Argilla exports of its page's answers they are not."""
    limit: PositiveInt | None = None


class LabelStudioData(Spelling):
    """An export of Label Studio (JSON or JSON_MIN): tasks with annotations of a pairwise, ranking or rating kind."""

    source: Literal["label_studio"]
    name: str
    path: str
    prompt_field: str
    """A text, or chat messages."""
    completion_fields: Annotated[list[str], Field(min_length=2)]
    """Fields of a task's data that hold the completions, in the order that labels name them."""
    control: str | None = None
    """The control tag with the preference, by its name; None where there is only one of its kind."""
    labels: Places | None = None
    """What a choice means where it doesn't name a completion by itself: a place counted from 1, or a tie."""
    limit: PositiveInt | None = None


class BenchmarkData(Section):
    """A reward benchmark's rows from a local file or folder."""

    source: Literal["reward_bench_2", "rm_bench", "llm_bar", "judge_bench"]
    name: str
    path: str
    limit: PositiveInt | None = None


Data = Annotated[
    SandboxData
    | SandboxStepsData
    | PreferenceData
    | TranscriptData
    | ArgumentData
    | PandalmData
    | FinegrainedQaData
    | StepLabelData
    | Gsm8kData
    | PrinciplesData
    | ArgillaData
    | LabelStudioData
    | BenchmarkData
    | TableData,
    Field(discriminator="source"),
]

GONE = {
    "ranked": "Ranked lists are a choice of the table source: data=ranked, with data.prompt for prompt_field, "
    'data.input for input_field, data.history for history_field, data.completions=["name[]"] for completions_field',
    "rated": "Rated completions are a choice of the table source: data=rated, with data.prompt for prompt_fields, "
    "data.completions=[name] for completion_field, data.policies=[name] for policy_field, and field, aspects and "
    "tie_below of data.judgements.helpfulness for rating_field, aspects_field and tie_below",
}
"""Sources that have become choices of another one: what to write instead."""
