"""Requests and answers, as the tests of the engine write and read them."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from app.api.chat.schema import GenerateKwargs
from app.engine.request import Event, Generation, GenerationRequest, Token


def request(prompt: Sequence[int], new: int, ends: tuple[int, ...] = (), **kwargs: Any) -> GenerationRequest:
    """A greedy request for `new` tokens, unless `kwargs` say otherwise."""
    settings = GenerateKwargs(**{"do_sample": False} | kwargs)
    return GenerationRequest("", tuple(prompt), len(prompt) + new, 0, ends, 3, settings)


def generation(wanted: GenerationRequest) -> Generation:
    """The answer to `wanted`, before it begins."""
    return Generation(wanted, "", on_end=lambda _: None)


def read(answer: Generation) -> list[Event]:
    """All events of an answer, to its end."""
    return [event for event in answer.events() if event]


def ids(events: Sequence[Event], sequence: int = 0) -> list[int]:
    """Token ids of one sequence."""
    return [event.id for event in events if isinstance(event, Token) and event.sequence == sequence]


def wait_for(condition: Callable[[], bool]) -> None:
    """Return as soon as `condition` holds."""
    for _ in range(2000):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it did not happen within 10 seconds")
