"""Progress of concurrent transfers on stderr: one bar each on a terminal, periodic lines elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Never

from tqdm import tqdm

LOG_INTERVAL = 5
"""Seconds between two lines of progress if stderr is not a terminal."""


class Progress:
    """Progress of the task `name`; `participle` describes a finished part, for example "sent"."""

    def __init__(self, name: str, participle: str) -> None:
        self._name = name
        self._participle = participle

    @contextmanager
    def part(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a part of `total` bytes; yields a function that counts finished bytes."""
        bar = tqdm(
            desc=f"{self._name}: {name}", total=total, unit="B", unit_scale=True, disable=not sys.stderr.isatty()
        )
        state = _State(f"{self._name}: {name}", total, bar)
        try:
            yield state.add
        finally:
            bar.close()
        self.log_line(f"{self._name}: {name} {self._participle}, {state.summary()}")

    @staticmethod
    def log_line(text: str) -> None:
        """Write a line without breaking a bar."""
        tqdm.write(text, file=sys.stderr)


class _State:
    def __init__(self, name: str, total: int, bar: "tqdm[Never]") -> None:
        self._name, self._total, self._bar = name, total, bar
        self._count = 0
        self._started = self._logged = time.monotonic()
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._count += count
            self._bar.update(count)
            now = time.monotonic()
            if self._bar.disable and now - self._logged >= LOG_INTERVAL:
                self._logged = now
                rate = max(self._count, 1) / (now - self._started)
                left = tqdm.format_interval((self._total - self._count) / rate)
                done = f"{_format_bytes(self._count)} of {_format_bytes(self._total)}"
                Progress.log_line(f"{self._name}: {done}, {_format_bytes(rate)}/s, {left} left")

    def summary(self) -> str:
        """Return size and rate."""
        seconds = max(time.monotonic() - self._started, 1e-3)
        return f"{_format_bytes(self._count)} at {_format_bytes(self._count / seconds)}/s"


def _format_bytes(count: float) -> str:
    return tqdm.format_sizeof(count, "B")
