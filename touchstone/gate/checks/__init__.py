"""The promotion gate: evidence in, checks out, one verdict.

Every check is a pure function from numbers to a `Check`; nothing here reads a file or a clock. A check passes when
the bound of its interval meets the threshold, fails when the estimate itself misses it, and is undecided when the
estimate meets it and the bound doesn't. Bounds are one-sided 95% from resampling clusters (usually prompts), where
nothing else is said.

Everything fails closed: a number that isn't finite is never compared, a check that raised is an error, a required
check that is absent is an error, and what did not run never counts as passed.
"""

from touchstone.gate.checks.advisory import asked, noise_ceiling, seeds, spread, unattended
from touchstone.gate.checks.bias import Completions, length, probes
from touchstone.gate.checks.check import REQUIRED, Check, Status, Verdict, needed, run, verdict
from touchstone.gate.checks.comparison import NEW_SHARE, champion, confirm, lineage_chance
from touchstone.gate.checks.judged import asked_again, labelled_by_models, swayed, without_scale
from touchstone.gate.checks.optimisation import overoptimisation
from touchstone.gate.checks.outcomes import (
    OUTCOME_CHECKS,
    Outcomes,
    auc,
    best_of_n,
    not_about_outcomes,
    outcome_calibration,
)
from touchstone.gate.checks.pairs import Asked, Pairs
from touchstone.gate.checks.quality import calibration, evidence, floor
from touchstone.gate.checks.refusals import refusals
from touchstone.gate.checks.slices import slices
from touchstone.gate.checks.trust import (
    Scored,
    centering,
    holdout_use,
    integrity,
    leakage,
    reload,
    serving_parity,
    shared_prompts,
)

__all__ = [
    "NEW_SHARE",
    "OUTCOME_CHECKS",
    "REQUIRED",
    "Asked",
    "Check",
    "Completions",
    "Outcomes",
    "Pairs",
    "Scored",
    "Status",
    "Verdict",
    "asked",
    "asked_again",
    "auc",
    "best_of_n",
    "calibration",
    "centering",
    "champion",
    "confirm",
    "evidence",
    "floor",
    "holdout_use",
    "integrity",
    "labelled_by_models",
    "leakage",
    "length",
    "lineage_chance",
    "needed",
    "noise_ceiling",
    "not_about_outcomes",
    "outcome_calibration",
    "overoptimisation",
    "probes",
    "refusals",
    "reload",
    "run",
    "seeds",
    "serving_parity",
    "shared_prompts",
    "slices",
    "spread",
    "swayed",
    "unattended",
    "verdict",
    "without_scale",
]
