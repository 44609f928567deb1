"""Answers in the shapes of OpenAI's API, whole and in chunks."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from app.engine.stream import FinishReason, RequestStream, Token
from app.output.stream import Answer, Piece
from app.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Shape:
    """What all answers of one request have in common.

    Attributes:
        chat: whether a conversation was asked about, rather than a text to be continued.
        request_id: of the request.
        model: name of the model.
        tokenizer: of the model.
        logprobs: how many of the likeliest tokens to tell with each token; None is no log probabilities at all.
    """

    chat: bool
    request_id: str
    model: str
    tokenizer: Tokenizer
    logprobs: int | None
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(
        self, answers: Sequence[Answer], echoed: Sequence[str], generations: Sequence[RequestStream]
    ) -> dict[str, Any]:
        """The answer at once; `echoed` is what stands before each of them."""
        choices = [
            self._choice(number, before + answer.text, answer.tokens, answer.reason)
            for number, (before, answer) in enumerate(zip(echoed, answers, strict=True))
        ]
        tokens = sum(len(answer.tokens) for answer in answers)
        return self._head("") | {"choices": choices, "usage": usage(generations, tokens)}

    def chunk(self, number: int, piece: Piece, *, first: bool, usage_follows: bool) -> dict[str, Any]:
        """A piece of answer `number`."""
        if self.chat:
            delta = ({"role": "assistant"} if first else {}) | ({"content": piece.text} if piece.text or first else {})
            choice: dict[str, Any] = {
                "index": number,
                "delta": delta,
                "logprobs": self._logprobs(piece.tokens),
                "finish_reason": piece.reason,
            }
        else:
            choice = self._choice(number, piece.text, piece.tokens, piece.reason)
        # As OpenAI does it: null until the chunk that has it.
        return self._head(".chunk") | {"choices": [choice]} | ({"usage": None} if usage_follows else {})

    def last_chunk(self, generations: Sequence[RequestStream], tokens: int) -> dict[str, Any]:
        """The chunk that tells what the answer took."""
        return self._head(".chunk") | {"choices": [], "usage": usage(generations, tokens)}

    def _head(self, chunk: str) -> dict[str, Any]:
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.request_id}",
            "object": f"chat.completion{chunk}" if self.chat else "text_completion",
            "created": self.created,
            "model": self.model,
        }

    def _choice(self, number: int, text: str, tokens: Sequence[Token], reason: FinishReason | None) -> dict[str, Any]:
        said = {"message": {"role": "assistant", "content": text, "refusal": None}} if self.chat else {"text": text}
        return {"index": number, **said, "logprobs": self._logprobs(tokens), "finish_reason": reason}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self.logprobs is None:
            return None
        # Control tokens, such as the one that ends an answer, are no part of its text.
        told = [token for token in tokens if token.token_id not in self.tokenizer.control_ids]
        if self.chat:
            return {"content": [self._told(token) for token in told], "refusal": None}
        return {
            "tokens": [self._text(token.token_id) for token in told],
            "token_logprobs": [token.logprobs.logprob for token in told if token.logprobs],
            "top_logprobs": [
                {self._text(number): logprob for number, logprob in token.logprobs.top}
                for token in told
                if token.logprobs
            ],
            "text_offset": _offsets([self._text(token.token_id) for token in told]),
        }

    def _told(self, token: Token) -> dict[str, Any]:
        if token.logprobs is None:
            raise ValueError("the scores of the token were not asked for")
        top = [self._named(number) | {"logprob": logprob} for number, logprob in token.logprobs.top]
        return self._named(token.token_id) | {"logprob": token.logprobs.logprob, "top_logprobs": top}

    def _named(self, token: int) -> dict[str, Any]:
        return {"token": self._text(token), "bytes": list(self.tokenizer.token_bytes(token))}

    def _text(self, token: int) -> str:
        return self.tokenizer.token_bytes(token).decode(errors="replace")


def usage(generations: Sequence[RequestStream], tokens: int) -> dict[str, Any]:
    """What the answers to one request took, in tokens."""
    prompt = sum(len(generation.request.prompt_token_ids) for generation in generations)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": tokens,
        "total_tokens": prompt + tokens,
        "prompt_tokens_details": {"cached_tokens": sum(generation.num_cached_tokens for generation in generations)},
    }


def _offsets(texts: Sequence[str]) -> list[int]:
    return [sum(map(len, texts[:number])) for number in range(len(texts))]
