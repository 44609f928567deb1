"""Requests and responses of OpenAI's API. A request field that is not defined here is an error 400."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from app.api.schema import NonEmptyText, Text, TokenId

Bias = Annotated[float, Field(ge=-100, le=100)]


def _check_empty(value: Any) -> Any:
    if value:
        raise ValueError("is not supported; leave it out")
    return value


# A field that clients send empty, for example because they return the message that they got.
Empty = Annotated[Any, AfterValidator(_check_empty)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _drop_null(cls, value: Any) -> Any:
        """As in OpenAI's API, null selects the default."""
        return {name: item for name, item in value.items() if item is not None} if isinstance(value, dict) else value


class TextPart(_Strict):
    """A part of a message."""

    type: Literal["text"] = Field(description="must be text; the model reads nothing else")
    text: Text = Field(description="text of the part")


class ChatMessage(_Strict):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"] = Field(
        description="author of the message; developer is the same as system"
    )
    content: Text | Annotated[list[TextPart], Field(min_length=1)] = Field(
        description="text of the message; tags such as <|end|> are plain text, not control tokens; "
        "optional if role is assistant"
    )
    name: Text = Field("", description="name of the author; no effect")
    annotations: Empty = Field(None, description="must be empty")
    audio: Empty = Field(None, description="must be empty")
    function_call: Empty = Field(None, description="must be empty")
    parsed: Empty = Field(None, description="must be empty")
    refusal: Empty = Field(None, description="must be empty")
    tool_calls: Empty = Field(None, description="must be empty")

    @model_validator(mode="before")
    @classmethod
    def _default_content(cls, value: Any) -> Any:
        """As in OpenAI's API, a message of the assistant can lack its content."""
        if isinstance(value, dict) and value.get("role") == "assistant" and value.get("content") is None:
            return value | {"content": ""}
        return value

    @property
    def text(self) -> str:
        """The content as one string."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class FreeText(_Strict):
    """Output without a format."""

    type: Literal["text"]


class JsonObject(_Strict):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchema(_Strict):
    """A JSON schema, with labels that have no effect."""

    name: Text
    description: Text | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema", description="JSON schema, draft 2020-12")
    strict: bool | None = Field(None, description="no effect: output always follows the schema")


class JsonSchemaFormat(_Strict):
    """A JSON document that follows a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[FreeText | JsonObject | JsonSchemaFormat, Field(discriminator="type")]


class StreamOptions(_Strict):
    """Options of a streamed response."""

    include_usage: bool = Field(False, description="send the token counts in a last chunk")
    include_obfuscation: Literal[False] = Field(False, description="must be false: the server adds no padding")


class _Generating(_Strict):
    """Fields that chat completions and completions share."""

    model: Text | None = Field(None, description="model name from /v1/models; optional")
    frequency_penalty: float = Field(
        0.0, ge=-2, le=2, description="subtracted from a token's logit for each time that the completion contains it"
    )
    logit_bias: dict[str, Bias] = Field(
        default_factory=dict, description="added to logits, by token ID; -100 bans a token, 100 forces it"
    )
    max_tokens: int | None = Field(None, ge=1, description="maximum tokens of the completion")
    n: int = Field(1, ge=1, description="number of completions of each prompt")
    presence_penalty: float = Field(
        0.0, ge=-2, le=2, description="subtracted from the logit of each token that the completion contains"
    )
    seed: int | None = Field(
        None,
        ge=-(2**63),
        lt=2**63,
        description="seed of the random numbers: the same seed, prompt and parameters give the same completion",
    )
    # OpenAI allows four; clients of other servers send more.
    stop: NonEmptyText | Annotated[list[NonEmptyText], Field(max_length=16)] = Field(
        default_factory=list, description="up to 16 stop strings; the completion ends before the first of them"
    )
    stream: bool = Field(False, description="send the completion as server-sent events while it is generated")
    stream_options: StreamOptions | None = Field(None, description="options of the stream; requires stream")
    temperature: float = Field(
        1.0,
        ge=0,
        le=2,
        description="divides the logits before sampling: lower is more deterministic; 0 disables sampling",
    )
    top_p: float = Field(
        1.0, ge=0, le=1, description="sample from the most likely tokens whose cumulative probability reaches top_p"
    )
    user: Text | None = Field(None, description="label of the caller; no effect")
    # Fields that vLLM's clients send, with the values that describe what the server does.
    repetition_penalty: float = Field(1.0, ge=1, le=1, description="must be 1")
    add_special_tokens: Literal[False] = Field(False, description="must be false: the server adds no BOS token")
    extra_body: Empty = Field(None, description="must be empty: client libraries merge it into the body")

    @property
    def stop_strings(self) -> list[str]:
        """The stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop


class ChatCompletionRequest(_Generating):
    """A conversation to complete."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"messages": [{"role": "user", "content": "What is the capital of France?"}]}]}
    )

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)] = Field(description="conversation")
    max_completion_tokens: int | None = Field(None, ge=1, description="newer name of max_tokens")
    logprobs: bool = Field(
        False, description="return the log probability of each token, before temperature, penalties and biases"
    )
    top_logprobs: int | None = Field(
        None, ge=0, le=20, description="number of most likely tokens to return at each step; requires logprobs"
    )
    # The following fields accept only the values that describe what the server does.
    store: Literal[False] = Field(False, description="must be false: the server stores nothing")
    service_tier: Literal["auto", "default"] = Field("auto", description="no effect: there is only one tier")
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] = Field(
        ["text"], description='must be ["text"]: the model generates nothing else'
    )
    response_format: ResponseFormat | None = Field(
        None, description="format of the output: text, json_object, or json_schema with a schema"
    )
    tools: Empty = Field(None, description="must be empty: tools are not supported")
    tool_choice: Literal["none"] = Field("none", description="must be none: tools are not supported")
    parallel_tool_calls: bool = Field(True, description="no effect: tools are not supported")
    functions: Empty = Field(None, description="must be empty: tools are not supported")
    function_call: Literal["none"] = Field("none", description="must be none: tools are not supported")
    metadata: Empty = Field(None, description="must be empty: the server stores nothing")
    safety_identifier: Text | None = Field(None, description="label of the caller; no effect")
    prompt_cache_key: Text | None = Field(
        None, description="label of the caller; no effect, because the prefix cache compares the prompts themselves"
    )


class CompletionRequest(_Generating):
    """A text to continue."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "Once upon a time", "max_tokens": 32}]})

    prompt: Text | list[TokenId] | list[Text] | list[list[TokenId]] = Field(
        description="text or token IDs to continue, or a list of either; tags in a text are control tokens"
    )
    echo: bool = Field(False, description="return the prompt before the completion")
    logprobs: int | None = Field(
        None,
        ge=0,
        le=5,
        description="return the log probability of each token and of this number of most likely tokens at each step",
    )
    max_tokens: int | None = Field(16, ge=1, description="maximum tokens of the completion")
    best_of: int = Field(1, ge=1, le=1, description="must be 1")
    suffix: Empty = Field(None, description="must be empty")


class TokenizeRequest(_Strict):
    """A text or a conversation to encode."""

    model: Text | None = Field(None, description="model name; optional")
    prompt: Text | None = Field(None, description="text; tags are control tokens")
    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)] | None = Field(
        None, description="conversation, instead of prompt"
    )


class DetokenizeRequest(_Strict):
    """Token IDs to decode."""

    model: Text | None = Field(None, description="model name; optional")
    tokens: Annotated[list[TokenId], Field(fail_fast=True)] = Field(description="token IDs")


class TokenizeResponse(BaseModel):
    """Token IDs."""

    count: int = Field(description="number of tokens")
    max_model_len: int = Field(description="maximum tokens of a prompt and its completion")
    tokens: list[int] = Field(description="token IDs")


class DetokenizeResponse(BaseModel):
    """Text."""

    prompt: str = Field(description="text of the tokens, without control tokens")


class ModelCard(BaseModel):
    """The served model."""

    id: str = Field(description="model name")
    object: Literal["model"] = "model"
    created: int = Field(description="when the model was loaded, in seconds since 1970")
    owned_by: str = "phi3"
    max_model_len: int = Field(description="maximum tokens of a prompt and its completion")
    batch_invariant: bool = Field(description="whether output never depends on the requests in the same batch")
    adapters: dict[str, float] = Field(description="weight of each LoRA adapter that is merged into the model, by name")


class ModelList(BaseModel):
    """All served models: exactly one."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class OpenAIError(BaseModel):
    """What is wrong, what is allowed and what to do."""

    message: str
    type: str = Field(description="invalid_request_error, rate_limit_error or server_error")
    param: str | None = Field(description="name of the invalid field, if it is a single one")
    code: str | None


class OpenAIErrorResponse(BaseModel):
    """An error in OpenAI's format."""

    error: OpenAIError
