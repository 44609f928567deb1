"""Responses of `/chat`, complete and as events."""

from collections.abc import Iterator, Sequence
from typing import Any

from app.api import sse
from app.api.chat.schema import ChatDelta, ChatRequest, ChatResponse, GenerateKwargs, OutputDetails, TokenDetail
from app.engine.request import GenerationRequest
from app.output.stream import Output, OutputStream
from app.tokenizer import Tokenizer


def response_events(chat: ChatRequest, output: OutputStream, tokenizer: Tokenizer) -> Iterator[str | None]:
    """Yield an event for each delta, None while there is none, and the complete response as event `result`."""
    for delta in output.deltas():
        if delta and delta.text:
            yield sse.message(ChatDelta(sequence=delta.sequence, text=delta.text).model_dump())
        else:
            yield None
    yield sse.message(response_body(chat, output.stream.request, output.outputs, tokenizer), "result")


def response_body(
    chat: ChatRequest, engine_request: GenerationRequest, outputs: Sequence[Output], tokenizer: Tokenizer
) -> dict[str, Any]:
    """Return the complete response."""
    clean_up = tokenizer.clean_up if chat.clean_up_tokenization_spaces else str
    texts = [clean_up(output.text) for output in outputs]
    # The server builds the prompt of a conversation, so there is no prompt of the caller to return.
    prompt = chat.prompt if chat.prompt and chat.return_full_text is not False else ""
    result = "".join(prompt + text for text in texts)
    kwargs = chat.generate_kwargs or GenerateKwargs()
    if not (kwargs.return_dict_in_generate or kwargs.output_scores):
        return {"Result": result}
    longest = max(len(output.tokens) for output in outputs)
    details = [_details(text, output, engine_request, longest) for text, output in zip(texts, outputs, strict=True)]
    return ChatResponse(Result=result, Details=details).model_dump(exclude_none=True)


def _details(text: str, output: Output, engine_request: GenerationRequest, longest: int) -> OutputDetails:
    logprobs = [token.logprobs for token in output.tokens if token.logprobs]
    padding = [engine_request.params.pad_token_id] * (longest - len(output.tokens))
    return OutputDetails(
        text=text,
        token_ids=[token.token_id for token in output.tokens] + padding,
        finish_reason=output.finish_reason or "length",
        prompt_tokens=len(engine_request.prompt_token_ids),
        completion_tokens=len(output.tokens),
        logprobs=[step.logprob for step in logprobs] or None,
        top_logprobs=[
            [TokenDetail(token_id=token_id, logprob=logprob) for token_id, logprob in step.top] for step in logprobs
        ]
        or None,
    )
