"""Public reward benchmarks with their published formulas, each score with its interval over prompts.

    touchstone judge --benchmark reward_bench_2 --data ../reward-bench-2/test.parquet
    touchstone judge --benchmark rm_bench --data ../RM-Bench/data/total_dataset.json --artifact build/artifact-model

`data/sources/benchmarks.py` reads the files, `formulas` says what a score is, `intervals` how sure it is, `run` scores
each completion once and writes results.json, rows.parquet and plot.png.

A public benchmark is no evidence for a promotion: its prompts are not the project's, anybody may have trained on them,
and looking twice costs nothing. So it never opens the holdout, and the holdout's ledger never hears of it.
"""

from touchstone.evaluation.benchmarks.formulas import BENCHMARKS
from touchstone.evaluation.benchmarks.run import Result, run, table, write

__all__ = ["BENCHMARKS", "Result", "run", "table", "write"]
