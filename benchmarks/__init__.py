"""Measurements of the product, and their results."""

import touchstone  # noqa: F401  before torch, in this process and in those that it starts: how threads wait
