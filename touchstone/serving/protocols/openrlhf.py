"""OpenRLHF's remote reward model: `--reward.remote_url http://HOST:8100/get_reward`.

POST /get_reward   texts of prompt and response -> rewards, and their percentiles to filter prompts by

It sends one sample a request, with special tokens in it, and tries five times; to every further URL of several it
sends empty lists. It keeps a prompt whose mean of `scores` lies between bounds of 0 and 1, so that is what they are:
places in the reference set.
"""

from __future__ import annotations

from typing import Self

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, model_validator

from touchstone.model.rendered import Rendered
from touchstone.serving.protocols.bodies import REFUSALS, Text, stamp
from touchstone.serving.service import Service
from touchstone.serving.strict import Closed, StrictRoute


class RewardRequest(Closed):
    """Body of POST /get_reward. `prompts` say where each response begins; `labels` aren't looked at."""

    query: list[Text]
    prompts: list[str] | None = None
    labels: list[str | None] | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "query": ["<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>"],
                    "prompts": ["<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"],
                    "labels": [None],
                }
            ]
        }
    )

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        for name in ("prompts", "labels"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.query):
                raise ValueError(f"{name} has {len(values)} entries and query {len(self.query)}")
        return self


class RewardReply(BaseModel):
    """Reply of POST /get_reward; every list has one entry per query, in their order.

    `rewards` are raw (or centred, by `serve.protocol_reward`), `scores` are percentiles in the reference set.
    """

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "rewards": [1.23],
                    "scores": [0.81],
                    "extra_logs": {"length": [9.0], "truncated": [0.0], "bos_added": [0.0]},
                }
            ]
        }
    )


def router(service: Service) -> APIRouter:
    """The protocol's routes."""
    routes = APIRouter(route_class=StrictRoute, tags=["OpenRLHF"], responses=REFUSALS)

    @routes.post("/get_reward", summary="Rewards as OpenRLHF asks for them")
    async def get_reward(request: RewardRequest, response: Response) -> RewardReply:
        prompts = request.prompts or [""] * len(request.query)
        texts = [_rendered(query, prompt) for query, prompt in zip(request.query, prompts, strict=True)]
        answer = await service.score_rendered(None, texts)
        stamp(response, answer)
        return RewardReply(
            rewards=[service.number(score) for score in answer.scores],
            scores=[score.percentile for score in answer.scores],
            extra_logs={
                "length": [float(tokens) for tokens in answer.tokens],
                "truncated": [float(score.truncated) for score in answer.scores],
                "bos_added": [float(added) for added in answer.bos_added],
            },
        )

    return routes


def _rendered(query: str, prompt: str) -> Rendered:
    """A query, apart where its response begins if it begins with the prompt; the original server closes it by EOS."""
    if prompt and query.startswith(prompt):
        return Rendered(prompt, query[len(prompt) :], ends=True)
    return Rendered(query, ends=True)
