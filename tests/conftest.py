"""Before any test imports torch: how its threads wait is read when it is loaded."""

import gc

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
