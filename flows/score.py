"""The flow `score`: a file of prompts and completions in, a file of their scores out, as `touchstone score` does it.

    from flows.score import score

    score("rollouts.jsonl.gz", "models:/reward-sandbox@champion", "scores.parquet")

A run that failed or was killed is finished by the next one with the same arguments.
"""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from tasks.scoring import score_file


@flow(name="score")
def score(file: str, model: str, out: str) -> State[None]:
    """Score the rows of a file.

    Args:
        model: models:/NAME@ALIAS, models:/NAME/VERSION, or the folder of a sealed artifact.
        out: the Parquet file to write.
    """
    return Completed(name="Scored", message=score_file(file, model, out))
