"""Where things are in the rows of a table: prompts, completions, and what says which is the better one.

A path is dotted, with list steps: `info.post`, `completions[].response`, `turns[-1].content`. See
`touchstone/data/sources/paths.py` for how one is followed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from touchstone.settings.section import NonNegativeFloat, PositiveInt, Section

Form = Literal["auto", "text", "messages", "json", "transcript"]
UNKNOWN_LICENCE = "not known to Touchstone; see the source"


def label_key(value: Any) -> str:
    """A label's value as the text that a map of labels names it by: without case, and 1.0 is 1."""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value).strip()
    whole_number, point, zeros = text.partition(".")
    if point and zeros.strip("0") == "" and whole_number.lstrip("-").isdecimal():
        text = whole_number
    return text.casefold()


Place = int | Literal["tie", "both_bad", "none"]
"""What a label means: a place among the completions, counted from 1, a tie, or no judgement."""


def _named_by_text(labels: Any) -> Any:
    """YAML reads `0: 1` as numbers and `true: 1` as a truth value; labels are compared as text."""
    if not isinstance(labels, dict):
        return labels
    named = {label_key(value): place for value, place in labels.items()}
    if len(named) < len(labels):
        raise ValueError("two of the labels are the same but for case, blanks or a .0")
    return named


Labels = Annotated[dict[str, Place], BeforeValidator(_named_by_text)]
"""Meanings by the labels' text."""


def _are_places(labels: dict[str, Place]) -> dict[str, Place]:
    if any(isinstance(place, int) and place < 1 for place in labels.values()):
        raise ValueError("labels name places counted from 1: the first completion is 1, the second 2")
    return labels


Places = Annotated[Labels, AfterValidator(_are_places)]
"""Labels that name completions."""


class Spelling(Section):
    """How chat messages are written."""

    role_key: str | None = None
    """A message's key for who speaks; None: role or from."""
    content_key: str | None = None
    """A message's key for what is said; None: content, value or text."""
    roles: dict[str, Literal["system", "user", "assistant", "tool"]] | None = None
    """Names of roles beyond human, prompter, gpt, chatbot and the like."""


def _nothing_is_empty(value: Any) -> Any:
    """A dictionary that is null in a configuration: Hydra lets an override fill a null, but add nothing to `{}`."""
    return {} if value is None else value


class Judgement(Section):
    """What says which completion is the better one, on one axis."""

    kind: Literal["order", "label", "one_hot", "strength", "ratings", "ranks"]
    """order: the completions come best first. label: a value names the winner. one_hot: one column per completion,
    of which one is 1. strength: a signed number. ratings: the higher one wins. ranks: the lower one wins."""
    field: str | list[str] | None = None
    """A path; for one_hot, ratings and ranks a path per completion; for label and strength a list is several votes."""
    labels: Labels | None = None
    """What each value of a label means: a place among the completions, counted from 1, or a tie. "both_bad" is a tie,
    "none" is no judgement. For ratings: the number that a word stands for."""
    ties: list[str] = Field(default_factory=list)
    """one_hot: columns that are 1 where neither is the better one."""
    first_is: Literal["negative", "positive"] | None = None
    """strength: the sign of a number that prefers the first completion."""
    tie_below: NonNegativeFloat = 0.0
    """ratings, strength: what differs by less than this is a tie; equal ratings and a strength of 0 always are."""
    margin: str | list[str] | None = None
    """order, label, one_hot: by how much the winner is better; of one value per completion, the difference."""
    annotator: str | list[str] | None = None
    """Who judged; hashed. With votes, one per vote."""
    aspects: Annotated[dict[str, str | list[str]], BeforeValidator(_nothing_is_empty)] = Field(default_factory=dict)
    """Further numbers of each completion, which are kept with it by these names."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.field is None) != (self.kind == "order"):
            raise ValueError(
                "kind=order has no field: the completions stand best first"
                if self.kind == "order"
                else f"kind={self.kind} needs field, the path to it"
            )
        if self.kind == "strength" and self.first_is is None:
            raise ValueError(
                "kind=strength needs first_is: the sign (negative or positive) of a number that prefers the first"
            )
        if self.labels is not None and self.kind not in ("label", "ratings"):
            raise ValueError("labels go with kind=label and kind=ratings")
        if self.kind == "ratings" and {"tie", "both_bad"} & set((self.labels or {}).values()):
            raise ValueError("labels of kind=ratings are numbers, or none")
        if self.kind == "label":
            _are_places(self.labels or {})
        if self.margin is not None and self.kind in ("strength", "ratings", "ranks"):
            raise ValueError("margin goes with kind=order, label and one_hot; strength and ratings have their own")
        return self


class Tree(Section):
    """Where a tree's messages and replies are, as Open Assistant writes them."""

    root: str = "prompt"
    """The first message; a message holds text, role and replies."""
    replies: str = "replies"
    leave_out: Annotated[dict[str, list[bool | str | None]], BeforeValidator(_nothing_is_empty)] = Field(
        default_factory=dict
    )
    """Replies that are set aside with all that follows them: a field, and the values that say so."""


class TableData(Spelling):
    """Rows of any shape; the settings say where things are."""

    source: Literal["table"]
    name: str
    path: str
    """A hub id (`org/name`), or a local file or folder."""
    subset: str | None = None
    folder: str | None = None
    split: str | None = "train"
    revision: str | None = None
    limit: PositiveInt | None = None
    licence: str = UNKNOWN_LICENCE
    """Of the data, as its publisher states it; recorded with the import."""

    rows: Literal["group", "completion", "tree"] = "group"
    """What a row is: a prompt with its completions, one completion, or a tree of replies."""
    merge: bool = False
    """rows=group: rows with the same prompt are one group, so that several votes on a pair are; held in memory."""
    group_field: str | None = None
    """rows=completion: what rows of one group share, where the prompt doesn't say it."""

    prompt: str | list[str] | None = None
    """A path, or several whose texts are joined by an empty line. None: the beginning that the completions share."""
    prompt_form: Form = "auto"
    system: str | None = None
    input: str | None = None
    """Text below the prompt where it isn't empty (Alpaca's "input")."""
    history: str | None = None
    """Earlier turns: pairs of [user, assistant], or messages."""

    completions: Annotated[list[str], Field(min_length=1)] | None = None
    """Columns, a path with a list step, or a mix: what an earlier path names comes first."""
    completion_form: Form = "auto"
    turn: str | None = None
    """Which turn of whole dialogues was judged, counted from 1; what follows it is cut off."""
    policies: list[str] | None = None
    """Who or what wrote the completions, path by path."""
    tree: Tree = Tree()

    judgements: Annotated[dict[str, Judgement], Field(min_length=1)]
    """By axis: a row that is judged on two axes becomes two groups."""
    axis_field: str | None = None
    """The axis of a row's one judgement, where the row says it."""
    time: str | None = None
    """When it was judged: ISO 8601, or seconds since 1970."""
    cluster: str | None = None
    """The unit of splitting. None: the prompt, or its opening message where there is a history or a tree."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.axis_field is not None and len(self.judgements) != 1:
            raise ValueError("axis_field goes with one judgement; several have their axes as names")
        if self.rows != "tree" and self.completions is None:
            raise ValueError("completions: name the columns or the path of the completions")
        if self.rows == "completion" and (len(self.completions or ()) != 1 or "[]" in (self.completions or [""])[0]):
            raise ValueError("rows=completion has one path without a list step in completions")
        if self.rows != "group" and (wrong := {j.kind for j in self.judgements.values()} - {"ratings", "ranks"}):
            raise ValueError(f"rows={self.rows} takes judgements of kind ratings or ranks, not {', '.join(wrong)}")
        if self.rows != "group" and any(isinstance(j.field, list) for j in self.judgements.values()):
            raise ValueError(f"rows={self.rows} takes one path as a judgement's field")
        if self.rows != "group" and any(isinstance(j.annotator, list) for j in self.judgements.values()):
            raise ValueError(f"rows={self.rows} takes one path as a judgement's annotator")
        if self.rows == "tree" and (self.axis_field or any(j.annotator for j in self.judgements.values())):
            raise ValueError("rows=tree reads neither axis_field nor annotators: ranks are those of all who ranked")
        if self.merge and self.rows != "group":
            raise ValueError("merge goes with rows=group; the others put a prompt's rows together anyway")
        if self.group_field is not None and self.rows != "completion":
            raise ValueError("group_field goes with rows=completion")
        for axis, judgement in self.judgements.items():
            if judgement.kind == "ratings" and rating_name(axis, judgement) in judgement.aspects:
                raise ValueError(f"judgements.{axis}.aspects has a name that the rating itself is kept by")
        return self


def rating_name(axis: str, judgement: Judgement) -> str:
    """What a judgement's ratings are kept by: the last name of their path, or the axis where they have several."""
    return judgement.field.rpartition(".")[2].removesuffix("[]") if isinstance(judgement.field, str) else axis
