"""Data sets on the Hugging Face hub: pinned to a commit, streamed, and one sentence when they can't be had."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from touchstone.errors import SourceError

TIMEOUT = 15.0
"""Seconds until the hub counts as unreachable."""


def commit(repository: str, revision: str | None) -> str:
    """The commit that a data set's revision (its main branch if None) stands for now.

    Raises:
        SourceError: no such data set or revision, no access, or the hub can't be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        sha = HfApi().dataset_info(repository, revision=revision, timeout=TIMEOUT).sha
    except GatedRepoError:
        raise SourceError(
            f"data.path: {repository} asks for access; accept its terms on the hub, then set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise SourceError(f"data.revision: {repository} has no revision {revision} on the hub") from None
    except RepositoryNotFoundError:
        raise SourceError(f"data.path: {repository} is neither a local path nor a data set on the hub") from None
    except Exception as error:  # the client's network errors share no base class
        raise _unreachable(repository, error) from error
    if sha is None:
        raise SourceError(f"data.path: the hub names no commit for {repository}; set data.revision")
    return sha


def examples(
    repository: str, *, split: str, subset: str | None, folder: str | None, revision: str | None
) -> Iterator[dict[str, Any]]:
    """Examples of one split, in the hub's order, streamed at one commit.

    Raises:
        SourceError: the data set, its subset or its split is not there, is empty, or can't be reached.
    """
    sha = commit(repository, revision)
    from datasets import load_dataset

    has_rows = False
    try:
        for example in load_dataset(repository, subset, data_dir=folder, split=split, revision=sha, streaming=True):
            has_rows = True
            yield example
    except ValueError as error:
        raise SourceError(
            f"{repository} can't be read with subset {subset} and split {split}: {_first_line(error)}"
        ) from error
    except Exception as error:  # as above
        raise _unreachable(repository, error) from error
    if not has_rows:
        raise SourceError(f"data.path: {repository} is empty: its split {split} holds no rows")


def _unreachable(repository: str, error: Exception) -> SourceError:
    return SourceError(
        f"data.path: {repository} is no local path, and the Hugging Face hub could not deliver it "
        f"({type(error).__name__}: {_first_line(error)}); check the network, or give a local file or folder"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:160].rstrip(".")
