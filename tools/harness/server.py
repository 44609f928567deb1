"""A real server: gunicorn in its own process, which tests and benchmarks start and stop."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
START_SECONDS = 120


class Server:
    """A server process with its address and its log."""

    def __init__(self, model: Path, *flags: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app", "--model", model, "--port", "0", *flags],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._url: str | None = None
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r"Listening at: (http://\S+)", line):
                self._url = found[1]
                self._listening.set()
        self._listening.set()

    @property
    def url(self) -> str:
        """The address of the server; waits until the server listens."""
        self._listening.wait(START_SECONDS)
        assert self._url, "".join(self.lines)
        return self._url

    @functools.cached_property
    def http(self) -> httpx.Client:
        """A client of this server. It is faster than `httpx.get`, which reads all certificates for each request."""
        return httpx.Client(base_url=self.url, timeout=300, limits=httpx.Limits(max_keepalive_connections=0))

    def wait_until_ready(self) -> None:
        """Wait until the model is loaded."""
        end = time.monotonic() + START_SECONDS
        while self.http.get("/readyz").status_code != 200:
            assert self.process.poll() is None, "".join(self.lines)
            assert time.monotonic() < end, "".join(self.lines)
            time.sleep(0.1)

    def chat(self, prompt: str | None = None, **fields: Any) -> httpx.Response:
        """Send POST /chat with `prompt` and `fields`; fields that `/chat` does not have become generate_kwargs."""
        own = {name: fields.pop(name) for name in list(fields) if name in REQUEST_FIELDS}
        body = (
            own | ({"prompt": prompt} if prompt is not None else {}) | ({"generate_kwargs": fields} if fields else {})
        )
        return self.http.post("/chat", json=body)

    def metric(self, name: str, **labels: str) -> float:
        """Return the value of a metric."""
        pairs = [f'{label}="{value}"' for label, value in labels.items()]
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith((f"{name} ", f"{name}{{")) and all(pair in line for pair in pairs):
                return float(line.rsplit(" ", 1)[1])
        raise KeyError(name)

    def log(self) -> list[dict[str, Any]]:
        """Return the parsed log records so far."""
        return [json.loads(line) for line in self.lines if line.strip()]

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """Stop the server if it still runs, and return its exit status."""
        self.process.send_signal(sig)
        status = self.process.wait(60)
        self._reader.join(10)
        if "http" in vars(self):
            self.http.close()
        assert self.process.stderr
        self.process.stderr.close()
        return status


REQUEST_FIELDS = {
    "messages",
    "return_full_text",
    "clean_up_tokenization_spaces",
    "prefix",
    "handle_long_generation",
    "generate_kwargs",
}


@contextmanager
def running(model: Path, *flags: str) -> Iterator[Server]:
    """Run a server that is ready, and stop it at the end."""
    server = Server(model, *flags)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()
