"""Several things at once, where the first failure stops all."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import TypeVar

from images.errors import ImageError

T = TypeVar("T")
R = TypeVar("R")


class Stop:
    """Ends the streams that pass through it."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def through(self, pieces: Iterator[bytes], add: Callable[[int], None]) -> Iterator[bytes]:
        """Pass on pieces, telling `add` the size of each, until the work is stopped."""
        for piece in pieces:
            if self.event.is_set():
                raise CancelledError
            yield piece
            add(len(piece))


def each(action: Callable[[T, Stop], R], items: Iterable[T], workers: int) -> list[R]:
    """Return what `action` returns for each item, in order; raises what the first failure raised."""
    stop = Stop()

    def guarded(item: T) -> R:
        try:
            return action(item, stop)
        except ImageError:
            stop.event.set()
            raise

    with ThreadPoolExecutor(workers) as executor:
        futures = [executor.submit(guarded, item) for item in items]
        try:
            errors = [error for error in (future.exception() for future in futures) if error]
            for error in sorted(errors, key=lambda error: isinstance(error, CancelledError)):
                raise error
        except BaseException:
            stop.event.set()
            executor.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]
