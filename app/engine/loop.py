"""The engine thread: runs one step after another over all requests that are not beam searches."""

import threading
import time

import torch

from app.engine.batch import ModelRunner
from app.engine.exceptions import internal_error
from app.engine.sampling.sampler import sample
from app.engine.scheduler import Scheduler
from app.engine.sequence import Sequence
from app.engine.stream import RequestStream
from app.logs import logger

log = logger(__name__)


class BatchWorker:
    """Serves many requests at once, on one thread.

    Args:
        scheduler: used by nobody else.
        runner: runs the forward pass.
    """

    def __init__(self, scheduler: Scheduler, runner: ModelRunner) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._changed = threading.Condition()  # guards the scheduler
        self._last_step = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="batch", daemon=True)
        self._thread.start()

    def submit(self, stream: RequestStream) -> None:
        """Queue a request; see `app.engine.engine.Worker`, also for the properties below."""
        with self._changed:
            if not self._scheduler.running:
                self._last_step = time.monotonic()
            self._scheduler.add(stream)
            self._changed.notify()

    @property
    def running(self) -> int:
        """Requests with a running sequence."""
        return len({sequence.stream for sequence in list(self._scheduler.running)})

    @property
    def waiting(self) -> int:
        """Requests without a running sequence that are not cancelled."""
        with self._changed:
            return sum(not queued.stream.cancelled for queued in self._scheduler.queued if queued.index == 0)

    @property
    def alive(self) -> bool:
        """Whether the thread lives."""
        return self._thread.is_alive()

    @property
    def stalled_seconds(self) -> float:
        """Seconds since the last step, or 0 without work."""
        busy = self._scheduler.running or self._scheduler.queued
        return time.monotonic() - self._last_step if busy else 0.0

    def _work(self) -> None:
        try:
            with torch.inference_mode():
                while True:
                    self._run_once()
        finally:
            with self._changed:
                streams = self._scheduler.streams()
            for stream in streams:
                stream.close(internal_error())

    def _run_once(self) -> None:
        """Wait for work, and advance every running sequence by one pass."""
        with self._changed:
            while not self._scheduler.running and not self._scheduler.queued:
                self._changed.wait()
            self._scheduler.drop_cancelled()
            self._scheduler.start_queued()
        for sequences in self._scheduler.groups():
            self._step(sequences)
            self._last_step = time.monotonic()

    def _step(self, sequences: list[Sequence]) -> None:
        """Advance `sequences` by one pass; if it fails, only their requests fail."""
        step = self._scheduler.schedule(sequences)
        if not step.scheduled:
            return
        try:
            logits = self._runner(step.chunks)
            self._scheduler.mark_computed(step)
            sampling = step.sampling
            results = sample(logits, [sequence.sampler for sequence in sampling])
        except Exception:
            log.exception("a step failed", request_ids=[sequence.stream.request.id for sequence in step.sequences])
            with self._changed:
                for sequence in step.sequences:
                    self._scheduler.fail(sequence, internal_error())
            return
        with self._changed:
            for sequence, result in zip(sampling, results, strict=True):
                self._scheduler.process(sequence, result)
