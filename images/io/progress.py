"""How far the parts of a long work are, on stderr: a bar each on a terminal, lines now and then elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Never

from tqdm import tqdm

LINE_EVERY = 5  # seconds, where stderr is not a terminal


class Progress:
    """Progress of the work `name`, whose finished parts are `done` ("sent")."""

    def __init__(self, name: str, done: str) -> None:
        self._name = name
        self._done = done

    @contextmanager
    def part(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a part of `total` bytes; yields what is to be called with each number of bytes done."""
        bar = tqdm(
            desc=f"{self._name}: {name}", total=total, unit="B", unit_scale=True, disable=not sys.stderr.isatty()
        )
        state = _State(f"{self._name}: {name}", total, bar)
        try:
            yield state.add
        finally:
            bar.close()
        self.say(f"{self._name}: {name} {self._done}, {state.summary()}")

    @staticmethod
    def say(text: str) -> None:
        """Write a line without breaking a bar."""
        tqdm.write(text, file=sys.stderr)


class _State:
    def __init__(self, name: str, total: int, bar: "tqdm[Never]") -> None:
        self._name, self._total, self._bar = name, total, bar
        self._count = 0
        self._began = self._spoke = time.monotonic()
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._count += count
            self._bar.update(count)
            now = time.monotonic()
            if self._bar.disable and now - self._spoke >= LINE_EVERY:
                self._spoke = now
                rate = max(self._count, 1) / (now - self._began)
                left = tqdm.format_interval((self._total - self._count) / rate)
                Progress.say(
                    f"{self._name}: {_bytes(self._count)} of {_bytes(self._total)}, {_bytes(rate)}/s, {left} left"
                )

    def summary(self) -> str:
        """Return size and rate."""
        seconds = max(time.monotonic() - self._began, 1e-3)
        return f"{_bytes(self._count)} at {_bytes(self._count / seconds)}/s"


def _bytes(count: float) -> str:
    return tqdm.format_sizeof(count, "B")
