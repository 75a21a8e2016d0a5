"""Step labels: behind each step of a completion whether that step is right.

What is learnt of a chain is the cross-entropy of the head at the last token of each step's separator, with two classes
(wrong or not: binary, as Lightman et al. 2023, arXiv 2305.20050, appendix F, where a neutral step counts as right) or
three (wrong, neutral, correct). No other token is read, so none has a part in the loss, and neither has a step that
nobody labelled. A chain's loss is the mean over its labelled steps, as everything else is `outcome`'s.

A decoy is wrong in every step: a text without an answer has no wrong step of its own, and would be the best chain of
all. Those made from an answer are left out: half of a right chain is right as far as it goes.
"""

from __future__ import annotations

from touchstone.groups import Completion, Group, chain_outcome, labelled_steps, steps_of
from touchstone.settings.objective import Objective
from touchstone.training.decoys import CUT, POLICY, REPEATED, is_decoy
from touchstone.training.outcome import IGNORED, Target


def step_targets(group: Group, objective: Objective) -> tuple[Target, ...]:
    """The group's completions with labels of their steps. Weights as `outcome.targets_of`."""
    labels = [step_labels(completion, objective.step_classes) for completion in group.completions]
    labelled = [
        (place, of_chain) for place, of_chain in enumerate(labels) if any(label != IGNORED for label in of_chain)
    ]
    each = 1 / len(labelled) if objective.weighting == "group" and labelled else 1.0
    return tuple(
        Target(
            place,
            # Of a chain whose first error isn't known the curve counts nothing; it teaches all the same.
            0.5 if (right := chain_outcome(group.completions[place])) is None else right,
            each,
            is_decoy(group.completions[place]),
            steps=of_chain,
        )
        for place, of_chain in labelled
    )


def step_labels(completion: Completion, classes: int) -> tuple[float, ...]:
    """What is learnt of each of a completion's steps: 1.0 correct, 0.5 neutral, 0.0 wrong, IGNORED where nothing.

    With two classes a neutral step is a correct one.
    """
    if is_decoy(completion):
        made = any(completion.policy == POLICY + kind for kind in (CUT, REPEATED))
        return () if made else (0.0,) * max(1, len(steps_of(completion.text)))
    labels = []
    for _, label in labelled_steps(completion) or ():
        if label is None:
            labels.append(IGNORED)
        else:
            labels.append(float(label >= 0.5) if classes == 2 else round(2 * label) / 2)
    return tuple(labels)
