"""From a valid `/chat` request to one that the engine can run: token ids, lengths, and what the model allows."""

from dataclasses import dataclass

from app.api.chat.schema import ChatRequest, GenerateKwargs, Message
from app.engine.request import GenerationRequest
from app.engine.sampling_params import BeamSearchParams, SamplingParams
from app.settings import Settings
from app.tokenizer import Tokenizer

# Most likely tokens at each step that `output_scores` returns.
TOP_LOGPROBS = 10


class RequestError(ValueError):
    """The request cannot be served as it stands; the text says what was wrong, what is allowed, what to do.

    Attributes:
        field: the one that is wrong, where it is a single one.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Limits:
    """What the model and the operator allow.

    Attributes:
        context: tokens of prompt and answer together.
        vocabulary: number of token ids.
        eos_token_ids: the model's end tokens.
        pad_token_id: the model's.
        beam_tokens: beams times their length, for one request.
        settings: the operator's limits.
    """

    context: int
    vocabulary: int
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    beam_tokens: int
    settings: Settings


def generation_request(request_id: str, chat: ChatRequest, tokenizer: Tokenizer, limits: Limits) -> GenerationRequest:
    """Build what the engine runs from what a caller asked for.

    Raises:
        RequestError: there is nothing to answer, or settings contradict each other, the model or the limits.
    """
    kwargs = chat.generate_kwargs or GenerateKwargs()
    _check_combinations(kwargs)
    _check_token_ids(kwargs, limits)
    prompt, prefix_length = _encode(chat, tokenizer, limits)
    asked_for_length = kwargs.max_new_tokens is None and "max_length" in kwargs.model_fields_set
    if asked_for_length and kwargs.max_length > limits.context:
        raise RequestError(
            f"generate_kwargs.max_length is {kwargs.max_length}, and the context {limits.context} tokens: "
            "ask for that many, or fewer."
        )
    # As in KAITO's pipeline, the caller's lengths do not count the prefix.
    max_length = kwargs.max_length + prefix_length
    if chat.handle_long_generation == "hole":
        prompt = _cut(prompt, kwargs, max_length, limits)
    if kwargs.max_new_tokens is not None:
        max_length = len(prompt) + kwargs.max_new_tokens
    min_length = (
        kwargs.min_length + prefix_length if kwargs.min_new_tokens is None else len(prompt) + kwargs.min_new_tokens
    )
    if len(prompt) >= limits.context:
        raise RequestError(
            f"The prompt has {len(prompt)} tokens, and the context {limits.context}, which the answer has to fit too: "
            'shorten the prompt, or set handle_long_generation to "hole" and max_new_tokens to cut it on the left.'
        )
    if len(prompt) >= max_length:
        raise RequestError(
            f"The prompt has {len(prompt)} tokens, and max_length, which counts prompt and answer, is {max_length}: "
            "raise generate_kwargs.max_length, or set generate_kwargs.max_new_tokens, which counts the answer alone."
        )
    if kwargs.max_new_tokens is not None and max_length > limits.context:
        raise RequestError(
            f"The prompt has {len(prompt)} tokens and max_new_tokens is {kwargs.max_new_tokens}, together more than "
            f"the context of {limits.context}: ask for at most {limits.context - len(prompt)} new tokens, "
            'or set handle_long_generation to "hole" to cut the prompt on the left.'
        )
    max_length = min(max_length, limits.context)
    if min_length > max_length:
        raise RequestError(
            f"min_length is {min_length} and max_length {max_length} (both in tokens of prompt and answer): "
            "lower the one or raise the other."
        )
    params = _sampling_params(kwargs, max_length - len(prompt), max(0, min_length - len(prompt)), limits)
    request = GenerationRequest(request_id, tuple(prompt), params)
    _check_size(request, limits)
    return request


def encode_messages(messages: list[Message], tokenizer: Tokenizer) -> list[int]:
    """Token ids of a conversation in Phi-3's format, up to where the assistant's answer begins.

    The server writes the tags; the same characters inside a message are text.
    """
    ids: list[int] = []
    for message in messages:
        ids += tokenizer.encode(f"<|{message.role}|>\n")
        ids += tokenizer.encode_plain(message.content.lstrip())
        ids += tokenizer.encode("<|end|>\n")
    return ids + tokenizer.encode("<|assistant|>\n")


def check_messages(count: int, limits: Limits) -> None:
    """Refuse a conversation of too many messages; raises RequestError."""
    if count > limits.settings.max_messages:
        raise RequestError(
            f"There are {count} messages: CHAT_MAX_MESSAGES allows {limits.settings.max_messages}.", "messages"
        )


def _encode(chat: ChatRequest, tokenizer: Tokenizer, limits: Limits) -> tuple[list[int], int]:
    """The prompt's token ids, and how many of them are the prefix's."""
    if chat.messages is not None and not chat.prompt:
        if not chat.messages:
            raise RequestError("Conversational parameter messages required")
        if chat.prefix:
            raise RequestError("prefix goes with prompt: with messages, put its text into a system message.")
        check_messages(len(chat.messages), limits)
        return encode_messages(chat.messages, tokenizer), 0
    if chat.messages:
        raise RequestError("prompt and messages exclude each other: send one of them.")
    if not chat.prompt:
        raise RequestError("Text generation parameter prompt required")
    prefix = chat.prefix or ""
    ids = tokenizer.encode(prefix + chat.prompt)
    if not ids:
        raise RequestError("The prompt has no tokens: send some text.")
    return ids, len(tokenizer.encode(prefix))


def _cut(prompt: list[int], kwargs: GenerateKwargs, max_length: int, limits: Limits) -> list[int]:
    """The end of `prompt` that leaves room for the new tokens in the context."""
    new = kwargs.max_new_tokens if kwargs.max_new_tokens is not None else max_length - len(prompt)
    if new <= 0:
        raise RequestError(
            f'handle_long_generation "hole" cuts the prompt to make room for the new tokens, and max_length '
            f"({max_length}) is not above the prompt's {len(prompt)} tokens: set generate_kwargs.max_new_tokens."
        )
    if new >= limits.context:
        raise RequestError(
            f"{new} new tokens leave no room for the prompt in the context of {limits.context}: ask for fewer."
        )
    return prompt[-(limits.context - new) :]


def _eos(kwargs: GenerateKwargs, limits: Limits) -> tuple[int, ...]:
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
        eos_token_ids=_eos(kwargs, limits),
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
    """Refuse settings that contradict each other."""
    if kwargs.num_beams == 1 and kwargs.num_return_sequences > 1 and not kwargs.sampled:
        raise RequestError(
            f"num_return_sequences is {kwargs.num_return_sequences}, but without sampling and with one beam there is "
            "one answer: set do_sample to true, or num_beams to at least num_return_sequences."
        )
    if kwargs.num_beams > 1 and kwargs.num_return_sequences > kwargs.num_beams:
        raise RequestError(
            f"num_return_sequences is {kwargs.num_return_sequences} and num_beams {kwargs.num_beams}: "
            "beam search returns at most one answer a beam."
        )
    if kwargs.num_beams % kwargs.num_beam_groups:
        raise RequestError(
            f"num_beam_groups ({kwargs.num_beam_groups}) must divide num_beams ({kwargs.num_beams}) without remainder."
        )
    if kwargs.num_beam_groups > 1 and kwargs.sampled:
        raise RequestError("num_beam_groups above 1 is a search, not a draw: set do_sample to false.")
    if kwargs.num_beam_groups > 1 and kwargs.diversity_penalty == 0:
        raise RequestError(
            "num_beam_groups above 1 with diversity_penalty 0 would find the same answers in every group: "
            "set diversity_penalty above 0, or num_beam_groups to 1."
        )
    if kwargs.num_beam_groups == 1 and kwargs.diversity_penalty > 0:
        raise RequestError("diversity_penalty acts between groups of beams: set num_beam_groups above 1 with it.")


def _check_token_ids(kwargs: GenerateKwargs, limits: Limits) -> None:
    """Refuse token ids that the model does not have, lists that are too long, and end tokens among bad words."""
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
    lists["bad_words_ids"] = [token for word in bad_words for token in word]
    for name, ids in lists.items():
        if len(ids) > limits.settings.max_list:
            raise RequestError(
                f"generate_kwargs.{name} has {len(ids)} token ids: CHAT_MAX_LIST allows {limits.settings.max_list}."
            )
        if ids and max(ids) >= limits.vocabulary:
            raise RequestError(
                f"generate_kwargs.{name} names token {max(ids)}: the model has tokens 0 to {limits.vocabulary - 1}."
            )
    ends = _eos(kwargs, limits)
    for word in bad_words:
        if len(word) == 1 and word[0] in ends:
            raise RequestError(
                f"generate_kwargs.bad_words_ids names {word[0]}, which ends an answer: to make answers longer set "
                "min_length, to end them elsewhere eos_token_id."
            )


def _check_size(request: GenerationRequest, limits: Limits) -> None:
    """Refuse what would take more of the machine than one request may have."""
    settings = limits.settings
    params = request.params
    rows = params.num_rows
    if rows > settings.max_sequences:
        raise RequestError(
            f"num_beams and num_return_sequences may be at most {settings.max_sequences} (CHAT_MAX_SEQUENCES), "
            f"and one of them is {rows}."
        )
    beams = params.beam_search.num_beams if params.beam_search else 1
    if beams > 1 and beams * request.max_length > limits.beam_tokens:
        raise RequestError(
            f"{beams} beams of up to {request.max_length} tokens are {beams * request.max_length} tokens: the server "
            f"allows {limits.beam_tokens} (CHAT_MAX_BEAM_TOKENS, and its memory). Ask for fewer or shorter ones."
        )
    if params.logprobs is not None and rows * params.max_tokens > settings.max_scored_tokens:
        raise RequestError(
            f"output_scores for {rows} sequences of up to {params.max_tokens} new tokens: CHAT_MAX_SCORED_TOKENS "
            f"allows {settings.max_scored_tokens} together. Ask for fewer or shorter ones."
        )
