"""Before any test imports numpy or torch: how many threads, and how they wait, is read when those are loaded."""

import gc
import os

# As in a stage (`touchstone.runtime.parallel.one_algebra_thread`): two workers with two threads each take three times
# the processor for a fit of two coefficients.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import touchstone  # noqa: F401  # isort: skip

from hypothesis import settings

# A busy machine takes longer over an example, and that is no failure.
settings.register_profile("touchstone", deadline=None)
settings.load_profile("touchstone")

# Each full collection would walk over everything that five thousand tests and their imports hold: a tenth of the time.
gc.disable()


def pytest_collection_finish() -> None:
    """What is there now stays to the end; only what tests make is collected."""
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
