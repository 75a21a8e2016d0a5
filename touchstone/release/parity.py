"""What an endpoint serves, compared with what was sealed: before a version becomes champion, and after."""

from __future__ import annotations

import contextlib
import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path

from touchstone.client import ScoreReply
from touchstone.errors import GateError, ServingError
from touchstone.gate import checks
from touchstone.gate.checks import Check
from touchstone.groups import Group, Message, read_parquet, set_digest
from touchstone.model.scoring import Item, RawScore, Scorer, as_item, padded_scores
from touchstone.model.sealing import FIXED_TEXTS
from touchstone.model.templating import encode
from touchstone.registry import Version
from touchstone.runtime import progress
from touchstone.serving import Client, temporary_endpoint
from touchstone.settings import Settings
from touchstone.settings.gates import Gates

SWAP_SECONDS = 120.0
POLL_SECONDS = 0.2
"""The temporary endpoint looks at the aliases more often than one that serves people."""

COMPLETIONS_PER_REQUEST = 32

USER = (Message("user", "Tell me about eggs."),)


@contextlib.contextmanager
def aside(root: Path, settings: Settings, version: Version) -> Iterator[Client]:
    """An endpoint of its own that serves the version as challenger, aside the champion; ends with the block.

    Raises:
        ServingError: it didn't start, or couldn't load the version.
    """
    serve = settings.serve.model_copy(update={"poll_seconds": POLL_SECONDS})
    with temporary_endpoint(root, settings.model_copy(update={"serve": serve}), version.name) as client:
        client.wait_for("challenger", version.version, SWAP_SECONDS)
        yield client


def read_reference(path: Path, scorer: Scorer) -> list[Group]:
    """The set that the artifact was centred on.

    Raises:
        GateError: it is another one.
    """
    groups = read_parquet(path)
    if set_digest(groups) != scorer.card.centering.reference_digest:
        raise GateError(f"{path} is not the reference set that the artifact was centred on; seal again")
    return groups


def parity(client: Client, scorer: Scorer, groups: Sequence[Group], version: Version, limits: Gates) -> Check:
    """Golden texts through the endpoint, in requests of many, against each of them alone offline."""
    texts = _golden(scorer, groups, limits.parity_texts)
    precision = scorer.card.centering.score_dtype
    alone = padded_scores(scorer.model, texts, rows=1, precision=precision, description="golden texts, offline")
    model = f"{version.name}@challenger"
    answered = {"model": model, "version": str(version.version), "digest": version.digest}
    served: list[ScoreReply] = []
    for start in range(0, len(texts), COMPLETIONS_PER_REQUEST):
        reply = client.rewards(texts[start : start + COMPLETIONS_PER_REQUEST], model)
        served += [score for row in reply.scores for score in row]
        stamped = {"model": reply.model, "version": str(reply.version), "digest": reply.digest}
        answered = {key: value for key, value in answered.items() if stamped[key] == value}
    return checks.run(
        "serving_parity",
        lambda: checks.serving_parity(
            [scorer.meaning(score) for row in alone for score in row],
            served,
            precision=precision,
            spread=scorer.card.centering.sd,
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


def _golden(scorer: Scorer, groups: Sequence[Group], count: int) -> list[Item]:
    """Texts that loaders get wrong (empty, control tokens, over-long, at the very limit), then reference texts."""
    odd: list[Item] = [(prompt, [completion]) for _, prompt, completion in FIXED_TEXTS]
    odd += [(vector.messages(), [vector.completion]) for vector in scorer.card.self_test]
    odd += [(USER, ["egg " * 10_000]), (USER, ["An egg\x00 with\r\n\tcontrol characters\u200b."])]
    odd += [(USER, ["egg " * words]) for words in _around_the_limit(scorer)]
    rest = [(prompt, [text]) for prompt, texts in map(as_item, groups) for text in texts]
    wanted = max(0, count - len(odd))
    step = max(1, len(rest) // wanted) if wanted else 1
    return odd + rest[::step][:wanted]


def _around_the_limit(scorer: Scorer) -> list[int]:
    """How many words make the longest text that is not cut, one less, and one and two more."""

    def cut(words: int) -> bool:
        return encode(scorer.model.tokenizer, scorer.model.rule, USER, ["egg " * words]).truncated[0]

    first = bisect_left(range(scorer.model.rule.max_tokens + 1), True, key=cut)
    return [words for words in range(first - 2, first + 2) if words > 0]


def read_back(client: Client, scorer: Scorer, version: Version, limits: Gates, alias: str) -> tuple[float, ...]:
    """Rewards of the self-test's texts through the endpoint, after a comparison with what was sealed.

    Raises:
        ServingError: other scores, another version or another digest.
    """
    vectors = scorer.card.self_test
    model = f"{version.name}@{alias}"
    reply = client.rewards([(vector.messages(), [vector.completion]) for vector in vectors], model)
    served = [score for row in reply.scores for score in row]
    check = checks.serving_parity(
        [scorer.meaning(RawScore(vector.reward, vector.truncated, vector.tokens)) for vector in vectors],
        served,
        precision=scorer.card.centering.score_dtype,
        spread=scorer.card.centering.sd,
        limits=limits,
        expected={"model": model, "version": str(version.version), "digest": version.digest},
        answered={"model": reply.model, "version": str(reply.version), "digest": reply.digest},
    )
    if check.status != "pass":
        raise ServingError(f"{model}, read back through the endpoint, is not what was sealed. {check.reason}")
    return tuple(score.reward for score in served)
