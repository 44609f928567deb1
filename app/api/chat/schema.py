"""Request and response of `/chat`: the single definition of fields, defaults, ranges and meanings."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.api.schema import Message, Text, TokenId

# fail_fast: a long list of invalid items is one error.
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]

# Fields for which KAITO responds to null with 422. For all other fields null selects the default.
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


def _document_null(schema: dict[str, Any]) -> None:
    """Add null to the types of the fields of GenerateKwargs that accept it."""
    for name, field in schema["properties"].items():
        types = field.get("anyOf", [field])
        if name not in NOT_NULL and {"type": "null"} not in types:
            keywords = {key: field.pop(key) for key in list(field) if key not in {"default", "description", "title"}}
            field["anyOf"] = [keywords, {"type": "null"}]
    schema["example"] = {"max_length": 200, "temperature": 0.7, "top_p": 0.9}


class GenerateKwargs(BaseModel):
    """Generation parameters, with the names, meanings and defaults of KAITO and transformers."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra=_document_null,
    )

    max_length: int = Field(
        200, ge=1, description="maximum tokens of prompt and completion together; the prefix does not count"
    )
    max_new_tokens: int | None = Field(None, ge=1, description="maximum tokens of the completion; overrides max_length")
    min_length: int = Field(
        0, ge=0, description="minimum tokens of prompt and completion together; the prefix does not count"
    )
    min_new_tokens: int | None = Field(None, ge=0, description="minimum tokens of the completion; overrides min_length")
    do_sample: bool = Field(
        True, description="sample each token; false selects greedy search, or beam search if num_beams is above 1"
    )
    early_stopping: bool | Literal["never"] = Field(
        False,
        description="when beam search stops: true, once num_beams sequences are complete; "
        'false, once a better sequence is unlikely; "never", once a better sequence is impossible',
    )
    num_beams: int = Field(1, ge=1, description="number of beams; 1 disables beam search")
    num_beam_groups: int = Field(
        1, ge=1, description="number of groups in diverse beam search; must divide num_beams; 1 disables it"
    )
    diversity_penalty: float = Field(
        0.0,
        ge=0,
        description="subtracted from a token's score for each beam of an earlier group that chose it at the same step; "
        "must be above 0 if num_beam_groups is above 1",
    )
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="seed of the random numbers: the same seed, prompt and parameters give the same completion; "
        "default: a fresh seed",
    )
    temperature: float = Field(
        1.0,
        ge=0,
        description="divides the logits before sampling: lower is more deterministic; 0 disables sampling",
    )
    top_k: int = Field(10, ge=0, description="sample from the top_k most likely tokens; 0 disables the filter")
    top_p: float = Field(
        1.0, ge=0, le=1, description="sample from the most likely tokens whose cumulative probability reaches top_p"
    )
    typical_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="sample from the most typical tokens whose cumulative probability reaches typical_p",
    )
    min_p: float | None = Field(
        None, ge=0, le=1, description="sample from tokens at least min_p times as likely as the most likely token"
    )
    epsilon_cutoff: float | None = Field(
        None, ge=0, lt=1, description="sample from tokens of at least this probability; 0 disables the filter"
    )
    eta_cutoff: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="sample from tokens above a bound that decreases with the entropy; 0 disables the filter",
    )
    repetition_penalty: float = Field(
        1.0,
        gt=0,
        description="above 1, tokens of prompt and completion become less likely; below 1, more likely",
    )
    encoder_repetition_penalty: float | None = Field(
        None, gt=0, description="above 1, tokens of the prompt become more likely; below 1, less likely"
    )
    length_penalty: float = Field(
        1.0,
        ge=-10,
        le=10,
        description="exponent of the length that divides a beam's score: above 0 favors long sequences",
    )
    no_repeat_ngram_size: int = Field(
        0,
        ge=0,
        le=1000,
        description="length of the n-grams that occur only once in prompt and completion; 0 disables the filter",
    )
    encoder_no_repeat_ngram_size: int = Field(
        0,
        ge=0,
        le=1000,
        description="length of the n-grams of the prompt that the completion must not contain; 0 disables the filter",
    )
    bad_words_ids: Annotated[list[TokenIds], Field(min_length=1, fail_fast=True)] | None = Field(
        None, description="sequences of token IDs that are never generated"
    )
    suppress_tokens: TokenIds | None = Field(None, description="token IDs that are never generated")
    begin_suppress_tokens: TokenIds | None = Field(
        None, description="token IDs that are never generated as the first token of the completion"
    )
    num_return_sequences: int = Field(
        1, ge=1, description="number of sequences to return; above 1 requires sampling, or at least as many beams"
    )
    output_scores: bool = Field(
        False,
        description="add Details with the log probability of each token and of the ten most likely at each step",
    )
    return_dict_in_generate: bool = Field(
        False, description="add Details with the text, token IDs and token counts of each sequence"
    )
    pad_token_id: TokenId | None = Field(
        None,
        description="pads Details.token_ids of shorter sequences; default: the padding token of the model",
    )
    eos_token_id: TokenId | TokenIds | None = Field(
        None, description="token ID or IDs that end a sequence; default: all EOS tokens of the model"
    )
    forced_bos_token_id: TokenId | None = Field(
        None, description="first token ID of the completion if the prompt has only one token"
    )
    forced_eos_token_id: TokenId | TokenIds | None = Field(
        None, description="last token ID, or one of several, of a completion that reaches max_length"
    )
    remove_invalid_values: bool = Field(
        False, description="replace logits that became nan or infinity; otherwise they are an error 400"
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_null(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: item for name, item in value.items() if item is not None or name in NOT_NULL}

    @property
    def sampled(self) -> bool:
        """Whether tokens are sampled; a temperature of 0 is greedy."""
        return self.do_sample and self.temperature > 0


class ChatRequest(BaseModel):
    """A prompt or a conversation to complete."""

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
        None, description="conversation, instead of prompt; Result is then the completion without the prompt"
    )
    return_full_text: bool | None = Field(
        True, description="return prompt and completion in Result; false returns the completion only; null is true"
    )
    clean_up_tokenization_spaces: bool | None = Field(
        False,
        description="remove spaces before punctuation and in contractions of the completion; null is false",
    )
    prefix: Text | None = Field(None, description="text before the prompt that is not part of Result")
    handle_long_generation: Literal["hole"] | None = Field(
        None, description='"hole" truncates the prompt on the left so that max_new_tokens fit the context'
    )
    generate_kwargs: GenerateKwargs | None = Field(
        default_factory=GenerateKwargs, description="generation parameters; null selects the defaults"
    )


class TokenDetail(BaseModel):
    """One of the most likely tokens at a step."""

    token_id: int = Field(description="token ID")
    logprob: float = Field(description="log probability, natural logarithm")


class OutputDetails(BaseModel):
    """One sequence in full."""

    text: str = Field(description="text of the completion")
    token_ids: list[int] = Field(
        description="token IDs of the completion, padded with pad_token_id to the length of the longest sequence"
    )
    finish_reason: Literal["stop", "length"] = Field(
        description="stop: an EOS token ended the sequence; length: it reached the maximum length"
    )
    prompt_tokens: int = Field(description="number of prompt tokens")
    completion_tokens: int = Field(description="number of generated tokens, with the EOS token, without padding")
    logprobs: list[float] | None = Field(
        None,
        description="with output_scores: log probability of each token in the distribution it was sampled from",
    )
    top_logprobs: list[list[TokenDetail]] | None = Field(
        None,
        description="with output_scores: up to ten most likely tokens at each step, in descending order",
    )


class ChatResponse(BaseModel):
    """A completion."""

    Result: str = Field(description="text; several sequences are concatenated without a separator")
    Details: list[OutputDetails] | None = Field(
        None, description="with return_dict_in_generate or output_scores: each sequence separately"
    )


class ChatDelta(BaseModel):
    """New text of one sequence, as a server-sent event."""

    sequence: int = Field(description="index of the sequence, from 0")
    text: str = Field(description="text that continues the sequence")


class FieldError(BaseModel):
    """A field of the wrong type."""

    type: str = Field(description="error type of pydantic")
    loc: list[str | int] = Field(description="path of the field, starting with body")
    msg: str = Field(description="what is wrong")


class FieldErrorResponse(BaseModel):
    """Fields of the wrong type."""

    detail: list[FieldError]
