"""Watching the served champion: canary and served traffic, window by window, and whether to train again."""
