"""Requests and streams, as the tests of the engine write and read them."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from app.engine.config import EngineConfig
from app.engine.request import GenerationRequest
from app.engine.sampling_params import BeamSearchParams, SamplingParams
from app.engine.startup.load import LoadedModel, load_model
from app.engine.stream import Event, RequestStream, Token


def request(prompt: Sequence[int], max_tokens: int, eos: tuple[int, ...] = (), **params: Any) -> GenerationRequest:
    """Return a greedy request, unless `params` set a temperature."""
    defaults: dict[str, Any] = {"temperature": 0.0, "eos_token_ids": eos, "pad_token_id": 3}
    return GenerationRequest("", tuple(prompt), SamplingParams(max_tokens=max_tokens, **defaults | params))


def beams(num_beams: int, **params: Any) -> BeamSearchParams:
    """Return the parameters of a beam search."""
    return BeamSearchParams(num_beams=num_beams, **params)


def new_stream(request: GenerationRequest) -> RequestStream:
    """Return a stream that no worker has."""
    return RequestStream(request, "batch", on_close=lambda _: None)


def read(stream: RequestStream) -> list[Event]:
    """Read all events until the stream is closed."""
    return [event for event in stream.events() if event]


def token_ids(events: Sequence[Event], sequence: int = 0) -> list[int]:
    """Return the token ids of one sequence."""
    return [event.token_id for event in events if isinstance(event, Token) and event.sequence == sequence]


def load(model: Path, dtype: Any = "float32", max_context: int | None = None, **config: Any) -> LoadedModel:
    """Load a checkpoint."""
    return load_model(EngineConfig(model=model, dtype=dtype, max_context=max_context, **config))


def wait_for(condition: Callable[[], bool]) -> None:
    """Return as soon as `condition` holds."""
    for _ in range(2000):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("the condition did not hold within 10 seconds")
