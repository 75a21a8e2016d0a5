"""Runs the graph of `dvc.yaml`: private worktree, stages through the DVC command line, lease, plan, plain runner.

The only package that knows DVC. `flows/` wraps its steps as Prefect tasks; `touchstone retrain --plain` calls them in
order.
"""
