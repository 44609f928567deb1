"""Server-sent events."""

from collections.abc import Iterator

import pytest
from flask import Flask
from werkzeug.exceptions import ClientDisconnected

from app.api import sse
from app.engine.exceptions import EngineError


def body(messages: Iterator[str | None], path: str = "/chat") -> list[str]:
    with Flask(__name__).test_request_context():
        return list(sse.response(messages, path).response)  # type: ignore[arg-type]


def failing(error: Exception) -> Iterator[str | None]:
    yield sse.message({"text": "a"})
    raise error


def test_data_is_json_on_one_line_or_the_text_itself() -> None:
    assert sse.message({"text": "é\n"}) == 'data: {"text": "é\\n"}\n\n'
    assert sse.message("[DONE]") == "data: [DONE]\n\n"
    assert sse.message({}, "result") == "event: result\ndata: {}\n\n"


def test_silence_is_filled_with_comments_and_no_oftener(monkeypatch: pytest.MonkeyPatch) -> None:
    assert body(iter([None, None, sse.message("a"), None])) == ["data: a\n\n"]
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.0)
    assert body(iter([None, sse.message("a")])) == [": keep-alive\n\n", "data: a\n\n"]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/chat", '{"detail": "It broke."}'),
        (
            "/v1/completions",
            '{"error": {"message": "It broke.", "type": "server_error", "param": null, "code": null}}',
        ),
    ],
)
def test_a_failure_is_the_last_event_in_the_shape_of_the_api(path: str, told: str) -> None:
    assert body(failing(EngineError("It broke.")), path) == [
        'data: {"text": "a"}\n\n',
        f"event: error\ndata: {told}\n\n",
    ]


def test_nothing_is_told_to_a_client_that_left() -> None:
    assert len(body(failing(ClientDisconnected()))) == 1


def test_no_cache_and_no_proxy_holds_events_back() -> None:
    with Flask(__name__).test_request_context():
        headers = sse.response(iter([]), "/chat").headers
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert (headers["Cache-Control"], headers["X-Accel-Buffering"]) == ("no-store", "no")
