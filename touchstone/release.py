"""From a registered version with a PROMOTE to the served champion.

    released = release(root, settings, version, decision, reference=Path("build/splits/reference.parquet"))

In this order, so that whatever is interrupted leaves a champion that was judged and compared, and the same call
finishes the work:

1. the alias `challenger` points at the version, and a temporary endpoint loads it aside the champion;
2. golden texts and the whole reference set go through that endpoint and are compared with offline scores;
3. `champion` moves by compare-and-set from the version that the decision was taken against, `previous` to that one:
   one entry of the release ledger decides both;
4. the endpoint swaps, and scores are read back with version and digest;
5. the ledger says that it is released.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from touchstone import gates, judging, ledger, stage
from touchstone.errors import GateError, RegistryError, ServingError
from touchstone.gates import Check, Verdict
from touchstone.groups import Group, Message, read_parquet, set_digest
from touchstone.judging import Decision
from touchstone.judging.record import check_from, check_to
from touchstone.registry import Registry, Version, stamp
from touchstone.scoring import Item, RawScore, Scorer, as_item, padded_scores
from touchstone.sealing import FIXED_TEXTS
from touchstone.serving import Client, temporary_endpoint
from touchstone.serving.wire import ScoreReply
from touchstone.settings import Settings
from touchstone.settings.gates import Gates
from touchstone.templating import encode

SWAP_SECONDS = 120.0
POLL_SECONDS = 0.2
"""The temporary endpoint looks at the aliases more often than one that serves people."""

COMPLETIONS_PER_REQUEST = 32

USER = (Message("user", "Tell me about eggs."),)


@dataclass(frozen=True)
class Release:
    """What became of a version.

    Attributes:
        promoted: it is the champion; False where a check of the served scores did not pass.
        summary: one sentence.
        checks: `serving_parity` and `reference_mean`.
        previous: the version that was champion before; None for the first.
        scores: rewards of the artifact's self-test texts, as the endpoint gave them for the champion.
    """

    name: str
    version: int
    digest: str
    promoted: bool
    summary: str
    checks: tuple[Check, ...]
    previous: int | None
    scores: tuple[float, ...]


def release(root: Path, settings: Settings, version: Version, decision: Decision, reference: Path) -> Release:
    """Compare the served version with its offline scores, make it the champion, and read its scores back.

    A version that is released already is not served again: its entry in the ledger is the answer.

    Args:
        reference: the set that the artifact was centred on (build/splits/reference.parquet).

    Raises:
        GateError: the decision doesn't allow it, or the reference set is another one.
        RegistryError: the champion isn't the one that the decision compared with.
        ServingError: the endpoint didn't start, swap or answer, or answered as champion otherwise than before.
    """
    registry = Registry.open(root)
    registry.recover(version.name)
    admit(registry, version, decision)
    aliases = registry.aliases(version.name)
    done = _released(registry, version)
    if done is not None and aliases.get("champion") == version.version:
        return done
    scorer = Scorer.load(registry.download(version), token_budget=settings.serve.tokens_per_batch)
    groups = _reference(reference, scorer)
    why = {"decision": decision.digest, "artifact": version.digest}
    registry.set_alias(version.name, "challenger", version.version, aliases.get("challenger"), why)
    serve = settings.serve.model_copy(update={"poll_seconds": POLL_SECONDS})
    with temporary_endpoint(root, settings.model_copy(update={"serve": serve}), version.name) as client:
        client.wait_for("challenger", version.version, SWAP_SECONDS)
        checks = (
            _parity(client, scorer, groups, version, settings.gates),
            _reference_mean(client, groups, version, settings.gates),
        )
        broken = [check.reason for check in checks if check.status != "pass"]
        if broken:
            summary = f"{version.name} version {version.version} is not promoted: {' '.join(broken)}"
            return _enter(registry, version, decision, _refused(version, aliases, checks, summary))
        promote(registry, version, decision)
        client.wait_for("champion", version.version, SWAP_SECONDS)
        scores = _read_back(client, scorer, version, settings.gates)
    previous = registry.aliases(version.name).get("previous")
    instead = f" instead of version {previous}" if previous is not None else ""
    summary = f"{version.name} version {version.version} is the champion{instead}, served with its judged scores."
    found = Release(version.name, version.version, version.digest, True, summary, checks, previous, scores)
    return _enter(registry, version, decision, found)


def admit(registry: Registry, version: Version, decision: Decision) -> None:
    """Check that the decision allows this version to become the champion now.

    Raises:
        GateError: it is no PROMOTE, or is about another artifact or name, or the holdout ledger doesn't know it.
        RegistryError: the champion isn't the one that it was compared with.
    """
    what = f"{version.name} version {version.version}"
    decision = judging.verify(decision.path, judging.ledger_file(registry.root / "runs"))
    if decision.verdict is not Verdict.PROMOTE:
        raise GateError(f"{what} may not be promoted: the verdict is {decision.verdict}. {decision.summary}")
    if (decision.record["name"], decision.artifact_digest) != (version.name, version.digest):
        raise GateError(f"the decision is about another artifact than {what}; judge this one")
    champion = registry.version(version.name, "champion")
    judged = decision.record["digests"]["champion"]
    if champion is not None and champion.version == version.version:
        return
    if (champion.digest if champion else None) != judged:
        now = f"version {champion.version}" if champion else "missing"
        raise RegistryError(
            f"{what} was judged against {'the champion ' + judged[:12] if judged else 'no champion'}, and the "
            f"champion is now {now}; judge again"
        )


def promote(registry: Registry, version: Version, decision: Decision) -> int | None:
    """Make the version champion, and the present champion `previous`; returns the latter's version.

    Both aliases are decided by one entry of the release ledger. The version that is champion already stays, and so
    does `previous`.

    Raises:
        GateError, RegistryError: as for `admit`; or the champion moved this very moment. Nothing was moved.
    """
    registry.recover(version.name)
    aliases = registry.aliases(version.name)
    admit(registry, version, decision)
    champion = aliases.get("champion")
    if champion == version.version:
        return aliases.get("previous")
    targets = {"champion": version.version} | ({"previous": champion} if champion is not None else {})
    expected = {alias: aliases.get(alias) for alias in targets}
    why = {"decision": decision.digest, "artifact": version.digest}
    registry.set_aliases(version.name, targets, expected, why)
    return champion


def _reference(path: Path, scorer: Scorer) -> list[Group]:
    groups = read_parquet(path)
    if set_digest(groups) != scorer.card.centering.reference_digest:
        raise GateError(f"{path} is not the reference set that the artifact was centred on; seal again")
    return groups


def _parity(client: Client, scorer: Scorer, groups: Sequence[Group], version: Version, limits: Gates) -> Check:
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
    return gates.run(
        "serving_parity",
        lambda: gates.serving_parity(
            [scorer.meaning(score) for row in alone for score in row],
            served,
            precision=precision,
            spread=scorer.card.centering.sd,
            limits=limits,
            expected={"model": model, "version": str(version.version), "digest": version.digest},
            answered=answered,
        ),
    )


def _reference_mean(client: Client, groups: Sequence[Group], version: Version, limits: Gates) -> Check:
    """The whole reference set through the endpoint: centred by its own mean, so the mean is zero if all is right."""
    requests = list(_requests(groups))
    total, count = 0.0, 0
    for request in stage.progress(requests, "reference set, served", len(requests)):
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


def _read_back(client: Client, scorer: Scorer, version: Version, limits: Gates) -> tuple[float, ...]:
    """The self-test's texts through the endpoint as champion, against what was sealed.

    Raises:
        ServingError: other scores, another version or another digest.
    """
    vectors = scorer.card.self_test
    model = f"{version.name}@champion"
    reply = client.rewards([(vector.messages(), [vector.completion]) for vector in vectors], model)
    served = [score for row in reply.scores for score in row]
    check = gates.serving_parity(
        [scorer.meaning(RawScore(vector.reward, vector.truncated, vector.tokens)) for vector in vectors],
        served,
        precision=scorer.card.centering.score_dtype,
        spread=scorer.card.centering.sd,
        limits=limits,
        expected={"model": model, "version": str(version.version), "digest": version.digest},
        answered={"model": reply.model, "version": str(reply.version), "digest": reply.digest},
    )
    if check.status != "pass":
        raise ServingError(f"{model} is promoted, but read back it is not what was judged. {check.reason}")
    return tuple(score.reward for score in served)


def _refused(version: Version, aliases: dict[str, int], checks: tuple[Check, ...], summary: str) -> Release:
    return Release(version.name, version.version, version.digest, False, summary, checks, aliases.get("champion"), ())


def _enter(registry: Registry, version: Version, decision: Decision, found: Release) -> Release:
    """Write the outcome to the release ledger."""
    entry: dict[str, Any] = {
        "event": "released" if found.promoted else "refused",
        "name": version.name,
        "version": version.version,
        "artifact": version.digest,
        "decision": decision.digest,
        "summary": found.summary,
        "checks": [check_to(check) for check in found.checks],
        "replaced": found.previous,
        "scores": list(found.scores),
        **stamp(),
    }
    ledger.append(registry.ledger, entry)
    return found


def _released(registry: Registry, version: Version) -> Release | None:
    """What the ledger says of a version that was released before."""
    for entry in reversed(ledger.read(registry.ledger)):
        if entry["event"] == "released" and (entry["name"], entry["version"]) == (version.name, version.version):
            checks = tuple(check_from(value) for value in entry["checks"])
            scores = tuple(entry["scores"])
            return Release(
                version.name,
                version.version,
                version.digest,
                True,
                entry["summary"],
                checks,
                entry["replaced"],
                scores,
            )
    return None
