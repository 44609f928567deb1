"""Parallel work, in which the first failure cancels the rest."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import TypeVar

from images.errors import ImageError

CONNECTIONS = 3
"""The default number of blobs transferred at once."""

T = TypeVar("T")
R = TypeVar("R")


class Cancellation:
    """A flag that ends the streams of all workers."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """End every stream before its next block."""
        self._event.set()

    def guard(self, blocks: Iterator[bytes], count_bytes: Callable[[int], None]) -> Iterator[bytes]:
        """Yield blocks and report the size of each; raises CancelledError once the work is cancelled."""
        for block in blocks:
            if self._event.is_set():
                raise CancelledError
            yield block
            count_bytes(len(block))


def parallel_map(action: Callable[[T, Cancellation], R], items: Iterable[T], workers: int) -> list[R]:
    """Return the results of `action` for all items, in order; raises the exception of the first failure."""
    cancellation = Cancellation()

    def run(item: T) -> R:
        try:
            return action(item, cancellation)
        except ImageError:
            cancellation.cancel()
            raise

    with ThreadPoolExecutor(workers) as executor:
        futures = [executor.submit(run, item) for item in items]
        try:
            errors = [error for error in (future.exception() for future in futures) if error]
            for error in sorted(errors, key=lambda error: isinstance(error, CancelledError)):
                raise error
        except BaseException:
            cancellation.cancel()
            executor.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]
