"""OpenAI's API: chat completions, completions, models, and vLLM's routes for tokens."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from flask import Response, g, jsonify
from flask_openapi3 import APIBlueprint, Tag
from pydantic import BaseModel, Field

from app.api import sse
from app.api.context import loaded_engine
from app.api.openai.errors import format_error
from app.api.openai.request import chat_request, check_model, completion_requests, encode_conversation, prompt_list
from app.api.openai.response import ResponseBuilder
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
from app.api.submit import check_body, submit
from app.exceptions import RequestError
from app.output.stream import OutputStream

ERRORS: dict[str | int | HTTPStatus, Any] = dict.fromkeys(
    (400, 401, 404, 413, 415, 429, 500, 503, 504), OpenAIErrorResponse
)
COMPLETION: dict[str | int | HTTPStatus, Any] = {
    200: {
        "description": "The completion in OpenAI's format; with stream, chunks of it as server-sent events",
        "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
    }
}

blueprint = APIBlueprint("openai", __name__, abp_tags=[Tag(name="openai", description="OpenAI's API")])


class ModelPath(BaseModel):
    """The path of a model."""

    model: str = Field(description="model name")


@blueprint.before_request
def before_request() -> None:
    """Check the body before its fields are validated."""
    check_body('{"messages": [{"role": "user", "content": "Hello"}]}')


@blueprint.post(
    "/v1/chat/completions",
    summary="Complete a conversation",
    operation_id="chat_completions",
    responses=ERRORS | COMPLETION,
)
def chat_completions(body: ChatCompletionRequest) -> Response:
    """Return the completion of a conversation, at once or as a stream."""
    loaded = loaded_engine()
    engine_request = chat_request(g.request_id, body, loaded.tokenizer, loaded.limits, loaded.grammars)
    builder = _builder(body, engine_request.params.logprobs, [""])
    return _respond(body, builder, [submit(engine_request, body.stop_strings)])


@blueprint.post("/v1/completions", summary="Continue a text", operation_id="completions", responses=ERRORS | COMPLETION)
def completions(body: CompletionRequest) -> Response:
    """Return the completions of one or several prompts, at once or as a stream."""
    loaded = loaded_engine()
    engine_requests = completion_requests(g.request_id, body, loaded.tokenizer, loaded.limits)
    streams = [submit(engine_request, body.stop_strings) for engine_request in engine_requests]
    echo = [""] * len(streams)
    if body.echo:
        prompts = prompt_list(body.prompt)
        echo = [prompt if isinstance(prompt, str) else loaded.tokenizer.decode(prompt) for prompt in prompts]
    return _respond(body, _builder(body, body.logprobs, echo), streams)


@blueprint.get("/v1/models", summary="List the model", operation_id="models", responses=ERRORS | {200: ModelList})
def models() -> Response:
    """Return a list of the served model."""
    return jsonify(ModelList(data=[_model_card()]).model_dump())


@blueprint.get(
    "/v1/models/<model>", summary="Describe the model", operation_id="model", responses=ERRORS | {200: ModelCard}
)
def model(path: ModelPath) -> Response:
    """Return the served model."""
    check_model(path.model, loaded_engine().limits)
    return jsonify(_model_card().model_dump())


@blueprint.post(
    "/tokenize",
    summary="Convert text to token IDs",
    operation_id="tokenize",
    responses=ERRORS | {200: TokenizeResponse},
)
def tokenize(body: TokenizeRequest) -> Response:
    """Return the token IDs of a text or of a conversation."""
    loaded = loaded_engine()
    check_model(body.model, loaded.limits)
    if (body.prompt is None) == (body.messages is None):
        raise RequestError("The request requires exactly one of prompt and messages. Send one of them.")
    if body.messages is not None:
        token_ids = encode_conversation(body.messages, loaded.tokenizer, loaded.limits)
    else:
        token_ids = loaded.tokenizer.encode(body.prompt or "")
    response = TokenizeResponse(count=len(token_ids), max_model_len=loaded.limits.context, tokens=token_ids)
    return jsonify(response.model_dump())


@blueprint.post(
    "/detokenize",
    summary="Convert token IDs to text",
    operation_id="detokenize",
    responses=ERRORS | {200: DetokenizeResponse},
)
def detokenize(body: DetokenizeRequest) -> Response:
    """Return the text of token IDs."""
    loaded = loaded_engine()
    check_model(body.model, loaded.limits)
    if body.tokens and max(body.tokens) >= loaded.limits.vocab_size:
        raise RequestError(
            f"tokens contains token ID {max(body.tokens)}. "
            f"The model has the token IDs 0 to {loaded.limits.vocab_size - 1}."
        )
    return jsonify(DetokenizeResponse(prompt=loaded.tokenizer.decode(body.tokens)).model_dump())


def _model_card() -> ModelCard:
    loaded = loaded_engine()
    return ModelCard(
        id=loaded.limits.model_name,
        created=loaded.created,
        max_model_len=loaded.limits.context,
        batch_invariant=loaded.batch_invariant,
        adapters=dict(loaded.adapters),
    )


def _builder(
    body: ChatCompletionRequest | CompletionRequest, logprobs: int | None, echo: Sequence[str]
) -> ResponseBuilder:
    loaded = loaded_engine()
    return ResponseBuilder(
        chat=isinstance(body, ChatCompletionRequest),
        request_id=g.request_id,
        model=loaded.limits.model_name,
        tokenizer=loaded.tokenizer,
        logprobs=logprobs,
        n=body.n,
        echo=echo,
        include_usage=body.stream_options is not None and body.stream_options.include_usage,
    )


def _respond(
    body: ChatCompletionRequest | CompletionRequest, builder: ResponseBuilder, streams: Sequence[OutputStream]
) -> Response:
    if body.stream:
        return sse.response(builder.events(streams), format_error)
    return jsonify(builder.body(streams))
