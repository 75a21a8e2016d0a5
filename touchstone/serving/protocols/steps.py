"""Scores of the steps of chains of reasoning, by a process model.

POST /v1/steps     prompts with chains -> a score per step, the first wrong step, and the chain's own score
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from touchstone.client import ScoreReply
from touchstone.groups import steps_of, text_of_steps
from touchstone.model.scores import ChainScore
from touchstone.serving.protocols.bodies import REFUSALS, Prompt, messages_of, stamp
from touchstone.serving.protocols.native import Stamped, reply_of, stamp_of
from touchstone.serving.refusals import Refusal
from touchstone.serving.service import Service
from touchstone.serving.strict import Closed, StrictRoute

Chain = Annotated[list[str], Field(min_length=1)] | str
"""A list of steps, or a text whose steps are divided by empty lines."""


class ChainsInput(Closed):
    """A prompt and the chains to score; those of one prompt are computed together."""

    prompt: Prompt
    completions: Annotated[list[Chain], Field(min_length=1)]


class StepsRequest(Closed):
    """Body of POST /v1/steps."""

    model: str | None = None
    inputs: Annotated[list[ChainsInput], Field(min_length=1)]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"inputs": [{"prompt": "3 + 4 * 2?", "completions": [["4 * 2 = 8.", "3 + 8 = 12."]]}]},
                {"inputs": [{"prompt": "3 + 4 * 2?", "completions": ["4 * 2 = 8.\n\n3 + 8 = 11."]}]},
            ]
        }
    )


class StepScore(BaseModel):
    """A step's score: log odds as the model gives them, and the calibrated probability that it isn't wrong."""

    log_odds: float
    probability: float


class ScoredChain(BaseModel):
    """One chain's scores, a step each in their order.

    `steps` has null for a step beyond the model's token limit; `first_error` is the place, from 0, of the first step
    that the sealed threshold calls wrong, null where it calls none. `score` is the chain's own, aggregated over the
    steps as the model was sealed, and `probability` that none of its steps is wrong.
    """

    steps: list[StepScore | None]
    first_error: int | None
    score: ScoreReply
    probability: float


class ScoredChains(BaseModel):
    """Scores of one input's chains, in their order."""

    chains: list[ScoredChain]


class StepsReply(Stamped):
    """Reply of POST /v1/steps: one entry per input, in their order, and how the steps make a chain's score."""

    aggregation: str
    results: list[ScoredChains]


def router(service: Service) -> APIRouter:
    """The protocol's route."""
    routes = APIRouter(route_class=StrictRoute, tags=["Touchstone"], responses=REFUSALS)

    @routes.post("/v1/steps", summary="Scores of the steps of chains")
    async def steps(request: StepsRequest, response: Response) -> StepsReply:
        items = [
            (
                messages_of(part.prompt),
                [_text(chain, f"inputs.{number}.completions.{place}") for place, chain in enumerate(part.completions)],
            )
            for number, part in enumerate(request.inputs)
        ]
        answer = await service.steps(request.model, items)
        stamp(response, answer)
        results = [
            ScoredChains(
                chains=[_scored(chain, len(steps_of(text)) or 1) for chain, text in zip(row, texts, strict=True)]
            )
            for row, (_, texts) in zip(answer.chains, items, strict=True)
        ]
        return StepsReply(**stamp_of(answer), aggregation=answer.aggregation, results=results)

    return routes


def _text(chain: list[str] | str, field: str) -> str:
    """A chain as the text that the model reads.

    Raises:
        Refusal: 422, a step of a list has no content.
    """
    if isinstance(chain, str):
        return chain
    try:
        return text_of_steps(chain)
    except ValueError:
        raise Refusal(422, "empty_step", f"{field}: a step has no content; leave it out") from None


def _scored(chain: ChainScore, count: int) -> ScoredChain:
    """A chain of so many steps as it travels."""
    read = [
        StepScore(log_odds=log_odds, probability=probability)
        for log_odds, probability in zip(chain.log_odds, chain.probabilities, strict=True)
    ]
    return ScoredChain(
        steps=[*read, *[None] * (count - len(read))],
        first_error=chain.first_error,
        score=reply_of(chain.score),
        probability=chain.probability,
    )
