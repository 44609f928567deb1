"""Types and models that several APIs share."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _check_surrogates(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("contains an unpaired surrogate; send complete Unicode characters") from None
    return value


Text = Annotated[str, AfterValidator(_check_surrogates)]
NonEmptyText = Annotated[str, Field(min_length=1), AfterValidator(_check_surrogates)]
TokenId = Annotated[int, Field(ge=0)]


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"] = Field(description="author of the message")
    content: Text = Field(description="text of the message; tags such as <|end|> are plain text, not control tokens")
    name: Text | None = Field(None, description="name of the author; no effect")


class ErrorResponse(BaseModel):
    """An error: what is wrong, what is allowed and what to do."""

    detail: str
