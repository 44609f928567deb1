"""Output of a request: text, stop strings, finish reasons and cancellation."""

import socket

import pytest
from werkzeug.exceptions import ClientDisconnected

from app.api.connection import ResponseWatch
from app.engine.exceptions import EngineError
from app.engine.stream import Finished, FinishReason, RequestStream, Token
from app.exceptions import TimedOutError
from app.metrics import Metrics
from app.output import stream as output_stream
from app.output.stream import OutputStream
from app.tokenizer import Tokenizer
from tests.support.requests import new_stream, request


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("demo")


@pytest.fixture
def running() -> RequestStream:
    return new_stream(request([5, 6], 40))


def open_output(running: RequestStream, tokenizer: Tokenizer, metrics: Metrics, *stop_strings: str) -> OutputStream:
    return OutputStream(running, tokenizer, metrics, ResponseWatch(None, 60).check, stop_strings)


def generate(
    running: RequestStream, tokenizer: Tokenizer, text: str, reason: FinishReason = "length", sequence: int = 0
) -> None:
    """Generate `text` as one sequence of `running`."""
    for token_id in tokenizer.encode(text):
        running.put(Token(sequence, token_id))
    running.put(Finished(sequence, reason))


def test_concatenated_deltas_equal_the_output(running: RequestStream, tokenizer: Tokenizer, metrics: Metrics) -> None:
    generate(running, tokenizer, "One two three", "stop")
    running.close(None)
    stream = open_output(running, tokenizer, metrics)
    deltas = [delta for delta in stream.deltas() if delta]
    assert [delta.text for delta in deltas] == ["One", " two", " three", ""]
    assert [delta.finish_reason for delta in deltas] == [None, None, None, "stop"]
    (output,) = stream.outputs
    assert (output.text, output.finish_reason) == ("One two three", "stop")
    assert [token for delta in deltas for token in delta.tokens] == output.tokens


@pytest.mark.parametrize(
    ("stop_strings", "text", "matched"),
    [
        ([" two"], "One", True),
        (["e t"], "On", True),
        (["two three four"], "One two three", False),
        (["three", "two"], "One ", True),
        (["One"], "", True),
        (["e"], "On", True),
        (["threex", "x"], "One two three", False),
    ],
    ids=str,
)
def test_stop_string_ends_the_text_before_it(
    running: RequestStream, tokenizer: Tokenizer, metrics: Metrics, stop_strings: list[str], text: str, matched: bool
) -> None:
    generate(running, tokenizer, "One two three")
    running.close(None)
    stream = open_output(running, tokenizer, metrics, *stop_strings)
    deltas = [delta for delta in stream.deltas() if delta]
    assert "".join(delta.text for delta in deltas) == text
    (output,) = stream.outputs
    assert (output.text, output.finish_reason) == (text, "stop" if matched else "length")
    assert running.is_wanted(0) is False
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == [output.finish_reason]


def test_stop_string_ends_only_its_own_sequence(running: RequestStream, tokenizer: Tokenizer, metrics: Metrics) -> None:
    generate(running, tokenizer, "One two three", sequence=1)
    stream = open_output(running, tokenizer, metrics, " two")
    deltas = stream.deltas()
    assert [next(deltas), next(deltas)][1] is not None
    assert (running.is_wanted(0), running.is_wanted(1)) == (True, False)
    generate(running, tokenizer, "Three four")
    running.close(None)
    assert len(list(deltas)) > 1
    assert [output.text for output in stream.outputs] == ["Three four", "One"]


def test_partial_stop_string_stays_pending(running: RequestStream, tokenizer: Tokenizer, metrics: Metrics) -> None:
    deltas = open_output(running, tokenizer, metrics, "two three five").deltas()
    for token_id in tokenizer.encode("One two three"):
        running.put(Token(0, token_id))
    first, second = next(deltas), next(deltas)
    assert first
    assert second
    assert (first.text, second.text) == ("One", " ")
    running.put(Finished(0, "length"))
    rest = next(deltas)
    assert rest
    assert rest.text == "two three"
    assert len(rest.tokens) == 1


def test_engine_error_is_raised_and_cancels_the_request(
    running: RequestStream, tokenizer: Tokenizer, metrics: Metrics
) -> None:
    running.put(Token(0, 7))
    running.close(EngineError("It broke."))
    with pytest.raises(EngineError, match="It broke"):
        open_output(running, tokenizer, metrics).collect()
    assert running.cancelled


@pytest.mark.parametrize("streamed", [False, True])
def test_request_is_cancelled_when_the_client_disconnects(
    running: RequestStream, tokenizer: Tokenizer, metrics: Metrics, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_stream, "POLL_SECONDS", 0.01)
    here, there = socket.socketpair()
    with here, there:
        stream = OutputStream(running, tokenizer, metrics, ResponseWatch(here, 60).check)
        there.sendall(b"more")
        deltas = stream.deltas()
        assert next(deltas) is None
        here.recv(4)
        there.close()
        with pytest.raises(ClientDisconnected):
            list(deltas) if streamed else stream.collect()
    assert running.cancelled


def test_unread_output_is_cancelled_when_it_is_closed(
    running: RequestStream, tokenizer: Tokenizer, metrics: Metrics
) -> None:
    stream = open_output(running, tokenizer, metrics)
    for _ in range(2):
        stream.close()
    assert running.cancelled
    assert 'vllm:prompt_tokens_total{engine="0",model_name="demo"} 2.0' in metrics.text().decode()


def test_tokens_of_a_request_are_counted_once(running: RequestStream, tokenizer: Tokenizer, metrics: Metrics) -> None:
    generate(running, tokenizer, "One two three", "stop")
    running.close(None)
    stream = open_output(running, tokenizer, metrics)
    stream.collect()
    stream.close()
    text = metrics.text().decode()
    for line in (
        'vllm:prompt_tokens_total{engine="0",model_name="demo"} 2.0',
        'vllm:generation_tokens_total{engine="0",model_name="demo"} 3.0',
        'vllm:request_success_total{engine="0",finished_reason="stop",model_name="demo"} 1.0',
        'vllm:time_to_first_token_seconds_count{engine="0",model_name="demo"} 1.0',
    ):
        assert line in text


@pytest.mark.parametrize("streamed", [False, True])
def test_request_is_cancelled_after_its_time_limit(
    running: RequestStream, tokenizer: Tokenizer, metrics: Metrics, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_stream, "POLL_SECONDS", 0.01)
    running.put(Token(0, 7))
    stream = OutputStream(running, tokenizer, metrics, ResponseWatch(None, 0.05).check)
    with pytest.raises(TimedOutError, match=r"0\.05 s"):
        list(stream.deltas()) if streamed else stream.collect()
    assert running.cancelled
