"""OpenAI's API: chat completions, completions, models, and tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from flask import Response, g, jsonify, request
from flask_openapi3 import APIBlueprint, Tag
from pydantic import BaseModel, Field

from app.api import sse
from app.api.chat.request import RequestError
from app.api.openai.request import chat_request, check_model, completion_requests, conversation, several
from app.api.openai.response import Shape
from app.api.openai.schema import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    DetokenizeResponse,
    ModelCard,
    ModelList,
    OpenAIErrorResponse,
    TokenizeRequest,
    TokenizeResponse,
)
from app.api.submit import ask, require_object
from app.model_server import Runtime
from app.output.stream import Reader

ERRORS: dict[str | int | HTTPStatus, Any] = dict.fromkeys(
    (400, 401, 404, 413, 415, 429, 500, 503, 504), OpenAIErrorResponse
)
ANSWERS: dict[str | int | HTTPStatus, Any] = {
    200: {
        "description": "The answer, in the shape that OpenAI's reference gives it; with stream, chunks of it",
        "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
    }
}


class ModelPath(BaseModel):
    """The path of a model."""

    model: str = Field(description="name of the model")


def blueprint(runtime: Runtime) -> APIBlueprint:
    """Build the blueprint of OpenAI's routes over `runtime`."""
    api = APIBlueprint("openai", __name__, abp_tags=[Tag(name="openai", description="OpenAI's API")])

    @api.before_request
    def check_body() -> None:
        if request.method == "POST":
            runtime.ready()
            require_object('{"messages": [{"role": "user", "content": "Hello"}]}')

    @api.post(
        "/v1/chat/completions",
        summary="Answer a conversation",
        operation_id="chat_completions",
        responses=ERRORS | ANSWERS,
    )
    def chat_completions(body: ChatCompletionRequest) -> Response:
        ready = runtime.ready()
        wanted = chat_request(g.request_id, body, ready.tokenizer, ready.limits, ready.grammars)
        shape = Shape(True, g.request_id, runtime.settings.name, ready.tokenizer, wanted.params.logprobs)
        return _answer(body, shape, [ask(ready, wanted, body.stops)], [""])

    @api.post("/v1/completions", summary="Continue a text", operation_id="completions", responses=ERRORS | ANSWERS)
    def completions(body: CompletionRequest) -> Response:
        ready = runtime.ready()
        wanted = completion_requests(g.request_id, body, ready.tokenizer, ready.limits)
        shape = Shape(False, g.request_id, runtime.settings.name, ready.tokenizer, body.logprobs)
        readers = [ask(ready, each, body.stops) for each in wanted]
        before = [""] * len(readers)
        if body.echo:
            prompts = several(body.prompt)
            before = [each if isinstance(each, str) else ready.tokenizer.decode(each) for each in prompts]
        return _answer(body, shape, readers, before)

    @api.get(
        "/v1/models", summary="The model that is served", operation_id="models", responses=ERRORS | {200: ModelList}
    )
    def models() -> Response:
        return jsonify(ModelList(data=[_model(runtime)]).model_dump())

    @api.get("/v1/models/<model>", summary="One model", operation_id="model", responses=ERRORS | {200: ModelCard})
    def model(path: ModelPath) -> Response:
        check_model(path.model, runtime.ready().limits)
        return jsonify(_model(runtime).model_dump())

    @api.post(
        "/tokenize",
        summary="Turn text into token ids",
        operation_id="tokenize",
        responses=ERRORS | {200: TokenizeResponse},
    )
    def tokenize(body: TokenizeRequest) -> Response:
        ready = runtime.ready()
        check_model(body.model, ready.limits)
        if (body.prompt is None) == (body.messages is None):
            raise RequestError("Send either prompt or messages.")
        if body.messages is not None:
            ids = conversation(body.messages, ready.tokenizer, ready.limits)
        else:
            ids = ready.tokenizer.encode(body.prompt or "")
        answer = TokenizeResponse(count=len(ids), max_model_len=ready.limits.context, tokens=ids)
        return jsonify(answer.model_dump())

    @api.post(
        "/detokenize",
        summary="Turn token ids into text",
        operation_id="detokenize",
        responses=ERRORS | {200: DetokenizeResponse},
    )
    def detokenize(body: DetokenizeRequest) -> Response:
        ready = runtime.ready()
        check_model(body.model, ready.limits)
        if body.tokens and max(body.tokens) >= ready.limits.vocabulary:
            raise RequestError(
                f"tokens has {max(body.tokens)}: the model has tokens 0 to {ready.limits.vocabulary - 1}."
            )
        return jsonify(DetokenizeResponse(prompt=ready.tokenizer.decode(body.tokens)).model_dump())

    return api


def _model(runtime: Runtime) -> ModelCard:
    ready = runtime.ready()
    return ModelCard(
        id=runtime.settings.name,
        created=ready.created,
        max_model_len=ready.limits.context,
        batch_invariant=ready.batch_invariant,
        adapters=dict(ready.adapters),
    )


def _answer(
    asked: ChatCompletionRequest | CompletionRequest, shape: Shape, readers: Sequence[Reader], echoed: Sequence[str]
) -> Response:
    """Answer what `readers` read, one a prompt, each answer to it after its text of `echoed`."""
    if asked.stream:
        return sse.response(_chunks(asked, shape, readers, echoed), request.path)
    answers = [answer for reader in readers for answer in reader.whole()]
    before = [text for text in echoed for _ in range(asked.n)]
    return jsonify(shape.whole(answers, before, [reader.generation for reader in readers]))


def _chunks(
    asked: ChatCompletionRequest | CompletionRequest, shape: Shape, readers: Sequence[Reader], echoed: Sequence[str]
) -> Iterator[str | None]:
    usage_follows = asked.stream_options is not None and asked.stream_options.include_usage
    for number, (reader, before) in enumerate(zip(readers, echoed, strict=True)):
        begun: set[int] = set()
        for piece in reader.pieces():
            if piece is None:
                yield None
                continue
            first = piece.sequence not in begun
            begun.add(piece.sequence)
            told = replace(piece, text=before + piece.text) if first else piece
            index = number * asked.n + piece.sequence
            yield sse.message(shape.chunk(index, told, first=first, usage_follows=usage_follows))
    if usage_follows:
        tokens = sum(len(answer.tokens) for reader in readers for answer in reader.answers)
        yield sse.message(shape.last_chunk([reader.generation for reader in readers], tokens))
    yield sse.message("[DONE]")
