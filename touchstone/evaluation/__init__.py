"""How good a model is: rows, metrics, baselines, public benchmarks, cross-fitting, what to label next.

Nothing here decides.
"""
