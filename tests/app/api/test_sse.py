"""Server-sent events."""

from collections.abc import Iterator

import pytest
from flask import Flask
from werkzeug.exceptions import ClientDisconnected

from app.api import sse
from app.api.chat.errors import format_error as chat_error
from app.api.errors import ErrorFormatter
from app.api.openai.errors import format_error as openai_error
from app.engine.exceptions import EngineError


def body(messages: Iterator[str | None], format_error: ErrorFormatter = chat_error) -> list[str]:
    with Flask(__name__).test_request_context():
        return list(sse.response(messages, format_error).response)  # type: ignore[arg-type]


def failing(error: Exception) -> Iterator[str | None]:
    yield sse.message({"text": "a"})
    raise error


def test_event_data_is_single_line_json_or_plain_text() -> None:
    assert sse.message({"text": "é\n"}) == 'data: {"text": "é\\n"}\n\n'
    assert sse.message("[DONE]") == "data: [DONE]\n\n"
    assert sse.message({}, "result") == "event: result\ndata: {}\n\n"


def test_silent_stream_sends_keep_alive_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert body(iter([None, None, sse.message("a"), None])) == ["data: a\n\n"]
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.0)
    assert body(iter([None, sse.message("a")])) == [": keep-alive\n\n", "data: a\n\n"]


@pytest.mark.parametrize(
    ("format_error", "expected"),
    [
        (chat_error, '{"detail": "It broke."}'),
        (
            openai_error,
            '{"error": {"message": "It broke.", "type": "server_error", "param": null, "code": null}}',
        ),
    ],
)
def test_error_is_the_last_event_in_the_format_of_the_api(format_error: ErrorFormatter, expected: str) -> None:
    assert body(failing(EngineError("It broke.")), format_error) == [
        'data: {"text": "a"}\n\n',
        f"event: error\ndata: {expected}\n\n",
    ]


def test_disconnected_client_gets_no_error_event() -> None:
    assert len(body(failing(ClientDisconnected()))) == 1


def test_headers_disable_caching_and_proxy_buffering() -> None:
    with Flask(__name__).test_request_context():
        headers = sse.response(iter([]), chat_error).headers
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert (headers["Cache-Control"], headers["X-Accel-Buffering"]) == ("no-store", "no")
