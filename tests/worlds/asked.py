"""Two models that a small holdout can't tell apart, a pool of unjudged pairs, and people who answer."""

from __future__ import annotations

import csv
import json
import math
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.worlds.graded import SETTINGS, SIZES, make_artifact, make_set
from touchstone.gate import judge
from touchstone.gate.case import Champion
from touchstone.gate.fresh_scores import Job, Role, Scores
from touchstone.gate.labels import ask, take
from touchstone.gate.labels.ask import Request, Wanted
from touchstone.gate.labels.take import Report
from touchstone.gate.record import Decision
from touchstone.groups import Group, to_record, write_parquet
from touchstone.model.scores import RawScore
from touchstone.settings import Settings

NOISE = {"artifact": 0.0, "champion": 0.8}
QUICK = SETTINGS.model_copy(update={"gates": SETTINGS.gates.model_copy(update={"bootstrap_draws": 2000})})
PROBE_REWARD = -20.0


@dataclass
class AskedWorld:
    """Sets, artifacts and a pool below a folder; every text's quality is known."""

    folder: Path
    settings: Settings = QUICK
    gold: dict[tuple[str, str], float] = field(default_factory=dict)
    noise: Mapping[str, float] = field(default_factory=lambda: NOISE)
    scored: list[tuple[Role, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, count in SIZES.items():
            write_parquet(self.folder / "build" / "splits" / f"{name}.parquet", self.known(make_set(name, count)))
        make_artifact(self.folder / "build" / "artifact")
        make_artifact(self.folder / "champion", seed=18)

    @property
    def champion(self) -> Champion:
        return Champion("1", self.folder / "champion", None)

    @property
    def state(self) -> Path:
        return self.folder / "runs"

    def known(self, groups: list[Group]) -> list[Group]:
        """The groups themselves; their texts' qualities are remembered."""
        for group in groups:
            self.gold |= {(group.prompt[0].content, text.text): text.ratings["gold"] for text in group.completions}
        return groups

    def pool(self, count: int, name: str = "pool", axis: str | None = None) -> Path:
        """A file of so many prompts with two completions."""
        path = self.folder / f"{name}.jsonl"
        lines = []
        for group in self.known(make_set(name, count)):
            record = to_record(group)
            kept = {"prompt": record["prompt"], "completions": [text["text"] for text in record["completions"]]}
            lines.append(json.dumps(kept | ({"axis": axis} if axis else {})) + "\n")
        path.write_text("".join(lines), encoding="utf-8")
        return path

    def score(self, jobs: Mapping[Role, Job], work: Path) -> dict[Role, Scores]:
        """Rewards by the artifact's folder: the quality, and noise by the text."""
        self.scored += [(role, len(job.groups)) for role, job in jobs.items()]
        return {
            role: [
                [self._score(job.artifact.name, (group.prompt[0].content, text.text)) for text in group.completions]
                for group in job.groups
            ]
            for role, job in jobs.items()
        }

    def _score(self, model: str, place: tuple[str, str]) -> RawScore:
        luck = random.Random(f"1 {model} {place}").gauss(0, 1)
        reward = self.gold[place] + self.noise[model] * luck if place in self.gold else PROBE_REWARD
        return RawScore(reward, False, len(place[1]))

    def judge(self) -> Decision:
        """The judge's decision on holdout and answers."""
        return judge.judge(
            build=self.folder / "build",
            state=self.state,
            output=self.folder / "decision",
            settings=self.settings,
            champion=self.champion,
            who="ada",
            score=self.score,
        )

    def ask(self, pool: Path, **wanted: int) -> Request:
        """Ask about a pool."""
        return ask.ask(
            build=self.folder / "build",
            state=self.state,
            pool=pool,
            settings=self.settings,
            champion=self.champion,
            wanted=Wanted(**wanted),
            score=self.score,
        )

    def answer(self, request: Request, share: float = 1.0, annotator: str = "") -> Path:
        """The sheet, filled in by somebody who prefers by Bradley-Terry; of the rows the first share."""
        with (request.folder / "ask.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows[: round(share * len(rows))]:
            gap = self.gold[row["prompt"], row["first"]] - self.gold[row["prompt"], row["second"]]
            first = random.Random(f"{annotator}{row['id']}").random() < 1 / (1 + math.exp(-gap))
            row["answer"], row["annotator"] = "first" if first else "second", annotator
        path = self.folder / f"answers{annotator}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
        return path

    def take(self, *files: Path) -> Report:
        """Bring answers back."""
        return take.take(self.state / "labels", files)

    def copy(self, folder: Path) -> AskedWorld:
        """The same world in another folder."""
        shutil.copytree(self.folder, folder)
        world = object.__new__(AskedWorld)
        world.__dict__.update(self.__dict__ | {"folder": folder, "scored": []})
        return world
