"""MLflow's scoring server: whoever calls `mlflow models serve` calls this with the same bodies.

POST /invocations              rows of prompt and completion (or response) -> {"predictions": [reward, ...]}
GET  /ping, /health            200 where the champion can be asked
GET  /version                  Touchstone's version

Rows come as JSON (`dataframe_records`, `dataframe_split`, `inputs`, `instances`), as CSV or as Parquet. A body with
`prompt` or `messages` at its top is one row, and is answered by the bare list, as MLflow does.
"""

from __future__ import annotations

import asyncio
import io
from importlib.metadata import version
from typing import Annotated, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from pyarrow import csv
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from touchstone.model.rendered import Conversation
from touchstone.serving.protocols.bodies import REFUSALS, Prompt, Refused, Turn, messages_of, stamp
from touchstone.serving.refusals import Refusal
from touchstone.serving.service import Service
from touchstone.serving.strict import Closed, parse_json

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
LAYOUTS = ("dataframe_records", "dataframe_split", "inputs", "instances")
COLUMNS = ("prompt", "completion", "response")

MAX_PARQUET_BYTES = 32 * 2**20
"""What the columns of a Parquet file may unpack to."""


class Row(Closed):
    """A prompt and what answers it: `completion`, as the registered model calls it, or `response`."""

    prompt: Prompt
    completion: str | None = None
    response: str | None = None

    @model_validator(mode="after")
    def _one_answer(self) -> Self:
        if (self.completion is None) == (self.response is None):
            raise ValueError("a row has a prompt and exactly one of completion and response")
        return self

    def conversation(self) -> Conversation:
        """The row as it is scored."""
        answer = self.response if self.completion is None else self.completion
        return Conversation(messages_of(self.prompt), [str(answer)])


class Dialogue(Closed):
    """A body with `messages` at its top: the last one is the assistant's, and is scored."""

    messages: Annotated[list[Turn], Field(min_length=2)]

    @model_validator(mode="after")
    def _answered(self) -> Self:
        if self.messages[-1].role != "assistant":
            raise ValueError("messages end with the assistant's turn, which is what is scored")
        return self


_ROWS = TypeAdapter(list[Row])

_EXAMPLE = {"dataframe_records": [{"prompt": "2+2?", "response": "4"}]}
_REQUEST_BODY = {
    "required": True,
    "content": {
        JSON: {"schema": {"type": "object"}, "example": _EXAMPLE},
        CSV: {"schema": {"type": "string"}, "example": "prompt,response\n2+2?,4\n"},
        PARQUET: {"schema": {"type": "string", "format": "binary"}},
    },
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {JSON: {"example": {"predictions": [1.23]}}}},
    415: {"model": Refused, "description": "Neither JSON nor CSV nor Parquet, or not UTF-8"},
}


def router(service: Service) -> APIRouter:
    """The protocol's routes."""
    routes = APIRouter(tags=["MLflow"], responses=REFUSALS)

    @routes.post(
        "/invocations",
        summary="Rewards as MLflow's scoring server answers them",
        responses=_RESPONSES,
        openapi_extra={"requestBody": _REQUEST_BODY},
    )
    async def invocations(request: Request, response: Response) -> dict[str, list[float]] | list[float]:
        content_type = request.headers.get("content-type", "")
        # Reading a file may take a while: the event loop goes on meanwhile.
        body = await request.body()
        conversations, wrapped = await asyncio.to_thread(_read, body, content_type, service.most_texts)
        answer = await service.score_rendered(None, conversations)
        stamp(response, answer)
        predictions = [service.number(score) for score in answer.scores]
        return {"predictions": predictions} if wrapped else predictions

    async def ping() -> PlainTextResponse:
        service.ready()
        return PlainTextResponse("\n")

    # By `responses`, not by a class of response: that one would declare errors as plain text too.
    plain: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}
    for path in ("/ping", "/health"):
        routes.get(path, summary="Whether the champion can be asked", response_model=None, responses=plain)(ping)

    @routes.get("/version", summary="Touchstone's version", response_model=None, responses=plain)
    async def release() -> PlainTextResponse:
        return PlainTextResponse(version("touchstone-rm"))

    return routes


def _read(body: bytes, content_type: str, most: int) -> tuple[list[Conversation], bool]:
    """A body's conversations, and whether their scores are wrapped in `predictions`.

    Raises:
        Refusal: 400 malformed, 415 for another content type.
        RequestValidationError: a row or field isn't as it must be; names it.
    """
    kind, _, parameters = (part.strip() for part in content_type.partition(";"))
    if kind not in (JSON, CSV, PARQUET) or parameters.lower().replace('"', "") not in ("", "charset=utf-8"):
        raise Refusal(415, "unsupported_media_type", f"send {JSON}, {CSV} or {PARQUET}, in UTF-8, and say which it is")
    if kind != JSON:
        columns = _csv(body) if kind == CSV else _parquet(body, most)
        return _conversations(_rows_of(columns)), True
    content = parse_json(body)
    if not isinstance(content, dict):
        raise Refusal(400, "malformed_body", f"the body is an object with one of {', '.join(LAYOUTS)}")
    if "messages" in content:
        messages = _valid(TypeAdapter(Dialogue), content).messages
        return [Conversation(messages_of(messages[:-1]), [messages[-1].content])], False
    if "prompt" in content:
        return _conversations([content]), False
    return _conversations(_laid_out(content)), True


def _laid_out(content: dict[str, Any]) -> list[Any]:
    """The rows of a JSON body in one of MLflow's four layouts."""
    parameters = content.pop("params", None)
    if parameters not in (None, {}):
        raise Refusal(422, "unknown_parameters", "params: this model takes none")
    if len(content) != 1 or next(iter(content)) not in LAYOUTS:
        raise Refusal(400, "malformed_body", f"the body has exactly one of {', '.join(LAYOUTS)}, and no other field")
    ((layout, rows),) = content.items()
    if layout != "dataframe_split":
        return _rows_of(rows) if isinstance(rows, dict) else _listed(rows, layout)
    if not isinstance(rows, dict) or not {"columns", "data"} <= rows.keys() <= {"columns", "data", "index"}:
        raise Refusal(422, "malformed_body", "dataframe_split has columns and data, and may have an index")
    columns, data = _listed(rows["columns"], "columns"), _listed(rows["data"], "data")
    if not all(isinstance(row, list) and len(row) == len(columns) for row in data):
        raise Refusal(422, "malformed_body", f"every row of dataframe_split.data has {len(columns)} values")
    if not all(isinstance(column, str) for column in columns) or len(set(columns)) < len(columns):
        raise Refusal(422, "malformed_body", "dataframe_split.columns are names, each once")
    return [dict(zip(columns, row, strict=True)) for row in data]


def _listed(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise Refusal(422, "malformed_body", f"{name} is a list")
    return value


def _rows_of(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of columns that are lists of one length."""
    values = [_listed(column, "a column") for column in columns.values()]
    if len({len(column) for column in values}) > 1:
        raise Refusal(422, "malformed_body", "the columns have different lengths")
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]


def _csv(body: bytes) -> dict[str, list[str]]:
    """A CSV file's columns, every value a text ("NA" too); a column without a name is pandas' index."""
    try:
        table = csv.read_csv(
            io.BytesIO(body),
            read_options=csv.ReadOptions(block_size=len(body) + 1, use_threads=False),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(COLUMNS, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid:
        raise Refusal(400, "malformed_csv", "the body is no CSV file with a header, in UTF-8") from None
    names = _known([name for name in table.column_names if name])
    return {name: table[name].to_pylist() for name in names}


def _parquet(body: bytes, most: int) -> dict[str, list[Any]]:
    """A Parquet file's columns; texts that repeat are held once, however many rows they fill."""
    try:
        metadata = pq.read_metadata(io.BytesIO(body))
        size = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
        if size > MAX_PARQUET_BYTES:
            raise Refusal(413, "body_too_large", f"the file unpacks to more than {MAX_PARQUET_BYTES} bytes")
        if metadata.num_rows > most:
            raise Refusal(422, "too_many_completions", f"{metadata.num_rows} rows, at most {most} may be")
        schema = metadata.schema.to_arrow_schema()
        names = _known(schema.names)
        if not all(kind in (pa.string(), pa.large_string()) for kind in schema.types):
            raise Refusal(422, "malformed_body", "a column of the file holds something else than texts")
        table = pq.ParquetFile(io.BytesIO(body), read_dictionary=names).read(columns=names)
        return {name: _texts(table[name]) for name in names}
    except (pa.ArrowException, OSError):
        raise Refusal(400, "malformed_parquet", "the body is no Parquet file that can be read") from None


def _known(names: list[str]) -> list[str]:
    """A file's columns, if they are ours. They aren't echoed: where a file has no header they are its first texts."""
    if not set(names) <= set(COLUMNS) or len(set(names)) < len(names):
        raise Refusal(422, "malformed_body", "the file's columns are prompt, and completion or response")
    return names


def _texts(column: pa.ChunkedArray) -> list[Any]:
    """A dictionary column's values, each made once."""
    values: list[Any] = []
    for chunk in column.chunks:
        words = chunk.dictionary.to_pylist()
        values += [None if place is None else words[place] for place in chunk.indices.to_pylist()]
    return values


def _conversations(rows: list[Any]) -> list[Conversation]:
    if not rows:
        raise Refusal(400, "no_rows", "the body has no row; send at least one")
    return [row.conversation() for row in _valid(_ROWS, rows)]


def _valid(adapter: TypeAdapter[Any], value: Any) -> Any:
    """A value of the adapter's type; whatever is wrong is worded as every other body's faults are."""
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from None
