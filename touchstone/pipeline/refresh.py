"""A refresh on policy: label what a policy makes of the reward, add it to the data, train again from the base.

runs/refresh/<id>/    what people are asked (`data.exports`), and the pairs, until their answers come back

A policy that chases the champion writes what no comparison holds. Of its completions the pairs are chosen that the
models doubt; the sandbox's annotators judge them at once, people get files of questions. Then comes the ordinary run:
the candidate is trained from the base model and judged against the champion like any other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np

from touchstone.data import appending
from touchstone.data.answers import Answer, read_answers
from touchstone.data.exports import asked_pair, write_questions
from touchstone.data.pool import read_pool
from touchstone.data.sources import sandbox, sandbox_policies
from touchstone.errors import DataError, RegistryError, SettingsError
from touchstone.evaluation.labelling import choose_pairs, shortlist
from touchstone.groups import Comparison, Completion, Group, make_group, read_jsonl, to_line
from touchstone.model.processor import prepare
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer
from touchstone.pipeline import data, dvc
from touchstone.pipeline.runs import folder_of
from touchstone.registry import Registry
from touchstone.runtime.files import digest_value, write_atomic, write_folder
from touchstone.settings import Settings
from touchstone.settings.data import SandboxData
from touchstone.statistics import Floats

PAIRS = "pairs.jsonl"
POLICY = "policy"
SAMPLES = 32
"""Completions of each prompt that the sandbox's policy writes."""
BEYOND = 100_000
"""How far behind the last group of the sandbox its refreshes' prompts begin; the budget's stand in between."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is worth a label.

    Attributes:
        groups: prompts with the completions that were looked at.
        pairs: of each group those to ask about.
    """

    groups: Sequence[Group]
    pairs: Sequence[Sequence[tuple[int, int]]]

    @property
    def count(self) -> int:
        """How many pairs there are."""
        return sum(map(len, self.pairs))


def choose(
    root: Path, settings: Settings, *, samples: Path | None, labels: int, members: Sequence[Path] = (), seed: int = 0
) -> Chosen:
    """The pairs of a policy's completions that champion and members doubt.

    Args:
        samples: a pool of the policy's completions; None: the sandbox's wandering policy.
        labels: how many pairs.
        members: further sealed artifacts, such as an ensemble's.
        seed: another one asks about other prompts of the sandbox.

    Raises:
        SettingsError: nothing to sample from.
        RegistryError: there is no champion.
        SourceError: the pool can't be read.
    """
    prepare(settings.training_threads)
    registry = Registry.open(root)
    version = registry.version(settings.name, "champion")
    if version is None:
        raise RegistryError(f"{settings.name} has no champion whose policy could be asked about; `touchstone retrain`")
    if samples is not None:
        groups, _ = read_pool(samples)
    elif isinstance(settings.data, SandboxData) and settings.data.source == "sandbox":
        groups = _sandbox_groups(settings.data, labels, seed)
    else:
        raise SettingsError(f"data={settings.data.source} has no policy of its own; name its completions by --samples")
    rewards = [_rewards(Scorer.load(folder), groups) for folder in (registry.download(version), *members)]
    by_group = [np.stack([model[place] for model in rewards]) for place in range(len(groups))]
    few, scores = shortlist(groups, by_group, seed=seed)
    return Chosen(few, choose_pairs(few, scores, labels, seed=seed))


def label(settings: Settings, chosen: Chosen, seed: int = 0) -> list[Group]:
    """The groups with their pairs judged by the sandbox's annotators, with the settings' noise.

    Raises:
        SettingsError: the data is another source's: people have to judge.
        DataError: a prompt is none of the sandbox.
    """
    if not isinstance(settings.data, SandboxData) or settings.data.source != "sandbox":
        raise SettingsError(f"data={settings.data.source} has no annotators of its own; ask people")
    generator = Random(f"{settings.data.seed}:{seed}:labels")  # noqa: S311 - a simulation, not a secret
    return [
        sandbox_policies.annotate(
            group.prompt,
            [completion.text for completion in group.completions],
            pairs,
            settings.data,
            generator,
            policy=POLICY,
            axis=group.axis,
        )
        for group, pairs in zip(chosen.groups, chosen.pairs, strict=True)
        if pairs
    ]


def ask(root: Path, chosen: Chosen) -> Path:
    """Write questions for people; returns their folder."""
    pairs = [
        replace(
            make_group(
                prompt=group.prompt,
                completions=[replace(group.completions[k], policy=POLICY) for k in pair],
                comparisons=(),
                source=group.source,
                axis=group.axis,
                cluster_id=group.cluster_id,
            )
        )
        for group, chosen_pairs in zip(chosen.groups, chosen.pairs, strict=True)
        for pair in chosen_pairs
    ]
    pairs.sort(key=lambda pair: pair.id)
    folder = folder_of(root) / "refresh" / digest_value([pair.id for pair in pairs])[:16]

    def fill(target: Path) -> None:
        write_atomic(target / PAIRS, "".join(map(to_line, pairs)))
        write_questions(target, [asked_pair(pair) for pair in pairs])

    write_folder(folder, fill)
    return folder


def answered(root: Path, files: Sequence[Path]) -> list[Group]:
    """The pairs that people were asked about and have answered, judged.

    Raises:
        DataError: no answer belongs to a question that was asked.
        SourceError: a file can't be read.
    """
    asked: dict[str, Group] = {}
    for path in sorted((folder_of(root) / "refresh").glob(f"*/{PAIRS}")):
        asked |= {asked_pair(group).id: group for group in read_jsonl(path)}
    given: defaultdict[str, dict[str | None, Answer]] = defaultdict(dict)
    for row in (row for path in files for row in read_answers(path)):
        if isinstance(row, Answer) and row.id in asked:
            given[row.id].setdefault(row.annotator, row)
    if not given:
        raise DataError(
            f"no answer in {', '.join(path.name for path in files)} belongs to a pair that was asked about"
        )
    return [
        replace(asked[pair], comparisons=tuple(map(_edge, answers.values())))
        for pair, answers in sorted(given.items())
    ]


def add(root: Path, groups: Sequence[Group], origin: str) -> int:
    """Add judged groups to the checkout's data/ and its pointer; returns how many were new.

    Raises:
        DataError: data/ holds no import.
        PipelineError: DVC refused.
    """
    count = appending.append(root / "data", groups, origin)
    if count:
        dvc.add(root, "data")
    return count


def has_data(root: Path) -> bool:
    """Whether the checkout's data/ is there, if need be brought from the cache."""
    return (root / "data").is_dir() or dvc.checkout(root, data.POINTER)


def _edge(answer: Answer) -> Comparison:
    sides = {"first": (1.0, 0.0, 0.0), "second": (0.0, 1.0, 0.0), "tie": (0.0, 0.0, 1.0)}
    wins, losses, ties = sides[answer.side]
    return Comparison(0, 1, wins, losses, ties, None, answer.annotator)


def _sandbox_groups(settings: SandboxData, labels: int, seed: int) -> list[Group]:
    """Prompts that no set holds, each with the wandering policy's completions; twice as many as labels."""
    generator = Random(f"{settings.seed}:{seed}:policy")  # noqa: S311 - a simulation, not a secret
    groups = []
    for number in range(2 * labels):
        task = sandbox.make(settings, settings.groups + BEYOND * (seed + 1) + number)
        texts = dict.fromkeys(sandbox_policies.wander(generator, task.prompt) for _ in range(SAMPLES))
        groups.append(
            make_group(
                prompt=task.prompt,
                completions=[Completion(text, POLICY) for text in texts],
                comparisons=(),
                source=settings.name,
                axis=task.axis,
            )
        )
    return groups


def _rewards(scorer: Scorer, groups: Sequence[Group]) -> list[Floats]:
    """A model's rewards of each group's completions."""
    rows = scorer.raw([as_item(group) for group in groups], description="score the policy")
    return [np.array([score.reward for score in row]) for row in rows]
