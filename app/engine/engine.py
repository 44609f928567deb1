"""The way into the engine: a bound on what is let in, and the choice of a lane."""

import threading
from typing import Protocol

from app.engine.request import Generation, GenerationRequest, QueueFullError, failure
from app.engine.retry_after import Forecast


class Lane(Protocol):
    """A way to generate, on a thread of its own."""

    def submit(self, generation: Generation) -> None:
        """Queue `generation`: its events follow, and then its end."""

    @property
    def running(self) -> int:
        """Requests that generate now."""

    @property
    def waiting(self) -> int:
        """Requests that wait, without those that were cancelled meanwhile."""

    @property
    def alive(self) -> bool:
        """Whether the thread lives."""

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last step while there is work; 0 where there is none."""


class Engine:
    """Runs requests on two lanes: beam search on one, everything else on the other.

    Args:
        batched: generates for many requests at once.
        reference: searches with beams, one request at a time.
        concurrency: sequences that generate at once on the batched lane.
        max_queue: requests that wait beyond those.
        max_tokens: that all may ask for together, prompts included; one that is alone may ask for more.
        stall_seconds: without a step for so long, while there is work, the engine is no longer alive.
        forecast: of when places will be free.
    """

    def __init__(
        self,
        batched: Lane,
        reference: Lane,
        *,
        concurrency: int,
        max_queue: int,
        max_tokens: int,
        stall_seconds: float,
        forecast: Forecast,
    ) -> None:
        self.lanes = {"batched": batched, "reference": reference}
        self._concurrency = concurrency
        self._max_queue = max_queue
        self._max_tokens = max_tokens
        self._stall_seconds = stall_seconds
        self._lock = threading.Lock()
        self._forecast = forecast
        self._generations: dict[Generation, None] = {}  # in order of arrival

    def submit(self, request: GenerationRequest) -> Generation:
        """Queue `request` and return its answer, which fills as it is generated.

        Raises:
            QueueFullError: at once, where too many wait.
            EngineError: the lane is dead.
        """
        lane = "reference" if request.kwargs.num_beams > 1 else "batched"
        generation = Generation(request, lane, on_end=self._ended)
        with self._lock:
            if full := self._full(request):
                raise QueueFullError(f"{full}: try again later.", self._forecast.promise(self._let_in()))
            if not self.lanes[lane].alive:
                raise failure()
            self._forecast.admitted()
            self._generations[generation] = None
            self.lanes[lane].submit(generation)
        return generation

    def _full(self, request: GenerationRequest) -> str | None:
        """Say what there is too much of to let `request` in, if there is."""
        running, waiting = self.running, self.waiting
        if running + waiting >= self._concurrency + self._max_queue:
            return (
                f"{running} requests are running and {waiting} are waiting, "
                f"as many as CHAT_MAX_QUEUE ({self._max_queue}) lets in"
            )
        tokens = [each.request.tokens for each in self._let_in()]
        if tokens and sum(tokens) + request.tokens > self._max_tokens:
            return (
                f"{running} requests are running and {waiting} are waiting that ask for {sum(tokens)} tokens, and with "
                f"the {request.tokens} of this one they would be more than the cache and CHAT_MAX_QUEUE_TOKENS let in "
                f"({self._max_tokens})"
            )
        return None

    def _let_in(self) -> list[Generation]:
        """The requests that run or wait and are wanted, in order of arrival."""
        # A copy: requests end on other threads.
        return [generation for generation in list(self._generations) if not generation.cancelled]

    def end(self, error: Exception) -> None:
        """End every request that runs or waits with `error`."""
        with self._lock:
            generations = list(self._generations)
        for generation in generations:
            generation.cancel()
            generation.end(error)

    @property
    def busy(self) -> bool:
        """Whether any request runs or waits."""
        return bool(self._generations)

    @property
    def running(self) -> int:
        """Requests that generate now."""
        return sum(lane.running for lane in self.lanes.values())

    @property
    def waiting(self) -> int:
        """Requests that wait, without those that were cancelled meanwhile."""
        return sum(lane.waiting for lane in self.lanes.values())

    @property
    def alive(self) -> bool:
        """Whether both lanes live and get on with their work."""
        return all(lane.alive and lane.idle_seconds < self._stall_seconds for lane in self.lanes.values())

    def _ended(self, generation: Generation) -> None:
        self._generations.pop(generation, None)
        self._forecast.ended(generation)
