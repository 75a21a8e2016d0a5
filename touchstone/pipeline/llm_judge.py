"""A generative judge in this project: sealed as an artifact that can be judged, and asked to label a pool."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from touchstone.data.pool import different_pairs, read_pool
from touchstone.errors import PipelineError, SettingsError
from touchstone.evaluation import judge_bias
from touchstone.evaluation.judge_bias import Bias
from touchstone.groups import Group, judged_pairs, make_group, read_parquet
from touchstone.model import card as cards
from touchstone.model.llm_judge.artifact import check_same_model, read_judge, seal_judge
from touchstone.model.llm_judge.judge import Identity, Judge, Pair, reasons
from touchstone.model.llm_judge.verdicts import PairVerdict
from touchstone.runtime.files import canonical_json, digest_file, write_atomic, write_json
from touchstone.settings import Settings
from touchstone.settings.llm_judge import LlmJudge


@dataclass(frozen=True)
class SealedJudge:
    """What sealing a judge brought.

    Attributes:
        artifact: its folder.
        digest: of the artifact.
        judge: the name that its comparisons carry as their annotator.
        pairs: judged pairs of the calibration set that it was asked about.
        without_verdict: of them, those without a verdict, by reason.
        temperature, noise_floor: of its calibration map.
        spent: requests and tokens, in words.
    """

    artifact: Path
    digest: str
    judge: str
    model: str
    pairs: int
    without_verdict: dict[str, int]
    biases: tuple[Bias, ...]
    temperature: float
    noise_floor: float
    spent: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "artifact": str(self.artifact)}


@dataclass(frozen=True)
class Labelled:
    """What labelling a pool brought.

    Attributes:
        prompts: lines written: one for each prompt and axis.
        pairs: that were asked about, and `ties` of them without a better side.
        without_verdict: of them, those without a verdict, by reason.
        quarantined: lines of the pool that can't be used, by reason.
        questions: that had to be asked, both orders counted; the others were known.
        spent: requests and tokens, in words; None: nothing was asked, only counted.
    """

    judge: str
    model: str
    prompts: int
    pairs: int
    ties: int
    without_verdict: dict[str, int]
    quarantined: dict[str, int]
    biases: tuple[Bias, ...]
    questions: int
    spent: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def seal(root: Path, settings: Settings, output: Path | None = None) -> SealedJudge:
    """Ask the judge about the calibration set, and seal it with the map and the biases that come of it.

    Args:
        output: the artifact's folder; default: build/artifact-judge-MODEL.

    Raises:
        SettingsError: llm_judge is not set.
        PipelineError: there are no sets.
        JudgeError, SpendingError, ModelError: the judge can't be asked.
    """
    chosen = configured(settings)
    path = root / "build" / "splits" / "calibration.parquet"
    if not path.is_file():
        raise PipelineError(f"{path} does not exist: a judge is sealed on it; make it with `dvc repro split`")
    calibration = read_parquet(path)
    pairs = [[(pair.first, pair.second) for pair in judged_pairs(group)] for group in calibration]
    with Judge.open(chosen, root) as judge:
        verdicts = judge.compare(list(zip(calibration, pairs, strict=True)), description="judge the calibration set")
        spent = judge.account.words(judge.account.spent)
    identity = judge.identity
    biases = _biases(calibration, verdicts, chosen)
    folder = output or root / "build" / f"artifact-judge-{_name(identity.model)}"
    digest = seal_judge(identity, calibration, verdicts, [bias.to_json() for bias in biases], folder)
    fitted = cards.read(folder).calibration
    return SealedJudge(
        artifact=folder,
        digest=digest,
        judge=identity.annotator,
        model=identity.model,
        pairs=sum(map(len, pairs)),
        without_verdict=reasons(verdicts),
        biases=tuple(biases),
        temperature=fitted.temperature,
        noise_floor=fitted.noise_floor,
        spent=spent,
    )


def label(
    root: Path,
    settings: Settings,
    pool: Path,
    output: Path,
    *,
    principles: Path | None = None,
    axes: Sequence[str] = (),
    artifact: Path | None = None,
    only_count: bool = False,
) -> Labelled:
    """Let the judge compare all completions of each prompt, both orders, into a file for the source `principles`.

    Beside it lies what it follows from: the judge, its principles, its biases, what it cost.

    Args:
        pool: prompts with completions; see `touchstone.data.pool`.
        principles: in place of llm_judge.principles.
        axes: each prompt is judged on each of them; none: on its own one.
        artifact: a sealed judge, whose instructions and principles are taken.
        only_count: ask nothing and write nothing: say how many questions there are.

    Raises:
        SettingsError: llm_judge is not set, `principles` stands beside `artifact`, or `output` is the pool.
        SourceError: no line of the pool can be used.
        JudgeError, SpendingError, ModelError, ArtifactError: the judge can't be asked.
    """
    chosen = configured(settings)
    if output.resolve() == pool.resolve():
        raise SettingsError(f"{output} is the pool itself; name another file for the labels")
    if principles is not None:
        if artifact is not None:
            raise SettingsError("a sealed judge has principles of its own; leave out --principles, or --artifact")
        chosen = chosen.model_copy(update={"principles": str(principles.resolve())})
    given, unusable = read_pool(pool)
    groups = [_on(group, axis) for group in given for axis in axes or (group.axis,)]
    wanted: list[tuple[Group, list[Pair]]] = [(group, different_pairs(group)) for group in groups]
    with _opened(chosen, root, artifact) as judge:
        questions = judge.unknown(wanted)
        verdicts = [] if only_count else judge.compare(wanted, description="label the pool")
        spent = None if only_count else judge.account.words(judge.account.spent)
    identity = judge.identity
    biases = [] if only_count else _biases(groups, verdicts, chosen)
    quarantined = [row.reason for row in unusable]
    labelled = Labelled(
        judge=identity.annotator,
        model=identity.model,
        prompts=len(groups),
        pairs=sum(len(pairs) for _, pairs in wanted),
        ties=sum(verdict.reason is None and verdict.winner is None for row in verdicts for verdict in row),
        without_verdict=reasons(verdicts),
        quarantined={reason: quarantined.count(reason) for reason in sorted(set(quarantined))},
        biases=tuple(biases),
        questions=questions,
        spent=spent,
    )
    if not only_count:
        rows = (_row(group, row, identity.annotator) for group, row in zip(groups, verdicts, strict=True))
        write_atomic(output, "".join(canonical_json(row) + "\n" for row in rows))
        about = {
            **labelled.to_json(),
            "identity": identity.to_json(),
            "template": identity.instructions.template,
            **identity.instructions.principles.to_json(),
            "pool": {"file": pool.name, "digest": digest_file(pool)},
            "labels": digest_file(output),
        }
        write_json(about_file(output), about)
    return labelled


def bias_table(biases: Sequence[Bias]) -> str:
    """Biases as aligned plain text."""
    return judge_bias.table(biases)


def about_file(output: Path) -> Path:
    """Where it stands what labels follow from."""
    return output.with_name(f"{output.name}.judge.json")


def configured(settings: Settings) -> LlmJudge:
    """The judge in the settings.

    Raises:
        SettingsError: there is none.
    """
    if settings.llm_judge is None:
        raise SettingsError(
            "llm_judge is not set; name a judge, say with `touchstone configure llm_judge=remote "
            "llm_judge.engine.model=...` (docs/judge.md)"
        )
    return settings.llm_judge


@contextmanager
def _opened(chosen: LlmJudge, root: Path, artifact: Path | None) -> Iterator[Judge]:
    sealed = None
    if artifact is not None:
        sealed = read_judge(artifact)
        check_same_model(sealed, Identity.of(chosen, root))
    with Judge.open(chosen, root, sealed) as judge:
        yield judge


def _biases(groups: Sequence[Group], verdicts: Sequence[Sequence[PairVerdict]], chosen: LlmJudge) -> list[Bias]:
    return judge_bias.measure(judge_bias.records("", "", groups, verdicts, chosen.own_policies))


def _on(group: Group, axis: str) -> Group:
    """The group on another axis."""
    if axis == group.axis:
        return group
    made = make_group(
        prompt=group.prompt, completions=group.completions, comparisons=(), source=group.source, axis=axis
    )
    return replace(made, cluster_id=group.cluster_id)


def _row(group: Group, verdicts: Sequence[PairVerdict], judge: str) -> dict[str, Any]:
    """A line as `touchstone.data.sources.principles` reads it."""
    return {
        "prompt": [{"role": message.role, "content": message.content} for message in group.prompt],
        "completions": [{"text": completion.text, "policy": completion.policy} for completion in group.completions],
        "axis": group.axis,
        "cluster_id": group.cluster_id,
        "judge": judge,
        "verdicts": [_verdict(verdict) for verdict in verdicts],
    }


def _verdict(verdict: PairVerdict) -> dict[str, Any]:
    if verdict.reason is not None:
        return {"i": verdict.i, "j": verdict.j, "reason": verdict.reason}
    wins_i, wins_j, ties = verdict.wins
    return {"i": verdict.i, "j": verdict.j, "wins_i": wins_i, "wins_j": wins_j, "ties": ties}


def _name(model: str) -> str:
    """A model's name as part of a folder's."""
    return re.sub(r"[^a-z0-9.]+", "-", Path(model).name.lower()).strip("-.") or "model"
