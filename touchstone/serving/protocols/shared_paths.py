"""Two paths that vLLM and SGLang both claim, told apart by the fields of the body.

POST, PUT /classify   input or messages: vLLM's; text or input_ids: SGLang's
POST /v1/score        text_1, queries or data_1: vLLM's; query: SGLang's

A body with fields of both kinds, or of neither, is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import Discriminator, Tag

from touchstone.serving.protocols import sglang, vllm
from touchstone.serving.protocols.bodies import REFUSALS
from touchstone.serving.service import Service
from touchstone.serving.strict import StrictRoute


def _kind(vllm_fields: set[str], sglang_fields: set[str]) -> Callable[[Any], str | None]:
    """Which server's body it is, by fields that only one of them has."""

    def kind(body: Any) -> str | None:
        names = set(body) if isinstance(body, dict) else set()
        kinds = [name for name, fields in (("vLLM", vllm_fields), ("SGLang", sglang_fields)) if names & fields]
        return kinds[0] if len(kinds) == 1 else None

    return kind


Classify = Annotated[
    Annotated[vllm.ClassifyRequest, Tag("vLLM")] | Annotated[sglang.NativeRequest, Tag("SGLang")],
    Discriminator(
        _kind({"input", "messages"}, {"text", "input_ids"}),
        custom_error_type="which_protocol",
        custom_error_message="send input or messages (vLLM's), or text or input_ids (SGLang's), and not both kinds",
    ),
]
Score = Annotated[
    Annotated[vllm.ScoreRequest, Tag("vLLM")] | Annotated[sglang.ScoreRequest, Tag("SGLang")],
    Discriminator(
        _kind({"text_1", "text_2", "queries", "documents", "data_1", "data_2"}, {"query"}),
        custom_error_type="which_protocol",
        custom_error_message="send a pair such as text_1 and text_2 (vLLM's), or query and items (SGLang's), not both",
    ),
]


def router(service: Service) -> APIRouter:
    """The routes of both paths."""
    routes = APIRouter(route_class=StrictRoute, tags=["vLLM", "SGLang"], responses=REFUSALS)

    async def classify(
        request: Classify, response: Response
    ) -> vllm.ClassifyReply | sglang.NativeReward | list[sglang.NativeReward]:
        if isinstance(request, vllm.ClassifyRequest):
            return await vllm.classify(service, request, response)
        return await sglang.classify(service, request, response)

    routes.post("/classify", summary="Rewards as classes, of vLLM or SGLang by the body's fields")(classify)
    routes.put("/classify", summary="The same as POST, as SGLang has it")(classify)

    @routes.post("/v1/score", summary="Scores of pairs (vLLM) or of a query with items (SGLang), by the body's fields")
    async def score(request: Score, response: Response) -> vllm.ScoreReply | sglang.ScoringReply:
        if isinstance(request, vllm.ScoreRequest):
            return await vllm.score(service, request, response)
        return await sglang.score(service, request, response)

    return routes
