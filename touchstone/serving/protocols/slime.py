"""slime's and miles' remote reward model: `--rm-type remote_rm --rm-url http://HOST:8100/slime`.

POST /slime   prompt, response, label -> a bare number

Prompts are messages or a text of the user, to which the model's own template is applied. With slime's
`--apply-chat-template` they come rendered: use `/slime?rendered=true`, or they would be rendered twice. For
`--reward-key` there is `/slime?detailed=true`, which answers an object. slime tries ten times and raises then.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict

from touchstone.model.rendered import Conversation, Rendered
from touchstone.serving.protocols.bodies import REFUSALS, Prompt, messages_of, stamp
from touchstone.serving.refusals import Refusal
from touchstone.serving.service import Service
from touchstone.serving.strict import Closed, StrictRoute


class SampleRequest(Closed):
    """Body of POST /slime. `label` isn't looked at."""

    prompt: Prompt
    response: str
    label: Any = None

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "2+2?", "response": "4", "label": "4"}]})


class Options(BaseModel):
    """What the URL may add."""

    model_config = ConfigDict(extra="forbid")

    rendered: bool = False
    detailed: bool = False
    model: str | None = None


class DetailedReward(BaseModel):
    """Reply of POST /slime?detailed=true; `reward` is what the bare number would be."""

    reward: float
    raw: float
    centered: float
    percentile: float
    truncated: bool

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"reward": 1.23, "raw": 1.23, "centered": 0.87, "percentile": 0.81, "truncated": False}]
        }
    )


def router(service: Service) -> APIRouter:
    """The protocol's routes."""
    routes = APIRouter(route_class=StrictRoute, tags=["slime"], responses=REFUSALS)

    @routes.post("/slime", summary="The reward of one sample as slime asks for it")
    async def sample(
        request: SampleRequest, options: Annotated[Options, Query()], response: Response
    ) -> float | DetailedReward:
        answer = await service.score_rendered(options.model, [_text(request, options)])
        stamp(response, answer)
        (score,) = answer.scores
        number = service.number(score)
        if not options.detailed:
            return number
        return DetailedReward(
            reward=number,
            raw=score.reward,
            centered=score.centered,
            percentile=score.percentile,
            truncated=score.truncated,
        )

    return routes


def _text(request: SampleRequest, options: Options) -> Rendered | Conversation:
    """A sample; its response may end with the EOS that was generated."""
    if not options.rendered:
        return Conversation(messages_of(request.prompt), [request.response], ends=True)
    if not isinstance(request.prompt, str):
        raise Refusal(422, "unusable_prompt", "rendered=true is for prompts that are a text, and this is messages")
    return Rendered(request.prompt, request.response, ends=True)
