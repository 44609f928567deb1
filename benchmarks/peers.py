"""The servers that scripts/bench serving compares: how each starts, and how it gets a request."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.machine import MODEL

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 300
STOP_SECONDS = 10


class PeerError(Exception):
    """A server did not start, or exited; the message gives the reason."""


@dataclass(frozen=True)
class Timing:
    """Measurements of one response: seconds to its first token and per further token, None if unknown."""

    num_tokens: int
    first: float | None
    per_token: float | None


class Server:
    """A started server: its process, which leads a process group, and the last lines of its log."""

    def __init__(self, command: list[str | Path]) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if "--lines" in command else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.url = ""
        self._log: deque[str] = deque(maxlen=20)
        self._listening = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr  # noqa: S101 - stdin, stdout and stderr are pipes
        for line in self.process.stderr:
            if line.strip():
                self._log.append(line.strip())
            if found := re.search(r"(?:Listening at:|Uvicorn running on) (\S+)", line):
                self.url = found[1]
                self._listening.set()
        self._listening.set()

    def wait_until_ready(self) -> None:
        """Wait until the server listens and has loaded its model.

        Raises:
            PeerError: the server exited, or took more than START_SECONDS.
        """
        end = time.monotonic() + START_SECONDS
        self._listening.wait(START_SECONDS)
        while not self._ready():
            self.check()
            if time.monotonic() > end:
                raise PeerError(f"not ready after {START_SECONDS} s: {self._last_log_line()}")
            time.sleep(0.1)

    def _ready(self) -> bool:
        if not self.url.startswith("http"):
            return bool(self.url)
        with suppress(httpx.TransportError):
            # Servers without this route return 404; they load their model before they listen.
            return httpx.get(f"{self.url}/readyz", trust_env=False).status_code in (200, 404)
        return False

    def check(self) -> None:
        """Raise PeerError if the server has exited."""
        if self.process.poll() is not None:
            raise PeerError(f"exited with status {self.process.returncode}: {self._last_log_line()}")

    def _last_log_line(self) -> str:
        return self._log[-1] if self._log else "its log is empty"

    def memory(self) -> int:
        """Return the resident memory of the server's processes, in bytes."""
        total = 0
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            for part in [process, *process.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    total += part.memory_info().rss
        return total

    def stop(self) -> None:
        """Stop the server and all its processes."""
        try:
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(self.process.pid, signal.SIGTERM)
                self.process.wait(STOP_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def running(command: list[str | Path]) -> Iterator[Server]:
    """Yield a server that is ready, and stop it at the end; raises PeerError if it does not become ready."""
    server = Server(command)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


def complete_with_phi3(server: Server, http: httpx.Client, prompt: str, tokens: int) -> Timing:
    """Send a request to this server."""
    kwargs = {"do_sample": False, "min_new_tokens": tokens, "max_new_tokens": tokens, "return_dict_in_generate": True}
    body = {"prompt": prompt, "return_full_text": False, "generate_kwargs": kwargs}
    begin = time.monotonic()
    headers = {"Accept": "text/event-stream"}
    with http.stream("POST", f"{server.url}/chat", json=body, headers=headers) as response:
        first, last = _first_and_last(response, begin, lambda event: bool(event.get("text")))
    return _timing(last["Details"][0]["completion_tokens"], first, time.monotonic() - begin)


def complete_with_generate(server: Server, http: httpx.Client, prompt: str, tokens: int) -> Timing:
    """Send a request to serial_server.py."""
    begin = time.monotonic()
    reply = http.post(server.url, json={"prompt": prompt, "tokens": tokens}).raise_for_status().text
    return _serial_timing(reply, time.monotonic() - begin)


def complete_with_lines(server: Server, _: httpx.Client, prompt: str, tokens: int) -> Timing:
    """Send a request to serial_server.py --lines."""
    assert server.process.stdin  # noqa: S101 - stdin, stdout and stderr are pipes
    assert server.process.stdout  # noqa: S101 - stdin, stdout and stderr are pipes
    begin = time.monotonic()
    server.process.stdin.write(json.dumps({"prompt": prompt, "tokens": tokens}) + "\n")
    server.process.stdin.flush()
    return _serial_timing(server.process.stdout.readline(), time.monotonic() - begin)


def _serial_timing(reply: str, seconds: float) -> Timing:
    """Return the timing of a response of serial_server.py, which measures the first token itself."""
    response = json.loads(reply)
    tokens, first = response["tokens"], response["first_token_seconds"]
    return _timing(tokens, first, seconds)


def complete_with_transformers(server: Server, http: httpx.Client, prompt: str, tokens: int) -> Timing:
    """Send a request to `transformers serve`."""
    # No token has the ID -1, so none ends the response early.
    config = json.dumps({"do_sample": False, "max_new_tokens": tokens, "eos_token_id": -1})
    body = {"model": str(MODEL), "prompt": prompt, "stream": True, "generation_config": config}
    begin = time.monotonic()
    with http.stream("POST", f"{server.url}/v1/completions", json=body) as response:
        first, last = _first_and_last(response, begin, lambda event: bool(event["choices"][0]["text"]))
    return _timing(last.get("usage", {}).get("completion_tokens", 0), first, time.monotonic() - begin)


def _first_and_last(
    response: httpx.Response, begin: float, is_text: Callable[[dict[str, Any]], bool]
) -> tuple[float | None, dict[str, Any]]:
    """Return the seconds from `begin` to the first event with text, and the last event; raises ValueError on errors."""
    response.raise_for_status()
    first: float | None = None
    event: dict[str, Any] = {}
    for line in response.iter_lines():
        if not line.startswith("data:"):
            continue
        event = json.loads(line.removeprefix("data:"))
        if "error" in event:
            raise ValueError(event["error"])
        if first is None and is_text(event):
            first = time.monotonic() - begin
    return first, event


def _timing(tokens: int, first: float | None, seconds: float) -> Timing:
    """Return the timing of a response that took `seconds`, of which `first` for its first token."""
    rest = None if first is None or tokens < 2 else (seconds - first) / (tokens - 1)
    return Timing(tokens, first, rest)


@dataclass(frozen=True)
class Peer:
    """A server to measure: its command line for a dtype, and the function that sends it a request."""

    command: Callable[[str], list[str | Path]]
    complete: Callable[[Server, httpx.Client, str, int], Timing]
    max_clients: int = sys.maxsize


def serial_command(dtype: str, *flags: str) -> list[str | Path]:
    """Return the command of serial_server.py."""
    program = Path(__file__).with_name("serial_server.py")
    return [sys.executable, program, "--model", MODEL, "--dtype", dtype, *flags]


def phi3_command(dtype: str) -> list[str | Path]:
    """Return the command of this server."""
    return [sys.executable, "-m", "app", "--model", MODEL, "--port", "0", "--dtype", dtype]


def transformers_command(dtype: str) -> list[str | Path]:
    """Return the command of `transformers serve`."""
    program = Path(sys.executable).with_name("transformers")
    flags = ["--continuous-batching", "--cb-max-memory-percent", "0.25", "--dtype", dtype]
    return [program, "serve", MODEL, *flags, "--host", "127.0.0.1", "--port", "0"]


PEERS = {
    "generate-alone": Peer(lambda dtype: serial_command(dtype, "--lines"), complete_with_lines, max_clients=1),
    "phi3": Peer(phi3_command, complete_with_phi3),
    "generate": Peer(serial_command, complete_with_generate),
    "transformers-serve": Peer(transformers_command, complete_with_transformers),
}
