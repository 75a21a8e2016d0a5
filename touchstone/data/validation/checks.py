"""The checks, their thresholds, and what follows from each."""

from __future__ import annotations

from dataclasses import replace

from touchstone.data.validation.expectations import Check
from touchstone.groups import OUT_OF_ORDER
from touchstone.settings.checks import Validation
from touchstone.settings.objective import Learns

GROUP_CHECKS = (
    Check("ids_present", "critical", "missing_ids", None, 0, "a group has no id or no cluster"),
    Check("texts_are_unicode", "warning", "lone_surrogate", None, 0, "a text holds half a character"),
    Check("prompt_has_content", "warning", "prompt_characters", 1, None, "the prompt has no content"),
    Check("completions_have_content", "warning", "shortest_completion", 1, None, "a completion says nothing"),
    Check("texts_are_varied", "warning", "one_character_run", None, 0, "a text repeats one character endlessly"),
    Check("known_roles", "warning", "wrong_roles", None, 0, f"a role is unknown, or {OUT_OF_ORDER}"),
    Check(
        "no_duplicate",
        "warning",
        "earlier_copies",
        None,
        0,
        "a group of the same texts is kept; this one adds nothing",
    ),
    Check("has_good_comparison", "warning", "only_bad_comparisons", None, 0, "no comparison of the group can be used"),
)
COMPARISON_CHECKS = (
    Check("index_in_range", "warning", "index_out_of_range", None, 0, "a compared completion isn't there"),
    Check("not_with_itself", "warning", "with_itself", None, 0, "a completion is compared with itself"),
    Check("texts_differ", "warning", "equal_texts", None, 0, "the compared texts are equal"),
    Check("votes_are_counts", "warning", "bad_votes", None, 0, "votes are negative, not finite, or all zero"),
    Check("margin_is_finite", "warning", "bad_margin", None, 0, "the margin is negative or not finite"),
    Check("judged_once", "warning", "repeated_judgement", None, 0, "the same judgement by the same annotator is kept"),
)
TEXT_CHECKS = (
    Check("texts_were_decoded", "info", "replacement_character", None, 0, "a text was read in a wrong encoding"),
    Check("no_foreign_turns", "info", "role_marker", None, 0, "a text holds what looks like another speaker's turn"),
    Check("no_control_words", "info", "special_token", None, 0, "a text spells a control token; it is read as text"),
)


OUTCOME_CHECKS = (
    Check("outcomes_are_shares", "warning", "bad_outcome", None, 0, "an outcome label is not between 0 and 1"),
)


STEP_CHECKS = (
    Check(
        "steps_are_marked", "info", "unmarked_steps", None, 0, "step labels fit no steps of the text; they say nothing"
    ),
)


def row_checks(settings: Validation, learns: Learns = "comparisons") -> tuple[Check, ...]:
    """Checks of the groups' facts."""
    reason = "a text holds personal data or a key"
    personal = Check("no_personal_data", "info", "personal_data", None, 0, reason)
    if settings.personal_data == "quarantine":
        personal = replace(personal, severity="warning")
    of_labels = {"comparisons": (), "outcome": OUTCOME_CHECKS, "process": STEP_CHECKS}[learns]
    return (*GROUP_CHECKS, *of_labels, *COMPARISON_CHECKS, *TEXT_CHECKS, personal)


def total_checks(settings: Validation, learns: Learns = "comparisons") -> tuple[Check, ...]:
    """Checks of the totals; the reason of a critical one names the setting that holds its threshold."""
    max_share, max_share_setting = settings.max_quarantine_share, "validation.max_quarantine_share"
    both_ways, both_ways_setting = settings.max_contradiction_share, "validation.max_contradiction_share"
    least = settings.min_comparisons
    pairs = Check("enough_pairs", "critical", "decided_pairs", least, None, "validation.min_comparisons")
    labels = Check("enough_labels", "critical", "labelled_completions", least, None, "validation.min_comparisons")
    return (
        *(() if learns == "comparisons" else (labels,)),
        Check("no_group_lost", "critical", "groups_lost", 0, 0, "in = kept + merged + set aside"),
        Check("no_comparison_lost", "critical", "comparisons_lost", 0, 0, "in = kept + set aside"),
        Check("enough_groups", "critical", "groups_kept", settings.min_groups, None, "validation.min_groups"),
        *(() if learns == "process" else (pairs,)),  # a prompt with one chain is a prompt
        Check("few_groups_set_aside", "critical", "groups_set_aside_share", None, max_share, max_share_setting),
        Check(
            "few_comparisons_set_aside", "critical", "comparisons_set_aside_share", None, max_share, max_share_setting
        ),
        Check("few_contradictions", "critical", "contradiction_share", None, both_ways, both_ways_setting),
        Check("length_does_not_decide", "info", "longer_wins_share", 0.05, 0.95, "length alone tells who wins"),
        Check("ties_are_few", "info", "tie_share", None, 0.5, "most pairs are ties"),
    )
