"""Prefect tasks, thin: each wraps one step of `touchstone.pipeline`, one file per concern.

None is cached or retried by Prefect. DVC is the cache of the stages; a deterministic step that failed fails again; and
what changes the world outside is keyed by the run's fingerprint, so the next run finishes what this one left.
"""
