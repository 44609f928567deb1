"""Find stop strings in text that arrives in pieces."""

from collections.abc import Sequence


class StopStrings:
    """Cuts the text of one sequence before the first of its stop strings.

    Text that could be the beginning of a stop string stays pending until later text decides.
    """

    def __init__(self, stop_strings: Sequence[str]) -> None:
        self._stop_strings = stop_strings
        self._pending = ""
        self.matched = False

    def add(self, text: str) -> str:
        """Add `text` and return the text that certainly comes before any stop string; it may be empty."""
        pending = self._pending + text
        starts = [start for stop in self._stop_strings if (start := pending.find(stop)) >= 0]
        if starts:
            self.matched = True
        size = min(starts) if starts else len(pending) - self._partial_match(pending)
        self._pending = pending[size:]
        return pending[:size]

    def flush(self) -> str:
        """Return the pending text, because no more text follows; it is empty after a match."""
        text, self._pending = self._pending, ""
        return "" if self.matched else text

    def _partial_match(self, text: str) -> int:
        """Return the length of the longest end of `text` with which a stop string begins, in characters."""
        sizes = (size for stop in self._stop_strings for size in range(1, len(stop)) if text.endswith(stop[:size]))
        return max(sizes, default=0)
