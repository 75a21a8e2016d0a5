"""What an endpoint serves, compared with what was sealed: before a version becomes champion, and after."""

from __future__ import annotations

import contextlib
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from touchstone.client import ScoreReply
from touchstone.errors import ArtifactError, GateError, ServingError
from touchstone.gate import checks
from touchstone.gate.checks import Check
from touchstone.groups import Group, read_parquet, set_digest
from touchstone.model.card import Card
from touchstone.model.scores import Item, RawScore, as_item, centered, read_scores, scored_by
from touchstone.registry import Version
from touchstone.runtime import processes, progress
from touchstone.serving import Client, temporary_endpoint
from touchstone.settings import Settings
from touchstone.settings.gates import Gates

SWAP_SECONDS = 120.0
POLL_SECONDS = 0.2
"""The temporary endpoint looks at the aliases more often than one that serves people."""

COMPLETIONS_PER_REQUEST = 32


@dataclass(frozen=True)
class Offline:
    """Golden texts and their scores by a process that serves nobody.

    Attributes:
        digest: of the artifact that gave the scores.
        texts: groups of one completion each.
        scores: one per text.
    """

    digest: str
    texts: list[Group]
    scores: list[RawScore]


@contextlib.contextmanager
def aside(root: Path, settings: Settings, version: Version) -> Iterator[Client]:
    """An endpoint of its own that serves the version as challenger, aside the champion; ends with the block.

    Raises:
        ServingError: it didn't start, or couldn't load the version.
    """
    # Champion and challenger alone: nobody asks it for anything else.
    alone = {"keep_previous": 0, "shadow": None, "combination": None}
    serve = settings.serve.model_copy(update={"poll_seconds": POLL_SECONDS, **alone})
    with temporary_endpoint(root, settings.model_copy(update={"serve": serve}), version.name) as client:
        client.wait_for("challenger", version.version, SWAP_SECONDS)
        yield client


def read_reference(path: Path, card: Card) -> list[Group]:
    """The set that the artifact was centred on.

    Raises:
        GateError: it is another one.
    """
    groups = read_parquet(path)
    if set_digest(groups) != card.centering.reference_digest:
        raise GateError(f"{path} is not the reference set that the artifact was centred on; seal again")
    return groups


@contextlib.contextmanager
def scored_offline(artifact: Path, reference: Path, settings: Settings) -> Iterator[Callable[[], Offline]]:
    """Within, golden texts are scored one by one in a process of their own, while the caller starts an endpoint.

    Gives a function that waits for them.

    Raises by that function:
        ArtifactError: the process failed.
    """
    with tempfile.TemporaryDirectory(prefix="touchstone-golden-") as folder:
        texts, scores = Path(folder) / "texts.parquet", Path(folder) / "scores.parquet"
        command = [
            *(sys.executable, "-m", "touchstone.model.golden", *map(str, (artifact, reference, texts, scores))),
            *("--count", str(settings.gates.parity_texts), "--threads", str(settings.serving_threads)),
        ]
        with processes.dialogue(command) as process:

            def wait() -> Offline:
                finished = process.finish()
                if finished.code:
                    raise ArtifactError(f"the golden texts were not scored offline: {finished.complaint}")
                groups = read_parquet(texts)
                return Offline(
                    scored_by(scores), groups, [score for row in read_scores(scores, groups) for score in row]
                )

            yield wait


def parity(client: Client, card: Card, offline: Offline, version: Version, limits: Gates) -> Check:
    """Golden texts through the endpoint, in requests of many, against each of them alone offline."""
    texts = list(map(as_item, offline.texts))
    model = f"{version.name}@challenger"
    answered = {"model": model, "version": str(version.version), "digest": offline.digest}
    served: list[ScoreReply] = []
    for start in range(0, len(texts), COMPLETIONS_PER_REQUEST):
        reply = client.rewards(texts[start : start + COMPLETIONS_PER_REQUEST], model)
        served += [score for row in reply.scores for score in row]
        stamped = {"model": reply.model, "version": str(reply.version), "digest": reply.digest}
        answered = {key: value for key, value in answered.items() if stamped[key] == value}
    centering = card.centering
    return checks.run(
        "serving_parity",
        lambda: checks.serving_parity(
            [centered(score, centering) for score in offline.scores],
            served,
            precision=centering.score_dtype,
            spread=centering.sd,
            limits=limits,
            expected={"model": model, "version": str(version.version), "digest": version.digest},
            answered=answered,
        ),
    )


def reference_mean(client: Client, groups: Sequence[Group], version: Version, limits: Gates) -> Check:
    """The whole reference set through the endpoint: centred by its own mean, so the mean is zero if all is right."""
    requests = list(_requests(groups))
    total, count = 0.0, 0
    for request in progress.progress(requests, "reference set, served", len(requests)):
        for row in client.rewards(request, f"{version.name}@challenger").scores:
            total += math.fsum(score.centered for score in row)
            count += len(row)
    mean = total / count
    limit = limits.max_centered_reference_mean
    reason = f"The mean centred reward of the {count:,} reference texts is {mean:.4f}, at most {limit:g} may be."
    return Check("reference_mean", "pass" if abs(mean) <= limit else "fail", reason, mean, None, limit, count)


def _requests(groups: Sequence[Group]) -> Iterator[list[Item]]:
    """Groups in requests of a bounded number of completions; a group with more is spread over several."""
    request: list[Item] = []
    room = COMPLETIONS_PER_REQUEST
    for prompt, completions in map(as_item, groups):
        left = list(completions)
        while left:
            part, left = left[:room], left[room:]
            request.append((prompt, part))
            room -= len(part)
            if not room:
                yield request
                request, room = [], COMPLETIONS_PER_REQUEST
    if request:
        yield request


def read_back(client: Client, card: Card, version: Version, limits: Gates, alias: str) -> tuple[float, ...]:
    """Rewards of the self-test's texts through the endpoint, after a comparison with what was sealed.

    Raises:
        ServingError: other scores, another version or another digest.
    """
    vectors, centering = card.self_test, card.centering
    model = f"{version.name}@{alias}"
    reply = client.rewards([(vector.messages(), [vector.completion]) for vector in vectors], model)
    served = [score for row in reply.scores for score in row]
    check = checks.serving_parity(
        [centered(RawScore(vector.reward, vector.truncated, vector.tokens), centering) for vector in vectors],
        served,
        precision=centering.score_dtype,
        spread=centering.sd,
        limits=limits,
        expected={"model": model, "version": str(version.version), "digest": version.digest},
        answered={"model": reply.model, "version": str(reply.version), "digest": reply.digest},
    )
    if check.status != "pass":
        raise ServingError(f"{model}, read back through the endpoint, is not what was sealed. {check.reason}")
    return tuple(score.reward for score in served)
