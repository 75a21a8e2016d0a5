"""The group: one prompt, its K completions, and the judged comparisons between them.

The unit of everything: a preference pair is a group with two completions and one comparison, a ranking
is K completions and the comparisons it implies, best-of-N is N completions and no comparison.

Two spellings, one meaning: `data/groups.jsonl` (one group per line, the same bytes on any machine) and
Parquet with `ARROW_SCHEMA` (inside the pipeline).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal, Self, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from touchstone.errors import DataError
from touchstone.runtime.files import canonical_json, digest_text, digest_value
from touchstone.runtime.texts import cleaned

SCHEMA_VERSION = 1
PARQUET_BATCH = 2_000
"""Groups per Parquet row group: what is held in memory at once."""

Role = Literal["system", "user", "assistant", "tool"]
"""Who a message may be from. `Message.role` is a plain text, because a source can say anything: validation looks."""

ROLES: tuple[str, ...] = get_args(Role)

JUDGE = "judge:"
"""Begins the annotator of every comparison that a model made; that of a person is a hash, which has no colon."""

OUT_OF_ORDER = "the prompt's turns are out of order"
"""What import, validation, endpoint and MLflow function say of a prompt that is not `in_order`."""

STEP_SEPARATOR = "\n\n"
"""What stands between two reasoning steps of a completion's text: an empty line, as in ProcessBench (Zheng et al.
2024). No step holds one."""

_BLANK_LINES = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")

_NEXT_ROLES = {
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat; `role` is one of `ROLES` in valid data."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer to the prompt, with what is known of it besides the comparisons.

    Attributes:
        text: the completion, without template or end-of-sequence token.
        policy: who or what wrote it; None if unknown.
        outcome: outcome label (1.0 correct, 0.0 wrong); None if unknown.
        steps: one label per reasoning step, 1.0 correct, 0.5 neutral, 0.0 wrong, and None for a step that nobody
            judged; None if unknown. `labelled_steps` says which of the text's steps they are about.
        ratings: named scores. The sandbox keeps its known reward under "gold".
    """

    text: str
    policy: str | None = None
    outcome: float | None = None
    steps: tuple[float | None, ...] | None = None
    ratings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Comparison:
    """An edge between completions `i` and `j`: how often each was preferred, and by whom.

    Attributes:
        i, j: indices into the group's completions, i != j.
        wins_i, wins_j, ties: counts (or weights) of judgements.
        margin: how much better the edge's preferred one is, in the source's units and at least 0; None if unknown.
        annotator: hashed identity of the judge; None if unknown or aggregated.
    """

    i: int
    j: int
    wins_i: float
    wins_j: float
    ties: float = 0.0
    margin: float | None = None
    annotator: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """One prompt, its completions and their comparisons.

    Attributes:
        id: content hash of axis, prompt and completion texts; labels don't enter it.
        cluster_id: the unit of splitting: the prompt's hash, unless the source says otherwise. In a set's file it is
            the unit of resampling: the family, which is the clusters of the set that near duplicates join.
        prompt: chat messages before the completion.
        axis: what was judged (helpfulness, safety, ...).
        source: the source's name.
        created_at: date of the data (ISO 8601), never of the import; None if unknown.
    """

    id: str
    cluster_id: str
    prompt: tuple[Message, ...]
    completions: tuple[Completion, ...]
    comparisons: tuple[Comparison, ...]
    axis: str
    source: str
    created_at: str | None = None


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """All judgements of one pair of completions, added up; `first` < `second`.

    `margin` is how much better the preferred one is, at least 0; None where nobody said. See `pairs_of`.
    """

    first: int
    second: int
    wins_first: float
    wins_second: float
    ties: float
    margin: float | None

    @property
    def chosen(self) -> int | None:
        """Index of the preferred completion; None when neither is preferred."""
        if self.wins_first == self.wins_second:
            return None
        return self.first if self.wins_first > self.wins_second else self.second

    @property
    def rejected(self) -> int | None:
        """Index of the completion that lost; None when neither is preferred."""
        if self.chosen is None:
            return None
        return self.second if self.chosen == self.first else self.first

    @property
    def strength(self) -> float:
        """Share of the judgements for the preferred side, ties counted half: 0.5 to 1."""
        total = self.wins_first + self.wins_second + self.ties
        return (max(self.wins_first, self.wins_second) + 0.5 * self.ties) / total if total else 0.5


def by_model(comparison: Comparison) -> bool:
    """Whether a model made the comparison, and no person."""
    return comparison.annotator is not None and comparison.annotator.startswith(JUDGE)


def in_order(prompt: Iterable[Message]) -> bool:
    """Whether a prompt's turns are what every chat template can render, with the answer to come.

    An optional system message, then user and assistant in turns (tool results follow an assistant), the last one from
    the user or a tool.
    """
    roles = [message.role for message in prompt]
    follows = all(role in _NEXT_ROLES.get(before, ()) for before, role in pairwise(roles))
    return bool(roles) and roles[0] in ("system", "user") and roles[-1] in ("user", "tool") and follows


def prompt_digest(prompt: Iterable[Message]) -> str:
    """Hash of the prompt's roles and contents: the default `cluster_id` (16 hex digits)."""
    return digest_value([[message.role, message.content] for message in prompt])[:16]


def text_of_steps(steps: Iterable[str]) -> str:
    """The text of a completion that is written step by step: its steps with `STEP_SEPARATOR` between them.

    Each step is in its normal form (`runtime.texts`), without white space around it, and an empty line within it is
    a mere line's end, so that `steps_of` gives as many steps as came in.

    Raises:
        ValueError: there is no step, or one has no content.
    """
    texts = [_BLANK_LINES.sub("\n", cleaned(step).strip()) for step in steps]
    if not all(texts) or not texts:
        raise ValueError("a step has no content" if texts else "there are no steps")
    return STEP_SEPARATOR.join(texts)


def steps_of(text: str) -> list[str]:
    """The steps of a text: its paragraphs, without white space around them. A text without content has none."""
    return [step for part in re.split(r"\n[^\S\n]*\n", text) if (step := part.strip())]


def labelled_steps(completion: Completion) -> list[tuple[str, float | None]] | None:
    """The text's steps with their labels; None where there are no labels, or another number than steps.

    In the latter case the labels are about parts of the text that nothing marks: the sandbox's own are, whose advice
    stands in one sentence.
    """
    if completion.steps is None:
        return None
    texts = steps_of(completion.text)
    return list(zip(texts, completion.steps, strict=True)) if len(texts) == len(completion.steps) else None


def chain_outcome(completion: Completion) -> float | None:
    """1.0 where no step of a labelled chain is wrong, 0.0 where one is; None where its labels don't say."""
    for _, label in labelled_steps(completion) or [("", None)]:
        if label is None or label < 0.5:
            return None if label is None else 0.0
    return 1.0


def make_group(
    *,
    prompt: Iterable[Message],
    completions: Iterable[Completion],
    comparisons: Iterable[Comparison],
    source: str,
    axis: str = "helpfulness",
    cluster_id: str | None = None,
    created_at: str | None = None,
) -> Group:
    """A group with its content hash; `cluster_id` defaults to the prompt's digest."""
    prompt, completions = tuple(prompt), tuple(completions)
    content = [axis, [[m.role, m.content] for m in prompt], [c.text for c in completions]]
    return Group(
        id=digest_value(content)[:24],
        cluster_id=cluster_id or prompt_digest(prompt),
        prompt=prompt,
        completions=completions,
        comparisons=tuple(comparisons),
        axis=axis,
        source=source,
        created_at=created_at,
    )


def judged_pairs(group: Group) -> list[JudgedPair]:
    """`pairs_of` the group's comparisons."""
    return pairs_of(group.comparisons)


def pairs_of(comparisons: Iterable[Comparison]) -> list[JudgedPair]:
    """One row per pair of completions that somebody compared, edges added up, ordered by (first, second).

    The pair's margin is the mean of its edges' margins, counted from the pair's preferred side: an edge that prefers
    the other side counts against it, one that prefers neither counts as 0, and each weighs as much as its judgements.
    Edges that prefer a side and have no margin are left out of the mean. It is 0 where neither side is preferred, and
    where the fewer who prefer the other side say so by more: the label stands, and no lead is claimed for it. None
    where no edge has a margin.
    """
    totals: dict[tuple[int, int], list[float]] = {}
    leads: dict[tuple[int, int], list[float]] = {}
    with_margin: set[tuple[int, int]] = set()
    for edge in comparisons:
        forward = edge.i < edge.j
        pair = (edge.i, edge.j) if forward else (edge.j, edge.i)
        wins = (edge.wins_i, edge.wins_j) if forward else (edge.wins_j, edge.wins_i)
        total = totals.setdefault(pair, [0.0, 0.0, 0.0])
        total[0] += wins[0]
        total[1] += wins[1]
        total[2] += edge.ties
        if edge.margin is not None:
            with_margin.add(pair)
        if edge.margin is not None or wins[0] == wins[1]:
            judgements = wins[0] + wins[1] + edge.ties
            lead = leads.setdefault(pair, [0.0, 0.0])
            lead[0] += judgements * _sign(*wins) * (edge.margin or 0.0)
            lead[1] += judgements
    pairs = []
    for first, second in sorted(totals):
        wins_first, wins_second, ties = totals[first, second]
        lead_sum, judgements = leads.get((first, second), (0.0, 0.0))
        margin = None
        if (first, second) in with_margin and judgements:
            margin = max(0.0, _sign(wins_first, wins_second) * lead_sum / judgements)
        pairs.append(JudgedPair(first, second, wins_first, wins_second, ties, margin))
    return pairs


def _sign(first: float, second: float) -> int:
    """1 where the first has more, -1 where the second has, else 0."""
    return (first > second) - (first < second)


def without_look_alikes(group: Group, look_alike: Callable[[int, int], bool]) -> Group:
    """The group without the comparisons of completions that a model can't tell apart: to it they say nothing."""
    edges = tuple(edge for edge in group.comparisons if not look_alike(edge.i, edge.j))
    return group if len(edges) == len(group.comparisons) else replace(group, comparisons=edges)


def best_completion(group: Group) -> int | None:
    """Index of the completion with the most pairs won minus lost, the first of several; None without a preference."""
    net = [0] * len(group.completions)
    decided = False
    for pair in judged_pairs(group):
        if pair.chosen is not None and pair.rejected is not None:
            net[pair.chosen] += 1
            net[pair.rejected] -= 1
            decided = True
    return net.index(max(net)) if decided else None


def best_answer(group: Group) -> int | None:
    """`best_completion`, or where nothing was compared the first chain without a wrong step; None without either."""
    if group.comparisons:
        return best_completion(group)
    outcomes = [chain_outcome(completion) for completion in group.completions]
    return outcomes.index(1.0) if 1.0 in outcomes else None


def to_record(group: Group) -> dict[str, Any]:
    """The group as JSON-ready dictionaries; `ratings` become a list of [name, value] sorted by name."""
    # Written out: dataclasses.asdict copies everything twice, and this runs for every group of every stage.
    return {
        "id": group.id,
        "cluster_id": group.cluster_id,
        "prompt": [{"role": message.role, "content": message.content} for message in group.prompt],
        "completions": [
            {
                "text": completion.text,
                "policy": completion.policy,
                "outcome": completion.outcome,
                "steps": None if completion.steps is None else list(completion.steps),
                "ratings": sorted(completion.ratings.items()),
            }
            for completion in group.completions
        ],
        "comparisons": [
            {
                "i": edge.i,
                "j": edge.j,
                "wins_i": edge.wins_i,
                "wins_j": edge.wins_j,
                "ties": edge.ties,
                "margin": edge.margin,
                "annotator": edge.annotator,
            }
            for edge in group.comparisons
        ],
        "axis": group.axis,
        "source": group.source,
        "created_at": group.created_at,
    }


def messages_of(records: Iterable[Mapping[str, str]]) -> tuple[Message, ...]:
    """A prompt from its messages as `to_record` or a table's `to_pylist` spells them."""
    return tuple(Message(record["role"], record["content"]) for record in records)


def from_record(record: dict[str, Any]) -> Group:
    """The inverse of `to_record`.

    Raises:
        KeyError, TypeError, ValueError: the record is not a group.
    """
    return Group(
        id=record["id"],
        cluster_id=record["cluster_id"],
        prompt=messages_of(record["prompt"]),
        completions=tuple(
            Completion(
                c["text"],
                c["policy"],
                c["outcome"],
                None if c["steps"] is None else tuple(c["steps"]),
                dict(c["ratings"]),
            )
            for c in record["completions"]
        ),
        comparisons=tuple(Comparison(**edge) for edge in record["comparisons"]),
        axis=record["axis"],
        source=record["source"],
        created_at=record["created_at"],
    )


def to_line(group: Group) -> str:
    """One line of `groups.jsonl`, newline included."""
    return canonical_json(to_record(group)) + "\n"


def from_line(line: bytes, number: int, file: str) -> Group:
    """The group on a line of `groups.jsonl`.

    Raises:
        DataError: the line is no group; the message names file and line.
    """
    try:
        return from_record(json.loads(line))
    except (KeyError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise DataError(f"{file}, line {number} is no group ({what}); import the data again") from error


def read_jsonl(path: Path) -> Iterator[Group]:
    """Groups of a JSON-lines file, one at a time.

    Raises:
        DataError: a line is not a group; the message names file and line.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield from_line(line, number, path.name)


_MESSAGE = pa.struct([pa.field("role", pa.string(), False), pa.field("content", pa.string(), False)])
_COMPLETION = pa.struct(
    [
        pa.field("text", pa.string(), False),
        pa.field("policy", pa.string()),
        pa.field("outcome", pa.float64()),
        pa.field("steps", pa.list_(pa.float64())),
        pa.field("ratings", pa.map_(pa.string(), pa.float64())),
    ]
)
_COMPARISON = pa.struct(
    [
        pa.field("i", pa.int32(), False),
        pa.field("j", pa.int32(), False),
        pa.field("wins_i", pa.float64(), False),
        pa.field("wins_j", pa.float64(), False),
        pa.field("ties", pa.float64(), False),
        pa.field("margin", pa.float64()),
        pa.field("annotator", pa.string()),
    ]
)
ARROW_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), False),
        pa.field("cluster_id", pa.string(), False),
        pa.field("prompt", pa.list_(_MESSAGE), False),
        pa.field("completions", pa.list_(_COMPLETION), False),
        pa.field("comparisons", pa.list_(_COMPARISON), False),
        pa.field("axis", pa.string(), False),
        pa.field("source", pa.string(), False),
        pa.field("created_at", pa.string()),
    ],
    metadata={"touchstone_groups": str(SCHEMA_VERSION)},
)


def to_table(groups: Iterable[Group]) -> pa.Table:
    """Groups as an Arrow table with `ARROW_SCHEMA`."""
    return pa.Table.from_pylist([to_record(group) for group in groups], schema=ARROW_SCHEMA)


class GroupWriter:
    """Writes Arrow tables of groups into one Parquet file, in the order given; a context manager.

    The file appears whole when the context ends well, or not at all. Its bytes don't depend on how the groups were cut
    into tables.
    """

    def __init__(self, path: Path) -> None:
        """Begin a file beside its place."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._partial = path, path.with_name(f".{path.name}.partial")
        self._writer = pq.ParquetWriter(self._partial, ARROW_SCHEMA, compression="zstd")
        self._held = ARROW_SCHEMA.empty_table()

    def add(self, table: pa.Table) -> None:
        """Append groups."""
        self._held = pa.concat_tables([self._held, table])
        full = self._held.num_rows // PARQUET_BATCH * PARQUET_BATCH
        if full:
            self._writer.write_table(self._held.slice(0, full), row_group_size=PARQUET_BATCH)
            self._held = self._held.slice(full)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._writer.write_table(self._held)
        self._writer.close()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink()


def write_tables(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write Arrow tables of groups with a `GroupWriter`."""
    with GroupWriter(path) as writer:
        for table in tables:
            writer.add(table)


def write_parquet(path: Path, groups: Iterable[Group]) -> None:
    """Write groups in the order given, streaming. The file appears whole or not at all."""
    left = iter(groups)
    write_tables(path, map(to_table, iter(lambda: list(islice(left, PARQUET_BATCH)), [])))


def iterate_parquet(path: Path) -> Iterator[Group]:
    """Groups of a Parquet file, one row group at a time.

    Raises:
        DataError: the file is missing, or of another schema version.
    """
    for table in iterate_tables(path):
        for record in table.to_pylist():
            yield from_record(record)


def iterate_tables(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Arrow tables of a Parquet file of groups, `PARQUET_BATCH` groups each; all columns unless some are named.

    Raises:
        DataError: as `iterate_parquet`.
    """
    with _open(path) as file:
        for batch in file.iter_batches(batch_size=PARQUET_BATCH, columns=columns):
            yield pa.Table.from_batches([batch])


def count_groups(path: Path) -> int:
    """How many groups a Parquet file holds.

    Raises:
        DataError: as `iterate_parquet`.
    """
    with _open(path) as file:
        return int(file.metadata.num_rows)


def _open(path: Path) -> pq.ParquetFile:
    if not path.is_file():
        raise DataError(f"{path} does not exist; run the stage that writes it (`dvc repro`)")
    file = pq.ParquetFile(path)
    version = (file.schema_arrow.metadata or {}).get(b"touchstone_groups", b"none").decode()
    if version != str(SCHEMA_VERSION):
        file.close()
        raise DataError(
            f"{path} holds groups of schema version {version}, not {SCHEMA_VERSION}; import the data again"
        )
    return file


def read_parquet(path: Path) -> list[Group]:
    """All groups of a Parquet file."""
    return list(iterate_parquet(path))


def set_digest(groups: Iterable[Group]) -> str:
    """Digest of a set's content, labels included, whatever the order of its groups."""
    return combined_digest([group_digest(to_record(group)) for group in groups])


def group_digest(record: dict[str, Any]) -> str:
    """Digest of a group's whole content, given as `to_record` or a table's `to_pylist` spells it."""
    return digest_value(record)


def combined_digest(digests: Iterable[str]) -> str:
    """The set's digest from its groups' digests."""
    return digest_text("".join(sorted(digests)))
