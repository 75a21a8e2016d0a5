"""Before any test imports torch: how its threads wait is read when it is loaded."""

import touchstone  # noqa: F401
