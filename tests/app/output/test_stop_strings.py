"""Stop strings in text that arrives in pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.output.stop_strings import StopStrings


@given(
    text=st.text("ab", max_size=12),
    stop_strings=st.lists(st.text("ab", min_size=1, max_size=3), max_size=3),
    size=st.integers(1, 4),
)
def test_emitted_text_ends_before_the_first_match(text: str, stop_strings: list[str], size: int) -> None:
    matcher = StopStrings(stop_strings)
    emitted = ""
    for start in range(0, len(text), size):
        emitted += matcher.add(text[start : start + size])
        if matcher.matched:
            break
    emitted += matcher.flush()
    assert matcher.matched is any(stop in text for stop in stop_strings)
    assert text.startswith(emitted)
    assert not any(stop in emitted for stop in stop_strings)
    assert matcher.matched or emitted == text


@pytest.mark.parametrize(("text", "emitted"), [("x", "x"), ("en", ""), ("xe", "x"), ("een", "e")])
def test_partial_match_stays_pending(text: str, emitted: str) -> None:
    assert StopStrings(["end"]).add(text) == emitted
