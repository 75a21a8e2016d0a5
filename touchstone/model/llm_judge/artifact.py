"""A sealed judge: a folder that names all that its verdicts follow from, digested like any artifact.

reward.json          the card: calibration map, digests; its scoring rule has the kind "judge"
judge.json           engine, model, how it answers
instructions.txt     the template
principles.json      the principles
biases.json          what sways it, measured on the calibration set

Where an endpoint answers, what it costs and how many questions are under way are no part of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from touchstone.errors import ArtifactError, JudgeError
from touchstone.groups import Group
from touchstone.model import card as cards
from touchstone.model.card import Card, verify_digests
from touchstone.model.llm_judge.instructions import Instructions, Principles
from touchstone.model.llm_judge.judge import Identity
from touchstone.model.llm_judge.verdicts import PairVerdict, strengths
from touchstone.model.scores import RawScore
from touchstone.runtime.files import digest_folder, digest_value, write_folder, write_json

FILE, TEMPLATE, PRINCIPLES, BIASES = "judge.json", "instructions.txt", "principles.json", "biases.json"


def scores_of(group: Group, verdicts: Sequence[PairVerdict]) -> list[RawScore]:
    """A score of each completion from the verdicts about the group's pairs; lengths are in characters."""
    prompt = [[message.role, message.content] for message in group.prompt]
    rewards = strengths(len(group.completions), verdicts)
    return [
        RawScore(reward, False, len(completion.text), digest_value([prompt, completion.text]))
        for reward, completion in zip(rewards, group.completions, strict=True)
    ]


def seal_judge(
    identity: Identity,
    calibration: Sequence[Group],
    verdicts: Sequence[Sequence[PairVerdict]],
    biases: Sequence[dict[str, Any]],
    folder: Path,
) -> str:
    """Seal a judge with the map that turns its scores into probabilities.

    Args:
        verdicts: about the judged pairs of each calibration group.
        folder: where the artifact appears, whole or not at all.

    Returns:
        The artifact's digest.

    Raises:
        JudgeError: no pair has a verdict, or all are ties.
        ArtifactError: the calibration set is too small.
    """
    from touchstone.model.sealing import calibration_of, centering_of  # torch comes with it

    scores = [scores_of(group, row) for group, row in zip(calibration, verdicts, strict=True)]
    if not any(score.reward for row in scores for score in row):
        raise JudgeError(
            f"{identity.model} prefers nothing in the calibration set: every pair has no verdict or is a tie; look at "
            "its answers in llm_judge.cache, and at the instructions"
        )
    digests: list[str] = []

    def fill(partial: Path) -> None:
        write_json(partial / FILE, {**identity.to_json(), "schema_version": 1})
        (partial / TEMPLATE).write_text(identity.instructions.template, encoding="utf-8")
        write_json(partial / PRINCIPLES, identity.instructions.principles.to_json())
        write_json(partial / BIASES, list(biases))
        card = Card(
            schema_version=2,
            rule={"kind": cards.JUDGE, **identity.to_json()},
            # Of the calibration set: scores have no zero point, but a spread that a check may ask for.
            centering=centering_of(calibration, scores, "fp32"),
            calibration=calibration_of(calibration, scores),
            seeds={},
            self_test=[],
            files=digest_folder(partial),
        )
        cards.write(card, partial)
        digests.append(verify_digests(partial).digest)

    write_folder(folder, fill)
    return digests[0]


def read_judge(folder: Path) -> Identity:
    """The identity of a sealed judge, its digests verified.

    Raises:
        ArtifactError: it doesn't verify, or is no judge.
    """
    card = verify_digests(folder)
    if not card.is_judge:
        raise ArtifactError(f"{folder} is a reward model and no judge; seal one with `touchstone seal --llm-judge`")
    try:
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
        principles = Principles.from_json(json.loads((folder / PRINCIPLES).read_text(encoding="utf-8")))
        template = (folder / TEMPLATE).read_text(encoding="utf-8")
        digest, version = values.pop("instructions"), values.pop("schema_version")
        identity = Identity(**values, instructions=Instructions(template, principles))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{folder} is no judge that can be read ({type(error).__name__}); seal it again") from None
    if (
        version != 1
        or identity.instructions.digest != digest
        or card.rule != {"kind": cards.JUDGE, **identity.to_json()}
    ):
        raise ArtifactError(f"{folder}: {FILE} and {cards.FILE} name different judges; seal it again")
    return identity


def check_same_model(sealed: Identity, configured: Identity) -> None:
    """Refuse settings that would ask another model than the sealed one; instructions come from the artifact.

    Raises:
        JudgeError: names the settings that differ.
    """
    ours, theirs = sealed.to_json(), configured.to_json()
    if differing := sorted(name for name in ours if name != "instructions" and ours[name] != theirs[name]):
        raise JudgeError(
            f"the sealed judge and the settings differ in {', '.join(differing)}: llm_judge would ask another model; "
            "set it as it was sealed, or seal it again"
        )
