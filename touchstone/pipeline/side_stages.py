"""Stages that the artifact doesn't wait for: the looks at the data and the evaluation run beside what does.

    with side_stages(run) as side:
        for stage in side.main:                # in order
            ...
            side.start_ready(stage.name)       # what can run now that this one is done
        for name in side.before_judging:
            side.finish(name)
        ...                                    # judge
        for name in side.names:
            side.finish(name)

The graph itself says which they are: no stage on the way to build/artifact reads their outputs.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from touchstone.pipeline import dvc
from touchstone.pipeline.dvc import How
from touchstone.pipeline.graph import Stage, upstream
from touchstone.pipeline.runs import Run

ARTIFACT = "build/artifact"
READ_BY_THE_JUDGE = "build/audit.json"
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class _Started:
    outcome: Callable[[], How | None]
    log: Path
    at: float
    """Of the wall clock, as the log's time of change is."""


class SideStages:
    """The side stages of one run.

    Attributes:
        main: the stages on the way to the artifact, in order.
        names: the others, in order.
        before_judging: those of them that the judge reads.
        finished: those that `finish` has waited for.
    """

    def __init__(self, run: Run, stack: ExitStack) -> None:
        self._run = run
        self._stack = stack
        on_the_way = upstream(run.stages, ARTIFACT)
        self.main = [stage for stage in run.stages if stage.name in on_the_way]
        self.names = [stage.name for stage in run.stages if stage.name not in on_the_way]
        self.before_judging = [name for name in upstream(run.stages, READ_BY_THE_JUDGE) if name in self.names]
        self._started: dict[str, _Started] = {}
        self._done: set[str] = set()
        self.finished: set[str] = set()

    def start_ready(self, done: str) -> list[str]:
        """Start every side stage whose parents are all done, now that the main stage `done` is one of them.

        Returns their names.

        Raises:
            StageError: one that has ended meanwhile failed.
        """
        self._done.add(done)
        for name in self.names:
            self._look(name)
        ready = [
            stage.name
            for stage in self._stages()
            if stage.name not in self._started and self._done.issuperset(stage.parents)
        ]
        for name in ready:
            self._start(name)
        return ready

    def finish(self, name: str) -> How:
        """Wait for a side stage, whose parents must be done or under way, and enter it into the run's record.

        Raises:
            StageError: it failed.
        """
        stage = next(stage for stage in self._stages() if stage.name == name)
        for parent in stage.parents:
            if parent in self.names:
                self.finish(parent)
        if name not in self._started:
            self._start(name)
        while name not in self._done:
            time.sleep(POLL_SECONDS)
            self._look(name)
        self.finished.add(name)
        if self._done.issuperset(stage.name for stage in self._run.stages):
            # As if the stages had run in order.
            dvc.sort_lock(self._run.workspace, [stage.name for stage in self._run.stages])
        return How(self._run.record()["stages"][name])

    def _stages(self) -> list[Stage]:
        return [stage for stage in self._run.stages if stage.name in self.names]

    def _start(self, name: str) -> None:
        log = self._run.log_of(name)
        outcome = dvc.repro_beside(self._run.workspace, name, log=log, env=self._run.stage_environment(events=False))
        self._started[name] = _Started(self._stack.enter_context(outcome), log, time.time())

    def _look(self, name: str) -> None:
        """Take notice of a stage that has ended."""
        started = self._started.get(name)
        how = None if started is None or name in self._done else started.outcome()
        if started is None or how is None:
            return
        self._done.add(name)
        # Its last line came when it ended; that may have been long before anybody looked.
        self._run.note_stage(name, str(how), max(0.0, started.log.stat().st_mtime - started.at))
        sys.stderr.write(dvc.without_chatter(started.log.read_bytes()))


@contextlib.contextmanager
def side_stages(run: Run) -> Iterator[SideStages]:
    """The side stages of a run; what still runs of them at the end of the block is killed."""
    with ExitStack() as stack:
        yield SideStages(run, stack)
