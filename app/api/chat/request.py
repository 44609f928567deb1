"""Convert a valid `/chat` request to a request of the engine."""

from app.api.chat.schema import ChatRequest, GenerateKwargs
from app.api.prompt import check_messages, encode_messages
from app.engine.request import GenerationRequest
from app.engine.sampling_params import BeamSearchParams, SamplingParams
from app.exceptions import RequestError
from app.limits import Limits
from app.tokenizer import Tokenizer

# Most likely tokens at each step that `output_scores` returns.
TOP_LOGPROBS = 10


def generation_request(request_id: str, chat: ChatRequest, tokenizer: Tokenizer, limits: Limits) -> GenerationRequest:
    """Return the engine's request for `chat`.

    Raises:
        RequestError: the prompt is missing, or parameters conflict with each other, the model or the limits.
    """
    kwargs = chat.generate_kwargs or GenerateKwargs()
    _check_combinations(kwargs)
    _check_token_ids(kwargs, limits)
    prompt, prefix_length = _encode_prompt(chat, tokenizer, limits)
    prompt, max_length = _fit_context(chat, prompt, prefix_length, limits)
    if kwargs.min_new_tokens is None:
        min_length = kwargs.min_length + prefix_length
    else:
        min_length = len(prompt) + kwargs.min_new_tokens
    if min_length > max_length:
        raise RequestError(
            f"min_length is {min_length} and max_length {max_length}, both in tokens of prompt and completion. "
            "Lower the minimum or raise the maximum."
        )
    params = _sampling_params(kwargs, max_length - len(prompt), max(0, min_length - len(prompt)), limits)
    engine_request = GenerationRequest(request_id, tuple(prompt), params)
    _check_size(engine_request, limits)
    return engine_request


def _encode_prompt(chat: ChatRequest, tokenizer: Tokenizer, limits: Limits) -> tuple[list[int], int]:
    """Return the token IDs of the prompt, and the number of them that belong to the prefix."""
    if chat.messages is not None and not chat.prompt:
        if not chat.messages:
            raise RequestError("Conversational parameter messages required")
        if chat.prefix:
            raise RequestError(
                "prefix requires prompt. With messages, put the text into a message with the role system.", "prefix"
            )
        check_messages(len(chat.messages), limits)
        return encode_messages(chat.messages, tokenizer), 0
    if chat.messages:
        raise RequestError("prompt and messages are mutually exclusive. Send only one of them.")
    if not chat.prompt:
        raise RequestError("Text generation parameter prompt required")
    prefix = chat.prefix or ""
    token_ids = tokenizer.encode(prefix + chat.prompt)
    if not token_ids:
        raise RequestError("prompt has no tokens. Send a prompt with some text.", "prompt")
    return token_ids, len(tokenizer.encode(prefix))


def _fit_context(chat: ChatRequest, prompt: list[int], prefix_length: int, limits: Limits) -> tuple[list[int], int]:
    """Return the prompt, truncated if `chat` allows that, and the maximum length of prompt and completion in tokens."""
    kwargs = chat.generate_kwargs or GenerateKwargs()
    max_length_given = kwargs.max_new_tokens is None and "max_length" in kwargs.model_fields_set
    if max_length_given and kwargs.max_length > limits.context:
        raise RequestError(
            f"generate_kwargs.max_length is {kwargs.max_length}, above the context length of {limits.context} tokens. "
            f"Set it to at most {limits.context}."
        )
    # As in KAITO's pipeline, the lengths of the caller do not count the prefix.
    max_length = kwargs.max_length + prefix_length
    if chat.handle_long_generation == "hole":
        prompt = _truncate_left(prompt, kwargs, max_length, limits)
    if kwargs.max_new_tokens is not None:
        max_length = len(prompt) + kwargs.max_new_tokens
    if len(prompt) >= limits.context:
        raise RequestError(
            f"The prompt has {len(prompt)} tokens and leaves no room in the context of {limits.context} tokens. "
            'Shorten it, or set max_new_tokens and handle_long_generation "hole" to truncate it on the left.'
        )
    if len(prompt) >= max_length:
        raise RequestError(
            f"The prompt has {len(prompt)} tokens, but max_length, which counts prompt and completion, is "
            f"{max_length}. Raise generate_kwargs.max_length, or set generate_kwargs.max_new_tokens instead."
        )
    if kwargs.max_new_tokens is not None and max_length > limits.context:
        raise RequestError(
            f"The prompt has {len(prompt)} tokens and max_new_tokens is {kwargs.max_new_tokens}, but the context has "
            f"{limits.context} tokens. Request at most {limits.context - len(prompt)} new tokens, or set "
            'handle_long_generation to "hole".'
        )
    return prompt, min(max_length, limits.context)


def _truncate_left(prompt: list[int], kwargs: GenerateKwargs, max_length: int, limits: Limits) -> list[int]:
    """Return the end of `prompt` that leaves room for the new tokens in the context."""
    new_tokens = kwargs.max_new_tokens if kwargs.max_new_tokens is not None else max_length - len(prompt)
    if new_tokens <= 0:
        raise RequestError(
            f'handle_long_generation "hole" requires room for new tokens, but the prompt has {len(prompt)} tokens and '
            f"max_length is {max_length}. Set generate_kwargs.max_new_tokens."
        )
    if new_tokens >= limits.context:
        raise RequestError(
            f"{new_tokens} new tokens leave no room for the prompt in the context of {limits.context} tokens. "
            "Request fewer new tokens."
        )
    return prompt[-(limits.context - new_tokens) :]


def _eos_token_ids(kwargs: GenerateKwargs, limits: Limits) -> tuple[int, ...]:
    if kwargs.eos_token_id is None:
        return limits.eos_token_ids
    return tuple(kwargs.eos_token_id) if isinstance(kwargs.eos_token_id, list) else (kwargs.eos_token_id,)


def _sampling_params(kwargs: GenerateKwargs, max_tokens: int, min_tokens: int, limits: Limits) -> SamplingParams:
    search = BeamSearchParams(
        num_beams=kwargs.num_beams,
        num_beam_groups=kwargs.num_beam_groups,
        diversity_penalty=kwargs.diversity_penalty,
        length_penalty=kwargs.length_penalty,
        early_stopping=kwargs.early_stopping,
    )
    return SamplingParams(
        n=kwargs.num_return_sequences,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        eos_token_ids=_eos_token_ids(kwargs, limits),
        pad_token_id=limits.pad_token_id if kwargs.pad_token_id is None else kwargs.pad_token_id,
        temperature=kwargs.temperature if kwargs.do_sample else 0.0,
        top_k=kwargs.top_k,
        top_p=kwargs.top_p,
        typical_p=kwargs.typical_p,
        min_p=kwargs.min_p,
        epsilon_cutoff=kwargs.epsilon_cutoff,
        eta_cutoff=kwargs.eta_cutoff,
        seed=kwargs.seed,
        repetition_penalty=kwargs.repetition_penalty,
        encoder_repetition_penalty=kwargs.encoder_repetition_penalty,
        no_repeat_ngram_size=kwargs.no_repeat_ngram_size,
        encoder_no_repeat_ngram_size=kwargs.encoder_no_repeat_ngram_size,
        bad_words_ids=kwargs.bad_words_ids,
        suppress_tokens=kwargs.suppress_tokens,
        begin_suppress_tokens=kwargs.begin_suppress_tokens,
        forced_bos_token_id=kwargs.forced_bos_token_id,
        forced_eos_token_id=kwargs.forced_eos_token_id,
        remove_invalid_values=kwargs.remove_invalid_values,
        logprobs=TOP_LOGPROBS if kwargs.output_scores else None,
        logprobs_mode="processed",
        beam_search=search if kwargs.num_beams > 1 else None,
    )


def _check_combinations(kwargs: GenerateKwargs) -> None:
    """Check that the parameters do not contradict each other; raises RequestError."""
    if kwargs.num_beams == 1 and kwargs.num_return_sequences > 1 and not kwargs.sampled:
        raise RequestError(
            f"num_return_sequences is {kwargs.num_return_sequences}, but greedy search returns only one sequence. "
            "Set do_sample to true, or num_beams to at least num_return_sequences."
        )
    if kwargs.num_beams > 1 and kwargs.num_return_sequences > kwargs.num_beams:
        raise RequestError(
            f"num_return_sequences is {kwargs.num_return_sequences}, but beam search returns at most num_beams "
            f"({kwargs.num_beams}) sequences. Lower the one or raise the other."
        )
    if kwargs.num_beams % kwargs.num_beam_groups:
        raise RequestError(
            f"num_beam_groups is {kwargs.num_beam_groups} and must divide num_beams, which is {kwargs.num_beams}. "
            "Change one of them."
        )
    if kwargs.num_beam_groups > 1 and kwargs.sampled:
        raise RequestError(
            "num_beam_groups above 1 selects diverse beam search, which does not sample. Set do_sample to false."
        )
    if kwargs.num_beam_groups > 1 and kwargs.diversity_penalty == 0:
        raise RequestError(
            "With diversity_penalty 0 all beam groups find the same sequences. "
            "Set diversity_penalty above 0, or num_beam_groups to 1."
        )
    if kwargs.num_beam_groups == 1 and kwargs.diversity_penalty > 0:
        raise RequestError(
            "diversity_penalty applies between beam groups. Set num_beam_groups above 1, or diversity_penalty to 0."
        )


def _check_token_ids(kwargs: GenerateKwargs, limits: Limits) -> None:
    """Check that token IDs exist, lists are short enough and no EOS token is banned; raises RequestError."""
    lists: dict[str, list[int]] = {}
    for name in (
        "pad_token_id",
        "eos_token_id",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "suppress_tokens",
        "begin_suppress_tokens",
    ):
        value = getattr(kwargs, name)
        if value is not None:
            lists[name] = value if isinstance(value, list) else [value]
    bad_words = kwargs.bad_words_ids or []
    lists["bad_words_ids"] = [token_id for word in bad_words for token_id in word]
    for name, token_ids in lists.items():
        if len(token_ids) > limits.max_list:
            raise RequestError(
                f"generate_kwargs.{name} has {len(token_ids)} token IDs; the maximum is {limits.max_list} "
                "(CHAT_MAX_LIST). Send fewer token IDs."
            )
        if token_ids and max(token_ids) >= limits.vocab_size:
            raise RequestError(
                f"generate_kwargs.{name} contains token ID {max(token_ids)}. "
                f"The model has the token IDs 0 to {limits.vocab_size - 1}."
            )
    eos_token_ids = _eos_token_ids(kwargs, limits)
    for word in bad_words:
        if len(word) == 1 and word[0] in eos_token_ids:
            raise RequestError(
                f"generate_kwargs.bad_words_ids contains the EOS token {word[0]}. Set min_length for longer "
                "completions, or eos_token_id for another EOS token."
            )


def _check_size(engine_request: GenerationRequest, limits: Limits) -> None:
    """Check that the request takes no more resources than one request may; raises RequestError."""
    params = engine_request.params
    rows = params.num_rows
    if rows > limits.max_sequences:
        raise RequestError(
            f"The request has {rows} sequences (num_beams or num_return_sequences); the maximum is "
            f"{limits.max_sequences} (CHAT_MAX_SEQUENCES). Request fewer sequences."
        )
    beam_tokens = engine_request.num_tokens
    if params.beam_search and beam_tokens > limits.max_beam_tokens:
        raise RequestError(
            f"{params.beam_search.num_beams} beams of up to {engine_request.max_length} tokens need {beam_tokens} "
            f"tokens; the maximum is {limits.max_beam_tokens} (CHAT_MAX_BEAM_TOKENS, or less if memory is short). "
            "Request fewer or shorter beams."
        )
    scored_tokens = rows * params.max_tokens
    if params.logprobs is not None and scored_tokens > limits.max_scored_tokens:
        raise RequestError(
            f"output_scores for {rows} sequences of up to {params.max_tokens} new tokens needs {scored_tokens} tokens; "
            f"the maximum is {limits.max_scored_tokens} (CHAT_MAX_SCORED_TOKENS). Request fewer or shorter sequences."
        )
