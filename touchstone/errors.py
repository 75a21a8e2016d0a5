"""Every error that Touchstone raises on purpose.

    TouchstoneError
    ├── SettingsError        a setting is missing, misspelt, out of range, or contradicts another
    ├── DataError            comparisons can't be read or used
    │   ├── SourceError      a source's files are missing, unreadable or of the wrong format
    │   ├── QuarantineError  more rows were set aside than the settings allow
    │   ├── SuspicionError   what an import understood smells of misreading
    │   └── ValidationError  a critical check on the comparisons failed
    ├── SplitError           a set would be empty, or a cluster can't be placed
    ├── ModelError           a base model or reward model can't be loaded or used
    ├── TrainingError        training stopped: non-finite loss or gradient, lost process, full disk
    ├── ArtifactError        a sealed artifact doesn't verify: digest, self-test, missing head
    ├── JudgeError           a generative judge can't be asked: endpoint, key, instructions, principles
    │   └── SpendingError    a limit of requests, tokens or cost would be passed
    ├── LedgerError          a ledger's hash chain is broken or can't be written
    ├── GateError            a verdict could not be reached (the verdict ERROR)
    ├── RegistryError        MLflow refused, an alias moved underneath, a version is missing
    ├── ServingError         the endpoint can't start or doesn't answer as it must
    │   └── RefusedError     the endpoint refuses a request, now and as often as it is sent
    └── PipelineError        a stage failed, the workspace can't be made, another run holds the lease
        ├── StageError       one stage's command ended with a non-zero exit code
        ├── BusyError        a run of the same fingerprint is under way
        └── NoticeError      nobody could be told how a run ended

A message says what happened, where (file, row, setting), and what to do; never an example's text.
"""

from __future__ import annotations


class TouchstoneError(Exception):
    """The root: the command line prints its message as one sentence and exits with 1."""


class SettingsError(TouchstoneError):
    """A setting is missing, misspelt, out of range, or contradicts another."""


class DataError(TouchstoneError):
    """Comparisons can't be read or used."""


class SourceError(DataError):
    """A source's files are missing, unreadable or of the wrong format."""


class QuarantineError(DataError):
    """More rows were set aside than the settings allow."""


class SuspicionError(DataError):
    """What an import understood smells of misreading, and importing.suspicion is `stop`."""


class ValidationError(DataError):
    """A critical check on the comparisons failed."""


class SplitError(TouchstoneError):
    """A set would be empty, or a cluster can't be placed."""


class ModelError(TouchstoneError):
    """A base model or reward model can't be loaded or used."""


class TrainingError(TouchstoneError):
    """Training stopped: non-finite loss or gradient, lost process, full disk."""


class ArtifactError(TouchstoneError):
    """A sealed artifact doesn't verify: digest, self-test, missing head."""


class JudgeError(TouchstoneError):
    """A generative judge can't be asked: its endpoint, its key, its instructions or its principles."""


class SpendingError(JudgeError):
    """A limit of requests, tokens or cost would be passed; what was answered is kept."""


class LedgerError(TouchstoneError):
    """A ledger's hash chain is broken, or it can't be written."""


class GateError(TouchstoneError):
    """A verdict could not be reached."""


class RegistryError(TouchstoneError):
    """MLflow refused, an alias moved underneath, or a version is missing."""


class ServingError(TouchstoneError):
    """The endpoint can't start, or doesn't answer as it must."""


class RefusedError(ServingError):
    """The endpoint refuses a request, now and as often as it is sent.

    Attributes:
        status: HTTP's status.
        kind: the endpoint's own word for it ("invalid_request", "unknown_model", ...).
    """

    def __init__(self, message: str, status: int, kind: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


class PipelineError(TouchstoneError):
    """The graph can't be run: workspace, stage or lease."""


class StageError(PipelineError):
    """One stage's command ended with a non-zero exit code."""


class BusyError(PipelineError):
    """A run of the same fingerprint is under way."""


def os_words(error: OSError) -> str:
    """An operating system's error as a sentence: which file, and what is wrong with it."""
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or str(error) or type(error).__name__}"


class NoticeError(PipelineError):
    """Nobody could be told how a run ended; a notice stays owed."""
