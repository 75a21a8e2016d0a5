"""MLflow itself. Importing it takes seconds, so the others import this where they write or where `reading` can't."""

from __future__ import annotations

import warnings

from touchstone.runtime.imports import large_imports

with large_imports(), warnings.catch_warnings():
    # MLflow 3.17.2 complains about its own code while it is imported (AnyType hints; SQLAlchemy 2.1's `noload`).
    warnings.filterwarnings("ignore", message=".*Any type hint is inferred", category=UserWarning)
    warnings.filterwarnings("ignore", message=".*noload.* loader strategy", category=DeprecationWarning)
    import mlflow.artifacts as artifacts
    import mlflow.pyfunc as pyfunc
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
    from mlflow.exceptions import MlflowException
    from mlflow.models.signature import ModelSignature
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.types.schema import AnyType, ColSpec, DataType, Schema

__all__ = [
    "AnyType",
    "ColSpec",
    "DataType",
    "Dataset",
    "DatasetInput",
    "InputTag",
    "Metric",
    "MlflowClient",
    "MlflowException",
    "ModelSignature",
    "Param",
    "Schema",
    "SqlAlchemyStore",
    "artifacts",
    "pyfunc",
]
