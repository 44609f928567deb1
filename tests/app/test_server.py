"""gunicorn as configured: under load, with disconnecting clients, and during shutdown."""

import concurrent.futures
import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tools.harness.server import Server, running

LONG = {"max_new_tokens": 400, "min_new_tokens": 400}


@pytest.fixture
def busy(demo: Path) -> Iterator[Server]:
    """Serve up to 16 running and 25 waiting requests, separately, because the tests fill the server and stop it."""
    bounds = ("--max-context", "512", "--max-concurrency", "16", "--max-queue", "25")
    with running(demo, "--dtype", "float32", *bounds, "--drain-seconds", "60") as server:
        yield server


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "the condition did not hold within a minute"
        time.sleep(0.05)


def send_request(server: Server, **kwargs: object) -> socket.socket:
    """Send a request without waiting for the response."""
    address = urlsplit(server.url)
    connection = socket.create_connection((address.hostname, address.port))
    body = json.dumps({"prompt": "<|user|>\nCount.<|end|>\n<|assistant|>\n", "generate_kwargs": kwargs}).encode()
    connection.sendall(
        b"POST /chat HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    return connection


def load(server: Server) -> tuple[float, float]:
    """Return the numbers of running and waiting requests."""
    return server.metric("vllm:num_requests_running"), server.metric("vllm:num_requests_waiting")


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_cpu_without_bfloat16_arithmetic_serves_bfloat16_weights(
    demo: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    with running(demo, "--dtype", dtype, "--max-context", "512", "--memory-share", "0.05") as server:
        question = "<|user|>\nWhat is the capital of France?<|end|>\n<|assistant|>\n"
        assert "Paris" in server.chat(question, do_sample=False).text
        assert any("weights packed" in line and "float32" in line for line in server.lines)


def test_busy_server_passes_health_checks_refuses_excess_requests_and_cancels_abandoned_ones(busy: Server) -> None:
    connections = [send_request(busy, **LONG) for _ in range(32)]
    wait_for(lambda: load(busy) == (16, 16))
    with httpx.Client() as client:
        seconds = []
        for _ in range(300):
            started = time.perf_counter()
            assert client.get(f"{busy.url}/livez").status_code == 200
            seconds.append(time.perf_counter() - started)
    print(f"/livez with 32 requests in flight: p99 {statistics.quantiles(seconds, n=100)[98] * 1000:.1f} ms")

    connections += [send_request(busy, **LONG) for _ in range(9)]
    wait_for(lambda: load(busy) == (16, 25))
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        refused = list(pool.map(lambda _: busy.chat("Hello"), range(159)))
    assert {response.status_code for response in refused} == {429}
    assert "CHAT_MAX_QUEUE" in refused[0].json()["detail"]
    # Retry-After spreads the clients over the time in which slots become free.
    seconds_to_wait = sorted(int(response.headers["Retry-After"]) for response in refused)
    assert seconds_to_wait[-1] > seconds_to_wait[0] >= 1
    assert busy.chat("Hello", top_k=-1).status_code == 400

    for connection in connections:
        connection.close()
    wait_for(lambda: load(busy) == (0, 0))
    assert busy.chat("Hello", max_new_tokens=1).status_code == 200


def test_stopping_server_completes_running_requests_and_refuses_new_ones(busy: Server) -> None:
    with (
        concurrent.futures.ThreadPoolExecutor() as pool,
        httpx.Client(base_url=busy.url) as client,
    ):
        running = pool.submit(busy.chat, "Hello", max_new_tokens=60, min_new_tokens=60, return_dict_in_generate=True)
        wait_for(lambda: load(busy)[0] == 1)
        client.get("/livez")
        stopped = pool.submit(busy.stop)
        wait_for(lambda: any("Handling signal" in line["event"] for line in busy.log()))
        refused = client.get("/readyz")
        assert refused.status_code == 503
        assert "Retry-After" in refused.headers
        # The next request of this client reaches another server.
        assert refused.headers["Connection"] == "close"
        refused = httpx.get(f"{busy.url}/readyz")
        assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
        response = running.result()
        assert response.status_code == 200
        assert response.json()["Details"][0]["completion_tokens"] == 60
        assert stopped.result() == 0


def test_used_connections_stay_open_and_silent_ones_are_closed(tiny_server: Server) -> None:
    address = httpx.URL(tiny_server.url)
    with (
        contextlib.closing(http.client.HTTPConnection(address.host, address.port)) as used,
        socket.create_connection((address.host, address.port), timeout=15) as silent,
    ):
        for _ in range(2):
            used.request("GET", "/livez")
            response = used.getresponse()
            assert (response.status, response.read() != b"", response.will_close) == (200, True, False)
            connection = used.sock
            time.sleep(3)
        assert used.sock is connection
        assert silent.recv(1) == b""


def stream(server: Server, tokens: int) -> str:
    """Return all events of a stream of `tokens` tokens."""
    body = {"prompt": "Hello", "generate_kwargs": {"max_new_tokens": tokens, "min_new_tokens": tokens}}
    with httpx.Client(timeout=300) as client:
        return client.post(f"{server.url}/chat", json=body, headers={"Accept": "text/event-stream"}).text


def test_stopping_server_completes_running_streams(busy: Server) -> None:
    with concurrent.futures.ThreadPoolExecutor(17) as pool:
        streams = [pool.submit(stream, busy, 30) for _ in range(16)]
        wait_for(lambda: load(busy) == (16, 0))
        assert pool.submit(busy.stop).result() == 0
        texts = [one.result() for one in streams]
    assert all("\n\nevent: result\ndata: " in text for text in texts)


def test_streams_beyond_the_drain_time_end_with_an_error(tiny_model: Path) -> None:
    with running(tiny_model, "--drain-seconds", "1") as server, concurrent.futures.ThreadPoolExecutor() as pool:
        streams = [pool.submit(stream, server, 8000) for _ in range(4)]
        wait_for(lambda: load(server) == (4, 0))
        assert pool.submit(server.stop).result() == 0
        texts = [one.result() for one in streams]
    for text in texts:
        assert text.rstrip().rsplit("\n\n", 1)[1].startswith('event: error\ndata: {"detail": "The server shut down')


@pytest.mark.slow
def test_disconnected_clients_leave_no_running_requests(tiny_model: Path) -> None:
    with running(tiny_model, "--max-queue", "100") as server:
        before = server.metric("vllm:generation_tokens_total")

        def disconnect(_: int) -> None:
            body = {"prompt": "Hello", "generate_kwargs": {"max_new_tokens": 8000, "min_new_tokens": 8000}}
            headers = {"Accept": "text/event-stream"}
            with (
                httpx.Client(timeout=300) as client,
                client.stream("POST", f"{server.url}/chat", json=body, headers=headers) as response,
            ):
                next(response.iter_lines())

        with concurrent.futures.ThreadPoolExecutor(100) as pool:
            list(pool.map(disconnect, range(100)))
        disconnected = time.monotonic()
        wait_for(lambda: load(server) == (0, 0))
        print(f"nothing ran {time.monotonic() - disconnected:.2f} s after 100 clients disconnected")
        assert server.metric("vllm:kv_cache_usage_perc") == 0
        assert server.metric("vllm:generation_tokens_total") - before < 100 * 8000


@pytest.mark.slow
def test_killed_worker_is_replaced(tiny_model: Path) -> None:
    with running(tiny_model) as server:
        (worker,) = (line["event"] for line in server.log() if "Booting worker" in line["event"])
        first = int(worker.rsplit(" ", 1)[1])
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: sum("Booting worker" in line["event"] for line in server.log()) == 2)
        server.wait_until_ready()
        assert server.chat("Hello", max_new_tokens=1).status_code == 200


def test_log_contains_requests_but_never_their_text(tiny_server: Server) -> None:
    text = "xylophone"
    ok = tiny_server.chat(text, max_new_tokens=3, return_dict_in_generate=True)
    tiny_server.chat(text, top_p=7)
    tiny_server.chat(text, repetition_penalty=1e-39)
    (line,) = (line for line in tiny_server.log() if line.get("request_id") == ok.headers["X-Request-Id"])
    assert (line["route"], line["status"], line["completion_tokens"]) == ("/chat", 200, 3)
    assert line["prompt_tokens"] == ok.json()["Details"][0]["prompt_tokens"]
    assert line["seconds"] >= 0
    log = "".join(tiny_server.lines)
    assert text not in log
    assert ok.json()["Details"][0]["text"] not in log
