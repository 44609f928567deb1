"""`POST /chat`, as KAITO's phi-3 preset documents it."""

import socket
import time
from collections.abc import Callable

from flask import Response, g, jsonify, request
from flask_openapi3 import APIBlueprint, Tag
from werkzeug.exceptions import BadRequest, ClientDisconnected, UnsupportedMediaType

from app.engine.request import FinishReason, Generation, GenerationRequest, Token
from app.prompt import generation_request
from app.runtime import Runtime
from app.schema import (
    AnswerDetails,
    ChatRequest,
    ChatResponse,
    ErrorResponse,
    FieldErrorResponse,
    TokenDetail,
)
from app.tokenizer import Tokenizer

# Seconds between looks at whether the client is still there.
POLL_SECONDS = 0.25


class Answer:
    """One sequence of an answer as it arrives."""

    def __init__(self) -> None:
        self.tokens: list[Token] = []
        self.reason: FinishReason = "length"


def blueprint(runtime: Runtime) -> APIBlueprint:
    """Build the blueprint of `/chat` over `runtime`."""
    chat_api = APIBlueprint("chat", __name__, abp_tags=[Tag(name="chat", description="KAITO's chat")])

    @chat_api.before_request
    def check_body() -> None:
        runtime.ready()
        # As in KAITO, no content type at all means JSON.
        if request.mimetype and not request.is_json:
            raise UnsupportedMediaType("The body must be JSON: send it with the header Content-Type: application/json.")
        try:
            body = request.get_json(force=True)
        except RecursionError:
            raise BadRequest("The body is nested too deeply.") from None
        if not isinstance(body, dict):
            raise BadRequest('The body must be a JSON object, such as {"prompt": "<|user|>Hello<|end|><|assistant|>"}.')

    @chat_api.post(
        "/chat",
        summary="Answer a prompt or a conversation",
        operation_id="chat",
        responses={
            200: ChatResponse,
            400: ErrorResponse,
            413: ErrorResponse,
            415: ErrorResponse,
            422: FieldErrorResponse,
            429: ErrorResponse,
            500: ErrorResponse,
            503: ErrorResponse,
        },
    )
    def chat(body: ChatRequest) -> Response:
        ready = runtime.ready()
        wanted = generation_request(g.request_id, body, ready.tokenizer, ready.limits)
        generation = ready.engine.submit(wanted)
        runtime.metrics.let_in(generation.lane)
        answers = _collect(generation, runtime, _client_is_gone(request.environ.get("gunicorn.socket")))
        return jsonify(_response(body, wanted, answers, ready.tokenizer).model_dump(exclude_none=True))

    return chat_api


def _client_is_gone(connection: socket.socket | None) -> Callable[[], bool]:
    """A look at whether the other end closed `connection`; bytes that wait there mean it has not."""

    def gone() -> bool:
        if connection is None:
            return False
        try:
            return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    return gone


def _collect(generation: Generation, runtime: Runtime, client_is_gone: Callable[[], bool]) -> list[Answer]:
    """Wait for the whole answer, and cancel it when the client goes away."""
    answers: dict[int, Answer] = {}
    metrics = runtime.metrics
    try:
        # Not woken for every token, which would take the interpreter from the engine.
        while not generation.wait(POLL_SECONDS):
            if client_is_gone():
                raise ClientDisconnected("The client closed the connection.")
        for event in generation.events():
            answer = answers.setdefault(event.sequence, Answer())
            if isinstance(event, Token):
                answer.tokens.append(event)
            else:
                answer.reason = event.reason
    finally:
        generation.cancel()
        g.prompt_tokens = len(generation.request.prompt_ids)
        g.completion_tokens = generation.tokens
        metrics.prompt_tokens.inc(g.prompt_tokens)
        metrics.generation_tokens.inc(generation.tokens)
    done = time.monotonic()
    metrics.latency.observe(done - generation.submitted)
    metrics.queue_time.observe((generation.started or done) - generation.submitted)
    metrics.first_token.observe((generation.first_token or done) - generation.submitted)
    in_order = [answers[number] for number in sorted(answers)]
    metrics.finished(in_order[0].reason)
    return in_order


def _response(
    chat: ChatRequest, wanted: GenerationRequest, answers: list[Answer], tokenizer: Tokenizer
) -> ChatResponse:
    clean = bool(chat.clean_up_tokenization_spaces)
    texts = [_text(wanted.prompt_ids, answer, tokenizer, clean) for answer in answers]
    # With messages the prompt is the server's own, so there is no full text to return.
    full = chat.return_full_text is not False and bool(chat.prompt)
    result = "".join((chat.prompt or "") + text if full else text for text in texts)
    if not (wanted.kwargs.return_dict_in_generate or wanted.kwargs.output_scores):
        return ChatResponse(Result=result)
    longest = max(len(answer.tokens) for answer in answers)
    return ChatResponse(
        Result=result,
        Details=[_details(text, answer, wanted, longest) for text, answer in zip(texts, answers, strict=True)],
    )


def _text(prompt_ids: tuple[int, ...], answer: Answer, tokenizer: Tokenizer, clean: bool) -> str:
    """The answer alone: what decoding it adds to the decoded prompt, since a tokenizer may join the two."""

    prompt = list(prompt_ids)
    text = tokenizer.decode(prompt + [token.id for token in answer.tokens])[len(tokenizer.decode(prompt)) :]
    return tokenizer.clean_up(text) if clean else text


def _details(text: str, answer: Answer, wanted: GenerationRequest, longest: int) -> AnswerDetails:
    scores = [token.scores for token in answer.tokens if token.scores]
    padding = [wanted.pad_token_id] * (longest - len(answer.tokens))
    return AnswerDetails(
        text=text,
        token_ids=[token.id for token in answer.tokens] + padding,
        finish_reason=answer.reason,
        prompt_tokens=len(wanted.prompt_ids),
        completion_tokens=len(answer.tokens),
        logprobs=[score.logprob for score in scores] or None,
        top_logprobs=[
            [TokenDetail(token_id=token, logprob=logprob) for token, logprob in score.top] for score in scores
        ]
        or None,
    )
