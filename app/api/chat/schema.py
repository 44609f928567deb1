"""What `/chat` takes and answers: the one place where fields, defaults, ranges and meanings stand."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, which is no character: send whole characters") from None
    return value


Text = Annotated[str, AfterValidator(_text)]
TokenId = Annotated[int, Field(ge=0)]
# fail_fast: a long list of wrong items is one error.
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"] = Field(description="who speaks")
    content: Text = Field(description="what is said; tags such as <|end|> in it are text, not control tokens")


# Where KAITO answers 422 to null; for all others null is the default, as if the field were not there.
NOT_NULL = {
    "max_length",
    "min_length",
    "do_sample",
    "early_stopping",
    "num_beams",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
}


def _document(schema: dict[str, Any]) -> None:
    """Tell in the JSON schema of GenerateKwargs which fields may be null."""
    for name, field in schema["properties"].items():
        types = field.get("anyOf", [field])
        if name not in NOT_NULL and {"type": "null"} not in types:
            kept = {key: field.pop(key) for key in list(field) if key not in {"default", "description", "title"}}
            field["anyOf"] = [kept, {"type": "null"}]
    schema["example"] = {"max_length": 200, "temperature": 0.7, "top_p": 0.9}


class GenerateKwargs(BaseModel):
    """How the answer is generated; names, meanings and defaults are those of KAITO and transformers."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra=_document,
    )

    max_length: int = Field(
        200, ge=1, description="tokens of prompt and answer together, at most; the prefix does not count"
    )
    max_new_tokens: int | None = Field(
        None, ge=1, description="tokens of the answer, at most; where given, max_length does not count"
    )
    min_length: int = Field(
        0, ge=0, description="tokens of prompt and answer together, at least; the prefix does not count"
    )
    min_new_tokens: int | None = Field(
        None, ge=0, description="tokens of the answer, at least; where given, min_length does not count"
    )
    do_sample: bool = Field(True, description="draw each token, rather than take the likeliest (or search with beams)")
    early_stopping: bool | Literal["never"] = Field(
        False,
        description="when beam search stops: true, as soon as num_beams answers are complete; "
        'false, when a better one is unlikely; "never", when there cannot be a better one',
    )
    num_beams: int = Field(1, ge=1, description="beams of beam search; 1 is no beam search")
    num_beam_groups: int = Field(
        1,
        ge=1,
        description="groups of beams that are made to differ (diverse beam search); must divide num_beams",
    )
    diversity_penalty: float = Field(
        0.0,
        ge=0,
        description="taken from a token's score for every beam of an earlier group that chose it at the same step; "
        "must be above 0 where num_beam_groups is above 1",
    )
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="makes draws repeat: the same seed, prompt and settings give the same answer; default: a fresh one",
    )
    temperature: float = Field(
        1.0,
        ge=0,
        description="divides the scores before drawing: lower is more certain; 0 is do_sample false",
    )
    top_k: int = Field(10, ge=0, description="draw from that many likeliest tokens; 0 is all")
    top_p: float = Field(1.0, ge=0, le=1, description="draw from the likeliest tokens that together reach this share")
    typical_p: float = Field(
        1.0, gt=0, le=1, description="draw from the most typical tokens that together reach this share"
    )
    min_p: float | None = Field(
        None, ge=0, le=1, description="draw from tokens at least this share as likely as the likeliest"
    )
    epsilon_cutoff: float | None = Field(
        None, ge=0, lt=1, description="draw from tokens of at least this probability; 0 is off"
    )
    eta_cutoff: float | None = Field(
        None, ge=0, lt=1, description="draw from tokens above a bound that falls with the entropy; 0 is off"
    )
    repetition_penalty: float = Field(
        1.0,
        gt=0,
        description="above 1, tokens of prompt and answer so far become less likely; below 1, likelier",
    )
    encoder_repetition_penalty: float | None = Field(
        None, gt=0, description="above 1, tokens of the prompt become likelier; below 1, less likely"
    )
    length_penalty: float = Field(
        1.0,
        ge=-10,
        le=10,
        description="exponent of the length by which a beam's score is divided: above 0 favours long answers",
    )
    no_repeat_ngram_size: int = Field(
        0, ge=0, le=1000, description="no run of that many tokens occurs twice in prompt and answer; 0 is off"
    )
    encoder_no_repeat_ngram_size: int = Field(
        0,
        ge=0,
        le=1000,
        description="no run of that many tokens of the prompt occurs in the answer; 0 is off",
    )
    bad_words_ids: Annotated[list[TokenIds], Field(min_length=1, fail_fast=True)] | None = Field(
        None, description="runs of token ids that are never generated"
    )
    suppress_tokens: TokenIds | None = Field(None, description="token ids that are never generated")
    begin_suppress_tokens: TokenIds | None = Field(None, description="token ids that the answer does not begin with")
    num_return_sequences: int = Field(1, ge=1, description="answers; several need sampling, or at least as many beams")
    output_scores: bool = Field(
        False,
        description="adds Details with the log probability of each token, and of the ten likeliest at each step",
    )
    return_dict_in_generate: bool = Field(False, description="adds Details: each answer with its tokens and counts")
    pad_token_id: TokenId | None = Field(
        None,
        description="fills up Details.token_ids of answers that ended before others; default: the model's",
    )
    eos_token_id: TokenId | TokenIds | None = Field(
        None, description="token id, or ids, that end an answer; default: the model's whole list"
    )
    forced_bos_token_id: TokenId | None = Field(
        None, description="token id that comes first where the prompt is a single token"
    )
    forced_eos_token_id: TokenId | TokenIds | None = Field(
        None, description="token id, or one of ids, that comes last where max_length is reached"
    )
    remove_invalid_values: bool = Field(
        False, description="replaces scores that became nan or inf, rather than answer 400"
    )

    @model_validator(mode="before")
    @classmethod
    def _leave_out_null(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None or name in NOT_NULL}

    @property
    def sampled(self) -> bool:
        """Whether tokens are drawn; a temperature of 0 leaves nothing to draw."""
        return self.do_sample and self.temperature > 0


class ChatRequest(BaseModel):
    """A question: a prompt, or messages."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"prompt": "<|user|> How to explain Internet for a medieval knight?<|end|><|assistant|>"},
                {"messages": [{"role": "user", "content": "What is the capital of France?"}]},
            ]
        },
    )

    prompt: Text | None = Field(
        None,
        description="text to continue; tags such as <|user|>, <|end|> and <|assistant|> are control tokens",
    )
    messages: Annotated[list[Message], Field(fail_fast=True)] | None = Field(
        None, description="a conversation, instead of prompt; Result is then the answer alone"
    )
    return_full_text: bool | None = Field(
        True, description="Result is the prompt and the answer, rather than the answer alone; null is true"
    )
    clean_up_tokenization_spaces: bool | None = Field(
        False,
        description="takes out spaces before punctuation and in contractions when decoding; null is false",
    )
    prefix: Text | None = Field(None, description="put before the prompt, and left out of Result")
    handle_long_generation: Literal["hole"] | None = Field(
        None, description='"hole": cuts the prompt on the left so that max_new_tokens fit the context'
    )
    generate_kwargs: GenerateKwargs | None = Field(
        default_factory=GenerateKwargs, description="how the answer is generated; null is the defaults"
    )


class TokenDetail(BaseModel):
    """One of the likeliest tokens at a step."""

    token_id: int = Field(description="token id")
    logprob: float = Field(description="log probability, natural logarithm")


class AnswerDetails(BaseModel):
    """One answer, in full."""

    text: str = Field(description="the answer alone")
    token_ids: list[int] = Field(
        description="the answer's token ids, filled up with pad_token_id to the length of the longest answer"
    )
    finish_reason: Literal["stop", "length"] = Field(description="stop: an end token came; length: the limit")
    prompt_tokens: int = Field(description="tokens of the prompt")
    completion_tokens: int = Field(description="tokens of the answer, its end token included, padding not")
    logprobs: list[float] | None = Field(
        None,
        description="with output_scores: log probability of each token, in the distribution it was chosen from",
    )
    top_logprobs: list[list[TokenDetail]] | None = Field(
        None,
        description="with output_scores: the likeliest tokens at each step, at most ten, likeliest first",
    )


class ChatResponse(BaseModel):
    """An answer."""

    Result: str = Field(description="the text; several answers are joined without anything between them")
    Details: list[AnswerDetails] | None = Field(
        None, description="with return_dict_in_generate or output_scores: each answer by itself"
    )


class ChatPiece(BaseModel):
    """What one answer gained, in a stream."""

    sequence: int = Field(description="number of the answer, from 0")
    text: str = Field(description="text that follows what came before")


class ErrorResponse(BaseModel):
    """What was wrong, what is allowed, and what to do."""

    detail: str


class FieldError(BaseModel):
    """A field of the wrong type."""

    type: str = Field(description="kind of the error, as pydantic names it")
    loc: list[str | int] = Field(description="path of the field, from body")
    msg: str = Field(description="what is wrong")


class FieldErrorResponse(BaseModel):
    """Fields of the wrong type."""

    detail: list[FieldError]
