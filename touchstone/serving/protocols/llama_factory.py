"""LLaMA-Factory's PPO: `reward_model_type: api` and `reward_model: http://HOST:8100/v1/score/evaluation`.

POST /v1/score/evaluation   whole texts with special tokens -> scores

Its client sends a whole mini-batch once, looks at no status, and ends the run at any body without `scores`. So a
request waits for a place in the queue, up to the deadline, before it is refused.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from touchstone.model.rendered import Rendered
from touchstone.serving.protocols.bodies import REFUSALS, Text, keep_to_the_rule, new_id, stamp
from touchstone.serving.refusals import Refusal
from touchstone.serving.service import Service
from touchstone.serving.strict import Closed, StrictRoute


class EvaluationRequest(Closed):
    """Body of POST /v1/score/evaluation; `messages` are whole texts. The client always calls the model `model`."""

    model: str | None = None
    messages: list[Text]
    max_length: Annotated[int, Field(ge=1)] | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "model",
                    "messages": ["<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>"],
                }
            ]
        }
    )


class EvaluationReply(BaseModel):
    """Reply of POST /v1/score/evaluation: one score per text, in their order."""

    id: str
    object: Literal["score.evaluation"] = "score.evaluation"
    model: str
    scores: list[float]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"id": "scoreval-1", "object": "score.evaluation", "model": "model", "scores": [1.23]}]
        }
    )


def router(service: Service) -> APIRouter:
    """The protocol's routes."""
    routes = APIRouter(route_class=StrictRoute, tags=["LLaMA-Factory"], responses=REFUSALS)

    @routes.post("/v1/score/evaluation", summary="Scores as LLaMA-Factory's PPO asks for them")
    async def evaluation(request: EvaluationRequest, response: Response) -> EvaluationReply:
        if not request.messages:
            raise Refusal(400, "no_messages", "messages is empty; send at least one text")
        keep_to_the_rule(service, request.model, request.max_length, "max_length")
        texts = [Rendered(text) for text in request.messages]
        answer = await service.score_rendered(request.model, texts, patient=True)
        stamp(response, answer)
        return EvaluationReply(
            id=new_id("scoreval"),
            model=request.model or answer.model,
            scores=[service.number(score) for score in answer.scores],
        )

    return routes
