"""Responses in OpenAI's format, complete and in chunks."""

import codecs
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.api import sse
from app.engine.stream import Token
from app.output.stream import Delta, OutputStream
from app.tokenizer import Tokenizer


class _TextOffsets:
    """Offsets of a completion's tokens, in characters; the parts of a character have the offset of the character."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._length = 0

    def add(self, token: bytes) -> int:
        """Return the offset of the next token."""
        offset = self._length
        self._length += len(self._decoder.decode(token))
        return offset


@dataclass(frozen=True, slots=True)
class ResponseBuilder:
    """Builds the response to one request, which has one or several prompts.

    Attributes:
        chat: whether the response is a chat completion rather than a completion.
        request_id: ID of the request.
        model: model name.
        tokenizer: tokenizer of the model.
        logprobs: number of most likely tokens to return with each token; None returns no logprobs.
        n: number of completions of each prompt.
        echo: text before the completions of each prompt.
        include_usage: whether a stream ends with the token counts.
        created: seconds since 1970.
    """

    chat: bool
    request_id: str
    model: str
    tokenizer: Tokenizer
    logprobs: int | None
    n: int
    echo: Sequence[str]
    include_usage: bool
    created: int = field(default_factory=lambda: int(time.time()))

    def body(self, streams: Sequence[OutputStream]) -> dict[str, Any]:
        """Return the complete response to the prompts, whose outputs `streams` read."""
        outputs = [output for stream in streams for output in stream.collect()]
        echo = [text for text in self.echo for _ in range(self.n)]
        choices = [
            self._choice(index, Delta(index, before + output.text, output.tokens, output.finish_reason), _TextOffsets())
            for index, (before, output) in enumerate(zip(echo, outputs, strict=True))
        ]
        return self._header("") | {"choices": choices, "usage": _usage(streams)}

    def events(self, streams: Sequence[OutputStream]) -> Iterator[str | None]:
        """Yield a chunk for each delta of the outputs, and None while there is none."""
        for prompt, (stream, before) in enumerate(zip(streams, self.echo, strict=True)):
            offsets: dict[int, _TextOffsets] = {}
            for delta in stream.deltas():
                if delta is None:
                    yield None
                    continue
                first = delta.sequence not in offsets
                if first:
                    offsets[delta.sequence] = _TextOffsets()
                    delta = replace(delta, text=before + delta.text)
                index = prompt * self.n + delta.sequence
                yield sse.message(self._chunk(index, delta, offsets[delta.sequence], first=first))
        if self.include_usage:
            yield sse.message(self._header(".chunk") | {"choices": [], "usage": _usage(streams)})
        yield sse.message("[DONE]")

    def _chunk(self, index: int, delta: Delta, offsets: _TextOffsets, *, first: bool) -> dict[str, Any]:
        if self.chat:
            role = {"role": "assistant"} if first else {}
            content = {"content": delta.text} if delta.text or first else {}
            choice: dict[str, Any] = {
                "index": index,
                "delta": role | content,
                "logprobs": self._logprobs(delta.tokens, offsets),
                "finish_reason": delta.finish_reason,
            }
        else:
            choice = self._choice(index, delta, offsets)
        # As in OpenAI's API, usage is null in all chunks but the last.
        usage = {"usage": None} if self.include_usage else {}
        return self._header(".chunk") | {"choices": [choice]} | usage

    def _header(self, suffix: str) -> dict[str, Any]:
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.request_id}",
            "object": f"chat.completion{suffix}" if self.chat else "text_completion",
            "created": self.created,
            "model": self.model,
        }

    def _choice(self, index: int, output: Delta, offsets: _TextOffsets) -> dict[str, Any]:
        message = {"role": "assistant", "content": output.text, "refusal": None}
        content = {"message": message} if self.chat else {"text": output.text}
        logprobs = self._logprobs(output.tokens, offsets)
        return {"index": index, **content, "logprobs": logprobs, "finish_reason": output.finish_reason}

    def _logprobs(self, tokens: Sequence[Token], offsets: _TextOffsets) -> dict[str, Any] | None:
        if self.logprobs is None:
            return None
        # Control tokens, such as the EOS token, are not part of the text.
        steps = [
            (token.token_id, token.logprobs)
            for token in tokens
            if token.logprobs and token.token_id not in self.tokenizer.control_ids
        ]
        if self.chat:
            content = [
                self._token(token_id)
                | {
                    "logprob": step.logprob,
                    "top_logprobs": [self._token(other) | {"logprob": logprob} for other, logprob in step.top],
                }
                for token_id, step in steps
            ]
            return {"content": content, "refusal": None}
        # The keys have to differ, so that no token replaces another one.
        return {
            "tokens": [self._text(token_id, "bytes:") for token_id, _ in steps],
            "token_logprobs": [step.logprob for _, step in steps],
            "top_logprobs": [
                {self._text(other, "bytes:"): logprob for other, logprob in step.top} for _, step in steps
            ],
            "text_offset": [offsets.add(self.tokenizer.token_bytes(token_id)) for token_id, _ in steps],
        }

    def _token(self, token_id: int) -> dict[str, Any]:
        return {"token": self._text(token_id), "bytes": list(self.tokenizer.token_bytes(token_id))}

    def _text(self, token_id: int, prefix: str = "") -> str:
        """Return the text of a token; as in OpenAI's API, escaped bytes after `prefix` if it is no whole text."""
        data = self.tokenizer.token_bytes(token_id)
        if token_id not in self.tokenizer.byte_ids:
            try:
                return data.decode()
            except UnicodeDecodeError:
                pass
        return prefix + "".join(f"\\x{byte:02x}" for byte in data)


def _usage(streams: Sequence[OutputStream]) -> dict[str, Any]:
    """Return the token counts of all prompts and completions of a request."""
    prompt_tokens = sum(len(stream.stream.request.prompt_token_ids) for stream in streams)
    completion_tokens = sum(len(output.tokens) for stream in streams for output in stream.outputs)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(stream.stream.num_cached_tokens for stream in streams)},
    }
