"""How far a reward may be optimised: a record of its own that names the artifact's digest.

    write(folder, budget)                        # runs/budgets/<digest>.json
    read(folder, digest)                         # None where nobody has measured it
    budget.warning(best_of=1000)                 # a sentence for whoever goes beyond it

It is found out after sealing, so it is no part of the artifact. Gate, page, registry and endpoint read this record.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from touchstone.errors import ArtifactError
from touchstone.runtime.files import canonical_json, pretty_json, write_atomic

SCHEMA_VERSION: Final = 1


class _Part(BaseModel):
    """A part of the record: unknown keys, NaN and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Point(_Part):
    """The best of n, in standard deviations of single samples, less what one sample is worth.

    Attributes:
        nats: KL to the policy that was sampled.
        proxy, gold: gains by this reward and by the one that it stands for.
        gold_low, gold_high: one-sided 95% bounds, prompts resampled.
        rise, rise_low: what gold gains from the n before to this one, with its lower bound; None for n = 1.
    """

    n: int
    nats: float
    proxy: float
    gold: float
    gold_low: float
    gold_high: float
    rise: float | None
    rise_low: float | None


class Fitted(_Part):
    """Gao et al.'s curve for the best of n, R(d) = d (alpha - beta d), d = sqrt(KL).

    Attributes:
        peak, peak_low, peak_high: the d where gold is largest, with one-sided 95% bounds; None: it rises without end.
    """

    alpha: float
    beta: float
    peak: float | None
    peak_low: float | None
    peak_high: float | None


class Late(_Part):
    """What gold gains between two n's, with one-sided 95% bounds."""

    start: int
    end: int
    gain: float
    low: float
    high: float


class OptimisationBudget(_Part):
    """How far one artifact may be optimised, and what that rests on.

    Attributes:
        artifact: its digest.
        n, nats: gold rises at every doubling up to the best of so many, by the lower bound of what the doubling gains;
            1 and 0: it doesn't rise at all.
        largest: the largest n that was measured.
        late: gold between n = 16 and 64; None where fewer samples were taken.
        prompts, samples: how many prompts, and completions of each.
        policy: who wrote the completions.
        gold: what they were measured by.
        samples_digest: of prompts, completions and gold.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    artifact: str
    n: int
    nats: float
    largest: int
    points: tuple[Point, ...]
    fitted: Fitted
    late: Late | None
    prompts: int
    samples: int
    policy: str
    gold: str
    samples_digest: str

    def warning(self, best_of: int | None = None, kl: float | None = None) -> str | None:
        """What to tell a client that takes the best of so many, or is so many nats from its reference; None: nothing.

        The KL of reinforcement learning is spent at a worse rate than that of the best of n (Gao et al. 2022, section
        3.1), so for it the budget is cautious.
        """
        beyond = []
        if best_of is not None and best_of > self.n:
            beyond.append(f"the best of {best_of:,}")
        if kl is not None and kl > self.nats:
            beyond.append(f"a KL of {kl:g} nats")
        if not beyond:
            return None
        known = (
            f"its gold reward was seen to rise up to the best of {self.n:,} ({self.nats:.2f} nats), measured up to "
            f"{self.largest:,}"
            if self.n > 1
            else "its gold reward was not seen to rise even for the best of 2"
        )
        return f"{' and '.join(beyond)} is beyond this version's optimisation budget: {known}"

    def to_text(self) -> str:
        """One line of JSON, for a registry's tag."""
        return canonical_json(self.model_dump(mode="json"))


def from_text(text: str) -> OptimisationBudget:
    """The record from its JSON.

    Raises:
        ArtifactError: it is no such record.
    """
    try:
        return OptimisationBudget.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise ArtifactError(
            f"no optimisation budget ({'.'.join(map(str, fault['loc']))}: {fault['msg']}); measure it again"
        ) from None


def folder_of(state: Path) -> Path:
    """Where a project keeps its budgets."""
    return state / "budgets"


def write(folder: Path, budget: OptimisationBudget) -> Path:
    """Write the artifact's record, over an earlier one; returns its file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{budget.artifact}.json"
    write_atomic(path, pretty_json(budget.model_dump(mode="json")))
    return path


def read(folder: Path, artifact: str) -> OptimisationBudget | None:
    """The record about an artifact's digest; None where there is none.

    Raises:
        ArtifactError: it can't be read, or is about another artifact.
    """
    path = folder / f"{artifact}.json"
    try:
        budget = from_text(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ArtifactError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: {error}") from None
    if budget.artifact != artifact:
        raise ArtifactError(f"{path} is about another artifact ({budget.artifact[:12]}); measure this one")
    return budget


def finite(value: float) -> float | None:
    """A number for the record; None for infinity."""
    return value if math.isfinite(value) else None
