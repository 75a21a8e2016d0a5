"""Touchstone: human preference comparisons in, trustworthy reward models out."""

__version__ = "0.1.0"
