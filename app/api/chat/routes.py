"""`POST /chat`, as KAITO's phi-3 preset documents it."""

from collections.abc import Iterator
from typing import Any

from flask import Response, g, jsonify, request
from flask_openapi3 import APIBlueprint, Tag

from app.api import sse
from app.api.chat.request import RequestError, generation_request
from app.api.chat.schema import (
    AnswerDetails,
    ChatPiece,
    ChatRequest,
    ChatResponse,
    ErrorResponse,
    FieldErrorResponse,
    GenerateKwargs,
    TokenDetail,
)
from app.api.submit import ask, require_object
from app.engine.request import GenerationRequest
from app.model_server import Runtime
from app.output.stream import Answer, Reader
from app.tokenizer import Tokenizer


def blueprint(runtime: Runtime) -> APIBlueprint:
    """Build the blueprint of `/chat` over `runtime`."""
    chat_api = APIBlueprint("chat", __name__, abp_tags=[Tag(name="chat", description="KAITO's chat")])

    @chat_api.before_request
    def check_body() -> None:
        if request.method == "POST":
            runtime.ready()
            require_object('{"prompt": "<|user|>Hello<|end|><|assistant|>"}')

    @chat_api.post(
        "/chat",
        summary="Answer a prompt or a conversation",
        operation_id="chat",
        responses={
            200: ChatResponse,
            400: ErrorResponse,
            401: ErrorResponse,
            413: ErrorResponse,
            415: ErrorResponse,
            422: FieldErrorResponse,
            429: ErrorResponse,
            500: ErrorResponse,
            503: ErrorResponse,
            504: ErrorResponse,
        },
    )
    def chat(body: ChatRequest) -> Response:
        streamed = request.accept_mimetypes.best_match(["application/json", "text/event-stream"]) == "text/event-stream"
        if streamed and body.clean_up_tokenization_spaces:
            raise RequestError(
                "clean_up_tokenization_spaces works on whole answers: set it to false, or ask for application/json."
            )
        ready = runtime.ready()
        wanted = generation_request(g.request_id, body, ready.tokenizer, ready.limits)
        reader = ask(ready, wanted)
        if streamed:
            return sse.response(_messages(body, wanted, reader, ready.tokenizer), request.path)
        return jsonify(_response(body, wanted, reader.whole(), ready.tokenizer))

    return chat_api


def _messages(
    chat: ChatRequest, wanted: GenerationRequest, reader: Reader, tokenizer: Tokenizer
) -> Iterator[str | None]:
    """The answer as events: its text in pieces, then all that would have been answered at once."""
    for piece in reader.pieces():
        if piece and piece.text:
            yield sse.message(ChatPiece(sequence=piece.sequence, text=piece.text).model_dump())
        else:
            yield None
    yield sse.message(_response(chat, wanted, reader.answers, tokenizer), "result")


def _response(
    chat: ChatRequest, wanted: GenerationRequest, answers: list[Answer], tokenizer: Tokenizer
) -> dict[str, Any]:
    clean = tokenizer.clean_up if chat.clean_up_tokenization_spaces else str
    texts = [clean(answer.text) for answer in answers]
    # With messages the prompt is the server's own, so there is no full text to return.
    full = chat.return_full_text is not False and bool(chat.prompt)
    result = "".join((chat.prompt or "") + text if full else text for text in texts)
    kwargs = chat.generate_kwargs or GenerateKwargs()
    if not (kwargs.return_dict_in_generate or kwargs.output_scores):
        return {"Result": result}
    longest = max(len(answer.tokens) for answer in answers)
    details = [_details(text, answer, wanted, longest) for text, answer in zip(texts, answers, strict=True)]
    return ChatResponse(Result=result, Details=details).model_dump(exclude_none=True)


def _details(text: str, answer: Answer, wanted: GenerationRequest, longest: int) -> AnswerDetails:
    scores = [token.logprobs for token in answer.tokens if token.logprobs]
    padding = [wanted.params.pad_token_id] * (longest - len(answer.tokens))
    return AnswerDetails(
        text=text,
        token_ids=[token.token_id for token in answer.tokens] + padding,
        finish_reason=answer.reason or "length",
        prompt_tokens=len(wanted.prompt_token_ids),
        completion_tokens=len(answer.tokens),
        logprobs=[score.logprob for score in scores] or None,
        top_logprobs=[
            [TokenDetail(token_id=token, logprob=logprob) for token, logprob in score.top] for score in scores
        ]
        or None,
    )
