"""`POST /chat`, as documented for KAITO's phi-3 preset."""

from http import HTTPStatus
from typing import Any

from flask import Response, g, jsonify, request
from flask_openapi3 import APIBlueprint, Tag

from app.api import sse
from app.api.chat.errors import format_error
from app.api.chat.request import generation_request
from app.api.chat.response import response_body, response_events
from app.api.chat.schema import ChatRequest, ChatResponse, FieldErrorResponse
from app.api.context import loaded_engine
from app.api.schema import ErrorResponse
from app.api.submit import check_body, submit
from app.exceptions import RequestError

ERRORS: dict[str | int | HTTPStatus, Any] = dict.fromkeys((400, 401, 413, 415, 429, 500, 503, 504), ErrorResponse)

blueprint = APIBlueprint("chat", __name__, abp_tags=[Tag(name="chat", description="KAITO's /chat")])


@blueprint.before_request
def before_request() -> None:
    """Check the body before its fields are validated."""
    check_body('{"prompt": "<|user|>Hello<|end|><|assistant|>"}')


@blueprint.post(
    "/chat",
    summary="Complete a prompt or a conversation",
    operation_id="chat",
    responses=ERRORS | {200: ChatResponse, 422: FieldErrorResponse},
)
def chat(body: ChatRequest) -> Response:
    """Return the completion at once, or as server-sent events if the client accepts text/event-stream."""
    stream = request.accept_mimetypes.best_match(["application/json", "text/event-stream"]) == "text/event-stream"
    if stream and body.clean_up_tokenization_spaces:
        raise RequestError(
            "clean_up_tokenization_spaces requires a complete response. Set it to false, or accept application/json.",
            "clean_up_tokenization_spaces",
        )
    loaded = loaded_engine()
    engine_request = generation_request(g.request_id, body, loaded.tokenizer, loaded.limits)
    output = submit(engine_request)
    if stream:
        return sse.response(response_events(body, output, loaded.tokenizer), format_error)
    return jsonify(response_body(body, engine_request, output.collect(), loaded.tokenizer))
