"""Comparisons before any model: sources, import, hygiene, validation, audit, the seven sets, the data page.

Nothing here scores. Only `data.page` knows the model, for its tokenizer.
"""
