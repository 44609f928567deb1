"""Reading an answer: text, stops, ends, and what is left of it when nobody waits."""

import socket
from pathlib import Path

import pytest
from transformers import AutoTokenizer
from werkzeug.exceptions import ClientDisconnected

from app.engine.exceptions import EngineError
from app.engine.stream import Finished, FinishReason, RequestStream, Token
from app.metrics import Metrics
from app.output import stream as answer
from app.output.stream import Reader, TimedOutError
from app.tokenizer import Tokenizer
from tests.support.requests import new_stream, request


@pytest.fixture(scope="module")
def tokenizer(demo: Path) -> Tokenizer:
    return Tokenizer(AutoTokenizer.from_pretrained(demo))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("demo")


@pytest.fixture
def running() -> RequestStream:
    return new_stream(request([5, 6], 40))


def say(
    running: RequestStream, tokenizer: Tokenizer, text: str, reason: FinishReason = "length", number: int = 0
) -> None:
    """Generate `text` as one sequence of `running`."""
    for token in tokenizer.encode(text):
        running.put(Token(number, token))
    running.put(Finished(number, reason))


def test_the_pieces_are_the_whole(running: RequestStream, tokenizer: Tokenizer, metrics: Metrics) -> None:
    say(running, tokenizer, "One two three", "stop")
    running.end(None)
    reader = Reader(running, tokenizer, metrics, None, 60)
    pieces = [piece for piece in reader.pieces() if piece]
    assert [piece.text for piece in pieces] == ["One", " two", " three", ""]
    assert [piece.reason for piece in pieces] == [None, None, None, "stop"]
    (whole,) = reader.answers
    assert (whole.text, whole.reason) == ("One two three", "stop")
    assert [token for piece in pieces for token in piece.tokens] == whole.tokens


@pytest.mark.parametrize(
    ("stops", "text", "ended"),
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
def test_a_stop_ends_the_text_before_it(
    running: RequestStream, tokenizer: Tokenizer, metrics: Metrics, stops: list[str], text: str, ended: bool
) -> None:
    say(running, tokenizer, "One two three")
    running.end(None)
    reader = Reader(running, tokenizer, metrics, None, 60, stops)
    pieces = [piece for piece in reader.pieces() if piece]
    assert "".join(piece.text for piece in pieces) == text
    (whole,) = reader.answers
    assert (whole.text, whole.reason) == (text, "stop" if ended else "length")
    assert running.wanted(0) is False
    assert [piece.reason for piece in pieces if piece.reason] == [whole.reason]


def test_a_stop_ends_its_own_sequence_alone(running: RequestStream, tokenizer: Tokenizer, metrics: Metrics) -> None:
    say(running, tokenizer, "One two three", number=1)
    reader = Reader(running, tokenizer, metrics, None, 60, [" two"])
    pieces = reader.pieces()
    assert [next(pieces), next(pieces)][1] is not None
    assert (running.wanted(0), running.wanted(1)) == (True, False)
    say(running, tokenizer, "Three four")
    running.end(None)
    assert len(list(pieces)) > 1
    assert [whole.text for whole in reader.answers] == ["Three four", "One"]


def test_nothing_of_a_stop_is_shown_before_it_is_complete(
    running: RequestStream, tokenizer: Tokenizer, metrics: Metrics
) -> None:
    reader = Reader(running, tokenizer, metrics, None, 60, ["two three five"])
    pieces = reader.pieces()
    for token in tokenizer.encode("One two three"):
        running.put(Token(0, token))
    first, second = next(pieces), next(pieces)
    assert first
    assert second
    assert (first.text, second.text) == ("One", " ")
    running.put(Finished(0, "length"))
    rest = next(pieces)
    assert rest
    assert rest.text == "two three"
    assert len(rest.tokens) == 1


def test_a_failure_reaches_the_reader_and_ends_the_generation(
    running: RequestStream, tokenizer: Tokenizer, metrics: Metrics
) -> None:
    running.put(Token(0, 7))
    running.end(EngineError("It broke."))
    with pytest.raises(EngineError, match="It broke"):
        Reader(running, tokenizer, metrics, None, 60).whole()
    assert running.cancelled


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_that_nobody_waits_for_is_cancelled(
    running: RequestStream, tokenizer: Tokenizer, metrics: Metrics, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer, "POLL_SECONDS", 0.01)
    here, there = socket.socketpair()
    with here, there:
        reader = Reader(running, tokenizer, metrics, here, 60)
        there.sendall(b"more")
        pieces = reader.pieces()
        assert next(pieces) is None
        here.recv(4)
        there.close()
        with pytest.raises(ClientDisconnected):
            list(pieces) if streamed else reader.whole()
    assert running.cancelled


def test_what_an_answer_took_is_counted_once(running: RequestStream, tokenizer: Tokenizer, metrics: Metrics) -> None:
    say(running, tokenizer, "One two three", "stop")
    running.end(None)
    Reader(running, tokenizer, metrics, None, 60).whole()
    text = metrics.text().decode()
    for line in (
        'vllm:prompt_tokens_total{engine="0",model_name="demo"} 2.0',
        'vllm:generation_tokens_total{engine="0",model_name="demo"} 3.0',
        'vllm:request_success_total{engine="0",finished_reason="stop",model_name="demo"} 1.0',
        'vllm:time_to_first_token_seconds_count{engine="0",model_name="demo"} 1.0',
    ):
        assert line in text


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_that_takes_too_long_is_cancelled(
    running: RequestStream, tokenizer: Tokenizer, metrics: Metrics, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer, "POLL_SECONDS", 0.01)
    running.put(Token(0, 7))
    reader = Reader(running, tokenizer, metrics, None, 0.05)
    with pytest.raises(TimedOutError, match=r"0\.05 s"):
        list(reader.pieces()) if streamed else reader.whole()
    assert running.cancelled
