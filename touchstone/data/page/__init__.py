"""The data page, and the difference between two versions of the data."""
