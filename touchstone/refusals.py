"""Refusals: which answers are one, and on which prompts one may be the right answer.

Training and gate read both here: what the one doesn't teach the other must not demand. Only usual English wordings are
known; a refusal in another language counts as any other answer, except where a prompt's axis alone decides.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from touchstone.groups import Group, best_completion, judged_pairs

OPENING = 200
"""Characters at an answer's beginning that are read: what refuses later has answered before."""

_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u02bc": "'", "`": "'"})

_MAYBE = re.compile(
    r"n't\b|\bnot\b|cannot|refuse|decline|unable|say no|rather not|what (?:i|we) |against|illegal|wrong|ethical"
)
"""What every refusal holds, and few other answers: the search proper takes twenty times as long."""

# "I", and not where it is only considered ("if I can't help ...").
_I = r"(?<!\bif )(?<!\bwhen )(?<!\bwhy )(?<!\bwhat )(?<!\bwhether )(?<!\bunless )(?<!\buntil )\b(?:i|we)"
_ADVERBS = r"(?:(?:also|just|simply|still|really|currently|sadly|unfortunately|respectfully|politely|definitely) )*"
_UNABLE = (
    rf"(?:{_I},? {_ADVERBS}(?:can't|cannot|can not|won't|will not|shouldn't|should not|must not|refuse to|decline to"
    r"|(?:am|are) (?:unable|not able|not going|not willing|not allowed|not programmed) to"
    r"|don't (?:want|wish) to|do not (?:want|wish) to|(?:must|have to) decline to|would (?:rather not|prefer not to)"
    r"|don't think (?:that )?i (?:can|should)|(?:don't|do not) feel comfortable|am not comfortable)"
    r"|\bi'm (?:unable to|not (?:able|going|willing|allowed|programmed) to|not comfortable)"
    r"|\bi'd (?:rather not|prefer not to)"
    r"|\bam not (?:able|going|allowed) to"
    r"|^(?:unable to|can't|cannot))"
)
_BETWEEN = rf"(?: (?:be able to|be|ever|possibly|really|in good conscience|and (?:will not|won't)))*,? {_ADVERBS}"
_THIS = r"(?:that|this|it|these|those|such|any|anything|anyone|you|your|the (?:question|request)|how to)\b"
_SERVICE = (
    r"(?:help(?:ing)?(?! (?:but|it|myself|feeling|thinking|wondering|noticing|laughing|smiling|being|admiring)\b)\b"
    r"|(?:assist(?:ing)?|aid(?:ing)?|comply(?:ing)?|fulfil(?:l|ling)?|tak(?:e|ing) part|participat(?:e|ing)"
    r"|engag(?:e|ing) (?:in|with)|facilitat(?:e|ing)|condon(?:e|ing)|encourag(?:e|ing)|promot(?:e|ing)"
    r"|endors(?:e|ing))\b"
    r"|(?:do|doing) (?:that|this|it|so|such)\b"
    rf"|(?:answer|answering|discuss|discussing|support|supporting|respond to|advise on|continue with) {_THIS}"
    rf"|(?:talk|talking|speak|speaking|chat|chatting)(?: with you| to you)? about {_THIS}"
    r"|(?:answer|respond|continue)(?=[.!,;]|$)"
    r"|(?:give|giving|provid(?:e|ing)|shar(?:e|ing)|tell|telling|write|writing|creat(?:e|ing)|generat(?:e|ing)"
    r"|offer(?:ing)?|show|showing|explain(?:ing)?|produc(?:e|ing))(?: you| anyone| anybody)?(?: with)?"
    r" (?:that|this|it|those|any|such|how to|instructions|advice|information|details|guidance|content|support)\b)"
    r"(?! (?:how (?:happy|glad|much|many|sorry|often)|enough)\b)"
)
_REFUSAL = re.compile(
    rf"{_UNABLE}{_BETWEEN}{_SERVICE}"
    rf"|{_I} (?:must|have to|will have to|am going to|need to|would) (?:say no|decline|refuse)\b"
    rf"|{_I} {_ADVERBS}(?:decline|refuse)(?=[.!,;]|$| (?:this|that|your)\b)"
    r"|\b(?:not|isn't|don't think (?:that|this|it) is) (?:something|anything) (?:that )?(?:i|we)"
    rf" (?:can|could|will|am able to) (?:{_SERVICE}|do|share|provide|give|discuss|answer|support)"
    rf"|\b(?:something|anything) (?:that )?(?:i|we) (?:can't|cannot|won't|will not) {_SERVICE}"
    rf"|\b(?:outside(?: of)?|beyond) what (?:i|we) (?:can|could|am able to) {_SERVICE}"
    r"|\bagainst (?:my|our) (?:guidelines|principles|policy|policies|programming|rules|values)\b"
    rf"|\b(?:is|be|it's|that's) (?:wrong|inappropriate|unethical|illegal) (?:for me )?to {_SERVICE}"
)


def is_refusal(text: str) -> bool:
    """Whether an answer refuses in so many words, somewhere in its first OPENING characters."""
    opening = " ".join(text[:OPENING].translate(_QUOTES).casefold().split())
    return _MAYBE.search(opening) is not None and _REFUSAL.search(opening) is not None


def on_safety_axis(group: Group, safety_axes: Collection[str]) -> bool:
    """Whether the group was judged on one of these axes."""
    return is_safety_axis(group.axis, safety_axes)


def is_safety_axis(axis: str, safety_axes: Collection[str]) -> bool:
    """Whether the axis is one of these, whatever their capitals."""
    return axis.casefold() in {safety_axis.casefold() for safety_axis in safety_axes}


def refusal_may_be_right(group: Group, safety_axes: Collection[str]) -> bool:
    """Whether the best answer to the group's prompt may be a refusal.

    It may on a safety axis; where the people's best completion is a refusal; and where one of the completions is a
    refusal that their best one hasn't beaten, be it because nobody compared the two.
    """
    if on_safety_axis(group, safety_axes):
        return True
    refusals = {place for place, completion in enumerate(group.completions) if is_refusal(completion.text)}
    if not refusals:
        return False
    best = best_completion(group)
    beaten = {pair.rejected for pair in judged_pairs(group) if best is not None and pair.chosen == best}
    return not refusals <= beaten


def silence_may_be_right(group: Group, safety_axes: Collection[str]) -> bool:
    """Whether a text that says nothing may be better than the group's best completion, for all that people said.

    It may on a safety axis where no completion is a refusal: all of them comply, nobody said with what, and where it
    is harm saying nothing is the better answer.
    """
    return on_safety_axis(group, safety_axes) and not any(is_refusal(text.text) for text in group.completions)


def clusters_to_refuse(groups: Iterable[Group], safety_axes: Collection[str]) -> frozenset[str]:
    """Clusters with a group in which a refusal may be right: it may be in all of the cluster's groups then."""
    return frozenset(group.cluster_id for group in groups if refusal_may_be_right(group, safety_axes))


def beaten_by_refusal(group: Group) -> list[int]:
    """Completions that are no refusal and that people found worse than one, the best of them first.

    Where one of them was also found better than another refusal, people are at odds, and it is left out.
    """
    net, won, lost = _against_refusals(group)
    return sorted(lost - won, key=lambda place: (-net[place], place))


def preferred_to_refusal(group: Group) -> list[int]:
    """Completions that are no refusal and that people found better than one, the best of them first; as
    `beaten_by_refusal`."""
    net, won, lost = _against_refusals(group)
    return sorted(won - lost, key=lambda place: (-net[place], place))


def _against_refusals(group: Group) -> tuple[list[int], set[int], set[int]]:
    """Wins less losses of each completion, and which of those that don't refuse won and lost against one that does."""
    refusals = {place for place, completion in enumerate(group.completions) if is_refusal(completion.text)}
    net = [0] * len(group.completions)
    won: set[int] = set()
    lost: set[int] = set()
    if not refusals:
        return net, won, lost
    for pair in judged_pairs(group):
        if pair.chosen is None or pair.rejected is None:
            continue
        net[pair.chosen] += 1
        net[pair.rejected] -= 1
        if pair.chosen in refusals:
            lost.add(pair.rejected)
        if pair.rejected in refusals:
            won.add(pair.chosen)
    return net, won - refusals, lost - refusals
