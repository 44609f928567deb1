"""What OpenAI's routes take: fields, defaults, ranges and meanings. A field that is not here is refused by name."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.api.chat.schema import Text, TokenId

Stop = Annotated[Text, Field(min_length=1)]
Bias = Annotated[float, Field(ge=-100, le=100)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


class TextPart(_Strict):
    """A part of a message."""

    type: Literal["text"] = Field(description="the model reads text alone")
    text: Text = Field(description="what is said")


class ChatMessage(_Strict):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"] = Field(
        description="who speaks; developer is another name of system"
    )
    content: Text | Annotated[list[TextPart], Field(min_length=1)] = Field(
        description="what is said; tags such as <|end|> in it are text, not control tokens"
    )

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class FreeText(_Strict):
    """Any answer."""

    type: Literal["text"]


class JsonObject(_Strict):
    """A JSON object of any kind."""

    type: Literal["json_object"]


class JsonSchema(_Strict):
    """A schema, and labels of the caller's own without effect."""

    name: Text
    description: Text | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema", description="JSON schema, draft 2020-12")
    strict: bool | None = Field(None, description="answers follow the schema in any case")


class JsonSchemaFormat(_Strict):
    """A JSON document that a schema allows."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[FreeText | JsonObject | JsonSchemaFormat, Field(discriminator="type")]


class StreamOptions(_Strict):
    """What a stream tells beside the answer."""

    include_usage: bool = Field(False, description="sends the numbers of tokens before the end")


class _Generating(_Strict):
    """The fields that both ways of asking have."""

    @model_validator(mode="before")
    @classmethod
    def _leave_out_null(cls, given: Any) -> Any:
        """Null is the default, as in OpenAI's API."""
        return {name: value for name, value in given.items() if value is not None} if isinstance(given, dict) else given

    model: Text | None = Field(None, description="name of the model, as /v1/models tells it; may be left out")
    frequency_penalty: float = Field(
        0.0, ge=-2, le=2, description="taken from a token's score for each time that it is in the answer so far"
    )
    logit_bias: dict[str, Bias] = Field(
        default_factory=dict, description="added to the scores of tokens, by token id; -100 bans, 100 forces"
    )
    max_tokens: int | None = Field(None, ge=1, description="tokens of the answer, at most")
    n: int = Field(1, ge=1, description="answers")
    presence_penalty: float = Field(
        0.0, ge=-2, le=2, description="taken from a token's score where it is in the answer so far"
    )
    seed: int | None = Field(
        None,
        ge=-(2**63),
        lt=2**63,
        description="makes draws repeat: the same seed, prompt and settings give the same answer",
    )
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] = Field(
        default_factory=list, description="texts at which the answer ends, at most four; they are left out of it"
    )
    stream: bool = Field(False, description="sends the answer while it is generated, as server-sent events")
    stream_options: StreamOptions | None = Field(None, description="only with stream")
    temperature: float = Field(
        1.0, ge=0, le=2, description="divides the scores before drawing: lower is more certain; 0 takes the likeliest"
    )
    top_p: float = Field(1.0, ge=0, le=1, description="draw from the likeliest tokens that together reach this share")
    user: Text | None = Field(None, description="a label of the caller's own, without effect on the answer")

    @property
    def stops(self) -> list[str]:
        """The texts at which the answer ends."""
        return [self.stop] if isinstance(self.stop, str) else self.stop


class ChatCompletionRequest(_Generating):
    """A conversation to go on with."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"messages": [{"role": "user", "content": "What is the capital of France?"}]}]}
    )

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)] = Field(description="the conversation")
    max_completion_tokens: int | None = Field(None, ge=1, description="the newer name of max_tokens")
    logprobs: bool = Field(False, description="tells the log probability of each token, before any of the settings")
    top_logprobs: int | None = Field(
        None, ge=0, le=20, description="with logprobs: tells so many of the likeliest tokens at each step"
    )
    # What other values of these would ask for is not served, and what these say is how it is.
    store: Literal[False] = Field(False, description="nothing is stored")
    service_tier: Literal["auto", "default"] = Field("auto", description="there is one")
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] = Field(["text"], description="answers are text")
    response_format: ResponseFormat | None = Field(
        None, description="form of the answer: text, json_object, or json_schema with a schema that it follows"
    )
    tool_choice: Literal["none"] = Field("none", description="no tools are called")
    safety_identifier: Text | None = Field(None, description="a label of the caller's own, without effect")
    prompt_cache_key: Text | None = Field(
        None,
        description="a label of the caller's own, without effect: beginnings of prompts are shared by what they say",
    )


class CompletionRequest(_Generating):
    """A text to go on with."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "Once upon a time", "max_tokens": 32}]})

    prompt: Text | list[TokenId] | list[Text] | list[list[TokenId]] = Field(
        description="text or token ids to continue, or a list of such; tags in a text are control tokens"
    )
    echo: bool = Field(False, description="puts the prompt before the answer")
    logprobs: int | None = Field(
        None, ge=0, le=5, description="tells the log probability of each token, and of so many of the likeliest"
    )
    max_tokens: int | None = Field(16, ge=1, description="tokens of the answer, at most")


class TokenizeRequest(_Strict):
    """A text or a conversation to turn into token ids."""

    model: Text | None = Field(None, description="name of the model; may be left out")
    prompt: Text | None = Field(None, description="a text; tags in it are control tokens")
    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)] | None = Field(
        None, description="a conversation, instead of prompt"
    )


class DetokenizeRequest(_Strict):
    """Token ids to turn into text."""

    model: Text | None = Field(None, description="name of the model; may be left out")
    tokens: Annotated[list[TokenId], Field(fail_fast=True)] = Field(description="token ids")


REQUESTS = (ChatCompletionRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest)


class TokenizeResponse(BaseModel):
    """Token ids."""

    count: int = Field(description="how many")
    max_model_len: int = Field(description="tokens that prompt and answer may have together")
    tokens: list[int]


class DetokenizeResponse(BaseModel):
    """Text."""

    prompt: str = Field(description="text of the tokens, without control tokens")


class ModelCard(BaseModel):
    """The model."""

    id: str = Field(description="name to ask for")
    object: Literal["model"] = "model"
    created: int = Field(description="when it was loaded, in seconds since 1970")
    owned_by: str = "phi3"
    max_model_len: int = Field(description="tokens that prompt and answer may have together")
    batch_invariant: bool = Field(description="whether outputs do not depend on co-batched requests")
    adapters: dict[str, float] = Field(description="LoRA adapters merged into the weights: how much of each, by name")


class ModelList(BaseModel):
    """The models that are served: one."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class OpenAIError(BaseModel):
    """What was wrong, what is allowed, and what to do."""

    message: str
    type: str = Field(description="invalid_request_error, rate_limit_error or server_error")
    param: str | None = Field(description="the field that is wrong, where it is a single one")
    code: str | None


class OpenAIErrorResponse(BaseModel):
    """An error, as OpenAI's clients read it."""

    error: OpenAIError
