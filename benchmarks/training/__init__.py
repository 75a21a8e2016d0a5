"""Pairs per second of reward-model training, beside TRL. See `__main__.py`."""
