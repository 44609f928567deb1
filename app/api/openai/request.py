"""Convert valid requests of OpenAI's API to requests of the engine."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from app.api.openai.schema import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    JsonObject,
    JsonSchemaFormat,
    ResponseFormat,
)
from app.api.prompt import check_messages, encode_messages
from app.api.schema import Message
from app.engine.request import GenerationRequest
from app.engine.sampling_params import Grammar, SamplingParams
from app.exceptions import RequestError, UnknownModelError
from app.limits import Limits
from app.tokenizer import Tokenizer

if TYPE_CHECKING:
    from app.engine.sampling.structured_output import GrammarCompiler

# Maximum tokens of a completion without max_tokens. The engine reserves KV cache for all of them.
DEFAULT_MAX_TOKENS = 4096


def check_model(name: str | None, limits: Limits) -> None:
    """Check that `name` is the served model, or missing; raises UnknownModelError."""
    if name is not None and name != limits.model_name:
        raise UnknownModelError(
            f"The model {name[:100]!r} does not exist. Set model to {limits.model_name!r}, or leave it out.",
            "model",
            "model_not_found",
        )


def chat_request(
    request_id: str, body: ChatCompletionRequest, tokenizer: Tokenizer, limits: Limits, grammars: "GrammarCompiler"
) -> GenerationRequest:
    """Return the engine's request for a conversation.

    Raises:
        RequestError: fields conflict with each other, the model or the limits.
        UnknownModelError: the request names another model.
    """
    check_model(body.model, limits)
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError("top_logprobs requires logprobs. Set logprobs to true, or leave both out.", "top_logprobs")
    if body.max_tokens and body.max_completion_tokens and body.max_tokens != body.max_completion_tokens:
        raise RequestError(
            f"max_tokens is {body.max_tokens}, but max_completion_tokens is {body.max_completion_tokens}. "
            "Both have the same meaning; send only one of them.",
            "max_tokens",
        )
    prompt = encode_conversation(body.messages, tokenizer, limits)
    max_tokens = _max_tokens(body.max_completion_tokens or body.max_tokens, len(prompt), limits)
    logprobs = body.top_logprobs or 0 if body.logprobs else None
    params = _sampling_params(body, max_tokens, logprobs, limits)
    params = replace(params, grammar=_grammar(body.response_format, grammars))
    return GenerationRequest(request_id, tuple(prompt), params)


def completion_requests(
    request_id: str, body: CompletionRequest, tokenizer: Tokenizer, limits: Limits
) -> list[GenerationRequest]:
    """Return the engine's requests for one or several prompts; raises what `chat_request` raises."""
    check_model(body.model, limits)
    if body.echo and body.logprobs is not None:
        raise RequestError(
            "echo and logprobs are mutually exclusive: the server computes no logprobs of the prompt. Send one.", "echo"
        )
    prompts = [
        tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt) for prompt in prompt_list(body.prompt)
    ]
    if not prompts or not all(prompts):
        raise RequestError("prompt has no tokens. Send prompts with some text.", "prompt")
    if len(prompts) * body.n > limits.max_sequences:
        raise RequestError(
            f"{len(prompts)} prompts with n {body.n} request {len(prompts) * body.n} completions; the maximum is "
            f"{limits.max_sequences} (CHAT_MAX_SEQUENCES). Send fewer prompts, or lower n.",
            "prompt",
        )
    largest = max(token_id for prompt in prompts for token_id in prompt)
    if largest >= limits.vocab_size:
        raise RequestError(
            f"prompt contains token ID {largest}. The model has the token IDs 0 to {limits.vocab_size - 1}.", "prompt"
        )
    requests = []
    for prompt in prompts:
        max_tokens = _max_tokens(body.max_tokens, len(prompt), limits)
        params = _sampling_params(body, max_tokens, body.logprobs, limits)
        requests.append(GenerationRequest(request_id, tuple(prompt), params))
    return requests


def prompt_list(prompt: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    """Return the prompts of a completion request, which may be one or a list."""
    if isinstance(prompt, str):
        return [prompt]
    prompts: list[str | list[int]] = [item for item in prompt if not isinstance(item, int)]
    return prompts or [[item for item in prompt if isinstance(item, int)]]


def encode_conversation(messages: Sequence[ChatMessage], tokenizer: Tokenizer, limits: Limits) -> list[int]:
    """Return the token IDs of a conversation, up to the start of the completion; raises RequestError if too long."""
    check_messages(len(messages), limits)
    return encode_messages(
        [
            Message(role="system" if message.role == "developer" else message.role, content=message.text)
            for message in messages
        ],
        tokenizer,
    )


def _max_tokens(max_tokens: int | None, prompt_length: int, limits: Limits) -> int:
    """Return the maximum tokens of a completion, which fit the context together with the prompt."""
    free = limits.context - prompt_length
    # Clients search for OpenAI's first sentence and for the code.
    maximum = f"This model's maximum context length is {limits.context} tokens."
    if free < 1:
        raise RequestError(
            f"{maximum} However, the prompt has {prompt_length} tokens. Shorten the prompt.",
            code="context_length_exceeded",
        )
    if max_tokens is not None and max_tokens > free:
        raise RequestError(
            f"{maximum} However, you requested {prompt_length + max_tokens} tokens ({prompt_length} in the prompt, "
            f"{max_tokens} in the completion). Shorten the prompt, or request at most {free} tokens.",
            "max_tokens",
            "context_length_exceeded",
        )
    return max_tokens or min(free, DEFAULT_MAX_TOKENS)


def _sampling_params(
    body: ChatCompletionRequest | CompletionRequest,
    max_tokens: int,
    logprobs: int | None,
    limits: Limits,
) -> SamplingParams:
    if body.n > limits.max_sequences:
        raise RequestError(
            f"n is {body.n}; the maximum is {limits.max_sequences} (CHAT_MAX_SEQUENCES). Request fewer completions.",
            "n",
        )
    if body.stream_options and not body.stream:
        raise RequestError(
            "stream_options requires stream. Set stream to true, or leave stream_options out.", "stream_options"
        )
    return SamplingParams(
        n=body.n,
        max_tokens=max_tokens,
        eos_token_ids=limits.eos_token_ids,
        pad_token_id=limits.pad_token_id,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=None if body.seed is None else body.seed % 2**63,
        logit_bias=_logit_bias(body.logit_bias, limits),
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logprobs=logprobs,
    )


def _grammar(response_format: ResponseFormat | None, grammars: "GrammarCompiler") -> Grammar | None:
    if isinstance(response_format, JsonObject):
        return grammars.compile_json_schema({"type": "object"})
    if isinstance(response_format, JsonSchemaFormat):
        try:
            return grammars.compile_json_schema(response_format.json_schema.schema_)
        except ValueError as error:
            raise RequestError(str(error), "response_format") from None
    return None


def _logit_bias(biases: Mapping[str, float], limits: Limits) -> dict[int, float]:
    if len(biases) > limits.max_list:
        raise RequestError(
            f"logit_bias has {len(biases)} token IDs; the maximum is {limits.max_list} (CHAT_MAX_LIST). "
            "Send fewer token IDs.",
            "logit_bias",
        )
    invalid = [key for key in biases if not (key.isascii() and key.isdigit() and int(key[:20]) < limits.vocab_size)]
    if invalid:
        raise RequestError(
            f"logit_bias contains token ID {invalid[0][:100]!r}. "
            f"The model has the token IDs 0 to {limits.vocab_size - 1}.",
            "logit_bias",
        )
    return {int(key): bias for key, bias in biases.items()}
