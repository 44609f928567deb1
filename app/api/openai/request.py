"""From a valid request of OpenAI's API to those that the engine can run."""

from dataclasses import replace
from typing import TYPE_CHECKING

from werkzeug.exceptions import NotFound

from app.api.chat.request import Limits, RequestError, check_messages, encode_messages
from app.api.chat.schema import Message
from app.api.openai.schema import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    JsonObject,
    JsonSchemaFormat,
    ResponseFormat,
)
from app.engine.request import GenerationRequest
from app.engine.sampling_params import Grammar, SamplingParams
from app.tokenizer import Tokenizer

if TYPE_CHECKING:
    from app.engine.sampling.structured_output import GrammarCompiler

# Tokens of an answer where the request does not say; room for them is kept free in the cache.
DEFAULT_MAX_TOKENS = 4096


def check_model(name: str | None, limits: Limits) -> None:
    """Refuse a model that is not the one here; raises NotFound."""
    served = limits.settings.name
    if name is not None and name != served:
        raise NotFound(f"There is no model {name[:100]!r} here: ask for {served!r}, or leave model out.")


def chat_request(
    request_id: str, asked: ChatCompletionRequest, tokenizer: Tokenizer, limits: Limits, grammars: "GrammarCompiler"
) -> GenerationRequest:
    """Build what the engine runs for a conversation.

    Raises:
        RequestError: fields contradict each other, the model or the limits.
        NotFound: another model is asked for.
    """
    check_model(asked.model, limits)
    if asked.top_logprobs is not None and not asked.logprobs:
        raise RequestError("top_logprobs needs logprobs: set that to true, or leave this out.", "top_logprobs")
    if asked.max_tokens and asked.max_completion_tokens and asked.max_tokens != asked.max_completion_tokens:
        raise RequestError(
            f"max_tokens is {asked.max_tokens} and max_completion_tokens {asked.max_completion_tokens}: "
            "they are two names of one thing, so send one.",
            "max_tokens",
        )
    prompt = conversation(asked.messages, tokenizer, limits)
    logprobs = asked.top_logprobs or 0 if asked.logprobs else None
    wanted = _request(request_id, prompt, asked, asked.max_completion_tokens or asked.max_tokens, logprobs, limits)
    return replace(wanted, params=replace(wanted.params, grammar=_form(asked.response_format, grammars)))


def _form(wanted: ResponseFormat | None, grammars: "GrammarCompiler") -> Grammar | None:
    if isinstance(wanted, JsonObject):
        return grammars.compile_json_schema({"type": "object"})
    if isinstance(wanted, JsonSchemaFormat):
        try:
            return grammars.compile_json_schema(wanted.json_schema.schema_)
        except ValueError as error:
            raise RequestError(str(error), "response_format") from None
    return None


def completion_requests(
    request_id: str, asked: CompletionRequest, tokenizer: Tokenizer, limits: Limits
) -> list[GenerationRequest]:
    """Build what the engine runs for one or several texts to go on with; see `chat_request` for what is raised."""
    check_model(asked.model, limits)
    if asked.echo and asked.logprobs is not None:
        raise RequestError("echo and logprobs exclude each other: a prompt's own are not computed.", "echo")
    prompts = [
        tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt) for prompt in several(asked.prompt)
    ]
    if not prompts or not all(prompts):
        raise RequestError("A prompt has no tokens: send some text.", "prompt")
    if len(prompts) * asked.n > limits.settings.max_sequences:
        raise RequestError(
            f"{len(prompts)} prompts with {asked.n} answers each are more than the "
            f"{limits.settings.max_sequences} answers of one request that CHAT_MAX_SEQUENCES allows.",
            "prompt",
        )
    outside = max(token for prompt in prompts for token in prompt)
    if outside >= limits.vocabulary:
        raise RequestError(
            f"prompt names token {outside}: the model has tokens 0 to {limits.vocabulary - 1}.", "prompt"
        )
    return [_request(request_id, prompt, asked, asked.max_tokens, asked.logprobs, limits) for prompt in prompts]


def several(prompt: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    """The prompts of a request, which may be one or a list."""
    if isinstance(prompt, str):
        return [prompt]
    texts: list[str | list[int]] = [each for each in prompt if not isinstance(each, int)]
    return texts or [[token for token in prompt if isinstance(token, int)]]


def conversation(messages: list[ChatMessage], tokenizer: Tokenizer, limits: Limits) -> list[int]:
    """Token ids of a conversation, up to where the answer begins; raises RequestError for too long a one."""
    check_messages(len(messages), limits)
    return encode_messages(
        [Message(role="system" if each.role == "developer" else each.role, content=each.text) for each in messages],
        tokenizer,
    )


def _request(
    request_id: str,
    prompt: list[int],
    asked: ChatCompletionRequest | CompletionRequest,
    max_tokens: int | None,
    logprobs: int | None,
    limits: Limits,
) -> GenerationRequest:
    left = limits.context - len(prompt)
    if left < 1:
        raise RequestError(
            f"The prompt has {len(prompt)} tokens, and the context {limits.context}, which the answer has to fit too: "
            "shorten the prompt."
        )
    if max_tokens is not None and max_tokens > left:
        raise RequestError(
            f"The prompt has {len(prompt)} tokens and {max_tokens} are asked for, together more than the context of "
            f"{limits.context}: ask for at most {left}.",
            "max_tokens",
        )
    if asked.n > limits.settings.max_sequences:
        raise RequestError(
            f"n is {asked.n}: CHAT_MAX_SEQUENCES allows {limits.settings.max_sequences} answers to one request.", "n"
        )
    if asked.stream_options and not asked.stream:
        raise RequestError("stream_options needs stream: set that to true, or leave this out.", "stream_options")
    params = SamplingParams(
        n=asked.n,
        max_tokens=max_tokens or min(left, DEFAULT_MAX_TOKENS),
        eos_token_ids=limits.eos_token_ids,
        pad_token_id=limits.pad_token_id,
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=None if asked.seed is None else asked.seed % 2**63,
        logit_bias=_bias(asked.logit_bias, limits),
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        logprobs=logprobs,
    )
    return GenerationRequest(request_id, tuple(prompt), params)


def _bias(given: dict[str, float], limits: Limits) -> dict[int, float]:
    if len(given) > limits.settings.max_list:
        raise RequestError(
            f"logit_bias has {len(given)} tokens: CHAT_MAX_LIST allows {limits.settings.max_list}.", "logit_bias"
        )
    wrong = [name for name in given if not (name.isascii() and name.isdigit() and int(name[:20]) < limits.vocabulary)]
    if wrong:
        raise RequestError(
            f"logit_bias names token {wrong[0][:100]!r}: the model has tokens 0 to {limits.vocabulary - 1}.",
            "logit_bias",
        )
    return {int(name): value for name, value in given.items()}
