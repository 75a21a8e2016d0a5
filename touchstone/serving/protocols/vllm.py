"""The pooling routes of vLLM, which verl asks for rewards among others.

POST /classify (in shared_paths)                  texts, token ids or one conversation -> data[i].probs[0]
POST /pooling                                     the same -> data[i].data[0]
POST /score, /v1/score (in shared_paths)          pairs of texts -> data[i].score
POST /rerank, /v1/rerank, /v2/rerank              a query with documents -> results, best first

`probs` is vLLM's name; what stands there is the raw reward unless `use_activation` is true. A pair, a query with a
document, is a message of the user and an answer to it, in the model's own template.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from touchstone.groups import Message
from touchstone.model.rendered import Conversation, Rendered
from touchstone.serving.answers import TextsAnswer
from touchstone.serving.protocols.bodies import (
    REFUSALS,
    USAGE,
    Activated,
    Encoding,
    Text,
    TokenIds,
    Turn,
    Usage,
    keep_to_the_rule,
    messages_of,
    new_id,
    stamp,
    vector,
)
from touchstone.serving.service import Service
from touchstone.serving.strict import StrictRoute

Empty = Annotated[dict[str, Any], Field(max_length=0)]
"""What would change the template, and may not: the score is the sealed template's."""


class Common(Activated):
    """The fields that every route takes. Those that would change what is read accept only what changes nothing."""

    model: str | None = None
    user: str | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    truncation_side: Literal["left"] | None = None
    padding: bool | None = None
    request_id: str | None = None
    priority: Literal[0] = 0
    cache_salt: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    mm_processor_kwargs: Empty | None = None


class PoolingInput(Common):
    """Texts, ids or one conversation, with the fields of vLLM's chat requests."""

    input: (
        Text
        | Annotated[list[Text], Field(min_length=1)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1)]
        | None
    ) = None
    messages: Annotated[list[Turn], Field(min_length=2)] | None = None
    chat_template: None = None
    chat_template_kwargs: Empty | None = None
    add_generation_prompt: Literal[False] = False
    continue_final_message: Literal[False] = False
    media_io_kwargs: Empty | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.input is None) == (self.messages is None):
            raise ValueError("send exactly one of input and messages")
        if self.messages and self.messages[-1].role != "assistant":
            raise ValueError("messages end with the assistant's turn, which is what is scored")
        if self.messages and self.add_special_tokens:
            raise ValueError("messages are rendered by the model's own template; leave add_special_tokens out")
        return self

    def texts(self) -> list[Rendered | Conversation]:
        """What is to be scored; special tokens are added to `input` unless the client says no."""
        if self.messages is not None:
            return [Conversation(messages_of(self.messages[:-1]), [self.messages[-1].content])]
        return rendered(self.input or [], add_special_tokens=self.add_special_tokens is not False)


def rendered(
    source: str | list[str] | list[int] | list[list[int]], *, add_special_tokens: bool
) -> list[Rendered | Conversation]:
    """The texts of a field that takes one or several, as texts or as ids."""
    single = isinstance(source, str) or isinstance(source[0], int)
    batch: list[Any] = [source] if single else list(source)
    return [Rendered(text, add_special_tokens=add_special_tokens) for text in batch]


class ClassifyRequest(PoolingInput):
    """Body of POST /classify as vLLM has it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "rm",
                    "input": "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>",
                    "use_activation": False,
                }
            ]
        }
    )


class PoolingRequest(PoolingInput):
    """Body of POST /pooling."""

    task: Literal["classify"] | None = None
    encoding_format: Encoding = "float"

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}],
                    "task": "classify",
                }
            ]
        }
    )


Side = Text | Annotated[list[Text], Field(min_length=1)]
PAIRS = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))


class ScoreRequest(Common):
    """Body of POST /score: one pair of fields; one text on the left goes with each on the right."""

    text_1: Side | None = None
    text_2: Side | None = None
    queries: Side | None = None
    documents: Side | None = None
    items: Side | None = None
    data_1: Side | None = None
    data_2: Side | None = None

    model_config = ConfigDict(json_schema_extra={"examples": [{"text_1": "2+2?", "text_2": ["4", "5"]}]})

    @model_validator(mode="after")
    def _one_pair(self) -> Self:
        names = {name for pair in PAIRS for name in pair if getattr(self, name) is not None}
        if names not in [set(pair) for pair in PAIRS]:
            raise ValueError(f"send exactly one pair of {', '.join(' and '.join(pair) for pair in PAIRS)}")
        left, right = self.sides()
        if len(left) not in (1, len(right)):
            raise ValueError(f"{len(left)} texts can't be paired with {len(right)}: one with many, or one with one")
        return self

    def sides(self) -> tuple[list[str], list[str]]:
        """Both sides as lists."""
        sides = [value for pair in PAIRS for name in pair if (value := getattr(self, name)) is not None]
        left, right = ([side] if isinstance(side, str) else side for side in sides[:2])
        return left, right

    def texts(self) -> list[Rendered | Conversation]:
        """A conversation a pair."""
        left, right = self.sides()
        queries = left * len(right) if len(left) == 1 else left
        return [
            Conversation((Message("user", query),), [document]) for query, document in zip(queries, right, strict=True)
        ]


class RerankRequest(Common):
    """Body of POST /rerank; `top_n` 0 returns every document."""

    query: Text
    documents: Annotated[list[Text], Field(min_length=1)]
    top_n: Annotated[int, Field(ge=0)] = 0

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": "2+2?", "documents": ["5", "4"], "top_n": 1}]})


_LISTED: JsonDict = {"object": "list", "created": 1790000000, "model": "rm", "usage": USAGE}
"""For examples."""


class Listed(BaseModel):
    """What the replies but /rerank's share; `model` is what the request called it."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    usage: Usage


class Classification(BaseModel):
    """One text's raw reward, under vLLM's name for it; `truncated` says whether the text was cut."""

    index: int
    label: str = "LABEL_0"
    probs: list[float]
    num_classes: int = 1
    truncated: bool


class ClassifyReply(Listed):
    """Reply of POST /classify."""

    data: list[Classification]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    **_LISTED,
                    "id": "classify-1",
                    "data": [{"index": 0, "label": "LABEL_0", "probs": [1.23], "num_classes": 1, "truncated": False}],
                }
            ]
        }
    )


class Pooled(BaseModel):
    """One text's raw reward as a vector of one number."""

    index: int
    object: Literal["pooling"] = "pooling"
    data: list[float] | str
    truncated: bool


class PoolingReply(Listed):
    """Reply of POST /pooling."""

    data: list[Pooled]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    **_LISTED,
                    "id": "pool-1",
                    "data": [{"index": 0, "object": "pooling", "data": [1.23], "truncated": False}],
                }
            ]
        }
    )


class PairScore(BaseModel):
    """One pair's raw reward."""

    index: int
    object: Literal["score"] = "score"
    score: float
    truncated: bool


class ScoreReply(Listed):
    """Reply of POST /score."""

    data: list[PairScore]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    **_LISTED,
                    "id": "score-1",
                    "data": [
                        {"index": 0, "object": "score", "score": 1.23, "truncated": False},
                        {"index": 1, "object": "score", "score": -0.4, "truncated": False},
                    ],
                }
            ]
        }
    )


class Document(BaseModel):
    """A document that was sent."""

    text: str


class RerankResult(BaseModel):
    """A document and its raw reward as an answer to the query."""

    index: int
    document: Document
    relevance_score: float
    truncated: bool


class RerankReply(BaseModel):
    """Reply of POST /rerank: the best documents, best first."""

    id: str
    model: str
    usage: Usage
    results: list[RerankResult]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "rerank-1",
                    "model": "rm",
                    "usage": USAGE,
                    "results": [{"index": 1, "document": {"text": "4"}, "relevance_score": 1.23, "truncated": False}],
                }
            ]
        }
    )


def router(service: Service) -> APIRouter:
    """The protocol's routes, but for the paths that it shares with SGLang."""
    routes = APIRouter(route_class=StrictRoute, tags=["vLLM"], responses=REFUSALS)

    @routes.post("/pooling", summary="Rewards as vectors of one number")
    async def pooling(request: PoolingRequest, response: Response) -> PoolingReply:
        answer = await _scored(service, request, request.texts(), response)
        numbers = [service.number(score, activated=request.activated) for score in answer.scores]
        data = [
            Pooled(index=index, data=vector(number, request.encoding_format), truncated=score.truncated)
            for index, (number, score) in enumerate(zip(numbers, answer.scores, strict=True))
        ]
        return PoolingReply(**_listed("pool", request, answer), data=data)

    @routes.post("/score", summary="Scores of pairs of texts")
    async def score_pairs(request: ScoreRequest, response: Response) -> ScoreReply:
        return await score(service, request, response)

    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):

        @routes.post(path, summary="Documents, the best answer to a query first")
        async def rerank(request: RerankRequest, response: Response) -> RerankReply:
            conversation = Conversation((Message("user", request.query),), request.documents)
            answer = await _scored(service, request, [conversation], response)
            numbers = [service.number(score, activated=request.activated) for score in answer.scores]
            order = sorted(range(len(numbers)), key=lambda index: -numbers[index])
            results = [
                RerankResult(
                    index=index,
                    document=Document(text=request.documents[index]),
                    relevance_score=numbers[index],
                    truncated=answer.scores[index].truncated,
                )
                for index in order[: request.top_n or None]
            ]
            return RerankReply(
                id=new_id("rerank", request.request_id),
                model=request.model or answer.model,
                usage=Usage.of(answer.tokens),
                results=results,
            )

    return routes


async def classify(service: Service, request: ClassifyRequest, response: Response) -> ClassifyReply:
    """POST /classify with a body of vLLM's."""
    answer = await _scored(service, request, request.texts(), response)
    data = classifications(service, answer, activated=request.activated)
    return ClassifyReply(**_listed("classify", request, answer), data=data)


async def score(service: Service, request: ScoreRequest, response: Response) -> ScoreReply:
    """POST /score and /v1/score with a body of vLLM's."""
    answer = await _scored(service, request, request.texts(), response)
    data = [
        PairScore(
            index=index,
            score=service.number(score, activated=request.activated),
            truncated=score.truncated,
        )
        for index, score in enumerate(answer.scores)
    ]
    return ScoreReply(**_listed("score", request, answer), data=data)


def classifications(service: Service, answer: TextsAnswer, *, activated: bool = False) -> list[Classification]:
    """Every text's number, in their order."""
    return [
        Classification(index=index, probs=[service.number(score, activated=activated)], truncated=score.truncated)
        for index, score in enumerate(answer.scores)
    ]


async def _scored(
    service: Service, request: Common, texts: list[Rendered | Conversation], response: Response
) -> TextsAnswer:
    keep_to_the_rule(service, request.model, request.truncate_prompt_tokens, "truncate_prompt_tokens")
    answer = await service.score_rendered(request.model, texts)
    stamp(response, answer)
    return answer


def _listed(kind: str, request: Common, answer: TextsAnswer) -> dict[str, Any]:
    return {
        "id": new_id(kind, request.request_id),
        "created": int(time.time()),
        "model": request.model or answer.model,
        "usage": Usage.of(answer.tokens),
    }
