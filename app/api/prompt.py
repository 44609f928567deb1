"""Encode conversations in the prompt format of Phi-3."""

from collections.abc import Sequence

from app.api.schema import Message
from app.exceptions import RequestError
from app.limits import Limits
from app.tokenizer import Tokenizer


def encode_messages(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """Return the token IDs of a conversation in Phi-3's format, up to the start of the next assistant message.

    Only the tags that the server adds become control tokens. Tags inside a message are encoded as text.
    """
    ids: list[int] = []
    for message in messages:
        ids += tokenizer.encode(f"<|{message.role}|>\n")
        ids += tokenizer.encode_plain(message.content.lstrip())
        ids += tokenizer.encode("<|end|>\n")
    return ids + tokenizer.encode("<|assistant|>\n")


def check_messages(count: int, limits: Limits) -> None:
    """Check the number of messages of a conversation; raises RequestError."""
    if count > limits.max_messages:
        raise RequestError(
            f"messages has {count} items; the maximum is {limits.max_messages} (CHAT_MAX_MESSAGES). "
            "Send fewer messages.",
            "messages",
        )
