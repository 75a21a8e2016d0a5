"""The routes of SGLang, one of which verl asks for rewards.

POST /v1/embeddings                       texts or ids -> data[i].embedding[0], never normalised
POST, PUT /classify (in shared_paths)     text or input_ids -> [{embedding: [reward], meta_info}], one alone bare
POST /v1/classify                         texts or ids -> data[i].probs[0], never through a softmax
POST /v1/score (in shared_paths)          a query with items -> scores[i][0]

A softmax of one number is always 1.0, so nothing here computes one: whoever asks for it is refused.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from touchstone.model.rendered import Conversation, Rendered
from touchstone.serving.protocols.bodies import REFUSALS, USAGE, Encoding, Text, TokenIds, Usage, new_id, stamp, vector
from touchstone.serving.protocols.vllm import ClassifyReply, classifications, rendered
from touchstone.serving.refusals import Refusal
from touchstone.serving.service import Service
from touchstone.serving.strict import Closed, StrictRoute

Texts = Text | Annotated[list[Text], Field(min_length=1)]
Ids = TokenIds | Annotated[list[TokenIds], Field(min_length=1)]

Number = Annotated[int, Field(ge=0)]

_RENDERED = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>"


class EmbeddingsRequest(Closed):
    """Body of POST /v1/embeddings."""

    model: str | None = None
    input: Texts | Ids
    encoding_format: Encoding = "float"
    user: str | None = None
    rid: str | None = None

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "rm", "input": _RENDERED}]})


class NativeRequest(Closed):
    """Body of POST /classify as SGLang has it."""

    text: Texts | None = None
    input_ids: Ids | None = None
    rid: str | list[str] | None = None

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": [_RENDERED]}]})

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.text is None) == (self.input_ids is None):
            raise ValueError("send exactly one of text and input_ids")
        return self


class ClassifyRequest(Closed):
    """Body of POST /v1/classify."""

    model: str | None = None
    input: str | list[str] | list[Number] | list[list[Number]]
    user: str | None = None
    rid: str | None = None
    priority: int | None = None

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "rm", "input": [_RENDERED]}]})


class ScoreRequest(Closed):
    """Body of POST /v1/score as SGLang has it: every item is scored as what follows the query."""

    model: str | None = None
    query: Text | TokenIds
    items: Text | Annotated[list[Text], Field(min_length=1)] | Annotated[list[TokenIds], Field(min_length=1)]
    label_token_ids: Annotated[list[int], Field(max_length=0)] | None = None
    apply_softmax: Literal[False] = False
    item_first: bool = False

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "rm",
                    "query": "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n",
                    "items": ["4<|im_end|>", "5<|im_end|>"],
                }
            ]
        }
    )


class Embedding(BaseModel):
    """One text's raw reward as an embedding of one number."""

    index: int
    object: Literal["embedding"] = "embedding"
    embedding: list[float] | str
    truncated: bool


class EmbeddingsReply(BaseModel):
    """Reply of POST /v1/embeddings; `model` is what the request called it."""

    object: Literal["list"] = "list"
    model: str
    data: list[Embedding]
    usage: Usage

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "list",
                    "model": "rm",
                    "data": [{"index": 0, "object": "embedding", "embedding": [1.23], "truncated": False}],
                    "usage": USAGE,
                }
            ]
        }
    )


class MetaInfo(BaseModel):
    """What is known of a text besides its reward."""

    id: str
    prompt_tokens: int
    truncated: bool
    bos_added: bool


class NativeReward(BaseModel):
    """One text's raw reward."""

    embedding: list[float]
    meta_info: MetaInfo

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "embedding": [1.23],
                    "meta_info": {"id": "classify-1", "prompt_tokens": 9, "truncated": False, "bos_added": False},
                }
            ]
        }
    )


class ScoringReply(BaseModel):
    """Reply of POST /v1/score: a list of one raw reward per item, in their order."""

    object: Literal["scoring"] = "scoring"
    model: str
    scores: list[list[float]]
    usage: Usage

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"object": "scoring", "model": "rm", "scores": [[1.23], [-0.4]], "usage": USAGE}]
        }
    )


def router(service: Service) -> APIRouter:
    """The protocol's routes, but for the paths that it shares with vLLM."""
    routes = APIRouter(route_class=StrictRoute, tags=["SGLang"], responses=REFUSALS)

    @routes.post("/v1/embeddings", summary="Rewards as embeddings of one number")
    async def embeddings(request: EmbeddingsRequest, response: Response) -> EmbeddingsReply:
        answer = await service.score_rendered(request.model, rendered(request.input, add_special_tokens=True))
        stamp(response, answer)
        data = [
            Embedding(
                index=index,
                embedding=vector(service.number(score), request.encoding_format),
                truncated=score.truncated,
            )
            for index, score in enumerate(answer.scores)
        ]
        return EmbeddingsReply(model=request.model or answer.model, data=data, usage=Usage.of(answer.tokens))

    @routes.post("/v1/classify", summary="Rewards as SGLang's classes")
    async def classify_v1(request: ClassifyRequest, response: Response) -> ClassifyReply:
        batch = [request.input] if isinstance(request.input, str) else request.input
        if not batch or any(not part.strip() if isinstance(part, str) else part == [] for part in batch):
            raise Refusal(400, "empty_input", "input is empty or holds a text of nothing but spaces")
        answer = await service.score_rendered(request.model, rendered(request.input, add_special_tokens=True))
        stamp(response, answer)
        return ClassifyReply(
            id=new_id("classify", request.rid),
            created=int(time.time()),
            model=request.model or answer.model,
            usage=Usage.of(answer.tokens),
            data=classifications(service, answer),
        )

    return routes


async def classify(service: Service, request: NativeRequest, response: Response) -> NativeReward | list[NativeReward]:
    """POST and PUT /classify with a body of SGLang's; what comes alone is answered alone."""
    source: Any = request.text if request.text is not None else request.input_ids
    texts = rendered(source, add_special_tokens=True)
    answer = await service.score_rendered(None, texts)
    stamp(response, answer)
    names = request.rid if isinstance(request.rid, list) else [request.rid or new_id("classify")]
    rewards = [
        NativeReward(
            embedding=[service.number(score)],
            meta_info=MetaInfo(
                id=names[index] if index < len(names) else new_id("classify"),
                prompt_tokens=answer.tokens[index],
                truncated=score.truncated,
                bos_added=answer.bos_added[index],
            ),
        )
        for index, score in enumerate(answer.scores)
    ]
    single = isinstance(source, str) or isinstance(source[0], int)
    return rewards[0] if single else rewards


async def score(service: Service, request: ScoreRequest, response: Response) -> ScoringReply:
    """POST /v1/score with a body of SGLang's."""
    items: list[Any] = [request.items] if isinstance(request.items, str) else list(request.items)
    texts: list[Rendered | Conversation] = [_following(request.query, item, request.item_first) for item in items]
    answer = await service.score_rendered(request.model, texts)
    stamp(response, answer)
    return ScoringReply(
        model=request.model or answer.model,
        scores=[[service.number(score)] for score in answer.scores],
        usage=Usage.of(answer.tokens),
    )


def _following(query: str | list[int], item: str | list[int], item_first: bool) -> Rendered:
    """The query with what follows it; the other way round there is no prompt that items share."""
    return Rendered(item, query) if item_first else Rendered(query, item)
